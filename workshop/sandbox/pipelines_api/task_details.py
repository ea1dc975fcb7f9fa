"""Builds the `task_details` of a run: one entry for each node of the Argo Workflow that a cluster would run.

A workflow has a node for itself, `root`, and `root-driver`. Each task has three nodes: `TASK`, `TASK-driver`, and
`executor`. A loop has an `iteration-driver`, `iteration-iterations`, and three nodes for each iteration. An importer
has one node, `importer`. A cluster also records each task whose outputs can be used again, in an entry without a name.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from uuid import NAMESPACE_OID, uuid5

from workshop.sandbox.pipelines_api.engine.contract import ENDED
from workshop.sandbox.pipelines_api.tables import Run, TaskRecord

ITERATION = re.compile(r"iteration-(\d+)")
LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass
class Entry:
    """One entry of `task_details`.

    Attributes:
        task_id: UUID.
        name: the display name; "" for the record of a task for the cache.
        state: the state; "" for a task that was never reached.
        started, ended: seconds since the epoch; 0 for an event that has not happened.
        is_pod: whether the node is a pod. A pod waits before it runs.
        error: why the task failed, which the real server does not tell.
        children: the ids of the nodes that come next.
        earlier: start, end and state of the node in earlier executions of the run.
    """

    task_id: str
    name: str
    state: str = ""
    started: float = 0.0
    ended: float = 0.0
    is_pod: bool = False
    error: str = ""
    children: list[str] = field(default_factory=list)
    earlier: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def history(self) -> list[tuple[float, str]]:
        """The states so far, each with its time: those of earlier executions of the run come first."""
        spans = [*self.earlier, (self.started, self.ended, self.state)]
        return [entry for span in spans for entry in self._states(*span)]

    def _states(self, started: float, ended: float, state: str) -> list[tuple[float, str]]:
        if state in ("", "SKIPPED"):
            return [(ended, state)] if state else []
        before = [(started, "PENDING")] if self.is_pod else []
        if state == "PENDING":
            return before
        before.append((started, "RUNNING"))
        return before if state == "RUNNING" else [*before, (ended, state)]


def workflow_name(run: Run, pipeline: str) -> str:
    """Return the name of the workflow that a cluster would run.

    Args:
        run: the run. The workflow of a recurring run has the name of the run.
        pipeline: the name of the pipeline.
    """
    if run.recurring_run_id and run.scheduled_at != run.created_at:
        return run.display_name
    number = zlib.crc32(run.run_id.encode())
    suffix = "".join(LETTERS[number // len(LETTERS) ** place % len(LETTERS)] for place in range(5))
    return f"{pipeline}-{suffix}"


def node_id(workflow: str, path: str, role: str) -> str:
    """Return the id of a node, which has the form WORKFLOW-NUMBER.

    Args:
        workflow: the name of the workflow.
        path: the path of the task that the node belongs to.
        role: what the node does for the task, such as `driver` or `executor`.
    """
    return f"{workflow}-{zlib.crc32(f'{path}:{role}'.encode())}"


def entries(workflow: str, run: Run, tasks: list[TaskRecord]) -> list[Entry]:
    """Return the entries of a run.

    Args:
        workflow: the name of the workflow.
        run: the run.
        tasks: the tasks of the run, in the order of creation.
    """
    return list(_Nodes(workflow, run, tasks).all())


class _Nodes:
    def __init__(self, workflow: str, run: Run, tasks: list[TaskRecord]) -> None:
        self._workflow = workflow
        self._run_id = run.run_id
        self._earlier = run.earlier or {}
        self._tasks = tasks
        self._by_id: Mapping[str, TaskRecord] = {task.task_id: task for task in tasks}

    def all(self) -> Iterator[Entry]:
        for task in self._tasks:
            if not task.path:
                yield from self._root(task)
            elif task.kind == "importer":
                yield self._entry(task, "importer", "importer", is_pod=True)
            elif task.kind == "container":
                yield from self._container(task)
            elif self._is_iteration(task):
                yield from self._iteration(task)
            else:
                yield from self._group(task)

    def _root(self, task: TaskRecord) -> Iterator[Entry]:
        yield self._entry(task, "workflow", self._workflow, children=["driver"])
        yield self._driver(task, "root-driver", children=["group"])
        yield self._entry(task, "group", "root", children=self._first_inside(task))

    def _container(self, task: TaskRecord) -> Iterator[Entry]:
        never_began = not task.attempts and not task.cached and task.state in ("FAILED", "CANCELED")
        if never_began:
            failed = task.state == "FAILED"
            yield self._driver(task, f"{task.name}-driver", "FAILED" if failed else "", task.error)
            yield self._entry(task, "group", task.name, state="")
            return
        yield self._driver(task, f"{task.name}-driver", children=["group"])
        if task.state == "SKIPPED" and not task.cached:  # its condition is false
            yield self._entry(task, "group", task.name)
            return
        state = "SUCCEEDED" if task.cached else "RUNNING" if task.state == "PENDING" else task.state
        yield self._entry(task, "group", task.name, state=state, children=["executor"])
        yield from self._executors(task)
        if task.state == "SUCCEEDED" and task.fingerprint:
            yield Entry(self._id(task, "cache"), "", "", task.started, task.ended)

    def _executors(self, task: TaskRecord) -> Iterator[Entry]:
        state = "SKIPPED" if task.cached else task.state
        yield self._entry(task, "executor", "executor", state=state, is_pod=True)
        for attempt in range(task.attempts if task.attempts > 1 else 0):
            last = attempt == task.attempts - 1
            yield self._entry(
                task, f"executor-{attempt}", f"executor({attempt})", state=state if last else "FAILED", is_pod=True
            )

    def _group(self, task: TaskRecord) -> Iterator[Entry]:
        iterations = [child for child in self._children(task) if self._is_iteration(child)]
        if not iterations and not task.name.startswith("for-loop"):
            yield self._driver(task, f"{task.name}-driver", children=["group"])
            yield self._entry(task, "group", task.name, children=self._first_inside(task))
            return
        yield self._entry(task, "group", task.name, children=["driver"])
        yield self._driver(task, "iteration-driver", children=["iterations"])
        state = task.state if iterations else "SKIPPED"
        yield self._entry(task, "iterations", "iteration-iterations", state=state)

    def _iteration(self, task: TaskRecord) -> Iterator[Entry]:
        found = ITERATION.fullmatch(task.name)
        number = found[1] if found else "0"
        yield self._entry(task, "slot", f"iteration-iterations({number}:{number})", children=["driver"])
        yield self._driver(task, "iteration-item-driver", children=["group"])
        yield self._entry(task, "group", "iteration-item", children=self._first_inside(task))

    def _is_iteration(self, task: TaskRecord) -> bool:
        parent = self._by_id.get(task.parent_id)
        return task.kind == "dag" and bool(ITERATION.fullmatch(task.name)) and parent is not None and bool(task.path)

    def _children(self, task: TaskRecord) -> Iterator[TaskRecord]:
        return (child for child in self._tasks if child.parent_id == task.task_id)

    def _first_inside(self, task: TaskRecord) -> list[str]:
        first = next(self._children(task), None)
        return [node_id(self._workflow, first.path, "driver")] if first else []

    def _id(self, task: TaskRecord, role: str) -> str:
        return str(uuid5(NAMESPACE_OID, f"{self._run_id}:{task.path}:{role}"))

    def _driver(
        self, task: TaskRecord, name: str, state: str | None = None, error: str = "", children: list[str] | None = None
    ) -> Entry:
        done = "SUCCEEDED" if state is None else state
        entry = self._entry(task, "driver", name, state=done, is_pod=True, children=children)
        entry.ended = entry.started or task.ended
        entry.error = error
        return entry

    def _entry(
        self,
        task: TaskRecord,
        role: str,
        name: str,
        state: str | None = None,
        is_pod: bool = False,
        children: list[str] | None = None,
    ) -> Entry:
        """Return an entry of a task.

        Args:
            task: the task.
            role: what the node does for the task.
            name: the display name.
            state: the state; the task's own by default. A cluster has no cancelled tasks: they have failed.
            is_pod: whether the node is a pod.
            children: ids of nodes, or roles of nodes of the same task.
        """
        shown = task.state if state is None else state
        shown = "FAILED" if shown == "CANCELED" else shown
        ids = [
            one if one.startswith(self._workflow) else node_id(self._workflow, task.path, one) for one in children or []
        ]
        ended = task.ended if shown in ENDED else 0.0
        error = task.error if shown == "FAILED" and role in ("group", "executor") else ""
        # Until the run begins again, its tasks are those of the execution that has failed.
        before = [span for span in self._earlier.get(task.path, []) if span[1] != task.ended]
        earlier = [] if role == "driver" else [(span[0], span[1], span[2]) for span in before]
        started = task.started or task.created
        return Entry(self._id(task, role), name, shown, started, ended, is_pod, error, ids, earlier)
