"""Makes one attempt at a container task, from its inputs to its outputs."""

import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workshop.sandbox.pipelines_api.engine import containers, environment, executor_io, logs, package_environments
from workshop.sandbox.pipelines_api.engine.artifacts import Store
from workshop.sandbox.pipelines_api.engine.contract import Job, Result, Task
from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError
from workshop.sandbox.pipelines_api.engine.inputs import Spec
from workshop.sandbox.pipelines_api.engine.package_environments import PackageEnvironments
from workshop.sandbox.pipelines_api.engine.placeholders import command_line, pipeline_name
from workshop.sandbox.pipelines_api.engine.process import Running
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder, TaskFolder, remove
from workshop.sandbox.pipelines_api.engine.spec import command_of


@dataclass(frozen=True)
class RunContext:
    """What all tasks of a run share.

    Attributes:
        job: the run.
        cancelled: set when the run is cancelled.
        running: the processes and containers of the run.
        store: the artifacts of the run.
        package_environments: environments for `packages_to_install`.
    """

    job: Job
    cancelled: threading.Event
    running: Running
    store: Store
    package_environments: PackageEnvironments


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a task.

    Attributes:
        context: what all tasks of the run share.
        task: the task with its inputs.
        component: its component.
        executor: its executor.
        folder: its folder.
        log: its log.
    """

    context: RunContext
    task: Task
    component: Spec
    executor: Spec
    folder: TaskFolder
    log: Path


def attempt(context: RunContext, task: Task, component: Spec, executor: Spec) -> Result:
    """Execute a container task once.

    Args:
        context: what all tasks of the run share.
        task: the task with its inputs.
        component: its component.
        executor: its executor.

    Returns:
        The result of the attempt. Errors are part of the result and also go to the log; no exception is raised.
    """
    folder = RunFolder(context.job.directory)
    one = _Attempt(context, task, component, executor, folder.task(task.task_id), folder.log(task.log))
    try:
        return _guarded(one)
    finally:
        remove(one.folder.scratch)


def _guarded(one: _Attempt) -> Result:
    """Make an attempt, and turn every exception into a result."""
    cancelled = one.context.cancelled
    try:
        if cancelled.is_set():
            raise Cancelled
        one.folder.prepare()
        result = _execute(one)
    except Cancelled:
        return Result("CANCELED")
    except EngineError as error:
        result = Result("FAILED", error=str(error))
        logs.note(one.log, f"The task failed: {error}")
    except Exception as error:
        result = Result("FAILED", error=f"{type(error).__name__}: {error}")
        logs.note(one.log, f"The task could not be run.\n{traceback.format_exc()}")
    return Result("CANCELED") if result.state == "FAILED" and cancelled.is_set() else result


def _execute(one: _Attempt) -> Result:
    context, task = one.context, one.task
    message = executor_io.executor_input(context.store, one.component, task.inputs, one.folder.outputs)
    start = logs.size(one.log)
    run = _in_container if context.job.runner == "docker" else _as_process
    exit_code = run(one, executor_io.as_dictionary(message, task.inputs))
    if exit_code != 0:
        return Result("FAILED", exit_code=exit_code, error=logs.reason(one.log, start, exit_code))
    outputs = executor_io.take_outputs(
        context.store, one.component, message, _artifact_root(context.job, task), context.job.directory
    )
    return Result("SUCCEEDED", outputs, exit_code)


def _as_process(one: _Attempt, executor_input: dict[str, Any]) -> int:
    context, scratch = one.context, one.folder.scratch
    variables = environment.of_process(context.job, one.executor, one.task.task_id, scratch)
    command = command_line(command_of(one.executor), executor_input, context.job, one.task, mounted=False)
    script, command = package_environments.split(command)
    if script:
        programs = context.package_environments.provide(script, variables, scratch, one.log)
        variables = variables | {"PATH": environment.prepend_path(programs, variables["PATH"])}
    # The code of a task may call pip too.
    variables = environment.with_private_packages(variables, one.folder.packages)
    return context.running.process(command, variables, scratch, one.log)


def _in_container(one: _Attempt, executor_input: dict[str, Any]) -> int:
    context, scratch = one.context, one.folder.scratch
    container = one.executor["container"]
    image, entrypoint, arguments = (
        command_line(parts, executor_input, context.job, one.task)
        for parts in ([container["image"]], container.get("command", []), container.get("args", []))
    )
    variables = environment.of_container(context.job, one.executor, one.task.task_id, scratch)
    command = (entrypoint, arguments)
    return containers.run(context.job, context.running, image[0], command, variables, scratch, one.log)


def _artifact_root(job: Job, task: Task) -> str:
    return f"{job.pipeline_root}/{pipeline_name(job)}/{job.run_id}/{task.path.rpartition('/')[2]}"
