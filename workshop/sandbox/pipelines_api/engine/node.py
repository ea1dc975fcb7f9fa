"""Defines the nodes of a run, and the methods of the run that nodes may call.

All nodes live in one thread, the run's event loop. The state of the nodes therefore needs no locks. Only the work
of a task happens in other threads; `run.Run` brings its result back to the event loop.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from workshop.sandbox.pipelines_api.engine.contract import ENDED, SUCCESSFUL, Job, Kind, Result, State, Task
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values


class Executable(Protocol):
    """A node whose task can be attempted.

    Attributes:
        task: the task.
        component: its component.
        executor: its executor.
    """

    task: Task
    component: Spec
    executor: Spec

    def begin(self) -> None:
        """Record that an attempt begins."""

    def take(self, result: Result) -> None:
        """Process the result of an attempt."""

    def cancel(self) -> None:
        """End without another attempt."""


class Runtime(Protocol):
    """The methods of a run that its nodes may call.

    Attributes:
        job: the run.
        cancelled: set when the run is cancelled.
    """

    job: Job
    cancelled: threading.Event

    def save(self, task: Task) -> None:
        """Record the current state of a task."""

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of an earlier task with this fingerprint, or None."""

    def post(self, callback: Callable[[], None]) -> None:
        """Queue a callback for the event loop."""

    def submit(self, node: Executable) -> None:
        """Queue an attempt at a task."""

    def later(self, seconds: float, node: Executable) -> None:
        """Queue an attempt at a task after some seconds."""


@dataclass(frozen=True)
class Failure:
    """The task failure that caused a node to fail.

    Attributes:
        path: the path of the task that failed.
        message: why it failed.
        code: its exit code.
    """

    path: str
    message: str
    code: int

    def __str__(self) -> str:
        return f"the task {self.path} failed: {self.message}" if self.path else self.message


class Node:
    """One node of a run.

    Args:
        run: the run.
        parent: the node that contains it; None for the root.
        path: as in `contract.Task`.
        name: the name that users see.
        kind: the kind of the node.
    """

    task: Task

    def __init__(self, run: Runtime, parent: Group | None, path: str, name: str, kind: Kind) -> None:
        self.run = run
        self.parent = parent
        self.failure: Failure | None = None
        self._rerun = False
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
        """Whether the node has reached its last state."""
        return self.task.state in ENDED

    @property
    def inputs(self) -> Values:
        """The node's inputs, which its children can use."""
        return self.task.inputs

    @property
    def outputs(self) -> Values:
        """The node's outputs; empty until it has succeeded."""
        return self.task.outputs

    @property
    def rerun(self) -> bool:
        """Whether this attempt at the run executed the node or a part of it. Otherwise, an earlier attempt executed
        the node."""
        return self._rerun

    def start(self) -> None:
        """Begin. The inputs are known."""
        raise NotImplementedError

    def skip(self) -> None:
        """End without execution, because the node's condition is false."""
        self.end("SKIPPED")

    def fail(self, message: str) -> None:
        """End because this node itself cannot continue."""
        self._rerun = True
        self.failure = Failure(self.task.path, message, 1)
        self.end("FAILED", message)

    def end(self, state: State, error: str = "") -> None:
        """Record how the node ended, and let its parent continue."""
        if self.ended:
            return
        self.task.state, self.task.error, self.task.ended = state, error, time.time()
        self.run.save(self.task)
        if self.parent:
            self.run.post(self.parent.advance)


class Group(Node):
    """A node that contains other nodes.

    Args:
        run: the run.
        parent: the node that contains it; None for the root.
        path: as in `contract.Task`.
        name: the name that users see.
        component: the component that defines its tasks and outputs.
    """

    def __init__(self, run: Runtime, parent: Group | None, path: str, name: str, component: Spec) -> None:
        super().__init__(run, parent, path, name, "dag")
        self.component = component
        self.children: dict[str, Node] = {}

    def start(self) -> None:
        """Begin. The children start from the event loop."""
        self.task.state, self.task.started = "RUNNING", time.time()
        self.run.save(self.task)
        self.run.post(self.advance)

    def advance(self) -> None:
        """Start all children that can start. End the node when no child is left."""
        if self.ended:
            return
        while due := self.due():
            for start in due:
                if self.run.cancelled.is_set():
                    break
                start()
        if all(child.ended for child in self.children.values()):
            self._finish()

    def due(self) -> list[Callable[[], None]]:
        """Return one callable for each child that can start now. The callable starts the child."""
        raise NotImplementedError

    def gather(self) -> Values:
        """Return the node's outputs. All children have succeeded or were skipped."""
        raise NotImplementedError

    @property
    def rerun(self) -> bool:
        """Whether this attempt at the run executed the node or a part of it. Otherwise, an earlier attempt executed
        the node."""
        return super().rerun or any(child.rerun for child in self.children.values())

    @property
    def failed(self) -> Node | None:
        """The child that failed first; None if no child failed."""
        failed = [child for child in self.children.values() if child.task.state == "FAILED"]
        return min(failed, key=lambda child: child.task.ended, default=None)

    @property
    def closed(self) -> bool:
        """Whether no further child may start, except children that run after failures."""
        return self.failed is not None or self.run.cancelled.is_set()

    def _finish(self) -> None:
        if self.run.cancelled.is_set() and (self.failed or not self._complete()):
            self.end("CANCELED")
        elif failed := self.failed:
            self.failure = failed.failure
            self.end("FAILED", str(self.failure))
        else:
            self.task.outputs = self.gather()
            self.end("SUCCEEDED")

    def _complete(self) -> bool:
        return all(child.task.state in SUCCESSFUL for child in self.children.values())


def bottom_up(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it. Children come before their parent."""
    if isinstance(node, Group):
        for child in node.children.values():
            yield from bottom_up(child)
    yield node
