"""Parameter values: from the numbers of a specification to those that Python code expects, and to text."""

import json
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import EngineError

DEEPEST = 100  # as deep as protocol buffers read JSON, unless told otherwise
_TRUTHS = {"true": True, "false": False}
_JSON_TYPES = {"LIST": list, "STRUCT": dict}


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value with whole numbers as `int`, however deep they lie.

    A specification and the outputs of a task pass through JSON forms that know only floats; like the real server,
    `[1.0, 2.5]` is handed on as `[1, 2.5]`.

    Args:
        value: anything that JSON can hold.
        depth: how many lists and dictionaries it lies in.

    Raises:
        EngineError: it is nested deeper than `DEEPEST` levels.
    """
    if depth > DEEPEST:
        raise EngineError(f"a value is nested deeper than {DEEPEST} levels; hand it on as an artifact")
    if isinstance(value, dict):
        return {key: plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_type(value: Any, kind: str) -> Any:
    """Return a value as the parameter type of a specification demands it.

    Args:
        value: anything that JSON can hold.
        kind: `STRING`, `NUMBER_INTEGER`, `NUMBER_DOUBLE`, `BOOLEAN`, `LIST` or `STRUCT`; others are not looked at.

    Raises:
        EngineError: the value cannot be understood as that type.
    """
    if kind == "STRING":
        return as_text(value)
    if kind not in {"NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", *_JSON_TYPES}:
        return plain(value)
    parsed = _parsed(value) if isinstance(value, str) else value
    if kind in _JSON_TYPES and isinstance(parsed, _JSON_TYPES[kind]):
        return plain(parsed)
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
    """Return a value as the text that stands for it inside a string: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(plain(value))


_NAMES = {
    "NUMBER_INTEGER": "whole number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "truth value (true or false)",
    "LIST": "list",
    "STRUCT": "dictionary",
}


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        raise EngineError(f"{as_text(number)!r} is too large a number") from None


def _parsed(text: str) -> Any:
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise EngineError(f"a value is nested deeper than {DEEPEST} levels; hand it on as an artifact") from None
