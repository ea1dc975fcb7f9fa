"""Converts parameter values to the types that a specification declares, and to text."""

import json
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import EngineError

MAX_DEPTH = 100  # the default recursion limit of the JSON parser of protocol buffers
_BOOLEANS = {"true": True, "false": False}
_JSON_TYPES = {"LIST": list, "STRUCT": dict}


def normalize_numbers(value: Any, depth: int = 0) -> Any:
    """Return a value with all whole numbers as `int`, at every level.

    Specifications and task outputs pass through JSON forms that have only floats. Like the real server, the engine
    passes `[1.0, 2.5]` on as `[1, 2.5]`.

    Args:
        value: any value that JSON can represent.
        depth: the number of lists and dictionaries around the value.

    Raises:
        EngineError: the value is nested deeper than `MAX_DEPTH` levels.
    """
    if depth > MAX_DEPTH:
        raise EngineError(f"a value is nested deeper than {MAX_DEPTH} levels; pass it as an artifact")
    if isinstance(value, dict):
        return {key: normalize_numbers(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [normalize_numbers(inner, depth + 1) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_type(value: Any, kind: str) -> Any:
    """Convert a value to a parameter type of a specification.

    Args:
        value: any value that JSON can represent.
        kind: `STRING`, `NUMBER_INTEGER`, `NUMBER_DOUBLE`, `BOOLEAN`, `LIST` or `STRUCT`; other types are not checked.

    Raises:
        EngineError: the value cannot be converted to that type.
    """
    if kind == "STRING":
        return as_text(value)
    if kind not in {"NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", *_JSON_TYPES}:
        return normalize_numbers(value)
    parsed = _parsed(value) if isinstance(value, str) else value
    if kind in _JSON_TYPES and isinstance(parsed, _JSON_TYPES[kind]):
        return normalize_numbers(parsed)
    if kind == "BOOLEAN" and isinstance(parsed, bool):
        return parsed
    if kind.startswith("NUMBER") and isinstance(parsed, int | float) and not isinstance(parsed, bool):
        number = _float(parsed)
        if kind == "NUMBER_DOUBLE":
            return number
        if number.is_integer():
            return int(parsed)
    raise EngineError(f"{as_text(value)!r} is not a {_NAMES[kind]}")


def as_text(value: Any) -> str:
    """Return a value as text: a text is returned unchanged, every other value as JSON."""
    return value if isinstance(value, str) else json.dumps(normalize_numbers(value))


_NAMES = {
    "NUMBER_INTEGER": "whole number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "boolean (true or false)",
    "LIST": "list",
    "STRUCT": "dictionary",
}


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        raise EngineError(f"{as_text(number)!r} is too large a number") from None


def _parsed(text: str) -> Any:
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise EngineError(f"a value is nested deeper than {MAX_DEPTH} levels; pass it as an artifact") from None
