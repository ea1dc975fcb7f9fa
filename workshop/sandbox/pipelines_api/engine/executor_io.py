"""Passes inputs to a task and reads its outputs, in the formats of `kfp.dsl.executor`."""

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
from workshop.sandbox.pipelines_api.engine.inputs import Spec, Values, empty_values
from workshop.sandbox.pipelines_api.engine.regular_files import MAX_OUTPUT_BYTES, check, files_of
from workshop.sandbox.pipelines_api.engine.values import as_type, normalize_numbers

# Artifacts of these types carry their values in the metadata. Most artifacts of these types have no file.
_WITHOUT_FILE = ("system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics")

Artifact = Mapping[str, Any]


def executor_input(store: Store, component: Spec, inputs: Values, folder: Path) -> pipeline_spec_pb2.ExecutorInput:
    """Return the `ExecutorInput` of a task: the paths of its input artifacts and of its outputs.

    Args:
        store: downloads the input artifacts.
        component: the task's component.
        inputs: the task's inputs. `as_dictionary` adds the parameters.
        folder: the folder for outputs.

    Raises:
        EngineError: an input artifact cannot be downloaded.
        Cancelled: the run was cancelled.
    """
    message = executor_input_utils.construct_executor_input(
        component_spec=_outputs_only(component), arguments={}, task_root=str(folder), block_input_artifact=False
    )
    for name, artifacts in inputs["artifacts"].items():
        found = [_runtime_artifact(name, artifact, _path(store, name, artifact)) for artifact in artifacts]
        message.inputs.artifacts[name].artifacts.extend(found)
    return message


def as_dictionary(message: pipeline_spec_pb2.ExecutorInput, inputs: Values) -> dict[str, Any]:
    """Return an `ExecutorInput` as the dictionary that a task reads, including the parameters."""
    message_as_dict: dict[str, Any] = normalize_numbers(
        executor_input_utils.executor_input_to_dict(
            executor_input=message, component_spec=pipeline_spec_pb2.ComponentSpec()
        )
    )
    # Parameters are not set in the message, because it holds numbers only as floats and has no `null`.
    message_as_dict.setdefault("inputs", {})["parameterValues"] = inputs["parameters"]
    return message_as_dict


def take_outputs(
    store: Store, component: Spec, message: pipeline_spec_pb2.ExecutorInput, root: str, run_folder: Path
) -> Values:
    """Read the outputs that a task has written, and upload its artifacts to S3.

    Args:
        store: uploads the artifacts.
        component: the task's component.
        message: the task's `ExecutorInput`.
        root: URI under which its artifacts are stored.
        run_folder: the folder of the run. Links in this folder that lead to another place are refused.

    Raises:
        EngineError: an output cannot be read or stored.
        Cancelled: the run was cancelled.
    """
    _check_files(message, run_folder)
    written = _written(component, message)
    outputs, declared = empty_values(), component.get("outputDefinitions", {})
    for name, definition in declared.get("parameters", {}).items():
        if name in written and written[name] is not None:
            outputs["parameters"][name] = _typed(name, written[name], definition)
    folder = f"{root}/{uuid.uuid4()}"
    for name in declared.get("artifacts", {}):
        given = message.outputs.artifacts[name].artifacts[0]
        own = written.get(name) or executor_output_utils.runtime_artifact_to_dsl_artifact(given)
        outputs["artifacts"][name] = [_stored(store, name, own, given, f"{folder}/{name}", run_folder)]
    return outputs


def _check_files(message: pipeline_spec_pb2.ExecutorInput, run_folder: Path) -> None:
    """Check the files from which `kfp.local` reads the outputs."""
    for name, parameter in message.outputs.parameters.items():
        try:
            check(Path(parameter.output_file), run_folder, MAX_OUTPUT_BYTES)
        except EngineError as error:
            raise EngineError(f"its output {name!r} cannot be read: {error}") from None
    try:
        check(Path(message.outputs.output_file), run_folder, MAX_OUTPUT_BYTES)
    except EngineError as error:
        raise EngineError(f"its outputs cannot be read: {error}") from None


def _outputs_only(component: Spec) -> pipeline_spec_pb2.ComponentSpec:
    declared = {"outputDefinitions": component.get("outputDefinitions", {})}
    return json_format.ParseDict(declared, pipeline_spec_pb2.ComponentSpec(), ignore_unknown_fields=True)


def _written(component: Spec, message: pipeline_spec_pb2.ExecutorInput) -> dict[str, Any]:
    try:
        _refuse_non_finite_numbers(executor_output_utils.load_executor_output(message.outputs.output_file))
        written: dict[str, Any] = executor_output_utils.get_outputs_for_task(message, _outputs_only(component))
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"its outputs cannot be read: {error}") from error
    return written


def _refuse_non_finite_numbers(output: pipeline_spec_pb2.ExecutorOutput) -> None:
    """Refuse NaN and infinity. Python writes them to JSON, but they are not valid JSON."""
    for name, value in output.parameter_values.items():
        _refuse_non_finite(f"its output {name!r}", executor_output_utils.pb2_value_to_python(value))
    for name, artifacts in output.artifacts.items():
        for artifact in artifacts.artifacts:
            for key, value in executor_output_utils.pb2_struct_to_python(artifact.metadata).items():
                _refuse_non_finite(f"the metadata {key!r} of its output {name!r}", value)


def _refuse_non_finite(name: str, value: Any) -> None:
    if (number := _first_non_finite(value)) is not None:
        verb = "is" if number is value else "contains"
        raise EngineError(
            f"{name} {verb} {json.dumps(number)}, which JSON cannot represent; return a text, or leave the value out"
        )


def _first_non_finite(value: Any) -> float | None:
    """Return the first NaN or infinity in a value, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((number for number in map(_first_non_finite, inner) if number is not None), None)


def _path(store: Store, name: str, artifact: Artifact) -> Path:
    try:
        return store.fetch(artifact["uri"])
    except FileNotFoundError as error:
        if artifact["type"] in _WITHOUT_FILE:
            return store.download_path(artifact["uri"])
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
    store: Store, name: str, own: dsl.Artifact, given: pipeline_spec_pb2.RuntimeArtifact, uri: str, run_folder: Path
) -> dict[str, Any]:
    record = {"name": own.name or name, "type": given.type.schema_title, "metadata": normalize_numbers(own.metadata)}
    if own.uri and not is_local(own.uri):
        return record | {"uri": own.uri}
    path = Path((own.custom_path or own.uri or given.uri).removeprefix("file://"))
    store.remember(uri, path)
    if path.exists():
        try:
            files = list(files_of(path, run_folder))
        except EngineError as error:
            raise EngineError(f"its output artifact {name!r} cannot be stored: {error}") from None
        store.upload(path, uri, files)
    return record | {"uri": uri}


def _typed(name: str, value: Any, definition: Spec) -> Any:
    _refuse_non_finite(f"its output {name!r}", value)
    try:
        return as_type(value, definition.get("parameterType", ""))
    except EngineError as error:
        raise EngineError(f"its output {name!r} has the wrong type: {error}") from None
