"""The nodes that run something, or import something."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from workshop.sandbox.pipelines_api.engine import importer, logs, placeholders, spec
from workshop.sandbox.pipelines_api.engine.artifacts import remove
from workshop.sandbox.pipelines_api.engine.contract import Task
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values
from workshop.sandbox.pipelines_api.engine.node import Failure, Node
from workshop.sandbox.pipelines_api.engine.task import Result, fingerprint

if TYPE_CHECKING:
    from workshop.sandbox.pipelines_api.engine.dag import Group
    from workshop.sandbox.pipelines_api.engine.run import Run


class Leaf(Node):
    """A task that runs something, or an importer."""

    def __init__(self, run: Run, parent: Group, path: str, name: str, task: Spec, component: Spec) -> None:
        self.spec = task
        self.component = component
        self.executor = spec.executor_of(run.job.spec, component)
        super().__init__(run, parent, path, name, "importer" if "importer" in self.executor else "container")
        self._retries = Retries(task.get("retryPolicy", {}))
        self._done = _done_before(run.job.done.get(path))
        if self._done:
            # What becomes of the task now takes the place of what was written down then.
            self.task.task_id = self._done.task_id

    def start(self) -> None:
        if self._done and self._still_holds(self._done):
            self._keep(self._done)
            return
        self._anew = True
        remove(self.run.job.directory / "tasks" / self.task.task_id)
        self.task.log = f"tasks/{self.task.task_id}/log"
        (self.run.job.directory / self.task.log).parent.mkdir(parents=True, exist_ok=True)
        if self.task.kind == "importer":
            self._import()
            return
        self.task.fingerprint = fingerprint(self.task, self.spec, self.component, self.executor)
        found = self.run.find_cached(self.task.fingerprint) if self.task.fingerprint else None
        if found is not None:
            self._take_cached(found)
        else:
            self.run.save(self.task)
            self.run.submit(self)

    def begin(self) -> None:
        """Write down that an attempt begins; called in the thread that makes it."""
        self.task.attempts += 1
        self.task.exit_code = None
        self.task.state = "RUNNING"
        self.task.started = self.task.started or time.time()
        if self.task.attempts > 1:
            self._note(f"\n--- attempt {self.task.attempts} of {self._retries.count + 1} ---")
        self.run.save(self.task)

    def take(self, result: Result) -> None:
        """Take the result of an attempt: end, or try again."""
        if self.ended:
            return
        self.task.exit_code = result.exit_code
        if result.state == "FAILED" and self.task.attempts <= self._retries.count and not self.run.cancelled.is_set():
            self._note(f"--- attempt {self.task.attempts} of {self._retries.count + 1} failed: {result.error} ---")
            self.run.later(self._retries.delay(self.task.attempts), self)
            return
        if result.state == "FAILED":
            self.failure = Failure(self.task.path, result.error, result.exit_code or 1)
        self.task.outputs = result.outputs
        self.end(result.state, result.error)

    def _still_holds(self, done: Task) -> bool:
        """Tell whether what an earlier attempt at the run has done would come out the same now."""
        if spec.follows_failures(self.spec) and self._upstream_is_new():
            return False
        return _comparable(done.inputs) == _comparable(self.task.inputs)

    def _upstream_is_new(self) -> bool:
        return any(self.parent.children[name].anew for name in spec.upstream_of(self.spec))

    def _keep(self, done: Task) -> None:
        """Stand for a task that an earlier attempt at the run has done."""
        self.task = replace(done, parent_id=self.task.parent_id)
        self.run.save(self.task)
        self.run.post(self.parent.advance)

    def _take_cached(self, outputs: Values) -> None:
        self.task.cached, self.task.outputs, self.task.started = True, outputs, time.time()
        self._note(
            "This task did not run: its outputs were taken from an earlier task of the same component and inputs."
        )
        self.end("SKIPPED")

    def _import(self) -> None:
        self.task.started, self.task.attempts = time.time(), 1
        words = placeholders.of_run(self.run.job, self.task)
        self.task.outputs = importer.outputs(self.component, self.executor["importer"], self.task.inputs, words)
        for artifact in self.task.outputs["artifacts"].values():
            self._note(f"Imported {artifact[0]['uri']}; nothing is copied.")
        self.end("SUCCEEDED")

    def _note(self, line: str) -> None:
        logs.note(self.run.job.directory / self.task.log, line)


class Retries:
    """How often and when a task is tried again.

    Args:
        policy: a specification's `retryPolicy`.
    """

    def __init__(self, policy: Spec) -> None:
        self.count = int(policy.get("maxRetryCount", 0))
        self._first = _seconds(policy.get("backoffDuration", "0s"))
        self._factor = float(policy.get("backoffFactor", 0)) or 2.0
        self._longest = _seconds(policy.get("backoffMaxDuration", "3600s")) or 3600.0

    def delay(self, attempts: int) -> float:
        """Return how many seconds to wait after so many attempts."""
        # Bounded before it is multiplied: the power of many retries is too large for a number.
        return min(self._first * self._factor ** min(attempts - 1, 60), self._longest)


def _done_before(task: Task | None) -> Task | None:
    return task if task and (task.state == "SUCCEEDED" or task.cached) else None


def _comparable(values: Values) -> str:
    """Return what is equal for equal inputs; metadata of artifacts do not count."""
    artifacts = {
        name: [[artifact[key] for key in ("name", "uri", "type")] for artifact in found]
        for name, found in values["artifacts"].items()
    }
    return json.dumps([values["parameters"], artifacts], sort_keys=True)


def _seconds(duration: str) -> float:
    return float(str(duration).removesuffix("s") or 0)
