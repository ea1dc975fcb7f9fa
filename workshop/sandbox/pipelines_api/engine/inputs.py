"""Works out what goes into a task or DAG, and what comes out of a DAG."""

from collections.abc import Callable, Mapping
from typing import Any

from workshop.sandbox.pipelines_api.engine.conditions import select
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.values import as_type, plain

Spec = Mapping[str, Any]
Values = dict[str, Any]  # {"parameters": {name: value}, "artifacts": {name: [artifact]}}
Outputs = Callable[[str], Values]

# A value that is not there, as opposed to one that is `None`.
_MISSING = object()
# Types of inputs that the engine itself fills in.
_STATUS_TYPES = ("TASK_FINAL_STATUS", "TASK_CONFIG")


def nothing() -> Values:
    """Return inputs or outputs without anything in them."""
    return {"parameters": {}, "artifacts": {}}


def of_task(
    task: Spec,
    component: Spec,
    parent: Values,
    outputs_of: Outputs,
    status_of: Callable[[str], Any],
    fill: Callable[[Any, Values], Any],
) -> Values:
    """Return a task's inputs.

    Args:
        task: its specification.
        component: that of the component behind it.
        parent: inputs of the DAG in which it stands.
        outputs_of: outputs of another task of that DAG, by its name.
        status_of: how another task of that DAG ended, by its name, as an exit task gets to know it.
        fill: fills in the placeholders of a constant, from the task's other parameters.

    Raises:
        EngineError: an input that must be there is not, or is of the wrong type.
    """
    found, origins = nothing(), {}
    constants = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        origins[name] = _origin(source)
        if "runtimeValue" in source:
            constants[name] = source
        elif (value := _parameter(source, parent, outputs_of, status_of)) is not _MISSING:
            found["parameters"][name] = _selected(name, source, value)
    for name, source in constants.items():
        value = fill(plain(_constant(source["runtimeValue"], parent)), found["parameters"])
        if value is not None:
            found["parameters"][name] = _selected(name, source, value)
    for name, source in task.get("inputs", {}).get("artifacts", {}).items():
        origins[name] = _origin(source)
        if (artifacts := _artifacts(source, parent, outputs_of)) is not None:
            found["artifacts"][name] = artifacts
    return complete(found, component, origins, _given_by_iterations(task))


def of_pipeline(arguments: Mapping[str, Any], root: Spec) -> Values:
    """Return the inputs of a pipeline as a whole.

    Raises:
        EngineError: one is missing or of the wrong type.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return complete({"parameters": given, "artifacts": {}}, root, {}, set())


def complete(found: Values, component: Spec, origins: Mapping[str, str], later: set[str]) -> Values:
    """Add defaults to inputs, and bring them to the types that their component declares.

    Args:
        found: the inputs, as far as they are known.
        component: that of the task.
        origins: where each input should have come from, for the error.
        later: inputs that may be missing at this point.

    Raises:
        EngineError: one is missing or of the wrong type.
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
    """Return what a loop goes over.

    Args:
        task: specification of a task.
        inputs: its inputs.

    Returns:
        For each iteration "parameters" or "artifacts", the name of the input that differs, and its value; None when
        the task is no loop.

    Raises:
        EngineError: what it should go over is no list.
    """
    if iterator := task.get("parameterIterator"):
        source = iterator["items"]
        items = source["raw"] if "raw" in source else inputs["parameters"].get(source["inputParameter"])
        return [("parameters", iterator["itemInput"], item) for item in _list(items)]
    if iterator := task.get("artifactIterator"):
        artifacts = inputs["artifacts"].get(iterator["items"]["inputArtifact"], [])
        return [("artifacts", iterator["itemInput"], [artifact]) for artifact in artifacts]
    return None


def of_iteration(task: Spec, component: Spec, inputs: Values, item: tuple[str, str, Any]) -> Values:
    """Return the inputs of one iteration of a loop.

    Raises:
        EngineError: the item is not of the type that the loop declares.
    """
    kind, name, value = item
    own = {"parameters": dict(inputs["parameters"]), "artifacts": dict(inputs["artifacts"])}
    own[kind][name] = value
    return complete(own, component, {}, set())


def dag_outputs(component: Spec, outputs_of: Outputs) -> Values:
    """Return what a DAG hands on; what none of its tasks wrote is left out.

    Args:
        component: that of the DAG.
        outputs_of: outputs of a task of the DAG, by its name; empty ones for a task that did not run.
    """
    outputs = nothing()
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


def collected(component: Spec, iterations: list[Values]) -> Values:
    """Return what a loop hands on: of each output a list, in the order of the iterations.

    Lists of nested loops are nested for parameters, and joined for artifacts, of which there are no nested lists.
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
            raise EngineError(f"its input {name!r} cannot be worked out: {error}") from None
    return value


def _artifacts(source: Spec, parent: Values, outputs_of: Outputs) -> list[Any] | None:
    if "taskOutputArtifact" in source:
        wanted = source["taskOutputArtifact"]
        return outputs_of(wanted["producerTask"])["artifacts"].get(wanted["outputArtifactKey"])
    return parent["artifacts"].get(source.get("componentInputArtifact"))


def _origin(source: Spec) -> str:
    """Say where an input comes from, for the error that tells that it has not come."""
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
        raise EngineError(f"its input {name!r} is of the wrong type: {error}") from None


def _list(items: Any) -> list[Any]:
    try:
        return as_type(items, "LIST")
    except EngineError:
        raise EngineError(f"a loop needs a list to go over, and got {items!r}") from None
