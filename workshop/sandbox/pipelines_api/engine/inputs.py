"""Computes the inputs of tasks, DAGs and loop iterations, and the outputs of DAGs and loops."""

from collections.abc import Callable, Mapping
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.expressions import select
from workshop.sandbox.pipelines_api.engine.values import as_type, normalize_numbers

Spec = Mapping[str, Any]
Values = dict[str, Any]  # {"parameters": {name: value}, "artifacts": {name: [artifact]}}
Outputs = Callable[[str], Values]

# Marks a missing value; None is a possible value.
_MISSING = object()
# Types of inputs whose values the engine provides.
_STATUS_TYPES = ("TASK_FINAL_STATUS", "TASK_CONFIG")


def empty_values() -> Values:
    """Return inputs or outputs without parameters and artifacts."""
    return {"parameters": {}, "artifacts": {}}


def task_inputs(
    task: Spec,
    component: Spec,
    parent: Values,
    outputs_of: Outputs,
    status_of: Callable[[str], Any],
    fill: Callable[[Any, Values], Any],
) -> Values:
    """Return the inputs of a task.

    Args:
        task: the task specification.
        component: the component of the task.
        parent: the inputs of the DAG that contains the task.
        outputs_of: returns the outputs of another task of that DAG, by its name.
        status_of: returns how another task of that DAG ended, by its name, for an exit task.
        fill: replaces the placeholders of a constant; the task's other parameters are available to it.

    Raises:
        EngineError: a required input is missing, or an input has the wrong type.
    """
    found, origins = empty_values(), {}
    constants = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        origins[name] = _origin(source)
        if "runtimeValue" in source:
            constants[name] = source
        elif (value := _parameter(source, parent, outputs_of, status_of)) is not _MISSING:
            found["parameters"][name] = _selected(name, source, value)
    for name, source in constants.items():
        value = fill(normalize_numbers(_constant(source["runtimeValue"], parent)), found["parameters"])
        if value is not None:
            found["parameters"][name] = _selected(name, source, value)
    for name, source in task.get("inputs", {}).get("artifacts", {}).items():
        origins[name] = _origin(source)
        if (artifacts := _artifacts(source, parent, outputs_of)) is not None:
            found["artifacts"][name] = artifacts
    return complete(found, component, origins, _given_by_iterations(task))


def pipeline_inputs(arguments: Mapping[str, Any], root: Spec) -> Values:
    """Return the inputs of the whole pipeline.

    Args:
        arguments: the arguments of the run, by name.
        root: the root component.

    Raises:
        EngineError: an input is missing or has the wrong type.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return complete({"parameters": given, "artifacts": {}}, root, {}, set())


def complete(found: Values, component: Spec, origins: Mapping[str, str], later: set[str]) -> Values:
    """Add default values to inputs, and convert them to the types that the component declares.

    Args:
        found: the known inputs.
        component: the component of the task.
        origins: the source of each input, for error messages.
        later: names of inputs that get their value later.

    Raises:
        EngineError: an input is missing or has the wrong type.
    """
    definitions = component.get("inputDefinitions", {})
    parameters, artifacts = dict(found["parameters"]), dict(found["artifacts"])
    for name, definition in definitions.get("parameters", {}).items():
        if name not in parameters and "defaultValue" in definition:
            parameters[name] = definition["defaultValue"]
        if name in parameters:
            parameters[name] = _typed(name, parameters[name], definition)
        elif not definition.get("isOptional") and name not in later:
            raise EngineError(f"its input {name!r} has no value{origins.get(name, '')}")
    for name, definition in definitions.get("artifacts", {}).items():
        if name not in artifacts and not definition.get("isOptional") and name not in later:
            raise EngineError(f"its input artifact {name!r} is missing{origins.get(name, '')}")
    return {"parameters": parameters, "artifacts": artifacts}


def loop_items(task: Spec, inputs: Values) -> list[tuple[str, str, Any]] | None:
    """Return the items of a loop.

    Args:
        task: the task specification.
        inputs: the inputs of the task.

    Returns:
        For each iteration: "parameters" or "artifacts", the name of the loop variable, and its value. None if the
        task is not a loop.

    Raises:
        EngineError: the items are not a list.
    """
    if iterator := task.get("parameterIterator"):
        source = iterator["items"]
        items = source["raw"] if "raw" in source else inputs["parameters"].get(source["inputParameter"])
        return [("parameters", iterator["itemInput"], item) for item in _list(items)]
    if iterator := task.get("artifactIterator"):
        artifacts = inputs["artifacts"].get(iterator["items"]["inputArtifact"], [])
        return [("artifacts", iterator["itemInput"], [artifact]) for artifact in artifacts]
    return None


def iteration_inputs(component: Spec, item: tuple[str, str, Any]) -> Values:
    """Return the inputs that only one iteration of a loop has: its item.

    Args:
        component: the component of the loop.
        item: one entry of `loop_items`.

    Raises:
        EngineError: the item does not have the type that the loop declares.
    """
    kind, name, value = item
    own = empty_values()
    if kind == "parameters":
        definition = component.get("inputDefinitions", {}).get("parameters", {}).get(name, {})
        value = _typed(name, value, definition)
    own[kind][name] = value
    return own


def merged(inputs: Values, own: Values) -> Values:
    """Return inputs together with further inputs.

    Args:
        inputs: the inputs of a loop.
        own: the inputs of an iteration. They replace inputs with the same name.
    """
    return {kind: inputs[kind] | own[kind] for kind in empty_values()}


def dag_outputs(component: Spec, outputs_of: Outputs) -> Values:
    """Return the outputs of a DAG. Outputs that no task has written are left out.

    Args:
        component: the component of the DAG.
        outputs_of: returns the outputs of a task of the DAG, by its name. The outputs are empty if the task did not
        run.
    """
    outputs = empty_values()
    declared = component.get("dag", {}).get("outputs", {})
    for name, output in declared.get("parameters", {}).items():
        selectors = output.get("valueFromOneof", {}).get("parameterSelectors", [])
        if "valueFromParameter" in output:
            selectors = [output["valueFromParameter"]]
        for selector in selectors:
            values = outputs_of(selector["producerSubtask"])["parameters"]
            if selector["outputParameterKey"] in values:
                outputs["parameters"][name] = values[selector["outputParameterKey"]]
                break
    for name, output in declared.get("artifacts", {}).items():
        for selector in output.get("artifactSelectors", []):
            artifacts = outputs_of(selector["producerSubtask"])["artifacts"]
            if selector["outputArtifactKey"] in artifacts:
                outputs["artifacts"][name] = artifacts[selector["outputArtifactKey"]]
                break
    return outputs


def loop_outputs(component: Spec, iterations: list[Values]) -> Values:
    """Return the outputs of a loop: one list for each output, in the order of the iterations.

    Parameters of nested loops become nested lists. Artifacts become one flat list: nested lists of artifacts do not
    exist.

    Args:
        component: the component of the loop.
        iterations: the outputs of each iteration.
    """
    declared = component.get("dag", {}).get("outputs", {})
    parameters = {
        name: [outputs["parameters"][name] for outputs in iterations if name in outputs["parameters"]]
        for name in declared.get("parameters", {})
    }
    artifacts = {
        name: [artifact for outputs in iterations for artifact in outputs["artifacts"].get(name, [])]
        for name in declared.get("artifacts", {})
    }
    return {"parameters": parameters, "artifacts": artifacts}


def _parameter(source: Spec, parent: Values, outputs_of: Outputs, status_of: Callable[[str], Any]) -> Any:
    if "taskOutputParameter" in source:
        wanted = source["taskOutputParameter"]
        return outputs_of(wanted["producerTask"])["parameters"].get(wanted["outputParameterKey"], _MISSING)
    if "componentInputParameter" in source:
        return parent["parameters"].get(source["componentInputParameter"], _MISSING)
    if "taskFinalStatus" in source:
        return status_of(source["taskFinalStatus"]["producerTask"])
    return _MISSING


def _constant(value: Spec, parent: Values) -> Any:
    if "runtimeParameter" in value:
        return parent["parameters"].get(value["runtimeParameter"])
    return value.get("constant")


def _selected(name: str, source: Spec, value: Any) -> Any:
    if selector := source.get("parameterExpressionSelector"):
        try:
            return select(selector, value)
        except EngineError as error:
            raise EngineError(f"its input {name!r} cannot be computed: {error}") from None
    return value


def _artifacts(source: Spec, parent: Values, outputs_of: Outputs) -> list[Any] | None:
    found: list[Any] | None
    if "taskOutputArtifact" in source:
        wanted = source["taskOutputArtifact"]
        found = outputs_of(wanted["producerTask"])["artifacts"].get(wanted["outputArtifactKey"])
    else:
        found = parent["artifacts"].get(source.get("componentInputArtifact"))
    return found


def _origin(source: Spec) -> str:
    """Return the source of an input, for the message about a missing input."""
    for kind, key in (("taskOutputParameter", "outputParameterKey"), ("taskOutputArtifact", "outputArtifactKey")):
        if kind in source:
            return f": the task {source[kind]['producerTask']!r} did not write its output {source[kind][key]!r}"
    return ""


def _given_by_iterations(task: Spec) -> set[str]:
    return {task[kind]["itemInput"] for kind in ("parameterIterator", "artifactIterator") if kind in task}


def _typed(name: str, value: Any, definition: Spec) -> Any:
    kind = definition.get("parameterType", "")
    if kind in _STATUS_TYPES:
        return value
    try:
        return as_type(value, kind)
    except EngineError as error:
        raise EngineError(f"its input {name!r} has the wrong type: {error}") from None


def _list(items: Any) -> list[Any]:
    try:
        items_as_list: list[Any] = as_type(items, "LIST")
    except EngineError:
        raise EngineError(f"a loop needs a list of items, but got {items!r}") from None
    return items_as_list
