"""Finds things in a pipeline's specification."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import EngineError

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A task of the specification, where it stands.

    Attributes:
        path: as in `contract.Task`, without the iterations of loops.
        task: its task specification.
        component: the component that it refers to.
        executor: the executor of that component; None for a DAG.
        label: the executor's name; "" for a DAG.
    """

    path: str
    task: Spec
    component: Spec
    executor: Spec | None
    label: str


def component_of(spec: Spec, task: Spec) -> Spec:
    """Return the component that a task refers to.

    Raises:
        EngineError: there is none.
    """
    name = task.get("componentRef", {}).get("name", "")
    try:
        return spec["components"][name]
    except KeyError:
        raise EngineError(f"the pipeline refers to a component {name!r}, which it does not hold") from None


def executor_of(spec: Spec, component: Spec) -> Spec:
    """Return the executor of a component that is no DAG.

    Raises:
        EngineError: there is none.
    """
    label = component.get("executorLabel", "")
    try:
        return spec["deploymentSpec"]["executors"][label]
    except KeyError:
        raise EngineError(f"the pipeline refers to an executor {label!r}, which it does not hold") from None


def is_dag(component: Spec) -> bool:
    """Tell whether a component holds tasks of its own. An empty `dag` counts."""
    return "dag" in component


def upstream_of(task: Spec) -> set[str]:
    """Return the names of the tasks in the same DAG for which a task waits."""
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    kinds = ("taskOutputParameter", "taskOutputArtifact", "taskFinalStatus")
    producers = {source[kind]["producerTask"] for source in sources for kind in kinds if kind in source}
    return producers | set(task.get("dependentTasks", []))


def follows_failures(task: Spec) -> bool:
    """Tell whether a task begins even when those for which it waits have failed."""
    return task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"


def command_of(executor: Spec) -> list[str]:
    """Return command and arguments of a container, unfilled."""
    container = executor["container"]
    return [*container.get("command", []), *container.get("args", [])]


def walk(spec: Spec) -> Iterator[Place]:
    """Go through every task of a pipeline, each with those that it holds after it.

    Raises:
        EngineError: a task refers to something that is not there.
    """
    yield from _walk(spec, spec.get("root", {}), "")


def _walk(spec: Spec, dag: Spec, path: str) -> Iterator[Place]:
    for name, task in dag.get("dag", {}).get("tasks", {}).items():
        component = component_of(spec, task)
        below = f"{path}/{name}".lstrip("/")
        if is_dag(component):
            yield Place(below, task, component, None, "")
            yield from _walk(spec, component, below)
        else:
            label = component.get("executorLabel", "")
            yield Place(below, task, component, executor_of(spec, component), label)
