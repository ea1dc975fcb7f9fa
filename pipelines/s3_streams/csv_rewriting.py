"""Rewrites a CSV file of any encoding and dialect as a plain table: UTF-8, commas, quotes only where needed."""

import codecs
import csv
import io
from collections.abc import Iterator
from typing import Any, TextIO

from pipelines.s3_streams.csv_detection import DOUBLED, SPACED_FIELD, Dialect, is_blank, long_fields
from pipelines.s3_streams.csv_rows import MAX_ROW_BYTES, EncodingCheck, shown
from pipelines.s3_streams.text_encodings import IMPLAUSIBLE, WESTERN, readings

# A block is decoded in pieces of this size, which bounds the lines in memory.
PIECE_BYTES = 256 << 10


class Rewriting:
    """Rewrites one file.

    Args:
        address: the URI of the file, for messages.
        dialect: how to read its text.
        encoding: the encoding of the file.
        is_encoding_given: whether the caller has given the encoding. Otherwise it is a guess, and every character is
            checked.

    Attributes:
        count: the number of rows so far, without the header and blank lines.
        short: the number of rows with fewer fields than the header.
    """

    def __init__(self, address: str, dialect: Dialect, encoding: str, is_encoding_given: bool) -> None:
        self.count = self.short = 0
        self._address, self._dialect, self._encoding = address, dialect, encoding
        self._is_one_byte_guess = not is_encoding_given and encoding == WESTERN
        is_utf_8_guess = not is_encoding_given and encoding in ("utf-8", "utf-8-sig")
        self._check = EncodingCheck(address, encoding, False) if is_utf_8_guess else None
        self._columns = len(dialect.names)
        self._held = 0  # characters of the current row
        self._line = ""
        self._is_header_read = dialect.header == "none"

    def write(self, blocks: Iterator[bytes], output: TextIO) -> None:
        """Read the blocks of the file, and write its rows.

        Raises:
            NotPlainCsv: the text is in another encoding, which is a safe guess.
            ValueError: the text is not in this encoding, or not a table in this dialect.
        """
        # With these line ends, a carriage return in a value is put in quotes. A single column needs quotes around
        # blank values, too: a reader skips blank lines.
        is_one_column = self._columns == 1
        writer = csv.writer(
            output, lineterminator="\r\n", quoting=csv.QUOTE_ALL if is_one_column else csv.QUOTE_MINIMAL
        )
        if self._dialect.header == "none":
            writer.writerow(self._dialect.names)
        with long_fields():
            writer.writerows(self._rows(blocks))

    def _rows(self, blocks: Iterator[bytes]) -> Iterator[list[str]]:
        columns = self._columns
        looks_for_spaces = self._dialect.quotes == DOUBLED and "quotes" in self._dialect.evidence
        try:
            for row in self._dialect.rows(self._lines(blocks)):
                self._held = 0
                if len(row) < 2 and is_blank(row, self._line, self._dialect.quotes):
                    continue
                if looks_for_spaces and '"' in self._line and any(map(SPACED_FIELD.match, row)):
                    raise self._problem("a field begins with spaces and a quote; set quotes to spaced or none")
                if len(row) != columns:
                    self._check_width(row)
                    row += [""] * (columns - len(row))
                self.count += self._is_header_read
                self._is_header_read = True
                yield row
        except csv.Error as error:
            raise self._quote_problem(error) from error

    def _check_width(self, row: list[str]) -> None:
        if len(row) > self._columns:
            raise self._problem(
                f"it has {len(row):,} fields, but the header has {self._columns:,}; correct the row, set separator, or "
                "set skip_lines if the table begins below the first line"
            )
        self.short += 1

    def _lines(self, blocks: Iterator[bytes]) -> Iterator[str]:
        """Return the lines, and note how many characters the current row has."""
        for line in self._unchecked_lines(self._text(blocks)):
            self._held += len(line)
            self._line = line
            if self._held > MAX_ROW_BYTES:
                raise self._too_long()
            if "\0" in line:
                raise self._problem("it holds a zero byte, so the file is not text; set csv_name to a CSV file")
            yield line

    def _unchecked_lines(self, texts: Iterator[str]) -> Iterator[str]:
        """Return the lines. A line that goes over many texts is joined once, at its end."""
        parts: list[str] = []
        for text in filter(None, texts):
            if parts and parts[-1].endswith("\r") and not text.startswith("\n"):
                yield "".join(parts)
                parts = []
            lines = io.StringIO(text, newline="")
            line = lines.readline()
            if len(line) == len(text) and not line.endswith("\n"):
                parts.append(line)
                self._refuse_long_line(parts)
                continue
            line = "".join([*parts, line])
            for following in lines:
                yield line
                line = following
            # The last line may go on, and a carriage return may be followed by a line feed.
            parts = [line]
            if line.endswith("\n"):
                yield line
                parts = []
        if parts:
            yield "".join(parts)

    def _refuse_long_line(self, parts: list[str]) -> None:
        if sum(map(len, parts)) > MAX_ROW_BYTES:
            self._line = parts[0]
            raise self._too_long()

    def _text(self, blocks: Iterator[bytes]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self._encoding)()
        skip = self._dialect.start
        is_first = True
        for piece in _pieces(blocks):
            text = self._decoded(decoder, piece)
            if is_first and text:
                text, is_first = text.removeprefix("\ufeff"), False
            if self._is_one_byte_guess and not text.isascii():
                self._check_guess(text)
            skip, text = max(0, skip - len(text)), text[skip:]
            yield text
        yield self._decoded(decoder, b"", final=True)

    def _decoded(self, decoder: Any, piece: bytes, final: bool = False) -> str:
        try:
            text: str = decoder.decode(piece, final)
        except UnicodeError as error:
            if self._check and isinstance(error, UnicodeDecodeError):
                raise self._check.problem(error.object, error) from error
            raise ValueError(
                f"{self._address} is not written in {self._encoding}: {error}, after row {self.count:,}; set "
                "encoding to the encoding of the file"
            ) from error
        if self._check and not text.isascii():
            self._check.has_utf_8 = True
        return text

    def _check_guess(self, text: str) -> None:
        if IMPLAUSIBLE.search(text):
            found = IMPLAUSIBLE.search(text)
            around = text[max(0, found.start() - 20) : found.end() + 20].encode(WESTERN) if found else b""
            raise ValueError(
                f"{self._address} is not UTF-8, and its encoding cannot be guessed, because of the text after row "
                f"{self.count:,}: set encoding to the one that reads well: {readings(around)}"
            )

    def _quote_problem(self, error: csv.Error) -> ValueError:
        if "unexpected end of data" in str(error):
            return self._problem("a quote is never closed; correct the row, or set quotes to none")
        if "field larger than" in str(error):
            return self._too_long()
        return self._problem(
            "the text goes on after a closing quote; correct the row, or set quotes to backslash (quotes are written "
            "as "
            '\\"), or to none (quotes are part of the values)'
        )

    def _too_long(self) -> ValueError:
        return self._problem(
            f"it has more than {MAX_ROW_BYTES >> 20} MB; it may have a quote that is never closed, so correct the "
            "row, or set quotes to none"
        )

    def _problem(self, what: str) -> ValueError:
        place = f"row {self.count + 1:,}" if self._is_header_read else "the header"
        return ValueError(f"{self._address} is not a table: {place} is wrong: {what}: {shown(self._line)}")


def _pieces(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), PIECE_BYTES):
            yield block[start : start + PIECE_BYTES]
