"""Reads the small expressions of a compiled pipeline: conditions, and selectors of a part of a value.

The compiler writes conditions in a subset of CEL. They are turned into a Python syntax tree, of which only a few kinds
of nodes are allowed and looked at; nothing is ever evaluated as Python.
"""

import ast
import json
import operator
import re
from collections.abc import Mapping
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.values import as_text, as_type

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^'\\]|\\[ntr\\'"])*'|"(?:[^"\\]|\\[ntr\\'"])*")
    | (?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)
    | (?P<word>[A-Za-z_][\w.]*)
    | (?P<sign>&&|\|\||[=!<>]=|[<>!()\[\]-])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
# `~` binds as tightly in Python as `!` does in CEL; `not` does not.
_SIGNS = {"&&": " and ", "||": " or ", "!": "~"}
_WORDS = {"true": "True", "false": "False", "null": "None", "inputs.parameter_values": "parameters"}
_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_WHOLE = re.compile(r"[-+]?[0-9]+")
_CASTS = {
    # Not by way of a float, which does not hold every whole number.
    "int": lambda value: int(float(value) if isinstance(value, str) and not _WHOLE.fullmatch(value) else value),
    "double": float,
    "string": as_text,
    "bool": lambda value: as_type(value, "BOOLEAN"),
}
_SELECTOR = re.compile(r"""parseJson\(string_value\)((?:\[(?:"[^"]*"|'[^']*'|\d+)\])+)""")
_KEY = re.compile(r"""\[(?:"([^"]*)"|'([^']*)'|(\d+))\]""")


def holds(expression: str, parameters: Mapping[str, Any]) -> bool:
    """Tell whether a condition is true.

    Args:
        expression: such as `inputs.parameter_values['x'] == 'heads' && !(int(inputs.parameter_values['n']) > 3)`.
        parameters: the values that it may name.

    Raises:
        EngineError: it cannot be read, names a value that is not there, or does not say yes or no.
    """
    value = _Reader(expression, parameters).value(parse_condition(expression))
    if not isinstance(value, bool):
        raise EngineError(f"the condition {expression!r} is neither true nor false, but {value!r}")
    return value


def parse_condition(expression: str) -> ast.expr:
    """Return a condition's syntax tree.

    Raises:
        EngineError: it cannot be read.
    """
    try:
        tree = ast.parse(_as_python(expression), mode="eval").body
    except (SyntaxError, ValueError):
        raise _unreadable(expression) from None
    if not _is_known(tree):
        raise _unreadable(expression)
    return tree


def select(selector: str, value: Any) -> Any:
    """Return the part of a value that a selector such as `parseJson(string_value)["name"]` stands for.

    Raises:
        EngineError: the selector cannot be read, or the value has no such part.
    """
    for key in parse_selector(selector):
        try:
            value = (json.loads(value) if isinstance(value, str) else value)[key]
        except (ValueError, LookupError, TypeError):
            raise EngineError(f"{value!r} holds no {key!r}") from None
    return value


def parse_selector(selector: str) -> list[str | int]:
    """Return the keys that a selector goes through.

    Raises:
        EngineError: it cannot be read.
    """
    match = _SELECTOR.fullmatch(selector.strip())
    if not match:
        raise EngineError(f"cannot read the expression {selector!r}")
    return [int(index) if index else double or single for double, single, index in _KEY.findall(match[1])]


def _as_python(expression: str) -> str:
    pieces, position = [], 0
    expression = expression.strip()
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if not token:
            raise _unreadable(expression)
        pieces.append(_translated(token))
        position = token.end()
    return " ".join(pieces)


def _translated(token: re.Match[str]) -> str:
    kind = token.lastgroup
    piece = token[kind]
    if kind == "text":
        return repr(re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), piece[1:-1]))
    if kind == "word":
        # A word of Python that is none here, such as `lambda`, must not get a meaning.
        return _WORDS.get(piece, f"{piece}_" if piece not in _CASTS else piece)
    return _SIGNS.get(piece, piece)


def _is_known(node: ast.expr) -> bool:
    """Tell whether a tree holds only what `_Reader` can read."""
    match node:
        case ast.Constant():
            return True
        case ast.BoolOp(values=parts):
            return all(map(_is_known, parts))
        case ast.UnaryOp(op=ast.Invert() | ast.USub(), operand=part):
            return _is_known(part)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return type(op) in _COMPARE and _is_known(left) and _is_known(right)
        case ast.Call(func=ast.Name(id=name), args=[part], keywords=[]):
            return name in _CASTS and _is_known(part)
        case ast.Subscript(value=ast.Name(id="parameters"), slice=ast.Constant(value=str())):
            return True
    return False


def _unreadable(expression: str) -> EngineError:
    return EngineError(
        f"cannot read the condition {expression!r}. "
        "Compare values of the same type, and texts without quotation marks and backslashes"
    )


class _Reader:
    """Computes an expression's value from its tree."""

    def __init__(self, expression: str, parameters: Mapping[str, Any]) -> None:
        self._expression = expression
        self._parameters = parameters

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.BoolOp(op=op, values=parts):
                return (all if isinstance(op, ast.And) else any)(self._truth(part) for part in parts)
            case ast.UnaryOp(op=ast.Invert(), operand=part):
                return not self._truth(part)
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return self._negative(self.value(part))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                return self._compared(op, self.value(left), self.value(right))
            case ast.Call(func=ast.Name(id=name), args=[part], keywords=[]) if name in _CASTS:
                return self._cast(name, self.value(part))
            case ast.Subscript(value=ast.Name(id="parameters"), slice=ast.Constant(value=str(name))):
                return self._parameter(name)
        raise _unreadable(self._expression)

    def _truth(self, node: ast.expr) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            raise _unreadable(self._expression)
        return value

    def _negative(self, value: Any) -> Any:
        if _family(value) is not float:
            raise _unreadable(self._expression)
        return -value

    def _compared(self, op: ast.cmpop, left: Any, right: Any) -> bool:
        if _family(left) != _family(right):
            raise EngineError(f"the condition {self._expression!r} compares {left!r} with {right!r}: not the same type")
        try:
            return _COMPARE[type(op)](left, right)
        except TypeError:
            raise EngineError(f"the condition {self._expression!r} cannot order {left!r} and {right!r}") from None

    def _cast(self, name: str, value: Any) -> Any:
        try:
            return _CASTS[name](value)
        except (ValueError, TypeError, OverflowError, EngineError):
            raise EngineError(f"the condition {self._expression!r} needs {name}({value!r})") from None

    def _parameter(self, name: str) -> Any:
        if name not in self._parameters:
            raise EngineError(f"the condition {self._expression!r} needs {name!r}, which has no value")
        return self._parameters[name]


def _family(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
