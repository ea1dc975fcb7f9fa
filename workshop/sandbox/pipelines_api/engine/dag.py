"""The nodes that hold others, and when these begin: what Argo Workflows does for Kubeflow on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from workshop.sandbox.pipelines_api.engine import inputs, placeholders, spec
from workshop.sandbox.pipelines_api.engine.conditions import holds
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values
from workshop.sandbox.pipelines_api.engine.leaf import Leaf
from workshop.sandbox.pipelines_api.engine.node import GONE_WELL, Node

if TYPE_CHECKING:
    from workshop.sandbox.pipelines_api.engine.run import Run


def bottom_up(node: Node) -> Iterator[Node]:
    """Go through a node and all below it, each after what it holds."""
    if isinstance(node, Group):
        for child in node.children.values():
            yield from bottom_up(child)
    yield node


class Group(Node):
    """A node that holds others."""

    def __init__(self, run: Run, parent: Group | None, path: str, name: str, component: Spec) -> None:
        super().__init__(run, parent, path, name, "dag")
        self.component = component
        self.children: dict[str, Node] = {}

    def start(self) -> None:
        self.task.state, self.task.started = "RUNNING", time.time()
        self.run.save(self.task)
        self.run.post(self.advance)

    def advance(self) -> None:
        """Start what can be started; end when nothing is left."""
        if self.ended:
            return
        while due := self.due():
            for start in due:
                start()
        if all(child.ended for child in self.children.values()):
            self._finish()

    def due(self) -> list[Callable[[], None]]:
        """Return what starts the children that can be started now."""
        raise NotImplementedError

    def gather(self) -> Values:
        """Return the node's outputs, when all has gone well."""
        raise NotImplementedError

    @property
    def anew(self) -> bool:
        return super().anew or any(child.anew for child in self.children.values())

    @property
    def failed(self) -> Node | None:
        """The child that failed first."""
        failed = [child for child in self.children.values() if child.task.state == "FAILED"]
        return min(failed, key=lambda child: child.task.ended, default=None)

    @property
    def closed(self) -> bool:
        """Whether no child may start any more, except those that follow failures."""
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
        return all(child.task.state in GONE_WELL for child in self.children.values())


class Dag(Group):
    """A DAG: the whole pipeline, a pipeline in a pipeline, a condition's group, an iteration."""

    def __init__(self, run: Run, parent: Group | None, path: str, name: str, component: Spec) -> None:
        super().__init__(run, parent, path, name, component)
        self._tasks: dict[str, Spec] = dict(component.get("dag", {}).get("tasks", {}))
        self._upstream = {key: spec.upstream_of(task) for key, task in self._tasks.items()}

    def due(self) -> list[Callable[[], None]]:
        return [
            lambda key=key: self._start(key) for key in self._tasks if key not in self.children and self._is_due(key)
        ]

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
        return not self.closed and all(node is not None and node.task.state in GONE_WELL for node in upstream)

    def _start(self, key: str) -> None:
        task = self._tasks[key]
        node = self.children[key] = self._node(key, task)
        try:
            node.task.inputs = self._inputs(node, task)
            condition = task.get("triggerPolicy", {}).get("condition")
            if condition and not holds(condition, node.task.inputs["parameters"]):
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
            return Leaf(self.run, self, path, name, task, component)
        if "parameterIterator" in task or "artifactIterator" in task:
            return Loop(self.run, self, path, name, task, component)
        return Dag(self.run, self, path, name, component)

    def _inputs(self, node: Node, task: Spec) -> Values:
        words = placeholders.of_run(self.run.job, node.task)
        return inputs.of_task(
            task,
            spec.component_of(self.run.job.spec, task),
            self.task.inputs,
            self._outputs_of,
            self._status_of,
            lambda value, parameters: placeholders.fill(value, words, parameters),
        )

    def _outputs_of(self, key: str) -> Values:
        return self.children[key].outputs if key in self.children else inputs.nothing()

    def _status_of(self, key: str) -> dict[str, Any]:
        """Describe how a task ended, as `dsl.PipelineTaskFinalStatus` reads it."""
        node = self.children[key]
        failure = node.failure
        return {
            "state": "FAILED" if failure else "SUCCEEDED",
            "pipelineJobResourceName": placeholders.resource_name(self.run.job),
            "pipelineTaskName": key,
            "error": {"code": failure.code, "message": str(failure)} if failure else {},
        }


class Loop(Group):
    """A loop: its iterations, each a DAG of its own."""

    def __init__(self, run: Run, parent: Group, path: str, name: str, task: Spec, component: Spec) -> None:
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
        return [lambda index=index: self._start(index) for index in range(first, first + max(count, 0))]

    def gather(self) -> Values:
        return inputs.collected(self.component, [child.outputs for child in self.children.values()])

    def _complete(self) -> bool:
        return len(self.children) == len(self._items) and super()._complete()

    def _start(self, index: int) -> None:
        name = f"iteration-{index}"
        node = self.children[name] = Dag(self.run, self, f"{self.task.path}/{name}", name, self.component)
        try:
            item = self._items[index]
            node.task.inputs = inputs.of_iteration(self._spec, self.component, self.task.inputs, item)
            node.start()
        except EngineError as error:
            node.fail(str(error))
