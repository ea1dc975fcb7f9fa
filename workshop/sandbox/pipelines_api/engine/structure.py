"""Checks that the tasks of a pipeline refer only to what exists, and that all tasks can start."""

from collections import deque
from collections.abc import Iterator

from workshop.sandbox.pipelines_api.engine import spec as specs
from workshop.sandbox.pipelines_api.engine.spec import Spec

MAX_TASKS = 10_000  # tasks of a whole pipeline; a component counts each time that a task uses it
MAX_LEVELS = 50  # components inside each other
# The kinds of outputs: where a task names its source, the key of the output, and the outputs of the component.
_OUTPUTS = (
    ("parameters", "taskOutputParameter", "outputParameterKey"),
    ("artifacts", "taskOutputArtifact", "outputArtifactKey"),
)


def problems(spec: Spec) -> Iterator[str]:
    """Yield a sentence for each problem. The sentence names the task.

    The work grows with the size of the specification, not with the number of tasks that the pipeline would start.

    Args:
        spec: the `PipelineSpec` as a dictionary.
    """
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    found = False
    for component in (spec.get("root", {}), *components.values()):
        for problem in _problems_of_tasks(component, components):
            found = True
            yield problem
    for name, component in components.items():
        label = component.get("executorLabel")
        if label is not None and label not in executors:
            yield f"it lacks the executor {label!r} of the component {name!r}"
    if not found and (problem := _problem_of_size(spec)):
        yield problem


def _problems_of_tasks(component: Spec, components: Spec) -> Iterator[str]:
    dag = component.get("dag", {})
    tasks = dag.get("tasks", {})
    found = False
    for name, task in tasks.items():
        for problem in (*_missing_component(name, task, components), *_missing_sources(name, task, tasks, components)):
            found = True
            yield problem
    if not found:
        yield from _cycle(tasks)
        yield from _missing_outputs_of_dag(dag, tasks, components)


def _missing_component(name: str, task: Spec, components: Spec) -> Iterator[str]:
    component = task.get("componentRef", {}).get("name", "")
    if component not in components:
        yield f"it lacks the component {component!r} of the task {name!r}"


def _missing_sources(name: str, task: Spec, tasks: Spec, components: Spec) -> Iterator[str]:
    for other in sorted(specs.upstream_of(task)):
        if other == name:
            yield f"the task {name!r} depends on itself"
        elif other not in tasks:
            yield f"the task {name!r} depends on the task {other!r}, which does not exist beside it"
    for kind, key, output_key in _OUTPUTS:
        for source in task.get("inputs", {}).get(kind, {}).values():
            if key in source:
                wanted = source[key]
                producer, output = wanted.get("producerTask", ""), wanted.get(output_key, "")
                if producer in tasks and not _has_output(producer, kind, output, tasks, components):
                    yield f"the task {name!r} takes the output {output!r}, which the task {producer!r} does not have"


def _missing_outputs_of_dag(dag: Spec, tasks: Spec, components: Spec) -> Iterator[str]:
    outputs = dag.get("outputs", {})
    for kind, selectors, output_key in (
        ("parameters", _parameter_selectors, "outputParameterKey"),
        ("artifacts", _artifact_selectors, "outputArtifactKey"),
    ):
        for name, output in outputs.get(kind, {}).items():
            for selector in selectors(output):
                producer, key = selector.get("producerSubtask", ""), selector.get(output_key, "")
                if producer not in tasks:
                    yield f"the output {name!r} comes from the task {producer!r}, which does not exist"
                elif not _has_output(producer, kind, key, tasks, components):
                    yield f"the output {name!r} is the output {key!r}, which the task {producer!r} does not have"


def _parameter_selectors(output: Spec) -> list[Spec]:
    if "valueFromParameter" in output:
        return [output["valueFromParameter"]]
    selectors: list[Spec] = output.get("valueFromOneof", {}).get("parameterSelectors", [])
    return selectors


def _artifact_selectors(output: Spec) -> list[Spec]:
    selectors: list[Spec] = output.get("artifactSelectors", [])
    return selectors


def _has_output(task: str, kind: str, output: str, tasks: Spec, components: Spec) -> bool:
    component = components.get(tasks[task].get("componentRef", {}).get("name", ""), {})
    return output in component.get("outputDefinitions", {}).get(kind, {})


def _cycle(tasks: Spec) -> Iterator[str]:
    """Yield the tasks that wait for each other. A task that no cycle blocks gets its turn."""
    waits_for = {name: specs.upstream_of(task) for name, task in tasks.items()}
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for name, upstream in waits_for.items():
        for other in upstream:
            followers[other].append(name)
    ready = deque(name for name, upstream in waits_for.items() if not upstream)
    left = {name: len(upstream) for name, upstream in waits_for.items()}
    while ready:
        name = ready.popleft()
        del left[name]
        for follower in followers[name]:
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
    if left:
        named = ", ".join(repr(name) for name in sorted(left)[:5])
        yield f"the tasks {named} wait for each other, so none of them can start"


def _problem_of_size(spec: Spec) -> str:
    """Return why the tasks of all levels are too many; "" if they are not. All components exist."""
    components = spec.get("components", {})
    known: dict[str, tuple[int, int]] = {}

    def measure(component: Spec, above: tuple[str, ...]) -> tuple[int, int]:
        """Return the number of tasks in a component, and the number of its levels."""
        count, levels = 0, 0
        for task, name in _references(component):
            if name in above or len(above) > MAX_LEVELS:
                raise _TooMany(
                    f"the component {name!r} of the task {task!r} contains itself"
                    if name in above
                    else f"the task {task!r} is below more than {MAX_LEVELS} other tasks"
                )
            if name not in known:
                known[name] = measure(components[name], (*above, name))
            count, levels = count + 1 + known[name][0], max(levels, 1 + known[name][1])
            if count > MAX_TASKS or levels + len(above) > MAX_LEVELS:
                raise _TooMany(
                    f"with the task {task!r} it has more than {MAX_TASKS:,} tasks, or more than {MAX_LEVELS} levels"
                )
        return count, levels

    try:
        measure(spec.get("root", {}), ())
    except _TooMany as error:
        return str(error)
    return ""


class _TooMany(Exception):
    """The pipeline has too many tasks. The message names one."""


def _references(component: Spec) -> Iterator[tuple[str, str]]:
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        yield name, task["componentRef"]["name"]
