"""Checks the rows of a plain CSV file while its bytes pass: encoding, quotes, and the number of fields."""

import re
from collections.abc import Iterator
from typing import Any

from pipelines.s3_streams.text_encodings import WESTERN, example, is_mostly_utf_8, is_western, readings

MAX_ROW_BYTES = 8 << 20
SHOWN_BYTES = 100
QUOTED = re.compile(rb'"[^"]*"')
# All bytes except separators, line breaks and quotes. Without these bytes, a row of three fields is `,,` and a line
# break.
FIELD_BYTES = bytes(set(range(256)) - set(b',\n"'))


class NotPlainCsv(Exception):
    """A file that must be rewritten. The message is the end of the sentence "the file ...".

    Attributes:
        encoding: the encoding, if this check has just found it; else "".
    """

    def __init__(self, reason: str, encoding: str = "") -> None:
        super().__init__(reason)
        self.encoding = encoding


class RowCheck:
    """Counts the rows of a table, and compares the number of fields in each row with the header.

    Args:
        address: the URI of the file, for messages.
        columns: the number of fields in the header.

    Attributes:
        count: the number of rows so far, with the first row of the file and without blank lines.
        short: the number of rows with fewer fields than the header.
    """

    def __init__(self, address: str, columns: int) -> None:
        self.count = self.short = 0
        self._address = address
        self._separators = columns - 1
        self._full_row = b"," * self._separators + b"\n"

    def add(self, rows: bytes) -> None:
        """Check the next rows. Only the last row of the file may lack its line break.

        Raises:
            NotPlainCsv: the rows have quotes or line ends that a plain table does not have.
            ValueError: a row has more fields than the header, or the rows are not text.
        """
        if b"\0" in rows:
            raise ValueError(
                f"{self._address} is not text, so it is not a CSV file: it holds zero bytes after row "
                f"{self.count:,}; set csv_name to a CSV file"
            )
        if b"\r" in rows and rows.count(b"\r") != rows.count(b"\r\n"):
            raise NotPlainCsv("has lines that end with a carriage return alone")
        outline = rows.translate(None, FIELD_BYTES) + (b"" if rows.endswith(b"\n") else b"\n")
        if b'"' in outline:
            if outline.count(b'"') % 2 or _has_stray_quotes(rows):
                raise NotPlainCsv("has quotes within its fields")
            outline = QUOTED.sub(b"", outline)
        count = len(outline) // len(self._full_row)
        if self._separators and outline == self._full_row * count:
            self.count += count
        else:
            self._add_one_by_one(rows)

    def _add_one_by_one(self, rows: bytes) -> None:
        if b'"' in rows:
            rows = QUOTED.sub(b"x", rows)
        lines = rows.split(b"\n")
        for line in lines if lines[-1] else lines[:-1]:
            if line.strip(b" \t\r"):
                self._add_row(line)

    def _add_row(self, line: bytes) -> None:
        found = line.count(b",")
        if found > self._separators:
            raise ValueError(
                f"{self._address} is not a table: row {self.count:,} has {found + 1:,} fields, but the header has "
                f"{self._separators + 1:,}: {shown(line)}; correct the row, set separator, or set skip_lines if the "
                "table begins below the first line"
            )
        self.count += 1
        self.short += found < self._separators


class EncodingCheck:
    """Checks that all rows are UTF-8.

    Args:
        address: the URI of the file, for messages.
        encoding: the encoding of the file.
        is_given: whether the caller has given this encoding. Otherwise, the start of the file has shown the encoding.

    Attributes:
        has_utf_8: whether a character beyond ASCII was read.
    """

    def __init__(self, address: str, encoding: str, is_given: bool) -> None:
        self._address, self._encoding, self._is_given = address, encoding, is_given
        self.has_utf_8 = False

    def add(self, rows: bytes) -> None:
        """Check the next rows.

        Raises:
            NotPlainCsv: they are in another encoding.
            ValueError: they are not in the given encoding, or a few bytes of the file are not UTF-8.
        """
        if rows.isascii():
            return
        try:
            rows.decode()
            self.has_utf_8 = True
        except UnicodeDecodeError as error:
            raise self.problem(rows, error) from None

    def problem(self, rows: bytes, error: UnicodeDecodeError) -> Exception:
        """Return the error for rows that are not UTF-8: NotPlainCsv if a guess is safe, else ValueError."""
        if self._is_given:
            return ValueError(
                f"{self._address} is not written in {self._encoding}: {error}; set encoding to the encoding of the file"
            )
        if self.has_utf_8 or is_mostly_utf_8(rows):
            around = rows[max(0, error.start - 20) : error.start + 20]
            return ValueError(
                f"{self._address} is UTF-8 except for the byte 0x{rows[error.start]:02x} in {around!r}; correct it, or "
                "set encoding to the encoding of the file"
            )
        if not is_western(rows):
            return ValueError(
                f"{self._address} is not UTF-8, and its encoding cannot be guessed: set encoding to the one that reads "
                f"well: {readings(rows)}"
            )
        return NotPlainCsv(
            f"is not UTF-8 after its start; {WESTERN} is a guess, because read so it looks like Western European text: "
            f"{example(rows, WESTERN)!r}; set encoding if the guess is wrong",
            WESTERN,
        )


def shown(line: str | bytes) -> str:
    """Return the start of a line, for a message."""
    text = line[:SHOWN_BYTES].decode(errors="replace") if isinstance(line, bytes) else line[:SHOWN_BYTES]
    return text.rstrip("\r\n")


def whole_rows(blocks: Iterator[bytes], skip: int, address: str) -> Iterator[bytes]:
    """Return the bytes of a file in blocks that end where a row ends.

    Args:
        blocks: the bytes of the file, cut anywhere.
        skip: the number of bytes to leave out at the start of the file.
        address: the URI of the file, for messages.

    Raises:
        NotPlainCsv: the file has quotes that a plain table does not have.
        ValueError: a row is longer than `MAX_ROW_BYTES`.
    """
    rest = b""
    for block in blocks:
        joined = rest + block if rest else block[skip:]
        skip = max(0, skip - len(block))
        end = _end_of_rows(joined)
        if end:
            yield joined[:end]
        rest = joined[end:]
        if len(rest) > MAX_ROW_BYTES:
            if _has_stray_quotes(rest):
                raise NotPlainCsv("has quotes within its fields")
            raise ValueError(
                f"{address} has a row of more than {MAX_ROW_BYTES >> 20} MB; it may have a quote that is never closed, "
                f"so correct the row that begins with {rest[:SHOWN_BYTES]!r}, or set quotes to none"
            )
    if rest:
        yield rest


def _end_of_rows(block: bytes) -> int:
    """Return the end of the last complete row in a block; 0 if no row is complete."""
    end = block.rfind(b"\n") + 1
    if b'"' not in block or block.count(b'"', 0, end) % 2 == 0:
        return end
    import numpy as np

    content = np.frombuffer(block, np.uint8)
    breaks = np.flatnonzero(content == ord("\n"))
    outside_quotes = breaks[np.searchsorted(np.flatnonzero(content == ord('"')), breaks) % 2 == 0]
    return int(outside_quotes[-1]) + 1 if len(outside_quotes) else 0


def _has_stray_quotes(rows: bytes) -> bool:
    """Return True if a quote neither begins or ends a field nor is doubled within a quoted field."""
    import numpy as np

    content = np.frombuffer(b"\n" + rows + b"\n", np.uint8)
    quotes = np.flatnonzero(content == ord('"'))
    before, after = content[quotes[::2] - 1], content[quotes[1::2] + 1]
    return not (_all_in(before, b',\n"') and _all_in(after, b',\n\r"'))


def _all_in(values: Any, allowed: bytes) -> bool:
    import numpy as np

    return bool(np.isin(values, list(allowed)).all())
