"""What one container task does from its inputs to its outputs; a single attempt of it."""

import hashlib
import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workshop.sandbox.pipelines_api.engine import containers, environment, handover, layers, logs
from workshop.sandbox.pipelines_api.engine.artifacts import Store, remove
from workshop.sandbox.pipelines_api.engine.contract import Job, State, Task
from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values, nothing
from workshop.sandbox.pipelines_api.engine.placeholders import command_line
from workshop.sandbox.pipelines_api.engine.process import Running
from workshop.sandbox.pipelines_api.engine.spec import command_of


@dataclass(frozen=True)
class Result:
    """How an attempt at a task ended; `contract.Task` explains the attributes."""

    state: State
    outputs: Values = field(default_factory=nothing)
    exit_code: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Workbench:
    """What tasks of a run share while they work.

    Attributes:
        job: the run.
        cancelled: set when the run is cancelled.
        running: its processes and containers.
        store: its artifacts.
        layers: environments with packages to install.
    """

    job: Job
    cancelled: threading.Event
    running: Running
    store: Store
    layers: layers.Layers


def attempt(bench: Workbench, task: Task, component: Spec, executor: Spec) -> Result:
    """Run a container task once; whatever happens, the result says it.

    Args:
        bench: what tasks of the run share.
        task: the task, with its inputs.
        component: its component.
        executor: its executor.
    """
    folder = bench.job.directory / "tasks" / task.task_id
    log = bench.job.directory / task.log

    def work() -> Result:
        _prepare(folder)
        return _work(bench, task, component, executor, folder, log)

    try:
        return guarded(work, bench.cancelled, log)
    finally:
        remove(folder / "tmp")


def guarded(work: Callable[[], Result], cancelled: threading.Event, log: Path) -> Result:
    """Turn whatever ends some work into a result, and write an error to the log.

    Args:
        work: what is to be done.
        cancelled: set when the run is cancelled.
        log: the task's log.
    """
    try:
        if cancelled.is_set():
            raise Cancelled
        result = work()
    except Cancelled:
        return Result("CANCELED")
    except EngineError as error:
        result = Result("FAILED", error=str(error))
        logs.note(log, f"The task failed: {error}")
    except Exception as error:
        result = Result("FAILED", error=f"{type(error).__name__}: {error}")
        logs.note(log, f"The task could not be run.\n{traceback.format_exc()}")
    return Result("CANCELED") if result.state == "FAILED" and cancelled.is_set() else result


def fingerprint(task: Task, task_spec: Spec, component: Spec, executor: Spec) -> str:
    """Return what must be equal for an earlier task's outputs to stand for this one's; "" when it is not cached."""
    options = task_spec.get("cachingOptions", {})
    if not options.get("enableCache"):
        return ""
    container = executor["container"]
    artifacts = task.inputs["artifacts"]
    compared = {
        "image": container.get("image"),
        "command": container.get("command", []),
        "args": container.get("args", []),
        "env": container.get("env", []),
        "parameters": task.inputs["parameters"],
        "artifacts": {name: [[a["name"], a["uri"]] for a in artifacts[name]] for name in artifacts},
        "outputs": component.get("outputDefinitions", {}),
        "key": options.get("cacheKey", ""),
    }
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()


def _prepare(folder: Path) -> None:
    """Take away what an earlier attempt left, and make the folders in which the task works."""
    for name in ("outputs", "tmp"):
        remove(folder / name)
        (folder / name).mkdir(parents=True)


def _work(bench: Workbench, task: Task, component: Spec, executor: Spec, folder: Path, log: Path) -> Result:
    executor_input = handover.executor_input(bench.store, component, task.inputs, folder / "outputs")
    start = log.stat().st_size if log.exists() else 0
    run = _in_container if bench.job.runner == "docker" else _as_process
    exit_code = run(bench, task, executor, handover.as_dictionary(executor_input, task.inputs), folder, log)
    if exit_code != 0:
        return Result("FAILED", exit_code=exit_code, error=logs.reason(log, start, exit_code))
    outputs = handover.take_outputs(bench.store, component, executor_input, _artifact_root(bench.job, task))
    return Result("SUCCEEDED", outputs, exit_code)


def _as_process(
    bench: Workbench, task: Task, executor: Spec, executor_input: dict[str, Any], folder: Path, log: Path
) -> int:
    found = environment.of_process(bench.job, executor, task.task_id, folder / "tmp")
    command = command_line(command_of(executor), executor_input, bench.job, task, mounted=False)
    script, command = layers.split(command)
    if script:
        layer = bench.layers.provide(script, found, folder / "tmp", log)
        found = found | {"PATH": environment.with_first(layer, found["PATH"])}
    # The code of a task may call pip as well.
    found = environment.with_own_packages(found, folder / "tmp" / "packages")
    return bench.running.process(command, found, folder / "tmp", log)


def _in_container(
    bench: Workbench, task: Task, executor: Spec, executor_input: dict[str, Any], folder: Path, log: Path
) -> int:
    container = executor["container"]
    image, entrypoint, arguments = (
        command_line(parts, executor_input, bench.job, task)
        for parts in ([container["image"]], container.get("command", []), container.get("args", []))
    )
    found = environment.of_container(bench.job, executor, task.task_id, folder / "tmp")
    return containers.run(bench.job, bench.running, image[0], (entrypoint, arguments), found, folder / "tmp", log)


def _artifact_root(job: Job, task: Task) -> str:
    pipeline = job.spec.get("pipelineInfo", {}).get("name", "pipeline")
    return f"{job.pipeline_root}/{pipeline}/{job.run_id}/{task.path.rpartition('/')[2]}"
