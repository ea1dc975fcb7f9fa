"""Works out what an importer hands on: it moves nothing, it only says where an artifact lies."""

from collections.abc import Mapping

from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values
from workshop.sandbox.pipelines_api.engine.placeholders import fill
from workshop.sandbox.pipelines_api.engine.values import plain


def outputs(component: Spec, importer: Spec, inputs: Values, words: Mapping[str, str]) -> Values:
    """Return an importer's outputs.

    Args:
        component: its component.
        importer: its executor's specification.
        inputs: its inputs.
        words: what placeholders of the run stand for.

    Raises:
        EngineError: it is not said what to import.
    """
    source, parameters = importer.get("artifactUri", {}), inputs["parameters"]
    uri = source["constant"] if "constant" in source else parameters.get(source.get("runtimeParameter"))
    if not uri:
        raise EngineError("it has no URI to import")
    name = next(iter(component.get("outputDefinitions", {}).get("artifacts", {})), "artifact")
    artifact = {
        "name": name,
        "type": importer.get("typeSchema", {}).get("schemaTitle", "system.Artifact"),
        "uri": fill(uri, words, parameters),
        "metadata": fill(plain(importer.get("metadata", {})), words, parameters),
    }
    return {"parameters": {}, "artifacts": {name: [artifact]}}
