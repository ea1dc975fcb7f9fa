"""The expressions of compiled pipelines: read as they are meant, or refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workshop.sandbox.pipelines_api.engine.conditions import holds, parse_condition, select
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.values import as_type

PARAMETERS = {
    "word": "heads",
    "n": 3,
    "share": 0.5,
    "flag": True,
    "digits": "7",
    "pipelinechannel--a-b": "x",
    "large": 2**53 + 1,
    "huge": 10**400,
    "endless": float("inf"),
    "lines": "a\nb",
    "odd": "\t\r\\n'\"",
}


def value(name: str) -> str:
    return f"inputs.parameter_values['{name}']"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f"{value('word')} == 'heads'", True),
        (f"{value('word')} != 'heads'", False),
        (f'{value("pipelinechannel--a-b")} == "x"', True),
        (f"int({value('n')}) > 2", True),
        (f"int({value('n')}) >= 4", False),
        (f"int({value('digits')}) == 7", True),
        (f"{value('share')} < double(1)", True),
        (f"{value('share')} <= 5e-1", True),
        (f"{value('share')} > -1", True),
        (f"{value('flag')} == true", True),
        (f"!({value('flag')} == true)", False),
        (f"!({value('flag')} == true) || int({value('n')}) == 3", True),
        (f"{value('word')} == 'tails' || {value('flag')} == true && int({value('n')}) == 4", False),
        (f"!(!({value('word')} == 'heads') && !(int({value('n')}) > 4))", True),
        (f"{value('word')} > 'abc'", True),
        (f"{value('word')} == 'true && false'", False),
        (f"int({value('large')}) == 9007199254740993", True),
        (f"int({value('large')}) == 9007199254740992", False),
        ("int('9007199254740993') == 9007199254740993", True),
        ("int('3.5') == 3", True),
        ("bool('false')", False),
        ("bool('true')", True),
        (f"bool({value('flag')})", True),
        ("string(true) == 'true'", True),
        (f"string({value('n')}) == '3'", True),
        (f"{value('lines')} == 'a\\nb'", True),
        (f"{value('odd')} == '\\t\\r\\\\n\\'\\\"'", True),
    ],
)
def test_a_condition_is_read_as_it_is_meant(expression, expected):
    assert holds(expression, PARAMETERS) is expected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "open('x')",
        "__import__('os').system('true')",
        f"{value('word')}.upper() == 'HEADS'",
        f"{value('word')} == 'it's'",
        f"'{value('n')}' == '1'",
        "[1][0] == 1",
        "lambda: 1",
        "true if true else false",
        "a == 1",
        "1 == 1 == 1",
        f"int({value('n')}, 2) == 3",
        f"{value('word')} == '\\d'",
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(expression):
    with pytest.raises(EngineError, match="cannot read the condition"):
        parse_condition(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (f"{value('missing')} == 'x'", "'missing', which has no value"),
        (f"{value('word')} == 3", "not the same type"),
        (f"{value('flag')} == 1", "not the same type"),
        (f"int({value('word')}) == 3", r"needs int\('heads'\)"),
        (f"{value('word')}", "neither true nor false"),
        (f"!({value('word')})", "cannot read"),
        (f"-{value('word')} == 'x'", "cannot read"),
        ("null < null", "condition 'null < null' cannot order None"),
        (f"int({value('endless')}) == 3", r"condition .* needs int\(inf\)"),
        (f"double({value('huge')}) > 3.0", r"condition .* needs double\(10"),
        (f"bool({value('word')})", r"condition .* needs bool\('heads'\)"),
    ],
)
def test_a_condition_that_cannot_be_answered_is_never_taken_for_false(expression, said):
    with pytest.raises(EngineError, match=said):
        holds(expression, PARAMETERS)


@given(st.text(max_size=40))
def test_no_text_does_anything_but_fail(text):
    try:
        holds(text, {})
    except EngineError:
        return
    assert "true" in text or "false" in text or any(character.isdigit() or character in "'\"" for character in text)


def test_a_part_of_a_value_is_selected_from_json_and_from_dictionaries():
    assert select('parseJson(string_value)["a"]', '{"a": [1]}') == [1]
    assert select('parseJson(string_value)["a"]["b"]', {"a": {"b": 2}}) == 2


@pytest.mark.parametrize("held", ["not json", "{}", "[1]", 3])
def test_a_part_that_is_not_there_is_an_error(held):
    with pytest.raises(EngineError, match="holds no 'a'"):
        select('parseJson(string_value)["a"]', held)


def test_a_selector_of_another_form_is_an_error():
    with pytest.raises(EngineError, match="cannot read the expression"):
        select("eval(string_value)", "1")


@pytest.mark.parametrize("kind", ["NUMBER_INTEGER", "NUMBER_DOUBLE"])
@pytest.mark.parametrize("number", [10**400, str(10**400)])
def test_a_number_that_is_too_large_is_an_error(kind, number):
    with pytest.raises(EngineError, match="too large a number"):
        as_type(number, kind)


def test_a_large_whole_number_stays_what_it_is():
    assert as_type(2**53 + 1, "NUMBER_INTEGER") == 2**53 + 1
