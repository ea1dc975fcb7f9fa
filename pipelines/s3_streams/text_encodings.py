"""Detects the encoding of text from its bytes. A guess that may be wrong is refused, with readings to choose from.

UTF-8 and UTF-16 leave traces that other encodings do not have by accident. Encodings of one byte a character have
none: every byte is a character in all of them. Windows-1252 is the most frequent one, so text is read as
Windows-1252 if the result looks like a Western European language.
"""

import codecs
import re
from contextlib import suppress

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
# In UTF-16 without a byte order mark, the high byte of every Latin letter is zero.
WIDE_ZEROS = 0.7
WESTERN = "cp1252"
# Encodings that are shown when no guess is made.
SHOWN = (
    "cp1252",
    "cp1251",
    "gbk",
    "shift_jis",
    "cp850",
    "cp1250",
    "cp1254",
    "mac_roman",
    "cp866",
    "big5",
    "euc_kr",
)
SHOWN_CHARACTERS = 24
# Letters beyond ASCII of Western European languages, small and capital. Letters such as the Icelandic thorn are left
# out: the same bytes are frequent letters of Turkish in another encoding.
SMALL, CAPITAL = "àâäáãåæçéèêëíìîïñóòôöõøœúùûüÿß", "ÀÂÄÁÃÅÆÇÉÈÊËÍÌÎÏÑÓÒÔÖÕØŒÚÙÛÜŸ"
# Signs of the Windows-1252 that stand beside letters, and those that need a space or a sign on one side.
SIGNS = "€£§°±²³´µ·º¹ª½¼¾¡¿©®™«»…–—•‰×÷’\xa0\xad"  # noqa: RUF001
OPENING, CLOSING = "“‘„‚", "”"  # noqa: RUF001
LETTER, BEYOND = f"A-Za-z{SMALL}{CAPITAL}", f"{SMALL}{CAPITAL}"
IMPLAUSIBLE = re.compile(
    f"[^\\x00-\\x7f{BEYOND}{SIGNS}{OPENING}{CLOSING}]"  # no character of Western European text
    f"|[{BEYOND}]{{3}}"  # three such letters in a row
    f"|(?<![{LETTER}])[{BEYOND}]{{2}}(?![{LETTER}])"  # a word of two such letters
    f"|[a-z{SMALL}][{CAPITAL}](?![A-Z{CAPITAL}])|[{SMALL}][A-Z][a-z{SMALL}]"  # a capital within small letters
    f"|[A-Z{CAPITAL}][{CAPITAL}][a-z{SMALL}]"  # a second capital before small letters
    f"|(?<![{LETTER}])[{BEYOND}](?![{LETTER}'\\s’.,;:!?)»/|\"-]|$)"  # noqa: RUF001  # a letter among signs
    f"|[{LETTER}][{OPENING}]|[{CLOSING}][{LETTER}]"  # a quotation mark within a word
    f"|[{BEYOND}][€£§°±²³´µ·º¹ª½¼¾¡¿©®™•‰×÷]|[{LETTER}][£§¿¡•…—‰™©®¤¦¬][{LETTER}]"  # noqa: RUF001  # a sign within a word
)


def checked_encoding(encoding: str, argument: str = "encoding") -> str:
    """Return Python's name for the encoding that a caller gives; "" for "".

    Raises:
        ValueError: Python does not know the encoding, or it is not an encoding of text.
    """
    with suppress(LookupError, ValueError):
        if not encoding:
            return ""
        "a".encode(encoding)
        return codecs.lookup(encoding).name
    raise ValueError(
        f"{argument} is {encoding!r}, which Python does not know as an encoding of text; try utf-8, cp1252 or "
        "utf-16, or leave it empty to detect it"
    )


def detect_encoding(sample: bytes) -> tuple[str, str]:
    """Return the encoding of a file that begins with these bytes, and the evidence.

    ASCII bytes count as UTF-8; a later part of the file may show another encoding.

    Returns:
        The encoding and the evidence in words. The encoding is "" if the bytes are not text, or if no guess is safe.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            return encoding, "the file begins with its byte order mark"
    if b"\0" in sample:
        return _wide_encoding(sample)
    if sample.isascii():
        return "utf-8", "the start of the file is ASCII"
    if _is_utf_8(sample):
        return "utf-8", "every character at the start of the file is valid"
    if is_mostly_utf_8(sample):
        return "utf-8", "most characters at the start of the file are valid"
    if is_western(sample):
        return WESTERN, f"not UTF-8, and read so it looks like Western European text: {example(sample, WESTERN)!r}"
    return "", ""


def is_mostly_utf_8(text: bytes) -> bool:
    """Return True if the bytes hold more UTF-8 characters beyond ASCII than bytes of another encoding."""
    return len(UTF_8_CHARACTER.findall(text)) > len(HIGH_BYTE.findall(UTF_8_CHARACTER.sub(b"", text)))


def is_western(text: bytes) -> bool:
    """Return True if the bytes, read as Windows-1252, look like text in a Western European language."""
    try:
        return IMPLAUSIBLE.search(text.decode(WESTERN)) is None
    except UnicodeDecodeError:
        return False


def example(text: bytes, encoding: str) -> str:
    """Return the first word beyond ASCII with its surroundings, read in an encoding; "" if it cannot be read so."""
    start = next(HIGH_BYTE.finditer(text)).start()
    begin = max(text.rfind(b"\n", 0, start), text.rfind(b"\r", 0, start)) + 1
    end = min((at for at in (text.find(b"\n", start), text.find(b"\r", start)) if at >= 0), default=len(text))
    try:
        line = text[begin:end].decode(encoding)
    except UnicodeDecodeError:
        return ""
    at = next((at for at, character in enumerate(line) if not character.isascii()), 0)
    return line[max(0, at - SHOWN_CHARACTERS // 2) : at + SHOWN_CHARACTERS].strip()


def readings(text: bytes) -> str:
    """Return how the first word beyond ASCII reads in several encodings, for a message."""
    found: dict[str, str] = {}
    for encoding in SHOWN:
        reading = example(text, encoding)
        if reading and reading.isprintable():
            found.setdefault(reading, encoding)
    shown = [f"{encoding} {reading!r}" for reading, encoding in found.items()]
    return ", ".join(shown) or "none of the usual encodings fits"


def decoded(sample: bytes, encoding: str) -> str:
    """Return the first bytes of a file as text without a byte order mark; the last character may be cut off."""
    return sample.decode(encoding, errors="replace").removeprefix("\ufeff")


def _wide_encoding(sample: bytes) -> tuple[str, str]:
    """Return the encoding of text with zero bytes: UTF-16 or UTF-32 without a byte order mark, or "" for other data."""
    places = {"utf-32-le": (1, 2, 3), "utf-32-be": (0, 1, 2)}
    for encoding, zeros in places.items():
        if len(sample) >= 8 and all(_zeros(sample[place::4]) > WIDE_ZEROS for place in zeros):
            return encoding, "three of four bytes are zero"
    for encoding, place in (("utf-16-le", 1), ("utf-16-be", 0)):
        if _zeros(sample[place::2]) > WIDE_ZEROS and _zeros(sample[1 - place :: 2]) < 1 - WIDE_ZEROS:
            return encoding, "every second byte is zero"
    return "", ""


def _zeros(part: bytes) -> float:
    return part.count(0) / max(1, len(part))


def _is_utf_8(sample: bytes) -> bool:
    """Return True if the bytes are UTF-8; the last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True
