"""Hands a task its inputs, and takes its outputs, in the forms that `kfp.dsl.executor` reads and writes."""

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp import dsl
from kfp.local import executor_input_utils, executor_output_utils
from kfp.pipeline_spec import pipeline_spec_pb2

from workshop.sandbox.pipelines_api.engine.artifacts import Store, is_local
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values, nothing
from workshop.sandbox.pipelines_api.engine.values import as_type, plain

# Of these, people use what stands in the metadata; most have no file.
_WITHOUT_FILE = ("system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics")

Artifact = Mapping[str, Any]


def executor_input(store: Store, component: Spec, inputs: Values, folder: Path) -> pipeline_spec_pb2.ExecutorInput:
    """Describe to a task where its input artifacts lie and where its outputs belong.

    Args:
        store: brings the input artifacts here.
        component: the task's component.
        inputs: the task's inputs; the parameters among them are added by `as_dictionary`.
        folder: where outputs belong.

    Raises:
        EngineError: an input artifact cannot be had.
        Cancelled: the run was cancelled meanwhile.
    """
    message = executor_input_utils.construct_executor_input(
        component_spec=_outputs_only(component), arguments={}, task_root=str(folder), block_input_artifact=False
    )
    for name, artifacts in inputs["artifacts"].items():
        found = [_runtime_artifact(name, artifact, _path(store, name, artifact)) for artifact in artifacts]
        message.inputs.artifacts[name].artifacts.extend(found)
    return message


def as_dictionary(message: pipeline_spec_pb2.ExecutorInput, inputs: Values) -> dict[str, Any]:
    """Return the description as the dictionary that a task reads, with its parameters in it."""
    whole = plain(
        executor_input_utils.executor_input_to_dict(
            executor_input=message, component_spec=pipeline_spec_pb2.ComponentSpec()
        )
    )
    # Not through the message, whose numbers are all floats, and which has no `null`.
    whole.setdefault("inputs", {})["parameterValues"] = inputs["parameters"]
    return whole


def take_outputs(store: Store, component: Spec, message: pipeline_spec_pb2.ExecutorInput, root: str) -> Values:
    """Return what a task has written, its artifacts stored in S3.

    Args:
        store: stores the artifacts.
        component: the task's component.
        message: what the task was told.
        root: URI below which its artifacts belong.

    Raises:
        EngineError: the task wrote something that cannot be read or stored.
        Cancelled: the run was cancelled meanwhile.
    """
    written = _written(component, message)
    outputs, declared = nothing(), component.get("outputDefinitions", {})
    for name, definition in declared.get("parameters", {}).items():
        if name in written and written[name] is not None:
            outputs["parameters"][name] = _typed(name, written[name], definition)
    folder = f"{root}/{uuid.uuid4()}"
    for name in declared.get("artifacts", {}):
        given = message.outputs.artifacts[name].artifacts[0]
        own = written.get(name) or executor_output_utils.runtime_artifact_to_dsl_artifact(given)
        outputs["artifacts"][name] = [_stored(store, name, own, given, f"{folder}/{name}")]
    return outputs


def _outputs_only(component: Spec) -> pipeline_spec_pb2.ComponentSpec:
    declared = {"outputDefinitions": component.get("outputDefinitions", {})}
    return json_format.ParseDict(declared, pipeline_spec_pb2.ComponentSpec(), ignore_unknown_fields=True)


def _written(component: Spec, message: pipeline_spec_pb2.ExecutorInput) -> dict[str, Any]:
    try:
        _refuse_odd_numbers(executor_output_utils.load_executor_output(message.outputs.output_file))
        return executor_output_utils.get_outputs_for_task(message, _outputs_only(component))
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"its outputs cannot be read: {error}") from error


def _refuse_odd_numbers(told: pipeline_spec_pb2.ExecutorOutput) -> None:
    """Refuse what Python writes into JSON, but no one else reads from it."""
    for name, value in told.parameter_values.items():
        _refuse_odd_number(f"its output {name!r}", executor_output_utils.pb2_value_to_python(value))
    for name, artifacts in told.artifacts.items():
        for artifact in artifacts.artifacts:
            for key, value in executor_output_utils.pb2_struct_to_python(artifact.metadata).items():
                _refuse_odd_number(f"the metadata {key!r} of its output {name!r}", value)


def _refuse_odd_number(what: str, value: Any) -> None:
    if (odd := _odd_number(value)) is not None:
        verb = "is" if odd is value else "holds"
        raise EngineError(f"{what} {verb} {json.dumps(odd)}, which JSON cannot hold; return a text, or leave it out")


def _odd_number(value: Any) -> float | None:
    """Return the first number in a value that is none to JSON, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((odd for odd in map(_odd_number, inner) if odd is not None), None)


def _path(store: Store, name: str, artifact: Artifact) -> Path:
    try:
        return store.local(artifact["uri"])
    except FileNotFoundError as error:
        if artifact["type"] in _WITHOUT_FILE:
            return store.place(artifact["uri"])
        raise EngineError(f"its input artifact {name!r} cannot be read: {error}") from None
    except EngineError as error:
        raise EngineError(f"its input artifact {name!r} cannot be read: {error}") from error


def _runtime_artifact(name: str, artifact: Artifact, path: Path) -> pipeline_spec_pb2.RuntimeArtifact:
    return pipeline_spec_pb2.RuntimeArtifact(
        name=artifact["name"] or name,
        type=pipeline_spec_pb2.ArtifactTypeSchema(schema_title=artifact["type"], schema_version="0.0.1"),
        uri=str(path),
        metadata=executor_input_utils.dict_to_protobuf_struct(artifact["metadata"]),
    )


def _stored(
    store: Store, name: str, own: dsl.Artifact, given: pipeline_spec_pb2.RuntimeArtifact, uri: str
) -> dict[str, Any]:
    record = {"name": own.name or name, "type": given.type.schema_title, "metadata": plain(own.metadata)}
    if own.uri and not is_local(own.uri):
        return record | {"uri": own.uri}
    path = Path((own.custom_path or own.uri or given.uri).removeprefix("file://"))
    store.keep(uri, path)
    if path.exists():
        store.upload(path, uri)
    return record | {"uri": uri}


def _typed(name: str, value: Any, definition: Spec) -> Any:
    _refuse_odd_number(f"its output {name!r}", value)
    try:
        return as_type(value, definition.get("parameterType", ""))
    except EngineError as error:
        raise EngineError(f"its output {name!r} is of the wrong type: {error}") from None
