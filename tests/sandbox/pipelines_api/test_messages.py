"""What a reader is told about pipelines that kfp compiles and no server can run."""

from typing import Optional  # kfp does not read `str | None`

import pytest
from kfp import dsl

from tests.support import simple


@dsl.component(**simple.OPTIONS)
def note(status: dsl.PipelineTaskFinalStatus) -> str:
    return status.state


@dsl.pipeline(name="over-a-parameter")
def over_a_parameter(items: list = ["A", "B"]):  # noqa: B006  (a default of the pipeline)
    with dsl.ExitHandler(exit_task=note()), dsl.ParallelFor(items) as item:
        simple.say(text=f"item {item}")


@dsl.pipeline(name="over-a-list")
def over_a_list():
    with dsl.ExitHandler(exit_task=note()), dsl.ParallelFor(["A", "B"]) as item:
        simple.say(text=f"item {item}")


@dsl.pipeline(name="inner")
def inner(items: list):
    with dsl.ParallelFor(items) as item:
        simple.say(text=f"item {item}")


@dsl.pipeline(name="outer")
def outer(items: list = ["A", "B"]):  # noqa: B006
    with dsl.ExitHandler(exit_task=note()):
        inner(items=items)


@pytest.mark.parametrize(("pipeline", "over"), [(over_a_parameter, " over 'items'"), (over_a_list, "")])
def test_a_loop_in_an_exit_handler_is_refused_in_words_of_the_pipeline(api, compiled, pipeline, over):
    message = api.refused(400, "POST", "/runs", json={"display_name": "r", "pipeline_spec": compiled(pipeline)})
    assert f"it contains a loop{over} that puts its item into a longer text, which kfp compiles wrongly" in message
    assert "pipelinechannel--" not in message


def test_the_advised_loop_in_a_pipeline_of_its_own_runs(api, compiled):
    assert api.await_state(api.run(compiled(outer))["run_id"])["state"] == "SUCCEEDED"


@dsl.pipeline(name="condition")
def condition(text: Optional[str] = None):  # noqa: UP045
    with dsl.If(text == "x"):
        simple.say(text="d")


@dsl.pipeline(name="loop")
def loop(items: Optional[list] = None):  # noqa: UP045
    with dsl.ParallelFor(items) as item:
        simple.say(text=f"item {item}")


@pytest.mark.parametrize(("pipeline", "name"), [(condition, "text"), (loop, "items")])
def test_a_missing_value_of_a_condition_or_loop_is_named_as_in_the_pipeline(api, compiled, pipeline, name):
    ended = api.await_state(api.run(compiled(pipeline))["run_id"])
    assert ended["state"] == "FAILED"
    assert f"needs a value of '{name}', which has none (None)" in ended["error"]["message"]
