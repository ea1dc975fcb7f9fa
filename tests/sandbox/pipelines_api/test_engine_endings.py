"""Runs that do not simply succeed: failures, cancellation, retries, and errors of the engine."""

import copy
import threading
import time
from dataclasses import replace

import pytest
from kfp import dsl

from tests.support import every_kind
from tests.support.engine_bench import Memory, processes_of
from tests.support.every_kind import OPTIONS, double, fail, text


@dsl.component(**OPTIONS)
def slow(folder: str, seconds: float = 60.0) -> str:
    import pathlib
    import subprocess
    import sys
    import time

    # One child in the same session, and one in another session that ignores SIGTERM.
    subprocess.Popen(["sleep", "60"])
    deaf = "from signal import *; signal(SIGTERM, SIG_IGN); print('deaf', flush=True); import time; time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE).stdout.readline()
    pathlib.Path(folder, "started").touch()
    time.sleep(seconds)
    return "done"


@dsl.pipeline
def slow_and_more(folder: str):
    with dsl.ExitHandler(text(value="exit")), dsl.ParallelFor(["a", "b", "c", "d"]) as item:
        text(value=item).after(slow(folder=folder))


@dsl.pipeline
def leaves_children(folder: str) -> str:
    return slow(folder=folder, seconds=0.0).output


@dsl.component(**OPTIONS)
def fail_later(folder: str):
    import time

    time.sleep(0.3)
    raise ValueError("later")


@dsl.pipeline
def one_fails(folder: str):
    fail(message="first")
    beside = text(value="beside")
    text(value=beside.output).set_display_name("after beside").after(fail_later(folder=folder))
    with dsl.ParallelFor([1, 2, 3], parallelism=1) as item:
        double(value=item).after(fail(message="in the loop"))


@dsl.component(**OPTIONS)
def silent():
    import os

    os._exit(3)


@dsl.pipeline
def ends_silently():
    silent()


@dsl.component(**OPTIONS)
def killed():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@dsl.pipeline
def is_killed():
    killed()


@dsl.component(**OPTIONS)
def writes_nothing(word: dsl.OutputPath(str)):
    pass


@dsl.pipeline
def needs_what_was_not_written():
    text(value=writes_nothing().outputs["word"])


@dsl.pipeline
def needs_nothing_of_it():
    writes_nothing()


@dsl.component(**OPTIONS)
def mended(folder: str, word: str) -> str:
    import pathlib

    if not pathlib.Path(folder, "mended").exists():
        raise RuntimeError("not mended")
    return f"mended {word}"


@dsl.pipeline
def breaks_once(folder: str) -> str:
    with dsl.ParallelFor(["x", "y"]) as item:
        written = every_kind.write(value=item)
        written.set_caching_options(False)
    content = every_kind.read_all(data=dsl.Collected(written.outputs["data"]))
    content.set_caching_options(False)
    last = mended(folder=folder, word=content.output)
    last.set_caching_options(False)
    return last.output


@dsl.component(**OPTIONS)
def take(x: str = "default") -> str:
    return x


@dsl.component(**OPTIONS)
def clean_up(folder: str):
    import pathlib

    with pathlib.Path(folder, "cleaned").open("a") as file:
        file.write("once\n")


@dsl.component(**OPTIONS)
def make(word: str, data: dsl.Output[dsl.Dataset]) -> str:
    import pathlib

    pathlib.Path(data.path).write_text(word)
    return word


@dsl.pipeline
def goes_on_after_a_failure(folder: str):
    last = every_kind.note(folder=folder)
    last.set_caching_options(False)
    with dsl.ExitHandler(last, name="guarded"):
        before = make(word="REAL")
        beside = every_kind.read(data=before.outputs["data"])
        flaky = mended(folder=folder, word=before.outputs["Output"])
        after = take(x=flaky.output).ignore_upstream_failure()
        cleaned = clean_up(folder=folder).after(flaky).ignore_upstream_failure()
        untouched = clean_up(folder=folder).after(before).ignore_upstream_failure()
        for task in (before, beside, flaky, after, cleaned, untouched):
            task.set_caching_options(False)


def cancel_when(memory: Memory, cancelled: threading.Event, ready) -> threading.Thread:
    """Cancel a run as soon as a condition is true."""

    def watch():
        deadline = time.monotonic() + 20
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        cancelled.set()
        cancelled.at = time.monotonic()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_process_and_no_unfinished_task(bench, tmp_path):
    memory, cancelled = Memory(), threading.Event()
    job = bench.job(slow_and_more, {"folder": str(tmp_path)})
    watching = cancel_when(memory, cancelled, (tmp_path / "started").exists)
    ran = bench.execute(job, memory, cancelled)
    assert time.monotonic() - cancelled.at < 3.5
    watching.join()
    assert ran.outcome.state == "CANCELED"
    assert {task.state for task in ran.tasks.values()} == {"CANCELED"}
    # Neither the exit task nor the tasks after a cancelled one start.
    assert {task.name for task in ran.tasks.values() if task.kind == "container"} == {"slow"}


def test_a_run_that_is_cancelled_before_it_begins_starts_nothing(bench, tmp_path):
    cancelled = threading.Event()
    cancelled.set()
    ran = bench.execute(bench.job(every_kind.retried, {"folder": str(tmp_path)}), cancelled=cancelled)
    assert ran.outcome.state == "CANCELED"
    assert not (tmp_path / "count").exists()


def test_cancelling_does_not_wait_for_the_next_attempt(bench, tmp_path):
    @dsl.pipeline
    def patient():
        fail(message="again").set_retry(num_retries=5, backoff_duration="300s", backoff_max_duration="600s")

    memory, cancelled = Memory(), threading.Event()
    job = bench.job(patient)
    cancel_when(memory, cancelled, lambda: any(log.read_text().count("failed") for log in job.directory.rglob("log")))
    ran = bench.execute(job, memory, cancelled)
    assert time.monotonic() - cancelled.at < 2
    assert (ran.outcome.state, ran.tasks["fail"].state, ran.tasks["fail"].attempts) == ("CANCELED", "CANCELED", 1)


@pytest.mark.slow
def test_processes_that_a_task_leaves_behind_are_ended(bench, tmp_path):
    ran = bench.run(leaves_children, {"folder": str(tmp_path)})
    assert ran.outputs == {"Output": "done"}
    assert (tmp_path / "started").exists()


def test_after_a_failure_running_tasks_finish_and_no_task_starts(bench, tmp_path):
    ran = bench.run(one_fails, {"folder": str(tmp_path)}, tasks_at_once=4)
    assert ran.outcome.state == "FAILED"
    assert ran.tasks["text"].state == "SUCCEEDED"
    assert ran.tasks["fail-later"].state == "FAILED"
    assert "text-2" not in ran.tasks
    assert len([path for path in ran.tasks if path.endswith("iteration-0/fail-2")]) == 1
    assert not any("iteration-1" in path or path.endswith("/double") for path in ran.tasks)


@pytest.mark.parametrize(
    ("pipeline", "said", "code"),
    [
        (every_kind.failing, "the task fail failed: ValueError: no eggs (exit code 1)", 1),
        (ends_silently, "it ended with exit code 3 and printed nothing", 3),
        (is_killed, "exit code 137: it was killed, often because memory ran out", 137),
    ],
)
def test_the_error_says_which_task_failed_and_why(bench, pipeline, said, code):
    ran = bench.run(pipeline)
    failed = next(task for task in ran.tasks.values() if task.state == "FAILED" and task.kind == "container")
    assert said in ran.outcome.error and failed.path in ran.outcome.error
    assert failed.exit_code == code


def test_inputs_that_are_too_long_are_an_error_that_says_what_to_do(bench):
    ran = bench.run(every_kind.branches, {"side": "x" * 200_000})
    assert "its inputs are too long for a command line" in ran.outcome.error


def test_a_missing_output_fails_the_task_that_needs_it(bench):
    ran = bench.run(needs_what_was_not_written)
    assert "the task 'writes-nothing' did not write its output 'word'" in ran.outcome.error
    assert ran.tasks["writes-nothing"].state == "SUCCEEDED"
    assert bench.run(needs_nothing_of_it).outcome.state == "SUCCEEDED"


def test_states_are_recorded_during_the_run(bench):
    ran = bench.run(every_kind.only_if)
    assert ran.memory.states("") == ["RUNNING", "SUCCEEDED"]
    assert ran.memory.states("text-2") == ["PENDING", "RUNNING", "SUCCEEDED"]
    first = next(task for task in ran.memory.saved if task.path == "text-2")
    assert first.inputs["parameters"] == {"value": "after"}


def test_a_retry_of_a_run_executes_only_the_remaining_tasks(bench, tmp_path):
    first = bench.run(breaks_once, {"folder": str(tmp_path)})
    assert first.outcome.error == "the task mended failed: RuntimeError: not mended (exit code 1)"
    (tmp_path / "mended").touch()
    second = bench.execute(bench.again(first))
    assert second.outputs == {"Output": "mended x,y"}
    kept = [path for path in first.tasks if path.endswith(("/write", "read-all"))]
    assert len(kept) == 3
    for path in kept:
        assert replace(second.tasks[path], parent_id="") == replace(first.tasks[path], parent_id="")
    assert second.tasks["mended"].task_id != first.tasks["mended"].task_id


@pytest.mark.slow
def test_a_retry_executes_tasks_again_that_used_a_failure(bench, tmp_path):
    first = bench.run(goes_on_after_a_failure, {"folder": str(tmp_path)})
    below = "exit-handler-1"
    assert first.tasks[f"{below}/take"].outputs["parameters"] == {"Output": "default"}
    assert (tmp_path / "status").read_text().startswith("FAILED")
    (tmp_path / "mended").touch()
    second = bench.execute(bench.again(first))
    assert second.outcome.state == "SUCCEEDED"
    assert second.tasks[f"{below}/take"].outputs["parameters"] == {"Output": "mended REAL"}
    assert (tmp_path / "status").read_text().startswith("SUCCEEDED")
    # The task after the failure ran twice; the task after another task ran once.
    assert (tmp_path / "cleaned").read_text().count("once") == 3
    for name in ("make", "read", "clean-up-2"):
        path = f"{below}/{name}"
        assert replace(second.tasks[path], parent_id="") == replace(first.tasks[path], parent_id="")
    # The record of the second execution replaces the earlier record, and it has a new log.
    again = second.tasks[f"{below}/take"]
    assert again.task_id == first.tasks[f"{below}/take"].task_id
    assert (again.attempts, second.log(f"{below}/take").count("--- attempt")) == (1, 0)


@pytest.mark.slow
def test_a_second_retry_keeps_the_results_of_the_first_retry(bench, tmp_path):
    first = bench.run(goes_on_after_a_failure, {"folder": str(tmp_path)})
    (tmp_path / "mended").touch()
    second = bench.execute(bench.again(first))
    third = bench.execute(bench.again(second))
    leaves = [path for path, task in third.tasks.items() if task.kind == "container"]
    assert len(leaves) == 7
    for path in leaves:
        assert replace(third.tasks[path], parent_id="") == replace(second.tasks[path], parent_id="")


@pytest.mark.slow
def test_a_retry_keeps_a_task_that_uses_its_own_id(bench, tmp_path):
    @dsl.pipeline
    def knows_itself(folder: str):
        known = take(x=dsl.PIPELINE_TASK_ID_PLACEHOLDER)
        mended(folder=folder, word=known.output)

    first = bench.run(knows_itself, {"folder": str(tmp_path)})
    (tmp_path / "mended").touch()
    second = bench.execute(bench.again(first))
    assert second.tasks["take"].started == first.tasks["take"].started
    assert second.tasks["mended"].inputs["parameters"]["word"] == second.tasks["take"].task_id


def test_a_task_that_depends_on_a_skipped_group_runs(bench):
    job = bench.job(every_kind.only_if)
    spec = copy.deepcopy(job.spec)
    spec["root"]["dag"]["tasks"]["text-2"]["dependentTasks"] = ["condition-1"]
    ran = bench.execute(replace(job, spec=spec))
    assert (ran.tasks["condition-1"].state, ran.tasks["text-2"].state) == ("SKIPPED", "SUCCEEDED")


@pytest.mark.slow
def test_a_task_with_the_same_inputs_is_taken_from_the_cache(bench):
    first = bench.run(every_kind.branches_with_artifacts)
    second = bench.run(every_kind.branches_with_artifacts, memory=first.memory)
    assert second.outputs == first.outputs
    tasks = [task for task in second.tasks.values() if task.kind == "container"]
    assert [(task.state, task.cached, task.exit_code) for task in tasks] == [("SKIPPED", True, None)] * 2
    assert "taken from an earlier task" in second.log("read")
    other = bench.run(every_kind.branches_with_artifacts, {"large": False}, memory=first.memory)
    assert not any(task.cached for task in other.tasks.values())


def test_a_task_that_must_not_be_cached_runs_again(bench, tmp_path):
    memory = Memory()
    for expected in (3, 4):
        ran = bench.run(every_kind.retried, {"folder": str(tmp_path)}, memory)
        assert ran.outputs == {"Output": expected}
        assert ran.tasks["third-time"].fingerprint == ""


def test_records_that_fail_end_the_run_with_the_reason(bench, tmp_path):
    class Broken(Memory):
        def save(self, tasks):
            if any(task.state == "RUNNING" and task.kind == "container" for task in tasks):
                raise OSError("disk full")
            super().save(tasks)

    ran = bench.run(every_kind.only_if, memory=Broken())
    assert (ran.outcome.state, ran.tasks["text-2"].state) == ("FAILED", "FAILED")
    assert "disk full" in ran.outcome.error


@pytest.mark.slow
def test_records_that_fail_while_tasks_run_leave_no_process(bench, tmp_path):
    class Breaking(Memory):
        full = False

        def save(self, tasks):
            names = {task.name for task in tasks}
            if (tmp_path / "started").exists() and "fail-later" in names and not self.full:
                self.full = True
                raise OSError("disk full")
            super().save(tasks)

    @dsl.pipeline
    def both(folder: str):
        slow(folder=folder)
        fail_later(folder=folder).set_display_name("fail-later")

    job = bench.job(both, {"folder": str(tmp_path)})
    ran = bench.execute(job, Breaking())
    assert ran.outcome == type(ran.outcome)("FAILED", "the run broke off: OSError: disk full")
    assert processes_of(job) == []


def test_a_wrong_argument_fails_the_run_with_its_name(bench):
    ran = bench.run(every_kind.loop_over_an_output, {"count": "many"})
    assert ran.outcome.error.startswith("the pipeline cannot begin: its input 'count' has the wrong type")


@pytest.mark.parametrize("levels", [300, 100_000])
def test_a_text_with_too_many_levels_of_json_fails_the_run(bench, levels):
    @dsl.pipeline
    def takes(value: dict):
        text(value="x")

    ran = bench.run(takes, {"value": '{"a":' * levels + "1" + "}" * levels})
    assert ran.outcome.state == "FAILED"
    assert "its input 'value' has the wrong type: a value is nested deeper than 100 levels" in ran.outcome.error
    assert len(ran.outcome.error) < 300


@pytest.mark.slow
def test_many_tasks_do_not_block_each_other(bench):
    @dsl.pipeline
    def many() -> list[int]:
        loop = dsl.ParallelFor([{"a": [1, 2]}, {"a": [3]}])
        with loop as item, dsl.ParallelFor(item.a) as number, dsl.If(number != "0"):
            doubled = double(value=every_kind.number(value=1).output)
        return dsl.Collected(doubled.output)

    ran = bench.run(many, tasks_at_once=1)
    assert ran.outcome.state == "SUCCEEDED", ran.outcome.error


def test_a_task_gets_the_variables_of_its_run_and_not_those_of_this_process(bench, monkeypatch):
    @dsl.component(**OPTIONS)
    def environment() -> dict:
        import os

        return dict(os.environ)

    @dsl.pipeline
    def shows_environment() -> dict:
        task = environment()
        task.set_env_variable("OWN", "own value")
        task.set_caching_options(False)
        return task.output

    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("SECRET_OF_THIS_PROCESS", "x")
    ran = bench.run(shows_environment, environment={"AWS_ENDPOINT_URL_S3": "http://here", "OWN": "overridden"})
    found = ran.outputs["Output"]
    assert (found["OWN"], found["AWS_ENDPOINT_URL_S3"]) == ("own value", "http://here")
    assert found["WORKSHOP_RUN_ID"] == ran.job.run_id
    assert found["PATH"].startswith(f"{bench.python}/bin:")
    assert "SECRET_OF_THIS_PROCESS" not in found
    assert found["PIP_TARGET"].startswith(str(ran.job.directory))


def test_a_run_in_a_folder_with_a_space_works(bench, tmp_path):
    ran = bench.run(every_kind.folders, directory=tmp_path / "a run" / "here")
    assert ran.outcome.state == "SUCCEEDED", ran.outcome.error


def test_values_that_look_like_placeholders_are_not_replaced(bench):
    odd = "{{$.inputs.parameters['nothing']}} {{$.nonsense}} {{$}} 'quoted' \"twice\" $HOME `id`"
    ran = bench.run(every_kind.branches, {"side": odd})
    thrown = ran.tasks["text"]
    assert thrown.outputs["parameters"]["Output"] == odd
