"""Defines the types that the engine and its callers exchange. The engine knows neither HTTP nor a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

# Names of `V2beta1RuntimeState` in the Pipelines API.
State = Literal["PENDING", "RUNNING", "SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"]
Kind = Literal["dag", "container", "importer"]
Runner = Literal["subprocess", "docker"]

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
SUCCESSFUL = ("SUCCEEDED", "SKIPPED")
DEFAULT_PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"  # the default of a Kubeflow installation


@dataclass
class Task:
    """One node of a run: a task that executes something, or a node that contains others.

    Attributes:
        path: its position in the pipeline, such as `for-loop-1/iteration-0/make`; "" for the root.
        name: the name that users see: the task's display name, usually the last part of `path`;
            the pipeline's name for the root.
        kind: the kind of the node.
        task_id: UUID. The id is new in every run. A task of `Job.done` keeps its id, even if it runs again.
        parent_id: `task_id` of the DAG that contains it; "" for the root.
        state: its state. A cached task and a task with a false condition are `SKIPPED`.
        cached: whether its outputs come from an earlier task with the same component and inputs.
        created, started, ended: seconds since the epoch; 0 for an event that has not happened.
        inputs, outputs: `{"parameters": {name: value}, "artifacts": {name: [artifact]}}`. An artifact is
            `{"name", "type", "uri", "metadata"}`.
        exit_code: the exit code of the task's process; None if there was no process.
        error: why the task failed, in one or a few sentences; "" otherwise.
        attempts: how often the task was started, including retries.
        fingerprint: the hash that the cache compares; "" if the task must not be cached.
        log: the task's log, a path relative to the run's folder; "" if there is no log.
    """

    path: str
    name: str
    kind: Kind
    task_id: str
    parent_id: str = ""
    state: State = "PENDING"
    cached: bool = False
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    inputs: dict[str, Any] = field(default_factory=lambda: {"parameters": {}, "artifacts": {}})
    outputs: dict[str, Any] = field(default_factory=lambda: {"parameters": {}, "artifacts": {}})
    exit_code: int | None = None
    error: str = ""
    attempts: int = 0
    fingerprint: str = ""
    log: str = ""


@dataclass(frozen=True)
class Job:
    """A run as the engine needs it.

    Attributes:
        run_id: UUID.
        name: the run's display name.
        spec: the `PipelineSpec` as a dictionary with the names of its JSON form.
        platform: the `PlatformSpec` in the same form; empty if there is none.
        parameters: the pipeline's arguments by name, already checked against the spec. Arguments with a default value
            may be missing.
        pipeline_root: URI under which artifacts are stored, without a slash at its end.
        directory: the run's own folder; `run_folder` defines its layout.
        environment: variables for tasks in addition to PATH, HOME and the like: endpoints and keys.
        python: virtual environment whose `bin` comes first on a task's PATH.
        package_environments: folder for the environments of `packages_to_install`.
        runner: how tasks are executed.
        tasks_at_once: how many tasks of this run may run at the same time.
        created: seconds since the epoch.
        done: tasks of an earlier attempt at this run, by path. Successful ones are not executed again unless their
            inputs have changed.
        inherited: names of further variables that task processes inherit from this process.
    """

    run_id: str
    name: str
    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    parameters: Mapping[str, Any]
    pipeline_root: str
    directory: Path
    environment: Mapping[str, str]
    python: Path
    package_environments: Path
    runner: Runner = "subprocess"
    tasks_at_once: int = 2
    created: float = 0.0
    done: Mapping[str, Task] = field(default_factory=dict)
    inherited: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: its last state.
        error: why it failed; "" otherwise.
    """

    state: State
    error: str = ""


@dataclass(frozen=True)
class Result:
    """How one attempt at a task ended. `Task` explains the attributes."""

    state: State
    outputs: dict[str, Any] = field(default_factory=lambda: {"parameters": {}, "artifacts": {}})
    exit_code: int | None = None
    error: str = ""


class Records(Protocol):
    """Where the engine records the tasks of a run. Several threads call these methods."""

    def save(self, tasks: Sequence[Task]) -> None:
        """Store the states of tasks in their order; called after every change. One task may have several states."""

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of the latest succeeded task with this fingerprint, or None."""
