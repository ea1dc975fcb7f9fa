"""Computes the outputs of an importer. An importer copies no data; it only records where an artifact is."""

from collections.abc import Mapping

from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values
from workshop.sandbox.pipelines_api.engine.placeholders import fill
from workshop.sandbox.pipelines_api.engine.values import normalize_numbers


def outputs(component: Spec, importer: Spec, inputs: Values, substitutions: Mapping[str, str]) -> Values:
    """Return an importer's outputs.

    Args:
        component: the component of the importer.
        importer: the specification of its executor.
        inputs: its inputs.
        substitutions: the values of the run's placeholders.

    Raises:
        EngineError: the importer has no URI.
    """
    source, parameters = importer.get("artifactUri", {}), inputs["parameters"]
    uri = source["constant"] if "constant" in source else parameters.get(source.get("runtimeParameter"))
    if not uri:
        raise EngineError("it has no URI to import")
    name = next(iter(component.get("outputDefinitions", {}).get("artifacts", {})), "artifact")
    artifact = {
        "name": name,
        "type": importer.get("typeSchema", {}).get("schemaTitle", "system.Artifact"),
        "uri": fill(uri, substitutions, parameters),
        "metadata": fill(normalize_numbers(importer.get("metadata", {})), substitutions, parameters),
    }
    return {"parameters": {}, "artifacts": {name: [artifact]}}
