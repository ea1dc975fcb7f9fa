"""CSV files in S3, copied as plain tables: UTF-8, separated by commas, one header.

Most files are plain already. `CsvFile` copies them byte for byte, and checks the bytes as they pass
(`csv_rows.py`). pandas reads the other files, at a tenth of the speed.
"""

import csv
import difflib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from pipelines.s3_streams.client import S3Error, with_retries
from pipelines.s3_streams.csv_detection import (
    checked_encoding,
    checked_separator,
    decoded,
    detect_encoding,
    detect_separator,
    first_rows,
    is_number,
)
from pipelines.s3_streams.csv_rows import EncodingCheck, NotPlainCsv, RowCheck, whole_rows
from pipelines.s3_streams.objects import S3Object, list_keys

SAMPLE_BYTES = 1 << 20
BUFFER_BYTES = 256 << 10
# The most values, and bytes of the file, in a chunk of pandas.
CHUNK_VALUES, CHUNK_BYTES = 500_000, 16 << 20
UTF_8_MARK_BYTES = 3


class CsvFile:
    """A CSV file in S3.

    Args:
        bucket: the bucket.
        path: the prefix above the file; "" for the bucket itself.
        name: the name of the file below the prefix.
        separator: the character between two fields; "" to detect it.
        encoding: the encoding by Python's name; "" to detect it.

    Attributes:
        address: the URI of the file, for messages.
        columns: the number of columns in the header.
        separator: the character between two fields.
        encoding: the encoding, as far as the file was read.

    Raises:
        FileNotFoundError: the file does not exist; the message suggests similar names.
        ValueError: an argument is wrong, or the file is not a table.
        S3Error: S3 refuses or fails.
    """

    def __init__(self, bucket: str, path: str, name: str, separator: str = "", encoding: str = "") -> None:
        separator, encoding = checked_separator(separator), checked_encoding(encoding)
        if not name.strip("/"):
            raise ValueError(f"csv_name is {name!r}; it must be the name of a file, such as flights.csv")
        self._object = _find(bucket, f"{path.strip('/')}/".lstrip("/"), name.lstrip("/"))
        self.address = self._object.address
        sample = with_retries(f"read the start of {self.address}", self._sample)
        self._is_encoding_given = bool(encoding)
        self.encoding = encoding or detect_encoding(sample)
        text = self._text(sample)
        rows = first_rows(text)
        self._row_bytes = len(sample) // len(text.splitlines())
        self.separator = separator or detect_separator(rows)
        self.columns = rows[0].count(self.separator) + 1
        if self.separator == "," and all(map(is_number, rows[0].split(","))):
            print(f"the first row of {self.address} holds only numbers and is used as the header: {rows[0][:100]}")

    @property
    def read_options(self) -> dict[str, Any]:
        """The arguments of `pandas.read_csv` that read the file in chunks."""
        rows = max(1, min(CHUNK_VALUES // self.columns, CHUNK_BYTES // max(1, self._row_bytes)))
        return {"sep": self.separator, "encoding": self.encoding, "chunksize": rows, "index_col": False}

    @property
    def write_options(self) -> dict[str, Any]:
        """The arguments of `DataFrame.to_csv` that write every value so that it can be read again unchanged."""
        # With these line ends, a carriage return in a value is put in quotes. A single column needs quotes around
        # blank values, too: a reader skips blank lines.
        quoting = csv.QUOTE_ALL if self.columns == 1 else csv.QUOTE_MINIMAL
        return {"index": False, "lineterminator": "\r\n", "quoting": quoting}

    def copy_to(self, path: str) -> int:
        """Copy the file byte for byte to a path of this machine, and check its rows.

        Args:
            path: the file to write.

        Returns:
            The number of rows without the header and without blank lines.

        Raises:
            NotPlainCsv: the file must be rewritten; the copy is of no use.
            ValueError: a row has more fields than the header, or the encoding is wrong.
            S3Error: S3 refuses or fails, or the file was replaced.
        """
        if self.separator != ",":
            raise NotPlainCsv(f"has {self.separator!r} between its fields")
        if self.encoding not in ("utf-8", "utf-8-sig"):
            raise NotPlainCsv(f"is written in {self.encoding}")
        try:
            return with_retries(f"read {self.address}", lambda: self._copy_once(path))
        except NotPlainCsv as reason:
            self.encoding = reason.encoding or self.encoding
            raise

    def read_with_retries(self, read: Callable[[], int]) -> int:
        """Call a function that reads the file by `open`; call it again if the data arrived damaged.

        Args:
            read: reads the file from its start at each call.

        Returns:
            The result of `read`.

        Raises:
            ValueError: the file is not a table, or not in this encoding.
            S3Error: S3 refuses or fails, or the file was replaced.
        """
        return with_retries(f"read {self.address}", read)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for pandas. An error of pandas becomes an error that names the file.

        Raises:
            ValueError: the file is not a table, or not in this encoding.
            ConnectionError: the data arrived damaged.
        """
        from pandas.errors import EmptyDataError, ParserError, ParserWarning

        blocks = self._object.stream()
        try:
            # pandas only warns when it drops the fields of a row that the header does not name.
            with warnings.catch_warnings():
                warnings.simplefilter("error", ParserWarning)
                yield cast(BinaryIO, io.BufferedReader(_BlockStream(blocks), BUFFER_BYTES))
        except UnicodeError as error:
            _read_to_end(blocks)
            raise ValueError(
                f"{self.address} is not written in {self.encoding}: {error}; set encoding to the encoding of the file"
            ) from error
        except (EmptyDataError, ParserError, ParserWarning) as error:
            _read_to_end(blocks)
            raise ValueError(
                f"{self.address} cannot be read as a table: {error}; correct the file, or set separator"
            ) from error

    def _sample(self) -> bytes:
        """Return the first bytes of the file. No checksum covers these bytes, so they are read twice."""
        return self._object.read_twice(0, min(SAMPLE_BYTES, self._object.size))

    def _text(self, sample: bytes) -> str:
        """Return the start of the file as text."""
        if not self.encoding:
            raise ValueError(
                f"{self.address} is not text, so it is not a CSV file: it begins with {sample[:8]!r}, and has a zero "
                f"byte at {sample.find(0):,}; set csv_name to a CSV file"
            )
        text = decoded(sample, self.encoding)
        if not text.strip():
            raise ValueError(
                f"{self.address} is empty: it has no header and no rows ({self._object.size} bytes); upload it again"
            )
        return text

    def _copy_once(self, path: str) -> int:
        rows = RowCheck(self.address, self.columns)
        encoding = EncodingCheck(self.address, self.encoding, self._is_encoding_given)
        mark = UTF_8_MARK_BYTES if self.encoding == "utf-8-sig" else 0
        blocks = self._object.stream()
        try:
            with open(path, "wb") as output:
                for piece in whole_rows(blocks, mark, self.address):
                    encoding.add(piece)
                    rows.add(piece)
                    output.write(piece)
        except (NotPlainCsv, ValueError):
            _read_to_end(blocks)
            raise
        if rows.short:
            print(f"{rows.short:,} rows of {self.address} have fewer fields than the header; the last ones are missing")
        return rows.count - 1


class _BlockStream(io.RawIOBase):
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


def _read_to_end(blocks: Iterator[bytes]) -> None:
    """Read the rest of a file with an error: if the data arrived damaged, the checksum at the end shows the damage."""
    for _ in blocks:
        pass


def _find(bucket: str, prefix: str, name: str) -> S3Object:
    try:
        return S3Object(bucket, prefix + name)
    except S3Error as error:
        if error.code not in ("404", "NoSuchKey"):
            raise
    raise FileNotFoundError(f"s3://{bucket}/{prefix}{name} does not exist; {_suggestion(bucket, prefix, name)}")


def _suggestion(bucket: str, prefix: str, name: str) -> str:
    names = {key.removeprefix(prefix).lower(): key.removeprefix(prefix) for key in list_keys(bucket, prefix)}
    if not names:
        return f"there is no object below s3://{bucket}/{prefix}: check csv_path"
    nearest = [names[found] for found in difflib.get_close_matches(name.lower(), names, cutoff=0.0)]
    return f"the nearest names are {nearest}: set csv_name to one of them"
