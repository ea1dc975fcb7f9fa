"""Runs through the API: every kind of pipeline, and the details of every task."""

import json
import time

import pytest

from tests.support import every_kind, simple
from tests.support.api import await_that
from tests.support.processes import processes_of_runs

HISTORY = ["PENDING", "RUNNING", "SUCCEEDED"]


def history(item: dict) -> list[str]:
    return [entry["state"] for entry in item["state_history"]]


def detail(run: dict, name: str) -> dict:
    return next(task for task in run["run_details"]["task_details"] if task.get("display_name") == name)


def test_a_run_shows_its_states_and_tasks(api, echo):
    run = api.run(echo, {"text": "a unique text"})
    assert run["state"] == "PENDING" and run["finished_at"] == "1970-01-01T00:00:00Z"
    assert run["created_at"] == run["scheduled_at"]
    ended = api.await_state(run["run_id"])
    assert ended["state"] == "SUCCEEDED" and history(ended) == HISTORY
    assert ended["finished_at"] >= ended["created_at"]
    assert ended["pipeline_spec"] == echo
    task = detail(ended, "say")
    assert task["state"] == "SUCCEEDED" and history(task)[-1] == "SUCCEEDED"
    assert task["run_id"] == run["run_id"]
    assert task["create_time"] <= task["start_time"] <= task["end_time"]
    names = [entry.get("display_name") for entry in ended["run_details"]["task_details"]]
    workflow = next(name for name in names if name and name.startswith("echo-"))
    # The entry without a name is the record of the task for the cache.
    assert sorted(map(str, names)) == sorted([workflow, "None", "executor", "root", "root-driver", "say", "say-driver"])
    assert history(detail(ended, "say-driver")) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert all(child["pod_name"].startswith(f"{workflow}-") for child in task["child_tasks"])


def test_a_task_has_its_inputs_outputs_exit_code_and_log(api, echo):
    run = api.run(echo, {"text": "another text"})["run_id"]
    api.await_state(run)
    task = api.tasks(run)["say"]
    assert task["inputs"]["parameters"] == {"text": "another text"}
    assert task["outputs"]["parameters"] == {"Output": "another text"}
    assert (task["exit_code"], task["error"], task["attempts"]) == (0, "", 1)
    assert "said another text\n" in api.log(run, "say")


@pytest.mark.slow
def test_a_log_can_be_read_and_followed_while_it_is_written(api, compiled):
    run = api.run(compiled(simple.slow), {"seconds": 2.0})["run_id"]
    await_that(lambda: "sleep" in api.tasks(run) and "asleep" in api.log(run, "sleep"), "the log stays empty")
    assert api.tasks(run)["sleep"]["state"] == "RUNNING" and api.tasks(run)["sleep"]["started"] > 0
    assert detail(api.get(run), "sleep")["state"] == "RUNNING"
    node = api.tasks(run)["sleep"]["node_id"]
    begun = time.monotonic()
    with api.session.get(f"{api.own}/runs/{run}/nodes/{node}/log?follow=true", stream=True, timeout=60) as answer:
        assert "asleep" in "".join(piece.decode() for piece in answer.iter_content(None))
    assert time.monotonic() - begun > 0.5, "it ends with the task"
    assert api.await_state(run)["state"] == "SUCCEEDED"


def test_a_failing_run_says_which_task_failed_and_why(api, compiled):
    run = api.run(compiled(simple.failing), {"text": "the bucket is not there"})["run_id"]
    ended = api.await_state(run)
    assert ended["state"] == "FAILED"
    assert "fail" in ended["error"]["message"] and "ValueError: the bucket is not there" in ended["error"]["message"]
    assert ended["state_history"][-1]["error"]["message"] == ended["error"]["message"]
    assert (detail(ended, "say")["state"], detail(ended, "fail")["state"]) == ("SUCCEEDED", "FAILED")
    assert "ValueError: the bucket is not there" in detail(ended, "fail")["error"]["message"]
    assert api.tasks(run)["fail"]["exit_code"] == 1
    log = api.log(run, "fail")
    assert "about to fail" in log and "Traceback" in log and "raise ValueError(text)" in log


@pytest.mark.slow
def test_a_task_with_inputs_seen_before_is_taken_from_the_cache(api, compiled, unique):
    spec = compiled(simple.echo)
    first, second, other = (api.run(spec, {"text": text})["run_id"] for text in (unique, unique, f"{unique}!"))
    for run in (first, second, other):
        assert api.await_state(run)["state"] == "SUCCEEDED"
    third = api.run(spec, {"text": unique})["run_id"]
    assert api.await_state(third)["state"] == "SUCCEEDED"
    task = api.tasks(third)["say"]
    assert (task["state"], task["cached"]) == ("SKIPPED", True)
    assert task["outputs"]["parameters"] == {"Output": unique}
    assert not api.tasks(other)["say"]["cached"]
    assert "taken from an earlier task" in api.log(third, "say")


def test_a_task_with_caching_disabled_always_runs(api, compiled, unique):
    spec = json.loads(json.dumps(compiled(simple.echo)))
    spec["root"]["dag"]["tasks"]["say"]["cachingOptions"] = {}
    for _ in range(2):
        run = api.run(spec, {"text": unique})["run_id"]
        api.await_state(run)
        assert api.tasks(run)["say"]["state"] == "SUCCEEDED" and not api.tasks(run)["say"]["cached"]


def test_terminate_stops_the_processes_of_a_task_and_its_children(api, compiled):
    run = api.run(compiled(simple.slow))["run_id"]
    await_that(lambda: len(processes_of_runs([run])) >= 3, "the task does not start")
    api.call("POST", f"/runs/{run}:terminate")
    ended = api.await_state(run)
    assert ended["state"] == "FAILED" and history(ended) == ["PENDING", "RUNNING", "FAILED"]
    assert detail(ended, "sleep")["state"] == "FAILED" and "error" not in ended
    assert not processes_of_runs([run])
    assert api.tasks(run)["sleep"]["state"] == "CANCELED"
    assert "Row not found" in api.refused(400, "POST", f"/runs/{run}:terminate")


def test_deleting_a_run_that_executes_stops_it_and_leaves_nothing(api, shared_sandbox, compiled):
    run = api.run(compiled(simple.slow))["run_id"]
    await_that(lambda: processes_of_runs([run]), "the task does not start")
    api.call("DELETE", f"/runs/{run}")
    assert run in api.refused(404, "GET", f"/runs/{run}")
    await_that(lambda: not processes_of_runs([run]), "its processes are left")
    folder = shared_sandbox.directory / "pipelines-api" / "runs" / run
    await_that(lambda: not folder.exists(), "its folder is left")


def test_a_retry_executes_only_tasks_that_have_not_succeeded(api, compiled, tmp_path):
    missing = tmp_path / "file"
    run = api.run(compiled(simple.mended), {"path": str(missing)})["run_id"]
    assert api.await_state(run)["state"] == "FAILED"
    before = api.tasks(run)["say"]
    missing.write_text("there now")
    api.call("POST", f"/runs/{run}:retry")
    ended = api.await_state(run, "SUCCEEDED", "CANCELED")
    assert history(ended) == ["RUNNING", "SUCCEEDED"], "as on a cluster, the history begins again"
    assert history(detail(ended, "fail-until")) == ["RUNNING", "FAILED", "RUNNING", "SUCCEEDED"]
    assert "error" not in ended
    assert api.tasks(run)["say"]["task_id"] == before["task_id"], "it was not run again"
    assert api.tasks(run)["fail-until"]["outputs"]["parameters"] == {"Output": "there now"}
    assert "must be Failed/Error to retry" in api.refused(409, "POST", f"/runs/{run}:retry")


@pytest.mark.slow
def test_a_retry_that_is_stopped_at_once_keeps_the_successful_tasks(api, shared_sandbox, compiled, tmp_path):
    run = api.run(compiled(simple.mended), {"path": str(tmp_path / "missing")})["run_id"]
    api.await_state(run)
    before = api.tasks(run)["say"]
    for _ in range(3):
        api.call("POST", f"/runs/{run}:retry")
        api.call("POST", f"/runs/{run}:terminate")
        api.await_state(run)
    assert api.tasks(run)["say"]["task_id"] == before["task_id"] and "said first" in api.log(run, "say")
    folders = list((shared_sandbox.directory / "pipelines-api" / "runs" / run / "tasks").iterdir())
    assert len(folders) <= len(api.tasks(run)), "what an earlier attempt left is gone"


def test_the_tail_parameter_returns_the_end_of_a_long_log(api, compiled, unique):
    run = api.run(compiled(simple.echo), {"text": f"{unique} " + "long " * 10_000 + "end"})["run_id"]
    api.await_state(run)
    node = api.tasks(run)["say"]["node_id"]
    whole, tail = (
        api.session.get(f"{api.own}/runs/{run}/nodes/{node}/log", params={"tail": tail}).text for tail in (0, 1000)
    )
    assert len(whole) > 50_000 and len(tail) == 1000 and whole.endswith(tail)


@pytest.mark.slow
def test_artifacts_are_stored_under_the_pipeline_root_and_can_be_read(api, shared_sandbox, s3, bucket, compiled):
    from kfp import dsl
    from kfp.dsl import Dataset, Input, Output

    @dsl.component(base_image="python:3.12", install_kfp_package=False)
    def write(table: Output[Dataset]):
        table.metadata["rows"] = 2
        with open(table.path, "w") as file:
            file.write("a\n1\n2\n")

    @dsl.component(base_image="python:3.12", install_kfp_package=False)
    def count(table: Input[Dataset]) -> int:
        return len(open(table.path).readlines())

    @dsl.pipeline(name="with-artifact")
    def with_artifact() -> int:
        return count(table=write().outputs["table"]).output

    body = {
        "display_name": "r",
        "pipeline_spec": compiled(with_artifact),
        "runtime_config": {"pipeline_root": f"s3://{bucket}/artifacts/"},
    }
    run = api.call("POST", "/runs", "V2beta1Run", json=body)["run_id"]
    assert api.await_state(run)["state"] == "SUCCEEDED"
    [artifact] = api.tasks(run)["write"]["outputs"]["artifacts"]["table"]
    assert artifact["uri"].startswith(f"s3://{bucket}/artifacts/with-artifact/{run}/write/")
    assert artifact["metadata"] == {"rows": 2} and artifact["type"] == "system.Dataset"
    key = artifact["uri"].removeprefix(f"s3://{bucket}/")
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"a\n1\n2\n"
    assert api.tasks(run)["count"]["outputs"]["parameters"] == {"Output": 3}
    folder = shared_sandbox.directory / "pipelines-api" / "runs" / run
    await_that(lambda: {path.name for path in folder.rglob("*") if path.is_file()} == {"log"}, "copies are left")
    node = api.tasks(run)["write"]["node_id"]
    read = api.session.get(f"{api.own}/runs/{run}/nodes/{node}/artifacts/table")
    assert read.content == b"a\n1\n2\n"
    assert api.session.get(f"{api.own}/runs/{run}/nodes/{node}/artifacts/no-such").status_code == 404


@pytest.mark.slow
def test_a_pipeline_that_needs_a_cluster_is_refused_or_gets_a_warning(api, compiled):
    from kfp import dsl, kubernetes

    @dsl.container_component
    def in_a_container():
        return dsl.ContainerSpec(image="alpine", command=["true"])

    @dsl.pipeline(name="needs-docker")
    def needs_docker():
        in_a_container()

    message = api.refused(400, "POST", "/runs", json={"display_name": "r", "pipeline_spec": compiled(needs_docker)})
    assert "in-a-container" in message and "Docker" in message

    @dsl.pipeline(name="needs-a-gpu")
    def needs_a_gpu():
        task = simple.say(text="x")
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
        kubernetes.add_node_selector(task, "zone", "a")

    run = api.run(compiled(needs_a_gpu))
    warnings = run["state_history"][0]["error"]["message"]
    assert "say" in warnings and "accelerator" in warnings and "node selector" in warnings
    assert api.await_state(run["run_id"])["state"] == "SUCCEEDED"


@pytest.mark.parametrize("name", every_kind.KINDS)
@pytest.mark.slow
def test_every_kind_of_pipeline_runs_through_the_api(api, s3, bucket, compiled, tmp_path, name):
    kind = every_kind.KINDS[name]
    s3.put_object(Bucket=bucket, Key="given", Body=b"from S3")
    arguments = every_kind.arguments_of(kind, str(tmp_path), f"s3://{bucket}/given")
    run = api.await_state(api.run(compiled(kind.pipeline), arguments)["run_id"])
    if isinstance(kind.expected, str):
        assert run["state"] == "FAILED" and kind.expected in run["error"]["message"]
    else:
        assert run["state"] == "SUCCEEDED", run.get("error")
        assert api.tasks(run["run_id"])[""]["outputs"]["parameters"] == kind.expected
    for task in run["run_details"]["task_details"]:
        assert task.get("state", "") in ("", "SUCCEEDED", "FAILED", "SKIPPED")
