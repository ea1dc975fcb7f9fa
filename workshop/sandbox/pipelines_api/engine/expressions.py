"""Evaluates the expressions of a compiled pipeline: conditions, and selectors that take a part of a value.

The expressions are CEL, the Common Expression Language (https://cel.dev). The real server evaluates them with cel-go
(`backend/src/v2/expression/expression.go` of kubeflow/pipelines). This module uses Google's C++ implementation of the
same language; `docs/libraries.md` compares it with the alternatives.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from cel_expr_python import cel

from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.values import as_text

MAX_LENGTH = 20_000  # letters of one expression
_HINT = "Compare values of the same type. A text in a condition must not contain quotation marks or line breaks."


def evaluate_condition(expression: str, parameters: Mapping[str, Any]) -> bool:
    """Evaluate the condition of a task.

    Args:
        expression: for example `inputs.parameter_values['x'] == 'heads' && int(inputs.parameter_values['n']) > 3`.
        parameters: the values of the task's input parameters, by name.

    Returns:
        Whether the task should run.

    Raises:
        EngineError: the expression is not valid, uses a parameter without a value, applies an operator to values of
            unsuitable types, or does not return a boolean.
    """
    condition = compile_condition(expression)
    try:
        data = {"inputs": {"parameter_values": _with_doubles(dict(parameters))}}
        result = condition.eval(data=data)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise EngineError(f"cannot evaluate the condition {expression!r}: {_reason(error)}") from None
    value = result.plain_value()
    if result.type() == cel.Type.ERROR:
        raise EngineError(f"cannot evaluate the condition {expression!r}: {value}")
    if not isinstance(value, bool):
        raise EngineError(f"the condition {expression!r} must return true or false, but it returned {value!r}")
    return value


def compile_condition(expression: str) -> Any:
    """Compile the condition of a task.

    Args:
        expression: the condition.

    Returns:
        A compiled CEL expression.

    Raises:
        EngineError: the expression is not valid.
    """
    return _compile(expression, "condition", f". {_HINT}")


def select(selector: str, value: Any) -> Any:
    """Return the part of a value that a selector points to.

    Args:
        selector: for example `parseJson(string_value)["name"]`.
        value: a JSON text, or any value that JSON can represent.

    Raises:
        EngineError: the selector is not valid, or the value does not contain that part.
    """
    expression = compile_selector(selector)
    text = as_text(value)
    try:
        result = expression.eval(data={"string_value": text})
    except (RuntimeError, TypeError) as error:
        raise EngineError(f"cannot evaluate the expression {selector!r} on {text!r}: {_reason(error)}") from None
    if result.type() == cel.Type.ERROR:
        raise EngineError(f"cannot evaluate the expression {selector!r} on {text!r}: {result.plain_value()}")
    return result.plain_value()


def compile_selector(selector: str) -> Any:
    """Compile a selector.

    Args:
        selector: the selector.

    Returns:
        A compiled CEL expression.

    Raises:
        EngineError: the selector is not valid.
    """
    return _compile(selector, "expression")


def _compile(text: str, kind: str, advice: str = "") -> Any:
    if len(text) > MAX_LENGTH:
        raise EngineError(
            f"cannot read the {kind} {text[:40]!r}...: it has {len(text):,} letters; {MAX_LENGTH:,} is the limit"
        )
    try:
        return _environment().compile(text)
    except Exception as error:  # the library raises many kinds, among them its own
        raise EngineError(f"cannot read the {kind} {text!r}: {_reason(error)}{advice}") from None


@cache
def _environment() -> Any:
    """Return the CEL environment. It defines the names that the real server defines and the compiler uses."""
    kinds = cel.Type
    return cel.NewEnv(
        variables={
            "inputs": kinds.Map(kinds.STRING, kinds.Map(kinds.STRING, kinds.DYN)),
            "string_value": kinds.STRING,
        },
        functions=[
            cel.FunctionDecl("parseJson", [cel.Overload("parse_json", kinds.DYN, [kinds.STRING], False, _parse_json)])
        ],
    )


def _parse_json(text: str) -> Any:
    # The JSON decoder of Go turns every number into a double, and rejects NaN, infinity and numbers that overflow.
    return json.loads(text, parse_int=_finite, parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a number that JSON can represent")
    return number


def _with_doubles(value: Any) -> Any:
    """Turn every number into a double: the real server passes parameters as `google.protobuf.Value`."""
    if isinstance(value, dict):
        return {key: _with_doubles(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_doubles(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _reason(error: Exception) -> str:
    """Return the first line of an error message of the CEL library, without its codes."""
    line = str(error).split("\n")[0]
    return line.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ").removesuffix(" [INVALID_ARGUMENT]")
