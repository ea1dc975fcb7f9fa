"""Pipelines of every kind have the same outputs as on a cluster."""

from itertools import pairwise

import pytest

from tests.support import every_kind
from tests.support.every_kind import KINDS, WITH_PLATFORM, arguments_of


@pytest.fixture
def uri(bench) -> str:
    """An object in S3."""
    s3 = bench.s3()
    s3.create_bucket(Bucket="kinds")
    s3.put_object(Bucket="kinds", Key="data/words.txt", Body=b"from S3")
    return "s3://kinds/data/words.txt"


@pytest.mark.parametrize("name", KINDS | WITH_PLATFORM)
def test_a_pipeline_of_every_kind_has_the_expected_outputs(bench, tmp_path, request, name):
    kind = (KINDS | WITH_PLATFORM)[name]
    uri = request.getfixturevalue("uri") if "{uri}" in kind.arguments.values() else ""
    ran = bench.run(kind.pipeline, arguments_of(kind, str(tmp_path), uri))
    if isinstance(kind.expected, str):
        assert ran.outcome.state == "FAILED"
        assert kind.expected in ran.outcome.error
    else:
        assert (ran.outcome.state, ran.outcome.error) == ("SUCCEEDED", "")
        assert ran.outputs == kind.expected
        assert {name: type(value) for name, value in ran.outputs.items()} == {
            name: type(value) for name, value in kind.expected.items()
        }


def test_the_other_branch_is_skipped_and_has_no_tasks(bench):
    ran = bench.run(every_kind.branches, {"side": "tails"})
    states = {task.name: task.state for task in ran.tasks.values() if task.name.startswith(("condition", "heads"))}
    assert states["heads"] == "SKIPPED"
    assert sorted(states.values()) == ["SKIPPED", "SKIPPED", "SUCCEEDED", "SUCCEEDED"]
    assert not any(path.startswith("condition-branches-1/condition-2/") for path in ran.tasks)


def test_every_iteration_of_a_loop_is_a_node_with_its_tasks_below(bench):
    ran = bench.run(every_kind.loop_over_numbers)
    loop = next(task for task in ran.tasks.values() if task.name.startswith("for-loop"))
    iteration = ran.tasks[f"{loop.path}/iteration-1"]
    task = ran.tasks[f"{loop.path}/iteration-1/double"]
    assert (loop.kind, iteration.kind, task.kind) == ("dag", "dag", "container")
    assert (iteration.name, task.name) == ("iteration-1", "double")
    assert (loop.parent_id, iteration.parent_id, task.parent_id) == (
        ran.tasks[""].task_id,
        loop.task_id,
        iteration.task_id,
    )
    assert task.inputs["parameters"] == {"value": 2}


def test_a_loop_does_not_exceed_its_parallelism(bench):
    ran = bench.run(every_kind.loop_over_an_input, {"items": [1, 2, 3]}, tasks_at_once=3)
    times = sorted((task.started, task.ended) for path, task in ran.tasks.items() if path.endswith("/double"))
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(times))


def test_an_exit_task_gets_the_status_of_a_success(bench, tmp_path):
    bench.run(every_kind.exit_handler, {"folder": str(tmp_path)})
    assert (tmp_path / "status").read_text() == "SUCCEEDED\nexit-handler-1\n"


def test_an_exit_task_gets_the_status_of_a_failure(bench, tmp_path):
    ran = bench.run(every_kind.exit_handler_after_failure, {"folder": str(tmp_path)})
    state, task, message = (tmp_path / "status").read_text().splitlines()
    assert (state, task) == ("FAILED", "exit-handler-1")
    assert "exit-handler-1/fail" in message and "ValueError: no bread" in message
    assert ran.tasks["note"].state == "SUCCEEDED"


def test_a_task_that_ignores_failures_gets_its_default_value(bench, tmp_path):
    bench.run(every_kind.ignored_failure, {"folder": str(tmp_path)})
    assert (tmp_path / "left").read_text() == "by default"


def test_one_log_contains_every_attempt(bench, tmp_path):
    ran = bench.run(every_kind.retried, {"folder": str(tmp_path)})
    log = ran.log("third-time")
    assert ran.tasks["third-time"].attempts == 3
    assert [log.index(f"time {count}") for count in (1, 2, 3)] == sorted(
        log.index(f"time {count}") for count in (1, 2, 3)
    )
    assert "--- attempt 1 of 4 failed: RuntimeError: not yet: 1 (exit code 1) ---" in log
    assert "--- attempt 3 of 4 ---" in log


@pytest.mark.slow
def test_metrics_are_recorded_as_metadata(bench):
    ran = bench.run(every_kind.shown_artifacts)
    artifacts = ran.tasks["shown"].outputs["artifacts"]
    assert artifacts["metrics"][0]["metadata"] == {"accuracy": 0.75, "rows": 3}
    assert artifacts["metrics"][0]["type"] == "system.Metrics"
    assert artifacts["kinds"][0]["metadata"]["confusionMatrix"]["annotationSpecs"] == [
        {"displayName": "cat"},
        {"displayName": "dog"},
    ]
    assert artifacts["page"][0]["type"] == "system.HTML"
