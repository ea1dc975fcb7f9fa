"""Detects separator, quotes and header of a CSV file from its first rows, and checks those that a caller gives.

Every combination of separator and quotes is tried on the first rows. The one that gives rows of equal width is taken.
If two do, the one with more numbers and dates is taken; if they are equal in this, too, neither is.
"""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.s3_streams.csv_rows import MAX_ROW_BYTES

# The number of rows that are looked at.
SAMPLED_ROWS = 100
# Two sets of separators: the second one is tried if none of the first gives rows of equal width.
SEPARATORS, RARE_SEPARATORS = ",;\t|", "^~\x01\x1f¦§¬"
NO_SEPARATOR = "none"
# At least this share of the first rows must have as many fields as the header.
LEAST_SHARE = 0.5
# For a file of one column, `csv` gets this control character as separator, because text does not contain it.
UNUSED = "\x1c"
DOUBLED, BACKSLASH, SPACED, NO_QUOTES = "doubled", "backslash", "spaced", "none"
QUOTES = (DOUBLED, BACKSLASH, SPACED, NO_QUOTES)
HEADERS = ("first", "none")
# The line that Excel writes and reads: sep=;
SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n]|\\t)"?[ \t]*(?:\r\n|\r|\n|$)', re.I)
ESCAPE = re.compile(r'\\([\\"])?')
LINE_END = re.compile("\r\n|\r|\n")
SPACED_FIELD = re.compile(' +"')
TYPED = re.compile(
    r"\s*([-+]?[€$£]?\s?\d{1,3}([ .,'\u00a0]\d{3})*([.,]\d+)?\s?[%€$£]?|[-+]?\d+([.,]\d*)?([eE][-+]?\d+)?"
    r"|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?Z?)?|\d{1,2}:\d{2}(:\d{2})?)?\s*"
)
ONE_COLUMN = "no separator is in every row, so the file is read as one column"


class AmbiguousTable(ValueError):
    """The first rows do not show how to read the file. The message is the end of the sentence "the file ..."."""


@dataclass(frozen=True)
class Dialect:
    """How to read the text of a CSV file.

    Attributes:
        separator: the character between two fields; "" if the file has one column.
        quotes: one of `QUOTES`.
        header: one of `HEADERS`.
        names: the names of the columns.
        start: the number of characters before the table: lines that are left out.
        evidence: what the first rows show, by the name of the argument; without the arguments that the caller gave.
    """

    separator: str
    quotes: str
    header: str
    names: list[str]
    start: int
    evidence: dict[str, str] = field(default_factory=dict)

    def rows(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Return the rows in lines of text; a blank line is an empty list.

        Raises:
            csv.Error: a quote is at a place where this dialect has none, or is never closed.
        """
        return read_rows(lines, self.separator, self.quotes)


def read_rows(lines: Iterator[str], separator: str, quotes: str) -> Iterator[list[str]]:
    """Return the rows in lines of text.

    Raises:
        csv.Error: a quote is at a place where there must be none, or is never closed.
    """
    options: dict[str, Any] = {"delimiter": separator or UNUSED, "strict": True}
    if quotes == NO_QUOTES:
        options["quoting"] = csv.QUOTE_NONE
    elif quotes == BACKSLASH:
        options["escapechar"] = "\\"
        lines = map(_with_plain_backslashes, lines)
    elif quotes == SPACED:
        options["skipinitialspace"] = True
    return csv.reader(lines, **options)


def is_blank(row: list[str], line: str, quotes: str) -> bool:
    """Return True if a row of at most one field is a blank line, and not a quoted blank value.

    Args:
        row: the row.
        line: the line that it ends with.
        quotes: one of `QUOTES`.
    """
    return not "".join(row).strip(" \t") and (quotes == NO_QUOTES or '"' not in line)


@contextmanager
def long_fields() -> Iterator[None]:
    """Let `csv` read fields as long as a row may be, within a `with` statement: the limit belongs to the process."""
    before = csv.field_size_limit(MAX_ROW_BYTES + 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def checked_separator(separator: str) -> str:
    """Return the separator that a caller gives, with `tab` and `\\t` as a tab.

    Raises:
        ValueError: the separator is not a single character that can separate fields.
    """
    separator = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}.get(separator, separator)
    if separator != NO_SEPARATOR and (len(separator) > 1 or separator in ('"', "\n", "\r", "\0")):
        raise ValueError(
            f"separator is {separator!r}; it must be one character, such as ; or \\t, or none for a file of one "
            "column; leave it empty to detect it"
        )
    return separator


def checked_choice(argument: str, value: str, choices: tuple[str, ...]) -> str:
    """Return a value that a caller gives.

    Raises:
        ValueError: the value is neither empty nor one of the choices.
    """
    if value and value not in choices:
        raise ValueError(
            f"{argument} is {value!r}; it must be one of {', '.join(choices)}; leave it empty to detect it"
        )
    return value


def detect(text: str, is_whole: bool, separator: str, quotes: str, header: str, skip_lines: int) -> Dialect | None:
    """Return how to read a file that begins with this text.

    Args:
        text: the first characters of the file.
        is_whole: whether the text is the whole file. Otherwise, its last row may be cut off.
        separator: the separator that the caller gives; "" to detect it.
        quotes: one of `QUOTES`; "" to detect it.
        header: one of `HEADERS`; "" to take the first row.
        skip_lines: the number of lines before the table.

    Returns:
        The dialect; None if the text ends within the first row.

    Raises:
        AmbiguousTable: two separators fit equally well.
    """
    evidence = {}
    start = _end_of_lines(text, skip_lines)
    if line := SEPARATOR_LINE.match(text, start):
        start = line.end()
        if not separator:
            separator = line.group(1).replace("\\t", "\t")
            evidence["separator"] = (
                f"the line {line.group().strip()!r} before the table names the separator; the line is left out"
            )
    if start >= len(text):
        return None
    with long_fields():
        readings = _readings(text[start:], is_whole, separator, quotes)
    best = _best(readings, separator)
    if not best.rows:
        return None if best.error is None else _unreadable(best)
    names = best.rows[0]
    if not separator:
        evidence["separator"] = best.evidence()
    if not quotes:
        evidence["quotes"] = best.quotes_evidence()
    if not header:
        evidence["header"] = _header_evidence(names)
    if header == "none":
        names = [f"column_{number}" for number in range(1, len(names) + 1)]
    return Dialect(best.separator, best.quotes, header or "first", names, start, evidence)


@dataclass
class _Reading:
    """The first rows as one combination of separator and quotes shows them."""

    separator: str
    quotes: str
    rows: list[list[str]]
    error: csv.Error | None

    def __post_init__(self) -> None:
        self.width = len(self.rows[0]) if self.rows else 0
        same = sum(len(row) == self.width for row in self.rows)
        self.share = same / (len(self.rows) + (self.error is not None)) if self.width > 1 else 0.0
        self.is_table = self.share == 1
        self.split = sum(len(row) > 1 for row in self.rows)

    @cached_property
    def typed(self) -> float:
        """The share of cells that are numbers, dates, times or empty."""
        cells = [cell for row in self.rows[1:] or self.rows for cell in row]
        return sum(TYPED.fullmatch(cell) is not None for cell in cells) / max(1, len(cells))

    def evidence(self) -> str:
        if self.width < 2:
            return ONE_COLUMN
        rows = f"the first {len(self.rows)} rows" if len(self.rows) > 1 else "the first row"
        if self.is_table:
            return f"{self.width - 1} in each of {rows}" if len(self.rows) > 1 else f"{self.width - 1} in {rows}"
        return f"{self.width - 1} in the first row, and in {self.share:.0%} of {rows}"

    def quotes_evidence(self) -> str:
        if self.quotes == BACKSLASH:
            return 'the first rows hold \\" and cannot be read otherwise'
        if self.quotes == SPACED:
            return "quotes follow spaces, so spaces after a separator are left out"
        if self.quotes == NO_QUOTES:
            return "the quotes do not surround fields"
        return "the usual form"


def _unreadable(best: _Reading) -> Dialect:
    """Return a dialect for a file whose first row cannot be read: reading it raises the error with the row."""
    return Dialect(best.separator, best.quotes, "first", [""], 0)


def _readings(text: str, is_whole: bool, separator: str, quotes: str) -> list[_Reading]:
    if separator:
        return [_reading(text, is_whole, "" if separator == NO_SEPARATOR else separator, quotes)]
    found = [_reading(text, is_whole, each, quotes) for each in SEPARATORS]
    if not any(reading.is_table for reading in found):
        rare = [_reading(text, is_whole, each, quotes) for each in RARE_SEPARATORS if each in text]
        found += [reading for reading in rare if reading.is_table and len(reading.rows) > 1]
    return found


def _best(readings: list[_Reading], separator: str) -> _Reading:
    tables = [reading for reading in readings if reading.is_table]
    if len(tables) > 1:
        best = max(tables, key=lambda reading: reading.typed)
        # Numbers in one row may be an accident, so a single row decides nothing.
        is_close = len(best.rows) <= 2
        rivals = [each for each in tables if is_close or each.typed == best.typed]
    else:
        best = max(readings, key=lambda reading: (reading.is_table, reading.share, reading.split))
        rivals = tables
    if not separator and len(rivals) > 1:
        shown = " or ".join(f"{each.separator!r} ({each.rows[0]!r})"[:200] for each in rivals)
        raise AmbiguousTable(f"may have as its separator {shown}: set separator to the right one")
    is_rare = len(best.rows) > 1 and best.share < LEAST_SHARE and max(map(len, best.rows)) == best.width
    if not separator and best.width > 1 and is_rare and best.error is None:
        raise AmbiguousTable(
            f"has {best.width:,} fields in its first row and in few others, if {best.separator!r} is its separator: "
            "set separator to the right one, or to none for a file of one column; set skip_lines if the table begins "
            "below"
        )
    if best.width == 1 and best.split == 0:
        best.separator = best.separator if separator else ""
    return best


def _reading(text: str, is_whole: bool, separator: str, quotes: str) -> _Reading:
    """Return the first rows with a separator; without given quotes, with the first form of quotes that fits."""
    if quotes:
        return _try(text, is_whole, separator, quotes)
    first = _try(text, is_whole, separator, DOUBLED)
    has_spaced = any(SPACED_FIELD.match(cell) for row in first.rows for cell in row)
    if first.error is None and not has_spaced:
        return first
    others = [SPACED] if has_spaced else []
    others += [BACKSLASH] if '\\"' in text else []
    others += [NO_QUOTES] if separator == "\t" else []  # files with tabs rarely use quotes
    for form in others:
        other = _try(text, is_whole, separator, form)
        if other.error is None and other.share >= first.share:
            return other
    return first


def _try(text: str, is_whole: bool, separator: str, quotes: str) -> _Reading:
    rows: list[list[str]] = []
    error = None
    lines = _Lines(text)
    try:
        for row in read_rows(iter(lines), separator, quotes):
            if len(row) > 1 or not is_blank(row, lines.line, quotes):
                rows.append(row)
            if len(rows) > SAMPLED_ROWS:
                break
    except csv.Error as problem:
        # At the end of a sample, an open quote is no error: its end may follow.
        error = None if lines.ended and not is_whole else problem
    else:
        if lines.ended and not is_whole and rows:
            rows.pop()  # it may be cut off
    return _Reading(separator, quotes, rows[:SAMPLED_ROWS], error)


class _Lines:
    """The lines of a text with their ends.

    Attributes:
        line: the line that was returned last.
        ended: whether the last line was returned.
    """

    def __init__(self, text: str) -> None:
        self.line, self.ended = "", False
        self._text = text

    def __iter__(self) -> Iterator[str]:
        for line in io.StringIO(self._text, newline=""):
            self.line = line
            yield line
        self.ended = True


def _with_plain_backslashes(line: str) -> str:
    """Double the backslashes that escape nothing: `csv` would remove them."""
    return ESCAPE.sub(lambda found: found.group() if found.group(1) else "\\\\", line) if "\\" in line else line


def _end_of_lines(text: str, count: int) -> int:
    position = 0
    for _ in range(count):
        found = LINE_END.search(text, position)
        if found is None:
            return len(text)
        position = found.end()
    return position


def _header_evidence(names: list[str]) -> str:
    if all(is_number(name) for name in names):
        return "the first row, although it holds only numbers"
    return "the first row"


def is_number(text: str) -> bool:
    """Return True if a field is a decimal number."""
    return re.fullmatch(r"\s*[-+]?\d+([.,]\d*)?\s*", text) is not None
