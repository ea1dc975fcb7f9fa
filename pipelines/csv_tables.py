"""CSV files in S3, passed on as tables: UTF-8, separated by commas, one header.

Most files are that already. They are passed on byte for byte, and looked at as they pass: that every row has the
fields that the header names, and that quotes open and close. `pandas` understands the rest, at a tenth of the speed.
"""

import codecs
import csv
import difflib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from pipelines.s3 import S3Error, S3Object, attempt, keys_below

SAMPLE = 1 << 20
BUFFER = 256 << 10
SAMPLED_ROWS = 20
LONGEST_ROW = 8 << 20
# How many values pandas holds at a time, and how many bytes of the file.
VALUES, HELD = 500_000, 16 << 20
# The first one wins where two fit as well.
SEPARATORS = ",;\t|"
MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# A letter beyond ASCII in UTF-8, and a byte that may be one elsewhere.
LETTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
HIGH = re.compile(rb"[\x80-\xff]")
# Where Windows-1252 has no letter, Latin-1 has a control character.
NOT_WINDOWS = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
QUOTED = re.compile(rb'"[^"]*"')
# All bytes but those that part fields and rows: without them, a row of three fields is `,,` and a line break.
CONTENT = bytes(set(range(256)) - set(b',\n"'))


class UnusualCsv(Exception):
    """A file that cannot be passed on as it is; the message goes on after "which".

    Attributes:
        encoding: in which it is written, where that was found out just now.
    """

    def __init__(self, why: str, encoding: str = "") -> None:
        super().__init__(why)
        self.encoding = encoding


class CsvFile:
    """A CSV file in S3.

    Args:
        bucket: its bucket.
        path: the prefix below which it lies; "" for the bucket itself.
        name: its name below that.
        separator: what stands between two fields; "" to look in the file.
        encoding: as Python calls it; "" to look in the file.

    Attributes:
        address: for messages.
        columns: how many there are.
        separator: what stands between two fields.
        encoding: in which it is written, as far as is known.

    Raises:
        FileNotFoundError: it is not there; the message holds the nearest names.
        ValueError: it is no table.
        S3Error: S3 refuses or fails.
    """

    def __init__(self, bucket: str, path: str, name: str, separator: str = "", encoding: str = "") -> None:
        separator, encoding = _checked_separator(separator), _checked_encoding(encoding)
        if not name.strip("/"):
            raise ValueError(f"csv_name is {name!r}; give the name of a file, such as flights.csv")
        self._object = _find(bucket, f"{path.strip('/')}/".lstrip("/"), name.lstrip("/"))
        self.address = self._object.address
        sample = attempt(f"read the start of {self.address}", self._sample)
        self._given = bool(encoding)
        self.encoding = encoding or _encoding(sample)
        if not self.encoding:
            raise ValueError(
                f"{self.address} is no text, so no CSV file; it begins with {sample[:8]!r}, and has a zero byte at "
                f"{sample.find(0):,}"
            )
        text = _text(sample, self.encoding)
        if not text.strip():
            raise ValueError(f"{self.address} is empty: it has no header and no rows ({self._object.size} bytes)")
        rows = _rows_of(text)
        self._row_bytes = len(sample) // len(text.splitlines())
        self.separator = separator or _separator(rows)
        self.columns = rows[0].count(self.separator) + 1
        if self.separator == "," and all(map(_is_number, rows[0].split(","))):
            print(f"the first row of {self.address} holds only numbers, and is taken for the header: {rows[0][:100]}")

    @property
    def options(self) -> dict[str, Any]:
        """What `pandas.read_csv` must be told to read the file in pieces."""
        rows = max(1, min(VALUES // self.columns, HELD // max(1, self._row_bytes)))
        return {"sep": self.separator, "encoding": self.encoding, "chunksize": rows, "index_col": False}

    @property
    def plain(self) -> dict[str, Any]:
        """What `to_csv` must be told, so that whatever a value holds is read again as it was."""
        # With these line ends, single carriage returns are put in quotes; and of one column, also what looks blank.
        quoting = csv.QUOTE_ALL if self.columns == 1 else csv.QUOTE_MINIMAL
        return {"index": False, "lineterminator": "\r\n", "quoting": quoting}

    def pass_on(self, path: str) -> int:
        """Write the file to a path of this machine as it is.

        Returns:
            How many rows it has, without the header; lines that hold nothing but spaces are none.

        Raises:
            UnusualCsv: it must be changed; what was written is of no use.
            ValueError: a row has more fields than the header.
            S3Error: S3 fails.
        """
        if self.separator != ",":
            raise UnusualCsv(f"has {self.separator!r} between its fields")
        if self.encoding not in ("utf-8", "utf-8-sig"):
            raise UnusualCsv(f"is written in {self.encoding}")
        try:
            return attempt(f"read {self.address}", lambda: self._pass_on_once(path))
        except UnusualCsv as unusual:
            self.encoding = unusual.encoding or self.encoding
            raise

    def read_whole(self, read: Callable[[], int]) -> int:
        """Call what reads the file by `open`, and call it again when what came was damaged on its way.

        Raises:
            ValueError: from `open`.
            S3Error: S3 fails.
        """
        return attempt(f"read {self.address}", read)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Return the file to read from; what pandas cannot understand becomes an error that names the file.

        Raises:
            ValueError: it is no table, or not in this encoding.
            ConnectionError: it came damaged.
        """
        from pandas.errors import EmptyDataError, ParserError, ParserWarning

        blocks = self._object.whole()
        try:
            # Else pandas would drop what a row holds beyond the header's fields.
            with warnings.catch_warnings():
                warnings.simplefilter("error", ParserWarning)
                yield io.BufferedReader(_Stream(blocks), BUFFER)
        except UnicodeError as error:
            _to_the_end(blocks)
            raise ValueError(f"{self.address} is not written in {self.encoding}; name its encoding: {error}") from error
        except (EmptyDataError, ParserError, ParserWarning) as error:
            _to_the_end(blocks)
            raise ValueError(f"{self.address} cannot be read as a table: {error}") from error

    def _sample(self) -> bytes:
        """Return the first bytes. Nothing tells whether they are right, but that they come twice."""
        return self._object.read_twice(0, min(SAMPLE, self._object.size))

    def _pass_on_once(self, path: str) -> int:
        table = _Table(self.address, self.columns)
        self._has_utf_8 = False
        mark = 3 if self.encoding == "utf-8-sig" else 0
        blocks = self._object.whole()
        try:
            with open(path, "wb") as output:
                for piece in _whole_rows(blocks, mark, self.address):
                    self._refuse_other_encodings(piece)
                    table.add(piece)
                    output.write(piece)
        except (UnusualCsv, ValueError):
            _to_the_end(blocks)
            raise
        if table.short:
            print(f"{table.short:,} rows of {self.address} have fewer fields than the header; the last are missing")
        return table.rows - 1

    def _refuse_other_encodings(self, piece: bytes) -> None:
        if piece.isascii():
            return
        try:
            piece.decode()
            self._has_utf_8 = True
        except UnicodeDecodeError as error:
            if self._given:
                raise ValueError(f"{self.address} is not written in {self.encoding}: {error}") from None
            if self._has_utf_8 or _is_mostly_utf_8(piece):
                around = piece[max(0, error.start - 20) : error.start + 20]
                raise ValueError(
                    f"{self.address} is UTF-8, but for the byte 0x{piece[error.start]:02x} in {around!r}; mend it, or "
                    "name the encoding"
                ) from None
            encoding = _one_byte_encoding(piece)
            raise UnusualCsv(f"is not UTF-8, and is taken for {encoding}", encoding) from None


class _Table:
    """Counts the rows of a table, and compares the fields of each with the header's."""

    def __init__(self, address: str, columns: int) -> None:
        self.rows = self.short = 0
        self._address = address
        self._separators = columns - 1
        self._row = b"," * self._separators + b"\n"

    def add(self, piece: bytes) -> None:
        """Look at rows that follow those before; only the very last one may lack its line break."""
        if b"\0" in piece:
            raise ValueError(f"{self._address} is no text, so no CSV file: it holds zero bytes")
        if b"\r" in piece and piece.count(b"\r") != piece.count(b"\r\n"):
            raise UnusualCsv("has carriage returns that end lines alone")
        outline = piece.translate(None, CONTENT) + (b"" if piece.endswith(b"\n") else b"\n")
        if b'"' in outline:
            if outline.count(b'"') % 2 or _has_stray_quotes(piece):
                raise UnusualCsv("has quotes within its fields")
            outline = QUOTED.sub(b"", outline)
        count = len(outline) // len(self._row)
        if self._separators and outline == self._row * count:
            self.rows += count
        else:
            self._add_each(piece)

    def _add_each(self, piece: bytes) -> None:
        if b'"' in piece:
            piece = QUOTED.sub(b"x", piece)
        lines = piece.split(b"\n")
        for line in lines if lines[-1] else lines[:-1]:
            if not line.strip(b" \t\r"):
                continue
            found = line.count(b",")
            if found > self._separators:
                raise ValueError(
                    f"{self._address} is no table: row {self.rows} has {found + 1} fields, and the header "
                    f"{self._separators + 1}: {line[:100].decode(errors='replace')}"
                )
            self.rows += 1
            self.short += found < self._separators


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._block = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        taken = self._block[: len(buffer)]
        buffer[: len(taken)] = taken
        self._block = self._block[len(taken) :]
        return len(taken)


def _to_the_end(blocks: Iterator[bytes]) -> None:
    """Read the rest of what is no table. It may be fine, and damaged on its way: then its end says so."""
    for _ in blocks:
        pass


def _checked_separator(separator: str) -> str:
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        raise ValueError(f"separator is {separator!r}; it must be one character, such as ; or \\t, or empty")
    return separator


def _checked_encoding(encoding: str) -> str:
    try:
        return encoding and codecs.lookup(encoding).name
    except LookupError:
        raise ValueError(f"encoding is {encoding!r}, which Python does not know; try utf-8, cp1252 or utf-16") from None


def _find(bucket: str, prefix: str, name: str) -> S3Object:
    try:
        return S3Object(bucket, prefix + name)
    except S3Error as error:
        if error.code not in ("404", "NoSuchKey"):
            raise
    lower = {key.removeprefix(prefix).lower(): key.removeprefix(prefix) for key in keys_below(bucket, prefix)}
    nearest = [lower[found] for found in difflib.get_close_matches(name.lower(), lower, cutoff=0.0)]
    raise FileNotFoundError(f"s3://{bucket}/{prefix}{name} is not there; nearest names: {nearest}")


def _encoding(sample: bytes) -> str:
    """Return the encoding that a file's start shows; UTF-8 until something else comes, "" for what is no text."""
    for mark, encoding in MARKS.items():
        if sample.startswith(mark):
            return encoding
    if b"\0" not in sample:
        return "utf-8" if _is_utf_8(sample) or _is_mostly_utf_8(sample) else _one_byte_encoding(sample)
    # UTF-16 without its mark: every other byte of Latin letters is zero.
    for encoding, high in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if high.count(0) > 0.7 * len(high):
            return encoding
    return ""


def _is_utf_8(sample: bytes) -> bool:
    """Tell whether bytes may be UTF-8 which is cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _is_mostly_utf_8(text: bytes) -> bool:
    """Tell whether of the letters beyond ASCII more are written in UTF-8 than are not."""
    return len(LETTER.findall(text)) > len(HIGH.findall(LETTER.sub(b"", text)))


def _one_byte_encoding(sample: bytes) -> str:
    return "latin-1" if NOT_WINDOWS.search(sample) else "cp1252"


def _text(sample: bytes, encoding: str) -> str:
    return sample.decode(encoding, errors="replace").removeprefix("\ufeff")


def _rows_of(text: str) -> list[str]:
    """Return the first rows without what stands in quotes."""
    plain = re.sub(r'"[^"]*("|$)', "x", text)
    rows = [line for line in re.split("\r\n|\r|\n", plain)[: SAMPLED_ROWS + 1] if line.strip()]
    # The last one may be cut off.
    return rows[:-1] if len(rows) > 1 and not plain.endswith(("\r", "\n")) else rows or [""]


def _separator(rows: list[str]) -> str:
    def fits(separator: str) -> tuple[bool, int]:
        count = rows[0].count(separator)
        return count > 0 and all(row.count(separator) == count for row in rows), count

    return max(SEPARATORS, key=fits)


def _is_number(field: str) -> bool:
    return re.fullmatch(r"\s*[-+]?\d+(\.\d*)?\s*", field) is not None


def _whole_rows(blocks: Iterator[bytes], skip: int, address: str = "") -> Iterator[bytes]:
    """Return blocks that end where rows end.

    Args:
        blocks: the bytes of a file.
        skip: how many of the first bytes are not wanted.
        address: for messages.
    """
    held = b""
    for block in blocks:
        joined = held + block if held else block[skip:]
        skip = 0
        end = _end_of_rows(joined)
        if end:
            yield joined[:end]
        held = joined[end:]
        if len(held) > LONGEST_ROW:
            if _has_stray_quotes(held):
                raise UnusualCsv("has quotes within its fields")
            raise ValueError(
                f"{address} has a row of more than {LONGEST_ROW >> 20} MB: is a quote not closed? {held[:100]!r}"
            )
    if held:
        yield held


def _end_of_rows(block: bytes) -> int:
    """Return where the last whole row of a block ends; 0 when there is none."""
    end = block.rfind(b"\n") + 1
    if b'"' not in block or block.count(b'"', 0, end) % 2 == 0:
        return end
    import numpy as np

    content = np.frombuffer(block, np.uint8)
    breaks = np.flatnonzero(content == ord("\n"))
    outside = breaks[np.searchsorted(np.flatnonzero(content == ord('"')), breaks) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _has_stray_quotes(rows: bytes) -> bool:
    """Tell whether there are quotes that neither stand around a field nor are doubled within one."""
    import numpy as np

    content = np.frombuffer(b"\n" + rows + b"\n", np.uint8)
    quotes = np.flatnonzero(content == ord('"'))
    before, after = content[quotes[::2] - 1], content[quotes[1::2] + 1]
    return not (_is_any(before, b',\n"') and _is_any(after, b',\n\r"'))


def _is_any(content: Any, wanted: bytes) -> bool:
    import numpy as np

    return bool(np.isin(content, list(wanted)).all())
