"""Executes a run: an event loop over its nodes, and a pool of threads for the work of its tasks."""

import contextlib
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from typing import Any

from workshop.sandbox.pipelines_api.engine import inputs
from workshop.sandbox.pipelines_api.engine.artifacts import Store
from workshop.sandbox.pipelines_api.engine.contract import Job, Outcome, Records, Result, State, Task
from workshop.sandbox.pipelines_api.engine.dag import Dag
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.node import Executable, bottom_up
from workshop.sandbox.pipelines_api.engine.package_environments import PackageEnvironments
from workshop.sandbox.pipelines_api.engine.placeholders import pipeline_name
from workshop.sandbox.pipelines_api.engine.process import Running
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder
from workshop.sandbox.pipelines_api.engine.task import RunContext, attempt

# How often the event loop checks for a cancellation while no event arrives.
POLL_SECONDS = 0.1
EVENTS_AT_ONCE = 500
# How long tasks may take to end after a cancellation. After this time, the run ends without waiting for the tasks.
GIVE_UP_AFTER_SECONDS = 6


def execute(job: Job, records: Records, cancelled: threading.Event) -> Outcome:
    """Execute a run until it ends.

    Args:
        job: the run.
        records: where the engine records every change of a task, while the run executes.
        cancelled: set it to stop the run.

    Returns:
        How the run ended. After every kind of error, no task is left running, neither as a process nor in the records.
    """
    return Run(job, records, cancelled).execute()


class Run:
    """A run in progress, which implements `node.Runtime` for its nodes.

    Args:
        job: the run.
        records: where the engine records every change of a task.
        cancelled: set it to stop the run.
    """

    def __init__(self, job: Job, records: Records, cancelled: threading.Event) -> None:
        self.job = job
        self.cancelled = cancelled
        self._records = records
        self._folder = RunFolder(job.directory)
        running = Running()
        store = Store(job.environment, self._folder.downloads, cancelled)
        environments = PackageEnvironments(job, running, cancelled)
        self._context = RunContext(job, cancelled, running, store, environments)
        self._pool = futures.ThreadPoolExecutor(max(job.tasks_at_once, 1), thread_name_prefix="task")
        self._attempts: list[futures.Future[None]] = []
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Tasks that wait for their next attempt: due time, a number that keeps the order, the node.
        self._waiting: list[tuple[float, int, Executable]] = []
        self._numbers = itertools.count()
        self._loop = threading.get_ident()
        self._unsaved: list[Task] = []
        self._unsubmitted: list[Executable] = []
        self._gives_up_at: float | None = None
        self._root = Dag(self, None, "", pipeline_name(job), job.spec.get("root", {}))

    def execute(self) -> Outcome:
        """Execute the run until it ends; see the function `execute`."""
        try:
            self._start()
            self._write()
            while not self._root.ended:
                self._step()
                if self._gives_up_at and time.monotonic() > self._gives_up_at:
                    return self._give_up("CANCELED", "")
            return Outcome(self._root.task.state, self._root.task.error)
        except Exception as error:
            self._context.running.stop()
            futures.wait(self._attempts, timeout=GIVE_UP_AFTER_SECONDS)
            return self._give_up("FAILED", f"the run broke off: {type(error).__name__}: {error}")
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def save(self, task: Task) -> None:
        """Record the current state of a task. In the event loop, the records are written after the current step."""
        if threading.get_ident() == self._loop:
            self._unsaved.append(replace(task))
        else:
            self._records.save([replace(task)])

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of an earlier task with this fingerprint, or None."""
        return self._records.find_cached(fingerprint)

    def post(self, callback: Callable[[], None]) -> None:
        """Queue a callback for the event loop."""
        self._events.put(callback)

    def submit(self, node: Executable) -> None:
        """Queue an attempt at a task. At most `tasks_at_once` attempts run at the same time."""
        self._unsubmitted.append(node)

    def later(self, seconds: float, node: Executable) -> None:
        """Queue an attempt at a task after some seconds."""
        heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), node))

    def _start(self) -> None:
        self._folder.workspace.mkdir(parents=True, exist_ok=True)
        try:
            self._root.task.inputs = inputs.pipeline_inputs(self.job.parameters, self.job.spec.get("root", {}))
            self._root.start()
        except EngineError as error:
            self._root.fail(f"the pipeline cannot begin: {error}")

    def _step(self) -> None:
        for callback in self._next_events():
            callback()
        if self.cancelled.is_set():
            self._cancel()
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self.submit(heapq.heappop(self._waiting)[2])
        self._write()

    def _next_events(self) -> list[Callable[[], None]]:
        """Wait for events, and return each event once. Many children can queue the same event of their parent."""
        found: list[Callable[[], None]] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._events.get(timeout=self._timeout()))
            while len(found) < EVENTS_AT_ONCE:
                found.append(self._events.get_nowait())
        return list(dict.fromkeys(found))

    def _write(self) -> None:
        """Record the changes of a step, then queue its attempts: an attempt records its own changes."""
        if self._unsaved:
            self._records.save(self._unsaved)
            self._unsaved = []
        unsubmitted, self._unsubmitted = self._unsubmitted, []
        if unsubmitted:
            self._attempts = [future for future in self._attempts if not future.done()]
            self._attempts += [self._pool.submit(self._attempt, node) for node in unsubmitted]

    def _timeout(self) -> float:
        due = self._waiting[0][0] - time.monotonic() if self._waiting else POLL_SECONDS
        return max(0.0, min(due, POLL_SECONDS))

    def _attempt(self, node: Executable) -> None:
        """Make an attempt at a task. This method runs in a thread of the pool."""
        result = Result("CANCELED")
        try:
            if not self.cancelled.is_set():
                node.begin()
                result = attempt(self._context, node.task, node.component, node.executor)
        except Exception as error:
            result = Result("FAILED", error=f"{type(error).__name__}: {error}")
        self.post(lambda: node.take(result))

    def _cancel(self) -> None:
        if self._gives_up_at is None:
            self._gives_up_at = time.monotonic() + GIVE_UP_AFTER_SECONDS
            self._context.running.stop()
            waiting, self._waiting = [node for _, _, node in self._waiting], []
            for node in waiting:
                node.cancel()
            self.post(self._root.advance)

    def _give_up(self, state: State, error: str) -> Outcome:
        """End all nodes that have not ended, also if their end cannot be recorded."""
        for node in bottom_up(self._root):
            node.end(state, error)
        with contextlib.suppress(Exception):
            self._write()
        return Outcome(state, error)
