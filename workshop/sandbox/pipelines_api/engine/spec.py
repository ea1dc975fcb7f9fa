"""Reads the specification of a pipeline."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import EngineError

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A task of the specification and its position.

    Attributes:
        path: as in `contract.Task`, but without loop iterations.
        task: its task specification.
        component: the component that the task refers to.
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
        EngineError: the pipeline does not contain that component.
    """
    name = task.get("componentRef", {}).get("name", "")
    try:
        component: Spec = spec["components"][name]
    except KeyError:
        raise EngineError(f"the pipeline refers to a component {name!r}, but it does not contain it") from None
    return component


def executor_of(spec: Spec, component: Spec) -> Spec:
    """Return the executor of a component. The component must not be a DAG.

    Raises:
        EngineError: the pipeline does not contain that executor.
    """
    label = component.get("executorLabel", "")
    try:
        executor: Spec = spec["deploymentSpec"]["executors"][label]
    except KeyError:
        raise EngineError(f"the pipeline refers to an executor {label!r}, but it does not contain it") from None
    return executor


def is_dag(component: Spec) -> bool:
    """Return whether a component contains tasks. A component with an empty `dag` counts too."""
    return "dag" in component


def upstream_of(task: Spec) -> set[str]:
    """Return the names of the tasks that a task waits for. All of them are in the same DAG."""
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    kinds = ("taskOutputParameter", "taskOutputArtifact", "taskFinalStatus")
    producers = {source[kind]["producerTask"] for source in sources for kind in kinds if kind in source}
    return producers | set(task.get("dependentTasks", []))


def follows_failures(task: Spec) -> bool:
    """Return whether a task runs even if the tasks that it waits for have failed."""
    strategy: str = task.get("triggerPolicy", {}).get("strategy", "")
    return strategy == "ALL_UPSTREAM_TASKS_COMPLETED"


def command_of(executor: Spec) -> list[str]:
    """Return the command and the arguments of a container, with unreplaced placeholders."""
    container = executor["container"]
    return [*container.get("command", []), *container.get("args", [])]


def walk(spec: Spec) -> Iterator[Place]:
    """Yield every task of a pipeline. The tasks of a nested DAG come after the task that contains them.

    `structure.problems` must have found no problem: components that contain themselves have no end.

    Raises:
        EngineError: a task refers to a component or an executor that does not exist.
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
