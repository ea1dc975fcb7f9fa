"""What passes between the engine and whoever calls it; the engine knows nothing of HTTP or databases."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

# Names of `V2beta1RuntimeState` in the Pipelines API.
State = Literal["PENDING", "RUNNING", "SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"]
Kind = Literal["dag", "container", "importer"]

DEFAULT_PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"  # that of a plain Kubeflow installation


@dataclass
class Task:
    """One node of a run, whether it runs something or holds others.

    Attributes:
        path: where it stands in the pipeline, such as `for-loop-1/iteration-0/make`; "" for the root.
        name: what people see: the task's display name, usually the last part of `path`;
            the pipeline's name for the root.
        kind: what is behind it.
        task_id: UUID, new at every run; a task of `Job.done` keeps it, even when it is run again.
        parent_id: `task_id` of the DAG that holds it; "" for the root.
        state: where it has got to. A cached task and one whose condition is false are `SKIPPED`.
        cached: whether its outputs were taken from an earlier task with the same component and inputs.
        created, started, ended: seconds since the epoch; 0 when that has not happened yet.
        inputs, outputs: `{"parameters": {name: value}, "artifacts": {name: [artifact]}}`, an artifact being
            `{"name", "type", "uri", "metadata"}`.
        exit_code: that of the task's process; None when there was none.
        error: why it failed, in one or a few sentences; "".
        attempts: how often it was started, retries included.
        fingerprint: what caching compares; "" when the task must not be cached.
        log: file below the run's folder into which the task's output is written as it comes; "" when there is none.
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
    """A run, as the engine needs it.

    Attributes:
        run_id: UUID.
        name: the run's display name.
        spec: the `PipelineSpec` as a dictionary with the names of its JSON form.
        platform: the `PlatformSpec` in the same form; empty when there is none.
        parameters: the pipeline's arguments by name, already checked against the spec; defaults may be missing.
        pipeline_root: URI below which artifacts are stored, without a slash at its end.
        directory: the run's own folder.
        environment: what tasks find in their environment besides PATH, HOME and the like: endpoints and keys.
        python: virtual environment whose `bin` comes first on a task's PATH.
        layers: folder in which environments for `packages_to_install` are kept.
        runner: "subprocess" or "docker".
        tasks_at_once: how many tasks of this run may run at the same time.
        created: seconds since the epoch.
        done: tasks of an earlier attempt at this run, by path; those that succeeded are not run again, unless what
            they were computed from has changed.
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
    layers: Path
    runner: Literal["subprocess", "docker"] = "subprocess"
    tasks_at_once: int = 2
    created: float = 0.0
    done: Mapping[str, Task] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, and why when it did not succeed."""

    state: State
    error: str = ""


class Records(Protocol):
    """Where the engine writes down what happens; called from several threads."""

    def save(self, task: Task) -> None:
        """Keep the task as it is now; called at every change."""

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of the latest succeeded task with this fingerprint, or None."""


Cancelled = threading.Event
