"""Decides whether earlier outputs can replace the execution of a task.

There are two cases. The *cache* takes outputs of any earlier run: the functions `fingerprint` and `find` implement
the cache. A *retry* of a run takes outputs of the earlier attempt at the same run: the functions `is_successful` and
`has_same_inputs` implement the retry.
"""

import hashlib
import json
from typing import Any, Protocol

from workshop.sandbox.pipelines_api.engine.contract import Task
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values


def fingerprint(task: Task, task_spec: Spec, component: Spec, executor: Spec) -> str:
    """Return a hash of everything that determines the outputs of a task.

    Args:
        task: the task with its inputs.
        task_spec: its task specification.
        component: its component.
        executor: its executor.

    Returns:
        A SHA-256 hash; "" if caching is disabled for the task.
    """
    options = task_spec.get("cachingOptions", {})
    if not options.get("enableCache"):
        return ""
    container = executor["container"]
    artifacts = task.inputs["artifacts"]
    compared = {
        "image": container.get("image"),
        "command": container.get("command", []),
        "args": container.get("args", []),
        "env": container.get("env", []),
        "parameters": task.inputs["parameters"],
        "artifacts": {name: [[a["name"], a["uri"]] for a in artifacts[name]] for name in artifacts},
        "outputs": component.get("outputDefinitions", {}),
        "key": options.get("cacheKey", ""),
    }
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()


class Finder(Protocol):
    """Finds the outputs of earlier tasks."""

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of the latest successful task with this fingerprint, or None."""


def find(records: Finder, fingerprint: str) -> dict[str, Any] | None:
    """Return the outputs of the latest successful task with this fingerprint.

    Args:
        records: the records of all runs.
        fingerprint: a result of the function `fingerprint`.

    Returns:
        The outputs; None if there is no such task or caching is disabled.
    """
    return records.find_cached(fingerprint) if fingerprint else None


def is_successful(task: Task) -> bool:
    """Return whether a task has outputs that a retry of its run can use again."""
    return task.state == "SUCCEEDED" or task.cached


def has_same_inputs(done: Task, inputs: Values) -> bool:
    """Return whether a task of an earlier attempt had the same inputs.

    Args:
        done: the task of the earlier attempt.
        inputs: the inputs that the task has now. The metadata of artifacts is not compared.
    """
    return _comparable(done.inputs) == _comparable(inputs)


def _comparable(values: Values) -> str:
    artifacts = {
        name: [[artifact[key] for key in ("name", "uri", "type")] for artifact in found]
        for name, found in values["artifacts"].items()
    }
    return json.dumps([values["parameters"], artifacts], sort_keys=True)
