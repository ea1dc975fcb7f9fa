"""Checks compiled pipelines and their arguments."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from workshop.sandbox.pipelines_api import argo, documents
from workshop.sandbox.pipelines_api.documents import MAX_NODES
from workshop.sandbox.pipelines_api.engine import structure
from workshop.sandbox.pipelines_api.engine.values import MAX_DEPTH, normalize_numbers
from workshop.sandbox.pipelines_api.errors import ApiError, impossible, invalid
from workshop.sandbox.pipelines_api.listing import is_valid_unicode
from workshop.sandbox.pipelines_api.protojson import MAX_NUMBER

MAX_BYTES = 32 << 20  # `common.MaxFileLength` of the server
SCHEMA_VERSION = "2.1.0"
# `ValidatePipelineName` of the server.
MISSING = object()
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
NOT_A_PACKAGE = "Upload the YAML file that `kfp dsl compile` writes."
# The type in the server's messages, and the rest of the sentence about a value of another type.
TYPES = {
    "STRING": ("string", "input parameter is not of string"),
    "NUMBER_INTEGER": ("double or integer", "parameter value is not of number"),
    "NUMBER_DOUBLE": ("double or integer", "parameter value is not of number"),
    "BOOLEAN": ("bool", "input parameter is not of bool"),
    "LIST": ("list", "input parameter is not of list"),
    "STRUCT": ("struct", "input parameter is not of struct"),
}


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        spec: the `PipelineSpec` as a dictionary with the names of its JSON form.
        platform: the `PlatformSpec` in the same form; empty if the file contains none.
        wrapped: whether the request has both specs by name, even if the second one is empty.
    """

    spec: dict[str, Any]
    platform: dict[str, Any]
    wrapped: bool = False

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def document(self) -> dict[str, Any]:
        """The pipeline in the form of the API: the spec alone, or both specs by name."""
        if not self.platform and not self.wrapped:
            return self.spec
        return {"pipeline_spec": self.spec, "platform_spec": self.platform}


def read_file(content: bytes, name: str) -> Package:
    """Read an uploaded YAML or JSON file.

    Args:
        content: the file.
        name: its name, for error messages.

    Raises:
        ApiError: the file is not a compiled pipeline. The message says why.
    """
    if not content.strip():
        raise invalid(f"{name} is empty. {NOT_A_PACKAGE}")
    if len(content) > MAX_BYTES:
        raise invalid(f"{name} has {len(content):,} bytes; the limit is {MAX_BYTES:,}. {NOT_A_PACKAGE}")
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b")):
        raise invalid(f"{name} is an archive, not a compiled pipeline. {NOT_A_PACKAGE} Do not compress it.")
    found = _documents(content, name)
    if not 1 <= len(found) <= 2:
        raise invalid(f"{name} contains {len(found)} YAML documents; a compiled pipeline has one or two.")
    platform = found[1] if len(found) == 2 else {}
    return _checked(found[0], platform or {}, name)


def read_document(document: Mapping[str, Any], name: str = "pipeline_spec") -> Package:
    """Read a compiled pipeline from a request.

    Args:
        document: the pipeline in the form of `Package.document`.
        name: its name, for error messages.

    Raises:
        ApiError: the document is not a compiled pipeline.
    """
    spec = document.get("pipeline_spec", document.get("pipelineSpec"))
    if spec is None:
        return _checked(document, {}, name)
    package = _checked(spec, document.get("platform_spec", document.get("platformSpec")) or {}, name)
    return replace(package, wrapped=True)


def from_database(document: Mapping[str, Any]) -> Package:
    """Return a pipeline that the database contains.

    The database contains only pipelines that `read_file` or `read_document` has checked, so this function does not
    check the pipeline again.

    Args:
        document: the pipeline in the form of `Package.document`.
    """
    if "pipeline_spec" in document:
        return Package(document["pipeline_spec"], document["platform_spec"], wrapped=True)
    return Package(dict(document), {})


def check_arguments(spec: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Check arguments against the inputs of a pipeline.

    Args:
        spec: the pipeline.
        given: the arguments by name.

    Returns:
        Warnings, one sentence each.

    Raises:
        ApiError: an argument is missing, is unknown, or has the wrong type. As in the real server, the message names
            the first problem.
    """
    if argo.is_workflow(spec):
        return []
    definitions = spec["root"].get("inputDefinitions", {})
    inputs = definitions.get("parameters", {})
    artifacts = (
        (f"the input artifact {name!r} cannot be an argument of a run", ": import it in the pipeline with dsl.importer")
        for name, artifact in definitions.get("artifacts", {}).items()
        if not artifact.get("isOptional")
    )
    problems = chain(_missing(inputs, given), _unknown(inputs, given), _mistyped(inputs, given), artifacts)
    for problem, hint in problems:
        raise invalid(problem, hint)
    return [_quoted(name, value) for name, value in given.items() if _is_quoted(value)]


def _missing(inputs: Mapping, given: Mapping) -> Iterator[tuple[str, str]]:
    for name, definition in inputs.items():
        if name not in given and not definition.get("isOptional") and "defaultValue" not in definition:
            yield f"parameter {name} is not optional, yet has neither default value nor user provided value", ""


def _unknown(inputs: Mapping, given: Mapping) -> Iterator[tuple[str, str]]:
    if unknown := [name for name in given if name not in inputs]:
        yield (
            f"parameter(s) provided are not required by pipeline: {', '.join(unknown)}",
            f" (it takes: {', '.join(sorted(inputs)) or 'none'})",
        )


def _mistyped(inputs: Mapping, given: Mapping) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        definition = inputs.get(name, {})
        wanted = definition.get("parameterType", "")
        if not _fits(wanted, value):
            kind, of = TYPES[wanted]
            yield f"input parameter {name} requires type {kind}, but the {of} value type", _hint(name, wanted, value)
        elif (literals := definition.get("literals")) and value not in literals:
            yield f"input parameter {name} must be one of {literals}, not {value!r}", ""


def _hint(name: str, wanted: str, value: Any) -> str:
    """Return what to write for a text that looks like another value on the command line of kfp."""
    if wanted != "STRING" or value is None or isinstance(value, str):
        return ""
    text = json.dumps(value)
    return f". The value is {text[:40]}; on the command line, a text needs quotes: {name}='{json.dumps(text[:40])}'"


def _fits(wanted: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "STRING": isinstance(value, str),
        "NUMBER_INTEGER": number,
        "NUMBER_DOUBLE": number,
        "BOOLEAN": isinstance(value, bool),
        "LIST": isinstance(value, list),
        "STRUCT": isinstance(value, dict),
    }.get(wanted, True)


def _is_quoted(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""


def _quoted(name: str, value: str) -> str:
    return (
        f"The parameter {name!r} is {value}, including the quotes: they are part of the value. "
        f"If you mean {value[1:-1]}, start the run again without the quotes."
    )


def _documents(content: bytes, name: str) -> list[Any]:
    try:
        return documents.read(content)
    except documents.TooLarge:
        raise _too_large(name) from None
    except documents.NotADocument as error:
        raise invalid(f"{name} is neither YAML nor JSON: {error}. {NOT_A_PACKAGE}") from None


def _checked(spec: Any, platform: Any, name: str) -> Package:
    if not isinstance(spec, dict) or not isinstance(platform, dict):
        raise invalid(f"{name} contains no compiled pipeline. {NOT_A_PACKAGE}")
    _measure(spec, name)
    _measure(platform, name)
    if argo.is_workflow(spec):
        return Package(spec, {})
    _refuse_other_kinds(spec, name)
    parsed_spec, parsed_platform = _parsed(spec, platform, name)
    version = parsed_spec.get("schemaVersion", "")
    if version != SCHEMA_VERSION:
        raise invalid(
            f"{name} has the schema version {version!r}; this server reads {SCHEMA_VERSION!r}. Compile it again with "
            "a kfp SDK that is not newer than the server: pip install kfp==2.16.1"
        )
    _check_structure(parsed_spec, name)
    return Package(parsed_spec, parsed_platform)


def _refuse_other_kinds(spec: dict, name: str) -> None:
    if "implementation" in spec and "root" not in spec:
        raise invalid(f"{name} is a single component of version 1, not a compiled pipeline. {NOT_A_PACKAGE}")
    if "apiVersion" in spec and "kind" in spec:
        raise invalid(f"{name} is a Kubernetes manifest ({spec['kind']}), not a compiled pipeline. {NOT_A_PACKAGE}")


def _measure(document: dict, name: str) -> None:
    """Refuse documents that become too large when they are written out, as YAML anchors allow."""
    count, stack = 0, [(document, 0)]
    while stack:
        value, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise _too_large(name)
        if isinstance(value, str) and not is_valid_unicode(value):
            raise impossible(f"{name} contains half of a character (a lone surrogate): {value[:40]!r}")
        if _is_too_large(value):
            raise impossible(f"{name} contains a number that is too large: {str(value)[:20]}...")
        inside = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        stack.extend((one, depth + 1) for one in inside)


def _is_too_large(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and abs(value) > MAX_NUMBER


def _too_large(name: str) -> ApiError:
    return impossible(f"{name} is larger or deeper than any compiled pipeline. {NOT_A_PACKAGE}")


def _parsed(spec: dict, platform: dict, name: str) -> tuple[dict, dict]:
    """Parse both with the protocol buffers of kfp, like the real server. An unknown field is refused by its name."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    try:
        spec_message = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        platform_message = json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
        parsed = json_format.MessageToDict(spec_message), json_format.MessageToDict(platform_message)
        return normalize_numbers(parsed[0]), normalize_numbers(parsed[1])
    except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise invalid(f"{name} is not a compiled pipeline of version 2: {reason}. {NOT_A_PACKAGE}") from None


def _check_executors(spec: dict, name: str) -> None:
    """Check the executors, which the message of a pipeline contains as any JSON value."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    given = spec.get("deploymentSpec", {})
    kind = pipeline_spec_pb2.PipelineDeploymentConfig
    try:
        json_format.ParseDict(given, kind(), ignore_unknown_fields=True)
    except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise impossible(
            f"{name} has executors (deploymentSpec) that cannot be read: {reason}. {NOT_A_PACKAGE}"
        ) from None
    if place := next(_misshapen(kind.DESCRIPTOR, given, "deploymentSpec"), ""):
        raise impossible(f"{name} has a wrong value at {place}. {NOT_A_PACKAGE}")


def _misshapen(kind: Any, given: Any, place: str) -> Iterator[str]:
    """Find values that are no object where a message needs one. The parser of protocol buffers takes null, and some
    texts, for an empty message.

    Args:
        kind: the descriptor of the message.
        given: the value.
        place: the path to the value.

    Yields:
        The path of each wrong value.
    """
    if not isinstance(given, dict):
        yield place
        return
    for field in kind.fields:
        value = given.get(field.json_name, given.get(field.name, MISSING))
        if value is MISSING or field.message_type is None or field.message_type.full_name.startswith("google."):
            if value is None:
                yield f"{place}.{field.json_name}"
            continue
        inner, where = field.message_type, f"{place}.{field.json_name}"
        if inner.GetOptions().map_entry:
            of_values = inner.fields_by_name["value"].message_type
            for key, one in value.items() if isinstance(value, dict) and of_values else ():
                yield from _misshapen(of_values, one, f"{where}.{key}")
            if not isinstance(value, dict):
                yield where
        else:
            for one in value if isinstance(value, list) else [value]:
                yield from _misshapen(inner, one, where)


def _check_structure(spec: dict, name: str) -> None:
    pipeline_name = spec.get("pipelineInfo", {}).get("name", "")
    if not NAME.fullmatch(pipeline_name):
        raise invalid(
            f"{name} names its pipeline {pipeline_name!r}: a name has 1 to 128 lower-case letters, digits and hyphens, "
            "and begins with a letter or digit"
        )
    if not spec.get("root", {}).get("dag", {}).get("tasks"):
        raise invalid(f"{name} has no tasks (root.dag.tasks). {NOT_A_PACKAGE}")
    _check_executors(spec, name)
    if problem := next(structure.problems(spec), ""):
        raise impossible(f"{name} is not a complete pipeline: {problem}")
