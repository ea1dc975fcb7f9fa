"""Reads YAML and JSON that a client has sent, with bounded work and memory.

Both formats give values of JSON's types only. YAML has further types, tags and merge keys: small files with them can
occupy a server for minutes. So this module builds the values from the events of the parser and not with a loader.

- Plain text is a number, a boolean or null only in the forms that kfp writes. All other plain text stays text, for
  example dates, `yes`, `0x1f` and `1:30`.
- A tag such as `!!int` is refused. `<<` is a usual key.
- An alias counts as much as the value that the alias repeats.
"""

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from workshop.sandbox.pipelines_api.engine.values import MAX_DEPTH

MAX_NODES = 150_000  # values and keys of one file
MAX_TEXT = 32 << 20  # letters in all texts of one file, with those that aliases repeat
MAX_DIGITS = 310  # a double has no more
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
# The form that kfp writes. Text such as 1e3 has no decimal point, and stays text.
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None, **{word: None for word in ("null", "Null", "NULL")}}
_CONSTANTS |= {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_FIRST_OF_NUMBERS = frozenset("+-.0123456789")
_LONGEST_CONSTANT = 5  # letters in the longest of _CONSTANTS
# A text, also one without an end. The quantifiers never give back what they have matched, so the work is linear.
_JSON_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_CHUNK_BYTES = 1 << 20
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is optional


class TooLarge(ValueError):
    """A document has more values, more text or more levels than allowed."""


class NotADocument(ValueError):
    """A text is neither YAML nor JSON. The message gives the reason."""


def read(content: bytes) -> list[Any]:
    """Return the values of the documents in a file. Empty documents are left out.

    Args:
        content: YAML, or one JSON object.

    Raises:
        TooLarge: the file has too many values, too much text, or too many levels.
        NotADocument: the file is neither YAML nor JSON, or uses a feature of YAML that JSON does not have.
    """
    try:
        _check_text(content)
        if content[:100].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return [_read_json(content)]
        return [one for one in _Builder(content).documents() if one is not None]
    except UnicodeDecodeError as error:
        raise NotADocument(f"it is not text in UTF-8 ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise TooLarge from None
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise NotADocument(" ".join(str(error).split())[:300]) from None


def json_nodes(content: bytes) -> int:
    """Return a number that is not below the number of values in a JSON text. The function builds no values.

    Args:
        content: the text.
    """
    outside_of_texts = _JSON_TEXT.sub(b"", content)
    return 1 + sum(outside_of_texts.count(mark) for mark in (b",", b":", b"[", b"{"))


def _check_text(content: bytes) -> None:
    """Refuse other encodings than UTF-8. The chunks keep the decoded text small."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES]
        try:
            decoder.decode(chunk, final=start + _CHUNK_BYTES >= len(content))
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError("utf-8", b"", start + error.start, start + error.end, error.reason) from None


def _read_json(content: bytes) -> Any:
    if json_nodes(content) > MAX_NODES:
        raise TooLarge
    return json.loads(content.decode("utf-8-sig"), parse_int=_integer, parse_constant=_refuse_constant)


class _Builder:
    """Builds values from the events of the YAML parser.

    Args:
        content: the YAML.
    """

    def __init__(self, content: bytes) -> None:
        self._events: Iterator[Any] = yaml.parse(content, Loader=_Loader)
        self._anchors: dict[str, tuple[Any, int, int, int]] = {}  # the value, its nodes, its letters, its levels
        self._nodes = 0
        self._letters = 0

    def documents(self) -> Iterator[Any]:
        """Yield the value of each document."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                yield self._value(next(self._events), 0)[0]

    def _value(self, event: Any, depth: int) -> tuple[Any, int]:
        """Return the value that begins with an event, and the number of its levels."""
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event, depth)
        if event.tag is not None:
            raise NotADocument(f"it has the tag {event.tag[:60]!r}, and only the types of JSON are allowed")
        before = (self._nodes, self._letters)
        self._count(1, 0, depth)
        if isinstance(event, yaml.ScalarEvent):
            self._count(0, len(event.value), depth)
            value, levels = _scalar(event), 0
        elif isinstance(event, yaml.SequenceStartEvent):
            value, levels = self._list(depth)
        else:
            value, levels = self._dictionary(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before[0], self._letters - before[1], levels)
        return value, levels

    def _list(self, depth: int) -> tuple[list, int]:
        values, levels = [], 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            value, below = self._value(event, depth + 1)
            values.append(value)
            levels = max(levels, below + 1)
        return values, levels

    def _dictionary(self, depth: int) -> tuple[dict, int]:
        values, levels = {}, 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
                raise NotADocument(f"a key in line {event.start_mark.line + 1} is not a plain text")
            self._count(1, len(event.value), depth)
            value, below = self._value(next(self._events), depth + 1)
            values[event.value] = value
            levels = max(levels, below + 1)
        return values, levels

    def _repeated(self, event: Any, depth: int) -> tuple[Any, int]:
        if event.anchor not in self._anchors:
            raise NotADocument(f"the alias {event.anchor[:60]!r} names no value before it")
        value, nodes, letters, levels = self._anchors[event.anchor]
        self._count(nodes, letters, depth + levels)
        return value, levels

    def _count(self, nodes: int, letters: int, depth: int) -> None:
        self._nodes += nodes
        self._letters += letters
        if self._nodes > MAX_NODES or self._letters > MAX_TEXT or depth > MAX_DEPTH:
            raise TooLarge


def _scalar(event: Any) -> Any:
    text = event.value
    if not event.implicit[0]:  # a quoted text or a block of text
        return text
    if len(text) <= _LONGEST_CONSTANT and text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[:1] not in _FIRST_OF_NUMBERS:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _finite(text)
    if _NOT_JSON.fullmatch(text):
        _refuse_constant(text)
    return text


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise NotADocument(f"a number is too large: {text[:20]}... has {len(text):,} digits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise NotADocument(f"a number is too large: {text[:20]}")
    return number


def _refuse_constant(text: str) -> float:
    raise NotADocument(f"{text} is not a number in JSON")
