"""Detects the encoding and the separator of a CSV file from its first bytes, and checks those that a caller gives."""

import codecs
import re

# The number of rows that must agree on a separator.
SAMPLED_ROWS = 20
# If two separators fit equally well, the first one is used.
SEPARATORS = ",;\t|"
BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# A character beyond ASCII in UTF-8, and a byte that may be such a character in a one-byte encoding.
UTF_8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
HIGH_BYTE = re.compile(rb"[\x80-\xff]")
# Bytes that are undefined in Windows-1252. In Latin-1, these bytes are control characters.
NOT_WINDOWS_1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
# In UTF-16 without a byte order mark, the high byte of every Latin letter is zero.
UTF_16_ZEROS = 0.7


def checked_separator(separator: str) -> str:
    """Return the separator that a caller gives, with `tab` and `\\t` as a tab.

    Raises:
        ValueError: the separator is not a single character that can separate fields.
    """
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        raise ValueError(
            f"separator is {separator!r}; it must be one character, such as ; or \\t; leave it empty to detect it"
        )
    return separator


def checked_encoding(encoding: str) -> str:
    """Return Python's name for the encoding that a caller gives; "" for "".

    Raises:
        ValueError: Python does not know the encoding.
    """
    try:
        return encoding and codecs.lookup(encoding).name
    except LookupError:
        raise ValueError(
            f"encoding is {encoding!r}, which Python does not know; try utf-8, cp1252 or utf-16, or leave it empty to "
            "detect it"
        ) from None


def detect_encoding(sample: bytes) -> str:
    """Return the encoding of a file that begins with these bytes; "" if the file is not text.

    ASCII bytes count as UTF-8; a later part of the file may show another encoding.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            return encoding
    if b"\0" not in sample:
        return "utf-8" if _is_utf_8(sample) or is_mostly_utf_8(sample) else one_byte_encoding(sample)
    for encoding, high_bytes in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if high_bytes.count(0) > UTF_16_ZEROS * len(high_bytes):
            return encoding
    return ""


def is_mostly_utf_8(text: bytes) -> bool:
    """Return True if the bytes hold more UTF-8 characters beyond ASCII than bytes of another encoding."""
    return len(UTF_8_CHARACTER.findall(text)) > len(HIGH_BYTE.findall(UTF_8_CHARACTER.sub(b"", text)))


def one_byte_encoding(sample: bytes) -> str:
    """Return Windows-1252, or Latin-1 if the bytes are not valid in Windows-1252."""
    return "latin-1" if NOT_WINDOWS_1252.search(sample) else "cp1252"


def decoded(sample: bytes, encoding: str) -> str:
    """Return the first bytes of a file as text without a byte order mark; the last character may be cut off."""
    return sample.decode(encoding, errors="replace").removeprefix("\ufeff")


def first_rows(text: str) -> list[str]:
    """Return the first complete rows, with an `x` for every quoted part; at least one row."""
    unquoted = re.sub(r'"[^"]*("|$)', "x", text)
    rows = [line for line in re.split("\r\n|\r|\n", unquoted)[: SAMPLED_ROWS + 1] if line.strip()]
    # The last row may be cut off.
    return rows[:-1] if len(rows) > 1 and not unquoted.endswith(("\r", "\n")) else rows or [""]


def detect_separator(rows: list[str]) -> str:
    """Return the separator that every row has equally often; if there is none, the most frequent separator of the
    first row."""

    def rank(separator: str) -> tuple[bool, int]:
        count = rows[0].count(separator)
        return count > 0 and all(row.count(separator) == count for row in rows), count

    return max(SEPARATORS, key=rank)


def is_number(field: str) -> bool:
    """Return True if a field is a decimal number."""
    return re.fullmatch(r"\s*[-+]?\d+(\.\d*)?\s*", field) is not None


def _is_utf_8(sample: bytes) -> bool:
    """Return True if the bytes are UTF-8; the last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True
