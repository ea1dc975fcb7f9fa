"""Expressions of compiled pipelines have the values that the real server computes.

`cel_go_answers.json` holds the expected values, computed with cel-go. The versions 0.12.4, 0.26.1 and 0.30.0 of
cel-go agree on all values. As in `backend/src/v2/expression/expression.go` of kubeflow/pipelines, a condition reads
an `ExecutorInput` message, whose numbers are doubles.
"""

import json
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from tests.support.engine_bench import compiled
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.expressions import compile_condition, evaluate_condition, select
from workshop.sandbox.pipelines_api.engine.spec import walk
from workshop.sandbox.pipelines_api.engine.values import as_type

ANSWERS = json.loads(Path(__file__).with_name("cel_go_answers.json").read_text())
# The C++ library differs from cel-go here. The SDK compiles none of these: it writes `int()` only around parameters
# that are declared as whole numbers, it does not write `bool()`, and Python writes 1e400 as `inf`.
DIFFERENT = {
    ("int(inputs.parameter_values['n']) == 3", '{"n": " 3"}'): True,
    ("int(inputs.parameter_values['n']) == 1", '{"n": true}'): True,
    ("inputs.parameter_values['d'] == 1e400", '{"d": 1}'): False,
    ("bool(inputs.parameter_values['f'])", '{"f": "T"}'): "error",
}


def value(name: str) -> str:
    return f"inputs.parameter_values['{name}']"


def answer(expression: str, parameters: dict) -> bool | str:
    try:
        return evaluate_condition(expression, parameters)
    except EngineError as error:
        assert repr(expression) in str(error)
        return "error"


@pytest.mark.parametrize("case", ANSWERS["conditions"], ids=lambda case: case["expression"][:60])
def test_a_condition_has_the_value_that_cel_go_computes(case):
    expression, parameters = case["expression"], case["parameters"]
    expected = DIFFERENT.get((expression, json.dumps(parameters)), case["result"])
    assert answer(expression, parameters) == expected


def test_the_known_differences_from_cel_go_still_exist():
    cases = {(case["expression"], json.dumps(case["parameters"])): case["result"] for case in ANSWERS["conditions"]}
    assert all(cases[key] != ours for key, ours in DIFFERENT.items())


@pytest.mark.parametrize("case", ANSWERS["selectors"], ids=lambda case: f"{case['expression']} {case['value']}"[:80])
def test_a_selector_has_the_value_that_cel_go_computes(case):
    if case.get("error"):
        with pytest.raises(EngineError, match="cannot evaluate the expression"):
            select(case["expression"], case["value"])
    else:
        assert select(case["expression"], case["value"]) == case["result"]


@dsl.component(base_image="python:3.12", install_kfp_package=False)
def done(value: int = 1) -> int:
    return value


OPERATORS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
# What a user compares, by the type of the parameter: the values of the parameter, and the other side.
COMPARED = {
    str: (["heads", "tails", ""], ["heads", "z", "", "3"]),
    int: ([3, -3, 0, 2**40], [3, -3, 2.5, 0.0]),
    float: ([0.5, 3.0, -1e-5, 1e16], [0.5, 3, 1e-05, 1e16, -1]),
    bool: ([True, False], [True, False]),
}


def condition_of(kind: type, operator: str, other) -> tuple[str, str]:
    """Return the condition that the SDK compiles from a comparison, and the name of its parameter."""

    def compares(x):
        with dsl.If(OPERATORS[operator](x, other)):
            done()

    compares.__annotations__ = {"x": kind}
    spec, _ = compiled(dsl.pipeline(compares))
    (condition,) = [
        place.task["triggerPolicy"]["condition"]
        for place in walk(spec)
        if "condition" in place.task.get("triggerPolicy", {})
    ]
    return condition, "pipelinechannel--x"


@pytest.mark.parametrize(
    ("kind", "operator", "other"),
    [(kind, operator, other) for kind in COMPARED for operator, other in product(OPERATORS, COMPARED[kind][1])],
)
def test_a_comparison_that_the_sdk_compiles_means_the_same_as_in_python(kind, operator, other):
    condition, name = condition_of(kind, operator, other)
    for given_value in COMPARED[kind][0]:
        assert evaluate_condition(condition, {name: given_value}) is OPERATORS[operator](given_value, other)


@pytest.mark.parametrize(
    "expression", ["", "1 +", "open('x')", "__import__('os')", f"{value('word')} == 'it's'", "a == 1"]
)
def test_an_invalid_condition_is_an_error_that_quotes_it(expression):
    with pytest.raises(EngineError, match="cannot read the condition") as error:
        compile_condition(expression)
    assert repr(expression) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("expression", "parameters", "said"),
    [
        (f"{value('missing')} == 'x'", {}, "missing"),
        (f"{value('word')} < 3.0", {"word": "heads"}, r"_<_\(string, double\)"),
        (f"int({value('word')}) == 3", {"word": "3.5"}, "cannot convert string to int"),
        (f"{value('word')}", {"word": "heads"}, "must return true or false, but it returned 'heads'"),
        (f"{value('n')} > 3.0", {"n": 10**400}, "too large"),
    ],
)
def test_a_condition_that_cannot_be_evaluated_is_an_error_and_not_false(expression, parameters, said):
    with pytest.raises(EngineError, match=said):
        evaluate_condition(expression, parameters)


@given(st.text(max_size=40))
def test_a_random_text_is_a_boolean_expression_or_an_error(text):
    with suppress(EngineError):
        assert isinstance(evaluate_condition(text, {}), bool)


def test_a_chain_of_a_hundred_branches_can_be_evaluated():
    expression = " && ".join(f"!({value('x')} == '{number}')" for number in range(100))
    assert evaluate_condition(expression, {"x": "a"}) is True
    assert evaluate_condition(expression, {"x": "99"}) is False


def test_an_invalid_selector_is_an_error():
    with pytest.raises(EngineError, match="cannot read the expression"):
        select("eval(string_value)", "1")


@pytest.mark.parametrize("kind", ["NUMBER_INTEGER", "NUMBER_DOUBLE"])
@pytest.mark.parametrize("number", [10**400, str(10**400)])
def test_a_number_that_is_too_large_is_an_error(kind, number):
    with pytest.raises(EngineError, match="too large a number"):
        as_type(number, kind)


def test_a_large_whole_number_is_not_rounded():
    assert as_type(2**53 + 1, "NUMBER_INTEGER") == 2**53 + 1
