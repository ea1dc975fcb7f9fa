"""What all nodes of a run have in common.

Nodes live in one thread, that of the run's event loop, so nothing about them is locked. Only what a task does happens
elsewhere; `run.Run` brings its result back.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workshop.sandbox.pipelines_api.engine.contract import Kind, State, Task
from workshop.sandbox.pipelines_api.engine.inputs import Values

if TYPE_CHECKING:
    from workshop.sandbox.pipelines_api.engine.dag import Group
    from workshop.sandbox.pipelines_api.engine.run import Run

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
GONE_WELL = ("SUCCEEDED", "SKIPPED")


@dataclass(frozen=True)
class Failure:
    """The task whose failure made something fail: where it stands, what it says, and its exit code."""

    path: str
    message: str
    code: int

    def __str__(self) -> str:
        return f"the task {self.path} failed: {self.message}" if self.path else self.message


class Node:
    """One node of a run.

    Args:
        run: the run.
        parent: the node that holds it; None for the root.
        path: as in `contract.Task`.
        name: what people see.
        kind: what is behind it.
    """

    def __init__(self, run: Run, parent: Group | None, path: str, name: str, kind: Kind) -> None:
        self.run = run
        self.parent = parent
        self.failure: Failure | None = None
        self._anew = False
        self.task = Task(
            path=path,
            name=name,
            kind=kind,
            task_id=str(uuid.uuid4()),
            parent_id=parent.task.task_id if parent else "",
            created=time.time(),
        )

    @property
    def ended(self) -> bool:
        return self.task.state in ENDED

    @property
    def outputs(self) -> Values:
        return self.task.outputs

    @property
    def anew(self) -> bool:
        """Whether it, or something that it holds, is the work of this attempt at the run, not of an earlier one."""
        return self._anew

    def start(self) -> None:
        """Begin; the inputs are known."""
        raise NotImplementedError

    def skip(self) -> None:
        """End without having begun, because the node's condition is false."""
        self.end("SKIPPED")

    def fail(self, message: str) -> None:
        """End because the node itself cannot go on."""
        self._anew = True
        self.failure = Failure(self.task.path, message, 1)
        self.end("FAILED", message)

    def end(self, state: State, error: str = "") -> None:
        """Write down how the node ended, and let its parent go on."""
        if self.ended:
            return
        ended = replace(self.task, state=state, error=error, ended=time.time())
        self.run.save(ended)
        # Only now: what could not be written down has not ended, and is tried again when the run breaks off.
        self.task = ended
        if self.parent:
            self.run.post(self.parent.advance)
