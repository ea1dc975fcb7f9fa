"""CSV files in S3, copied as plain tables: UTF-8, separated by commas, one header.

Most files are plain already. `CsvFile` copies them byte for byte, and checks the bytes as they pass
(`csv_rows.py`). Other files are rewritten row by row, at a tenth of the speed (`csv_rewriting.py`).
"""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator

from pipelines.s3_streams.addresses import check_bucket, check_key
from pipelines.s3_streams.client import S3Error, with_retries
from pipelines.s3_streams.csv_detection import (
    DOUBLED,
    HEADERS,
    QUOTES,
    AmbiguousTable,
    Dialect,
    checked_choice,
    checked_separator,
    detect,
    is_number,
)
from pipelines.s3_streams.csv_rewriting import Rewriting
from pipelines.s3_streams.csv_rows import MAX_ROW_BYTES, EncodingCheck, NotPlainCsv, RowCheck, shown, whole_rows
from pipelines.s3_streams.file_kinds import kind_of
from pipelines.s3_streams.objects import S3Object, find_object, list_keys
from pipelines.s3_streams.text_encodings import checked_encoding, decoded, detect_encoding, readings

# The start of the file shows the encoding. A part of it is usually enough to show the dialect.
SAMPLE_BYTES, DIALECT_BYTES = 1 << 20, 128 << 10
UTF_8_MARK_BYTES = 3
NAMES_SHOWN = 3


class CsvFile:
    """A CSV file in S3.

    What is not given is detected from the first megabyte of the file. Every such guess is printed with its evidence.

    Args:
        bucket: the bucket.
        path: the prefix above the file; "" for the bucket itself.
        name: the name of the file below the prefix.
        separator: the character between two fields; `none` for a file of one column; "" to detect it.
        encoding: the encoding by Python's name; "" to detect it.
        quotes: how fields are quoted; "" to detect it. `doubled`: a quote within a quoted field is written twice.
            `backslash`: a backslash is before it. `spaced`: as `doubled`, and spaces after a separator are left out.
            `none`: quotes are part of the values.
        header: `first` if the first row holds the names of the columns, `none` if it is a row like the others; "" to
            take the first row.
        skip_lines: the number of lines before the table.

    Attributes:
        address: the URI of the file, for messages.
        columns: the number of columns in the header.
        separator: the character between two fields; "" if there is one column.
        encoding: the encoding, as far as the file was read.

    Raises:
        FileNotFoundError: the file does not exist; the message suggests similar names.
        ValueError: an argument is wrong, or the file is not a table.
        S3Error: S3 refuses or fails.
    """

    def __init__(
        self,
        bucket: str,
        path: str,
        name: str,
        separator: str = "",
        encoding: str = "",
        quotes: str = "",
        header: str = "",
        skip_lines: int = 0,
    ) -> None:
        separator, encoding = checked_separator(separator), checked_encoding(encoding)
        quotes, header = checked_choice("quotes", quotes, QUOTES), checked_choice("header", header, HEADERS)
        if skip_lines < 0:
            raise ValueError(f"skip_lines is {skip_lines}; it must be 0 or more")
        check_bucket(bucket)
        check_key(path, bucket, "csv_path")
        check_key(name, bucket, "csv_name")
        if not name.strip("/"):
            raise ValueError(f"csv_name is {name!r}; it must be the name of a file, such as flights.csv")
        self._object = _find(bucket, f"{path.strip('/')}/".lstrip("/"), name.lstrip("/"))
        self.address = self._object.address
        self._is_encoding_given = bool(encoding)
        sample = self._sample(SAMPLE_BYTES)
        self._refuse_other_kinds(sample, bool(separator))
        self.encoding, encoding_evidence = (encoding, "") if encoding else self._detect_encoding(sample)
        arguments = (separator, quotes, header, skip_lines)
        dialect = self._detect(sample[:DIALECT_BYTES], *arguments) or self._detect(sample, *arguments)
        if dialect is None and len(sample) < self._object.size:  # the first row is longer than the sample
            sample = self._sample(MAX_ROW_BYTES + UTF_8_MARK_BYTES)
            dialect = self._detect(sample, *arguments)
        if dialect is None:
            raise self._no_first_row(len(sample))
        self._dialect = dialect
        self.separator, self.columns = dialect.separator, len(dialect.names)
        self._skipped_bytes = self._bytes_before_table(sample)
        self._print_guesses(encoding_evidence)

    def copy_to(self, path: str) -> int:
        """Write the file as a plain table to a path of this machine, and check its rows.

        Args:
            path: the file to write.

        Returns:
            The number of rows without the header and without blank lines.

        Raises:
            ValueError: a row has more fields than the header, or the encoding, the separator or the quotes are wrong.
            S3Error: S3 refuses or fails, or the file was replaced.
        """
        try:
            self._refuse_other_dialects()
            return self._with_retries(lambda: self._copy(path))
        except NotPlainCsv as reason:
            self._note(reason)
        try:
            return self._with_retries(lambda: self._rewrite(path))
        except NotPlainCsv as reason:  # the encoding of a later part shows that the first guess was wrong
            self._note(reason)
            return self._with_retries(lambda: self._rewrite(path))

    def _sample(self, size: int) -> bytes:
        """Return the first bytes of the file. No checksum covers these bytes, so they are read twice."""
        return self._object.read_twice(0, min(size, self._object.size))

    def _refuse_other_kinds(self, sample: bytes, is_separator_given: bool) -> None:
        kind = kind_of(sample)
        if kind and not (is_separator_given and sample.isascii()):
            raise ValueError(
                f"{self.address} is not a CSV file; it is {kind}, or set csv_name to a CSV file; if it is a table "
                "all the same, set separator"
            )

    def _detect_encoding(self, sample: bytes) -> tuple[str, str]:
        encoding, evidence = detect_encoding(sample)
        if encoding:
            return encoding, evidence
        if b"\0" in sample:
            raise ValueError(
                f"{self.address} is not text, so it is not a CSV file: it begins with {sample[:8]!r}, and has a zero "
                f"byte at {sample.find(0):,}; set csv_name to a CSV file"
            )
        raise ValueError(
            f"{self.address} is not UTF-8, and its encoding cannot be guessed: set encoding to the one that reads "
            f"well: {readings(sample)}"
        )

    def _detect(self, sample: bytes, *arguments: object) -> Dialect | None:
        text = decoded(sample, self.encoding)
        if not text.strip():
            if len(sample) < self._object.size:
                return None
            raise ValueError(
                f"{self.address} is empty: it has no header and no rows ({self._object.size} bytes); upload it again"
            )
        if not self._is_encoding_given and ("\x1b$" in text or "\x1b(" in text):
            raise ValueError(
                f"{self.address} holds escape sequences, as the encoding ISO-2022 has them: set encoding, for "
                "example to iso2022_jp"
            )
        try:
            return detect(text, len(sample) == self._object.size, *arguments)  # type: ignore[arg-type]
        except AmbiguousTable as problem:
            raise ValueError(f"{self.address} {problem}") from None

    def _no_first_row(self, read: int) -> ValueError:
        if read < self._object.size:
            return ValueError(
                f"{self.address} has a row of more than {MAX_ROW_BYTES >> 20} MB, the first one; it may have a quote "
                "that is never closed, so correct the row, or set quotes to none"
            )
        return ValueError(f"{self.address} is empty below the lines that are left out: it has no header and no rows")

    def _bytes_before_table(self, sample: bytes) -> int:
        mark = UTF_8_MARK_BYTES if self.encoding == "utf-8-sig" and sample.startswith(b"\xef\xbb\xbf") else 0
        if not self._dialect.start:
            return mark
        before = decoded(sample, self.encoding)[: self._dialect.start]
        return mark + len(before.encode("utf-8", errors="replace"))

    def _print_guesses(self, encoding_evidence: str) -> None:
        found = {"encoding": encoding_evidence} | self._dialect.evidence
        values = {
            "encoding": self.encoding,
            "separator": repr(self.separator) if self.separator else "none",
            "quotes": self._dialect.quotes,
            "header": self._dialect.header,
        }
        guesses = [f"{name} {values[name]} ({found[name]})" for name in values if found.get(name)]
        if guesses:
            arguments = ", ".join(name for name in values if found.get(name))
            print(f"{self.address}: guessed {'; '.join(guesses)}. If a guess is wrong, set {arguments}.")
        names = self._dialect.names
        if self._dialect.header == "first" and all(map(is_number, names)):
            print(
                f"the first row of {self.address} holds only numbers and is used as the header: "
                f"{shown(','.join(names))}; if it is a row like the others, set header to none"
            )
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            print(
                f"{len(doubled):,} names of columns in {self.address} appear more than once and are kept: "
                f"{doubled[:NAMES_SHOWN]}; pandas adds .1 to the second one"
            )

    def _refuse_other_dialects(self) -> None:
        """Raise NotPlainCsv if the first rows show already that the file must be rewritten."""
        if self.encoding not in ("utf-8", "utf-8-sig"):
            raise NotPlainCsv(f"is written in {self.encoding}")
        if self.separator not in (",", ""):
            raise NotPlainCsv(f"has {self.separator!r} between its fields")
        if self._dialect.quotes != DOUBLED:
            raise NotPlainCsv(f"has quotes of the form {self._dialect.quotes}")
        if not self.separator and "separator" not in self._dialect.evidence:
            raise NotPlainCsv("is to be read as one column")

    def _note(self, reason: NotPlainCsv) -> None:
        print(f"{self.address} is rewritten as a plain table, because it {reason}")
        self.encoding = reason.encoding or self.encoding

    def _with_retries(self, read: Callable[[], int]) -> int:
        return with_retries(f"read {self.address}", read)

    def _copy(self, path: str) -> int:
        rows = RowCheck(self.address, self.columns)
        encoding = EncodingCheck(self.address, self.encoding, self._is_encoding_given)
        has_header = self._dialect.header == "first"
        blocks = self._object.stream()
        try:
            with open(path, "wb") as output:
                if not has_header:
                    output.write(",".join(self._dialect.names).encode() + b"\n")
                    rows.count = 1
                for piece in whole_rows(blocks, self._skipped_bytes, self.address):
                    encoding.add(piece)
                    rows.add(piece)
                    output.write(piece)
        except (NotPlainCsv, ValueError):
            _read_to_end(blocks)
            raise
        self._print_short(rows.short)
        return rows.count - 1

    def _rewrite(self, path: str) -> int:
        rewriting = Rewriting(self.address, self._dialect, self.encoding, self._is_encoding_given)
        blocks = self._object.stream()
        try:
            with open(path, "w", newline="", encoding="utf-8") as output:
                rewriting.write(blocks, output)
        except (NotPlainCsv, ValueError):
            _read_to_end(blocks)
            raise
        self._print_short(rewriting.short)
        return rewriting.count

    def _print_short(self, count: int) -> None:
        if count:
            print(f"{count:,} rows of {self.address} have fewer fields than the header; the last ones are missing")


def _read_to_end(blocks: Iterator[bytes]) -> None:
    """Read the rest of a file with an error: if the data arrived damaged, the checksum at the end shows the damage."""
    for _ in blocks:
        pass


def _find(bucket: str, prefix: str, name: str) -> S3Object:
    try:
        return find_object(bucket, prefix + name)
    except S3Error as error:
        if error.code not in ("404", "NoSuchKey"):
            raise
    names = [key.removeprefix(prefix) for key in list_keys(bucket, prefix)]
    same = [found for found in names if _normal(found) == _normal(name)]
    if len(same) == 1:
        print(f"s3://{bucket}/{prefix}{name} is read from a key that writes its accents in another Unicode normal form")
        return S3Object(bucket, prefix + same[0])
    raise FileNotFoundError(f"s3://{bucket}/{prefix}{name} does not exist; {_suggestion(bucket, prefix, name, names)}")


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _suggestion(bucket: str, prefix: str, name: str, names: list[str]) -> str:
    if not names:
        return f"there is no object below s3://{bucket}/{prefix}: check csv_path"
    by_lower = {found.lower(): found for found in names}
    nearest = [by_lower[found] for found in difflib.get_close_matches(name.lower(), by_lower, cutoff=0.0)]
    return f"the nearest names are {nearest}: set csv_name to one of them"
