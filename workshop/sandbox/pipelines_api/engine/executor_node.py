"""The nodes that execute a container task or an importer."""

from __future__ import annotations

import time
from dataclasses import replace

from workshop.sandbox.pipelines_api.engine import cache, importer, logs, placeholders, spec
from workshop.sandbox.pipelines_api.engine.contract import Result, Task
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values
from workshop.sandbox.pipelines_api.engine.node import Failure, Group, Node, Runtime
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder, log_name


class ExecutorNode(Node):
    """A container task or an importer.

    Args:
        run: the run.
        parent: the DAG that contains the task.
        path: as in `contract.Task`.
        name: the name that users see.
        task: the task specification.
        component: the component of the task.
    """

    def __init__(self, run: Runtime, parent: Group, path: str, name: str, task: Spec, component: Spec) -> None:
        self.spec = task
        self.component = component
        self.executor = spec.executor_of(run.job.spec, component)
        super().__init__(run, parent, path, name, "importer" if "importer" in self.executor else "container")
        self._group = parent
        self._folder = RunFolder(run.job.directory)
        self._retries = Retries(task.get("retryPolicy", {}))
        earlier = run.job.done.get(path)
        self._done = earlier if earlier and cache.is_successful(earlier) else None
        if self._done:
            # The record of this attempt replaces the record of the earlier attempt.
            self.task.task_id = self._done.task_id

    def start(self) -> None:
        """Use earlier outputs if possible. Otherwise queue the first attempt."""
        if self._done and self._can_reuse(self._done):
            self._reuse(self._done)
            return
        self._rerun = True
        self._folder.task(self.task.task_id).clear()
        self.task.log = log_name(self.task.task_id)
        if self.task.kind == "importer":
            self._import()
            return
        self.task.fingerprint = cache.fingerprint(self.task, self.spec, self.component, self.executor)
        cached = cache.find(self.run, self.task.fingerprint)
        if cached is not None:
            self._take_cached(cached)
        else:
            self.run.save(self.task)
            self.run.submit(self)

    def begin(self) -> None:
        """Record that an attempt begins. The thread that makes the attempt calls this method."""
        self.task.attempts += 1
        self.task.exit_code = None
        self.task.state = "RUNNING"
        self.task.started = self.task.started or time.time()
        if self.task.attempts > 1:
            self._note(f"\n--- attempt {self.task.attempts} of {self._retries.count + 1} ---")
        self.run.save(self.task)

    def take(self, result: Result) -> None:
        """Process the result of an attempt: end the task, or queue the next attempt."""
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

    def cancel(self) -> None:
        """End without another attempt."""
        self.end("CANCELED")

    def _can_reuse(self, done: Task) -> bool:
        """Return whether the task would produce the same outputs as in the earlier attempt at the run."""
        if spec.follows_failures(self.spec) and self._upstream_was_rerun():
            return False
        return cache.has_same_inputs(done, self.task.inputs)

    def _upstream_was_rerun(self) -> bool:
        return any(self._group.children[name].rerun for name in spec.upstream_of(self.spec))

    def _reuse(self, done: Task) -> None:
        self.task = replace(done, parent_id=self.task.parent_id)
        self.run.save(self.task)
        self.run.post(self._group.advance)

    def _take_cached(self, outputs: Values) -> None:
        self.task.cached, self.task.outputs, self.task.started = True, outputs, time.time()
        self._note(
            "This task did not run: its outputs were taken from an earlier task of the same component and inputs."
        )
        self.end("SKIPPED")

    def _import(self) -> None:
        self.task.started, self.task.attempts = time.time(), 1
        substitutions = placeholders.of_run(self.run.job, self.task)
        self.task.outputs = importer.outputs(self.component, self.executor["importer"], self.task.inputs, substitutions)
        for artifact in self.task.outputs["artifacts"].values():
            self._note(f"Imported {artifact[0]['uri']}; nothing is copied.")
        self.end("SUCCEEDED")

    def _note(self, line: str) -> None:
        logs.note(self._folder.log(self.task.log), line)


class Retries:
    """The retry policy of a task.

    Args:
        policy: `retryPolicy` of the task specification.
    """

    def __init__(self, policy: Spec) -> None:
        self.count = int(policy.get("maxRetryCount", 0))
        self._first = _seconds(policy.get("backoffDuration", "0s"))
        self._factor = float(policy.get("backoffFactor", 0)) or 2.0
        self._longest = _seconds(policy.get("backoffMaxDuration", "3600s")) or 3600.0

    def delay(self, attempts: int) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            attempts: the number of attempts that were made.
        """
        # The exponent is limited, because a float cannot hold the power of many retries.
        return min(float(self._first * self._factor ** min(attempts - 1, 60)), self._longest)


def _seconds(duration: str) -> float:
    return float(str(duration).removesuffix("s") or 0)
