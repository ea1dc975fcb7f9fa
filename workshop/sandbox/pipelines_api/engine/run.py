"""Executes a run: an event loop over its nodes, and a few threads for what its tasks do."""

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
from workshop.sandbox.pipelines_api.engine.contract import Job, Outcome, Records, State, Task
from workshop.sandbox.pipelines_api.engine.dag import Dag, bottom_up
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.layers import Layers
from workshop.sandbox.pipelines_api.engine.leaf import Leaf
from workshop.sandbox.pipelines_api.engine.process import Running
from workshop.sandbox.pipelines_api.engine.task import Result, Workbench, attempt

# How often a cancellation is looked for while nothing else happens.
LOOK_EVERY_SECONDS = 0.1
# How long after a cancellation tasks may take to end before they are given up.
GIVE_UP_AFTER_SECONDS = 6


def execute(job: Job, records: Records, cancelled: threading.Event) -> Outcome:
    """Execute a run to its end.

    Args:
        job: the run.
        records: where everything that happens is written down, while it happens.
        cancelled: when it is set, the run stops.

    Returns:
        How it ended. Whatever went wrong, no task is left running, on this machine or in the records.
    """
    return Run(job, records, cancelled).execute()


class Run:
    """A run under way: what its nodes can ask for.

    Args:
        job: the run.
        records: where everything that happens is written down.
        cancelled: when it is set, the run stops.
    """

    def __init__(self, job: Job, records: Records, cancelled: threading.Event) -> None:
        self.job = job
        self.cancelled = cancelled
        self._records = records
        running = Running()
        store = Store(job.environment, job.directory / "downloads", cancelled)
        self._bench = Workbench(job, cancelled, running, store, Layers(job, running, cancelled))
        self._pool = futures.ThreadPoolExecutor(max(job.tasks_at_once, 1), thread_name_prefix="task")
        self._attempts: list[futures.Future] = []
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Tasks that are to be tried again: when, a number that keeps the order, and which.
        self._waiting: list[tuple[float, int, Leaf]] = []
        self._numbers = itertools.count()
        self._gives_up_at: float | None = None
        name = job.spec.get("pipelineInfo", {}).get("name", "pipeline")
        self._root = Dag(self, None, "", name, job.spec.get("root", {}))

    def execute(self) -> Outcome:
        """Execute the run to its end; see `execute` of this module."""
        try:
            self._start()
            while not self._root.ended:
                self._step()
                if self._gives_up_at and time.monotonic() > self._gives_up_at:
                    return self._give_up("CANCELED", "")
            return Outcome(self._root.task.state, self._root.task.error)
        except Exception as error:
            self._bench.running.stop()
            futures.wait(self._attempts, timeout=GIVE_UP_AFTER_SECONDS)
            return self._give_up("FAILED", f"the run broke off: {type(error).__name__}: {error}")
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def save(self, task: Task) -> None:
        """Write a task down as it is now."""
        self._records.save(replace(task))

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of an earlier task with this fingerprint, or None."""
        return self._records.find_cached(fingerprint)

    def post(self, event: Callable[[], None]) -> None:
        """Let something happen in the event loop, after what is happening now."""
        self._events.put(event)

    def submit(self, leaf: Leaf) -> None:
        """Let a task make an attempt as soon as fewer than `tasks_at_once` are at work."""
        self._attempts = [future for future in self._attempts if not future.done()]
        self._attempts.append(self._pool.submit(self._attempt, leaf))

    def later(self, seconds: float, leaf: Leaf) -> None:
        """Let a task make another attempt after some seconds."""
        heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), leaf))

    def _start(self) -> None:
        (self.job.directory / "workspace").mkdir(parents=True, exist_ok=True)
        try:
            self._root.task.inputs = inputs.of_pipeline(self.job.parameters, self.job.spec.get("root", {}))
            self._root.start()
        except EngineError as error:
            self._root.fail(f"the pipeline cannot begin: {error}")

    def _step(self) -> None:
        event = None
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=self._patience())
        if event:
            event()
        if self.cancelled.is_set():
            self._cancel()
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self.submit(heapq.heappop(self._waiting)[2])

    def _patience(self) -> float:
        due = self._waiting[0][0] - time.monotonic() if self._waiting else LOOK_EVERY_SECONDS
        return max(0.0, min(due, LOOK_EVERY_SECONDS))

    def _attempt(self, leaf: Leaf) -> None:
        """Make an attempt at a task; in a thread of the pool."""
        result = Result("CANCELED")
        try:
            if not self.cancelled.is_set():
                leaf.begin()
                result = attempt(self._bench, leaf.task, leaf.component, leaf.executor)
        except Exception as error:
            result = Result("FAILED", error=f"{type(error).__name__}: {error}")
        self.post(lambda: leaf.take(result))

    def _cancel(self) -> None:
        if self._gives_up_at is None:
            self._gives_up_at = time.monotonic() + GIVE_UP_AFTER_SECONDS
            self._bench.running.stop()
            waiting, self._waiting = [leaf for _, _, leaf in self._waiting], []
            for leaf in waiting:
                leaf.end("CANCELED")
            self.post(self._root.advance)

    def _give_up(self, state: State, error: str) -> Outcome:
        """End every node that has not ended. What cannot be written down must not keep the others from it."""
        for node in bottom_up(self._root):
            with contextlib.suppress(Exception):
                node.end(state, error)
        return Outcome(state, error)
