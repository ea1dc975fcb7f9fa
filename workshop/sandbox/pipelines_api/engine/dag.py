"""Decides when the tasks of a DAG and the iterations of a loop start. On a cluster, Argo Workflows does this."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from workshop.sandbox.pipelines_api.engine import inputs, placeholders, spec
from workshop.sandbox.pipelines_api.engine.contract import SUCCESSFUL
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.executor_node import ExecutorNode
from workshop.sandbox.pipelines_api.engine.expressions import evaluate_condition
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values
from workshop.sandbox.pipelines_api.engine.node import Group, Node, Runtime


class Dag(Group):
    """A DAG: the whole pipeline, a nested pipeline, the tasks of a condition, or one iteration of a loop."""

    def __init__(self, run: Runtime, parent: Group | None, path: str, name: str, component: Spec) -> None:
        super().__init__(run, parent, path, name, component)
        self._tasks: dict[str, Spec] = dict(component.get("dag", {}).get("tasks", {}))
        self._upstream = {key: spec.upstream_of(task) for key, task in self._tasks.items()}

    def due(self) -> list[Callable[[], None]]:
        return [partial(self._start, key) for key in self._tasks if key not in self.children and self._is_due(key)]

    def gather(self) -> Values:
        return inputs.dag_outputs(self.component, self._outputs_of)

    def _complete(self) -> bool:
        return len(self.children) == len(self._tasks) and super()._complete()

    def _is_due(self, key: str) -> bool:
        if self.run.cancelled.is_set():
            return False
        upstream = [self.children.get(name) for name in self._upstream[key]]
        if spec.follows_failures(self._tasks[key]):
            return all(node is not None and node.ended for node in upstream)
        return not self.closed and all(node is not None and node.task.state in SUCCESSFUL for node in upstream)

    def _start(self, key: str) -> None:
        task = self._tasks[key]
        node = self.children[key] = self._node(key, task)
        try:
            node.task.inputs = self._inputs(node, task)
            condition = task.get("triggerPolicy", {}).get("condition")
            if condition and not evaluate_condition(condition, node.task.inputs["parameters"]):
                node.skip()
            else:
                node.start()
        except EngineError as error:
            node.fail(str(error))

    def _node(self, key: str, task: Spec) -> Node:
        component = spec.component_of(self.run.job.spec, task)
        path = f"{self.task.path}/{key}".lstrip("/")
        name = task.get("taskInfo", {}).get("name") or key
        if not spec.is_dag(component):
            return ExecutorNode(self.run, self, path, name, task, component)
        if "parameterIterator" in task or "artifactIterator" in task:
            return Loop(self.run, self, path, name, task, component)
        return Dag(self.run, self, path, name, component)

    def _inputs(self, node: Node, task: Spec) -> Values:
        substitutions = placeholders.of_run(self.run.job, node.task)
        return inputs.task_inputs(
            task,
            spec.component_of(self.run.job.spec, task),
            self.inputs,
            self._outputs_of,
            self._status_of,
            lambda value, parameters: placeholders.fill(value, substitutions, parameters),
        )

    def _outputs_of(self, key: str) -> Values:
        return self.children[key].outputs if key in self.children else inputs.empty_values()

    def _status_of(self, key: str) -> dict[str, Any]:
        """Return how a task ended, in the form of `dsl.PipelineTaskFinalStatus`."""
        node = self.children[key]
        failure = node.failure
        return {
            "state": "FAILED" if failure else "SUCCEEDED",
            "pipelineJobResourceName": placeholders.resource_name(self.run.job),
            "pipelineTaskName": key,
            "error": {"code": failure.code, "message": str(failure)} if failure else {},
        }


class Iteration(Dag):
    """One iteration of a loop. Its record holds its own item only: the other inputs are in the record of the loop.

    Args:
        loop: the loop.
        index: the number of the iteration.
        component: the component of the loop.
    """

    def __init__(self, loop: Loop, index: int, component: Spec) -> None:
        name = f"iteration-{index}"
        super().__init__(loop.run, loop, f"{loop.task.path}/{name}", name, component)
        self._loop = loop

    @property
    def inputs(self) -> Values:
        return inputs.merged(self._loop.inputs, self.task.inputs)


class Loop(Group):
    """A loop. Each iteration is a DAG."""

    def __init__(self, run: Runtime, parent: Group, path: str, name: str, task: Spec, component: Spec) -> None:
        super().__init__(run, parent, path, name, component)
        self._spec = task
        self._limit = int(task.get("iteratorPolicy", {}).get("parallelismLimit", 0))
        self._items: list[Any] = []

    def start(self) -> None:
        self._items = inputs.loop_items(self._spec, self.task.inputs) or []
        super().start()

    def due(self) -> list[Callable[[], None]]:
        if self.closed:
            return []
        active = sum(not child.ended for child in self.children.values())
        first, left = len(self.children), len(self._items) - len(self.children)
        count = min(left, self._limit - active) if self._limit else left
        return [partial(self._start, index) for index in range(first, first + max(count, 0))]

    def gather(self) -> Values:
        return inputs.loop_outputs(self.component, [child.outputs for child in self.children.values()])

    def _complete(self) -> bool:
        return len(self.children) == len(self._items) and super()._complete()

    def _start(self, index: int) -> None:
        node = Iteration(self, index, self.component)
        self.children[node.task.name] = node
        try:
            node.task.inputs = inputs.iteration_inputs(self.component, self._items[index])
            node.start()
        except EngineError as error:
            node.fail(str(error))
