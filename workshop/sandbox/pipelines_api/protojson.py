"""Reads JSON messages as the real server does: with `encoding/json` and then `protojson` of Go.

A message may name a field in snake_case or camelCase, only once. An unknown field, a value of another type and a
second field of a `oneof` are errors, and the error names the line and the column.

Sources: https://pkg.go.dev/encoding/json and https://pkg.go.dev/google.golang.org/protobuf/encoding/protojson.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json import decoder
from typing import Any

from workshop.sandbox.pipelines_api.engine.values import MAX_DEPTH

scanstring: Callable[[str, int], tuple[str, int]] = decoder.scanstring  # type: ignore[attr-defined]
SPACE = re.compile(r"[ \t\r\n]*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
WORD = re.compile(r"[^ \t\r\n{}\[\]\",:]+|.")
TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
INTEGERS = {"int32": 2**31, "int64": 2**63}
MAX_NUMBER = 10**300  # protocol buffers store numbers as doubles
TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"


class ProtoError(ValueError):
    """A text that is not the message. The error's text is the server's."""


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes:
        kind: `string`, `int32`, `int64`, `bool`, `timestamp`, `enum`, `message`, `struct` (an object with any content)
            or `values` (any values by name).
        message: the type of the field's message.
        values: the names of an enumeration, in the order of their numbers.
        repeated: whether the field is a list.
        choice: the full name of the `oneof` that the field belongs to; "" for none.
    """

    kind: str = "string"
    message: "Schema | None" = None
    values: tuple[str, ...] = ()
    repeated: bool = False
    choice: str = ""


@dataclass(frozen=True)
class Schema:
    """The fields of a message, by their names in snake_case."""

    fields: Mapping[str, Field]
    names: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        both = {name: name for name in self.fields} | {camel_case(name): name for name in self.fields}
        object.__setattr__(self, "names", both)


def camel_case(name: str) -> str:
    """Return the name of a field in JSON."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def read_body(content: bytes, schema: Schema) -> dict[str, Any]:
    """Read the body of a request.

    Args:
        content: the body. What follows after the first JSON value is not read. An empty body is an empty message.
        schema: the type of the message.

    Raises:
        ProtoError: the body is not such a message.
    """
    text = content.decode("utf-8", "surrogateescape")
    start = _skip(text, 0)
    if start == len(text):
        return {}
    end = _Syntax(text).value(start)
    return _Reader(text[start:end]).whole(schema)


def read_text(text: str, schema: Schema) -> dict[str, Any]:
    """Read a text that is one message, such as a filter.

    Raises:
        ProtoError: the text is not such a message.
    """
    syntax = _Syntax(text)
    try:
        end = syntax.value(_skip(text, 0))
    except ProtoError as error:
        if "unexpected EOF" in str(error):
            raise ProtoError("proto: unexpected EOF") from None
        raise _syntax_error(text, syntax.failed_at, "invalid value", _word(text, syntax.failed_at)) from None
    if (rest := _skip(text, end)) < len(text):
        raise _syntax_error(text, rest, "unexpected token", _word(text, rest))
    return _Reader(text).whole(schema)


def _skip(text: str, position: int) -> int:
    found = SPACE.match(text, position)
    return found.end() if found else position


def _word(text: str, position: int) -> str:
    found = WORD.match(text, position)
    return found[0] if found else ""


def _where(text: str, position: int) -> str:
    line_start = text.rfind("\n", 0, position) + 1
    return f"line {text.count(chr(10), 0, position) + 1}:{position - line_start + 1}"


def _syntax_error(text: str, position: int, problem: str, word: str) -> ProtoError:
    return ProtoError(f"proto: syntax error ({_where(text, position)}): {problem} {word}")


class _Syntax:
    """Finds the end of a JSON value, or the first wrong character with the words of Go's `encoding/json`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.failed_at = 0

    def value(self, position: int, depth: int = 0) -> int:
        """Return the position after the value that begins here."""
        if depth == 0 and (end := self._fast(position)):
            return end
        if depth > MAX_DEPTH + 20:
            self.failed_at = position
            raise ProtoError(TOO_DEEP)
        letter = self._at(position, "looking for beginning of value")
        if letter in "{[":
            return self._container(position, depth, letter)
        if letter == '"':
            return self._string(position)
        if letter in "tfn":
            return self._literal(position, {"t": "true", "f": "false", "n": "null"}[letter])
        if found := NUMBER.match(self._text, position):
            return found.end()
        raise self._wrong(position, "in numeric literal" if letter == "-" else "looking for beginning of value")

    def _fast(self, position: int) -> int:
        """Return the end of a value that Python's reader accepts; 0 if it does not."""
        try:
            return json.JSONDecoder(parse_constant=_refuse).raw_decode(self._text, position)[1]
        except (ValueError, RecursionError):
            return 0

    def _container(self, position: int, depth: int, opening: str) -> int:
        closing, kind = ("}", "object key:value pair") if opening == "{" else ("]", "array element")
        position = _skip(self._text, position + 1)
        if self._text[position : position + 1] == closing:
            return position + 1
        while True:
            if opening == "{":
                position = self._key(position)
            position = _skip(self._text, self.value(_skip(self._text, position), depth + 1))
            letter = self._at(position, f"after {kind}")
            if letter == closing:
                return position + 1
            if letter != ",":
                raise self._wrong(position, f"after {kind}")
            position = _skip(self._text, position + 1)

    def _key(self, position: int) -> int:
        if self._at(position, "looking for beginning of object key string") != '"':
            raise self._wrong(position, "looking for beginning of object key string")
        position = _skip(self._text, self._string(position))
        if self._at(position, "after object key") != ":":
            raise self._wrong(position, "after object key")
        return position + 1

    def _string(self, position: int) -> int:
        try:
            return int(scanstring(self._text, position + 1)[1])
        except ValueError as error:
            failed = int(getattr(error, "pos", position))
            text = self._text
            while failed < len(text) and text[failed] >= " ":
                failed += 1
            if failed >= len(text):
                self.failed_at = failed
                raise ProtoError("unexpected EOF") from None
            raise self._wrong(failed, "in string literal") from None

    def _literal(self, position: int, word: str) -> int:
        for offset, letter in enumerate(word):
            if self._at(position + offset, "") != letter:
                raise self._wrong(position + offset, f"in literal {word} (expecting {_quoted(letter)})")
        return position + len(word)

    def _at(self, position: int, _context: str) -> str:
        if position >= len(self._text):
            self.failed_at = position
            raise ProtoError("unexpected EOF")
        return self._text[position]

    def _wrong(self, position: int, context: str) -> ProtoError:
        self.failed_at = position
        return ProtoError(f"invalid character {_quoted(self._text[position])} {context}")


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _quoted(letter: str) -> str:
    if letter == "'":
        return r"'\''"
    first = letter.encode("utf-8", "surrogateescape")[:1].decode("latin-1")
    return f"'{first}'" if first.isprintable() else repr(first)


class _Reader:
    """Reads a message from a text whose syntax is known to be right."""

    def __init__(self, text: str) -> None:
        self._text = text

    def whole(self, schema: Schema) -> dict[str, Any]:
        value, _ = self._message(_skip(self._text, 0), schema)
        return value

    def _message(self, position: int, schema: Schema) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        seen: set[str] = set()
        choices: set[str] = set()

        def take(key: str, key_at: int, position: int) -> int:
            name = schema.names.get(key)
            if name is None:
                raise self._error(key_at, f"unknown field {self._raw(key_at)}")
            if name in seen:
                raise self._error(key_at, f"duplicate field {self._raw(key_at)}")
            seen.add(name)
            of = schema.fields[name]
            if self._text.startswith("null", position):
                return position + 4
            if of.choice:
                if of.choice in choices:
                    raise self._error(key_at, f"error parsing {self._raw(key_at)}, oneof {of.choice} is already set")
                choices.add(of.choice)
            found[name], position = self._field(position, name, of)
            return position

        return found, self._members(position, take)

    def _members(self, position: int, take: Callable[[str, int, int], int]) -> int:
        """Call `take` with each key of an object, the key's position and the value's position."""
        if self._text[position] != "{":
            raise self._unexpected(position)
        position = _skip(self._text, position + 1)
        while self._text[position] != "}":
            key, end = self._string(position)
            value_at = _skip(self._text, _skip(self._text, end) + 1)
            position = _skip(self._text, take(key, position, value_at))
            if self._text[position] == ",":
                position = _skip(self._text, position + 1)
        return position + 1

    def _field(self, position: int, name: str, of: Field) -> tuple[Any, int]:
        if not of.repeated:
            return self._single(position, name, of)
        if self._text[position] != "[":
            raise self._unexpected(position)
        items = []
        position = _skip(self._text, position + 1)
        while self._text[position] != "]":
            item, end = self._single(position, name, of)
            items.append(item)
            position = _skip(self._text, end)
            if self._text[position] == ",":
                position = _skip(self._text, position + 1)
        return items, position + 1

    def _single(self, position: int, name: str, of: Field) -> tuple[Any, int]:
        if of.kind == "message":
            assert of.message is not None
            return self._message(position, of.message)
        if of.kind in ("struct", "values"):
            return self._struct(position)
        return self._scalar(position, name, of)

    def _scalar(self, position: int, name: str, of: Field) -> tuple[Any, int]:
        if of.kind == "timestamp":
            return self._timestamp(position)
        raw = self._raw(position)
        end = position + len(raw)
        if raw[0] == '"' and of.kind == "string":
            return self._string(position)
        if of.kind == "bool" and raw in ("true", "false"):
            return raw == "true", end
        if of.kind == "enum":
            given = json.loads(raw) if raw[0] == '"' else None
            if given in of.values:
                return given, end
            if raw[0] != '"' and (number := _integer(raw, "int32")) is not None:
                return number, end
        if of.kind in INTEGERS:
            inside = json.loads(raw) if raw[0] == '"' else raw
            if (number := _integer(inside, of.kind)) is not None:
                return number, end
        raise self._error(position, f"invalid value for {of.kind} field {camel_case(name)}: {raw}")

    def _timestamp(self, position: int) -> tuple[datetime, int]:
        raw = self._raw(position)
        if raw[0] != '"':
            raise self._unexpected(position)
        found = TIME.fullmatch(raw[1:-1])
        try:
            if found:
                zone = "+00:00" if found[3] == "Z" else found[3]
                moment = datetime.fromisoformat(f"{found[1]}{zone}").astimezone(UTC)
                return moment, position + len(raw)
        except (ValueError, OverflowError):
            pass
        raise self._error(position, f"invalid google.protobuf.Timestamp value {raw}")

    def _struct(self, position: int) -> tuple[dict[str, Any], int]:
        if self._text[position] != "{":
            raise self._unexpected(position)
        try:
            value, end = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse).raw_decode(
                self._text, position
            )
            _check_value(value)
        except RecursionError:
            raise ProtoError(f"proto: the value at {_where(self._text, position)} {TOO_DEEP}") from None
        except _ValueProblem as error:
            raise ProtoError(f"proto: ({_where(self._text, position)}): {error}") from None
        return value, end

    def _string(self, position: int) -> tuple[str, int]:
        value, end = scanstring(self._text, position + 1)
        broken = next((at for at, letter in enumerate(value) if "\ud800" <= letter <= "\udfff"), None)
        if broken is not None:
            raise self._broken(position, end, value[broken])
        return str(value), int(end)

    def _broken(self, position: int, end: int, letter: str) -> ProtoError:
        """Return the error for half of a character (a lone surrogate) in a string."""
        if "\udc80" <= letter <= "\udcff":
            return ProtoError(f"proto: syntax error ({_where(self._text, position)}): invalid UTF-8 in string")
        escape = re.search(r"\\u[dD][89a-fA-F]", self._text[position:end])
        after = self._text[position + escape.start() + 6 :] if escape else ""
        if len(after.encode("utf-8", "surrogateescape")) < 6:
            return ProtoError("proto: unexpected EOF")
        return ProtoError(
            f"proto: syntax error ({_where(self._text, position)}): "
            f"invalid escape code {json.dumps(after[:6])} in string"
        )

    def _raw(self, position: int) -> str:
        """Return the token that begins here: a bracket, a string in its quotes, or a word."""
        letter = self._text[position]
        if letter == '"':
            return self._text[position : scanstring(self._text, position + 1)[1]]
        return letter if letter in "{[" else _word(self._text, position)

    def _unexpected(self, position: int) -> ProtoError:
        return _syntax_error(self._text, position, "unexpected token", self._raw(position))

    def _error(self, position: int, problem: str) -> ProtoError:
        return ProtoError(f"proto: ({_where(self._text, position)}): {problem}")


class _ValueProblem(ValueError):
    """A value that protocol buffers cannot hold. The JSON reader raises other ValueErrors."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _ValueProblem(f"duplicate map key {json.dumps(twice)}")
    return found


def _check_value(value: Any, depth: int = 0) -> None:
    """Refuse what cannot be stored: invalid Unicode, numbers that are too large, deep nesting."""
    if depth > MAX_DEPTH:
        raise _ValueProblem(TOO_DEEP)
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _ValueProblem(f"contains half of a character (a lone surrogate): {value[:40]!r}")
    elif isinstance(value, (dict, list)):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_value(one, depth + 1)
    elif isinstance(value, (int, float)) and not abs(value) < MAX_NUMBER:
        raise _ValueProblem(f"invalid google.protobuf.Value: {str(value)[:40]} is too large")


def _integer(text: str, kind: str) -> int | None:
    """Return the integer that a number in JSON means; None if it is not an integer of this size."""
    if not NUMBER.fullmatch(text) or len(text) > 400:
        return None
    if any(letter in text for letter in ".eE"):
        number = float(text)
        if not number.is_integer():
            return None
        value = int(number)
    else:
        value = int(text)
    return value if -INTEGERS[kind] <= value < INTEGERS[kind] else None
