"""Replaces the placeholders of a compiled pipeline, such as `{{$.inputs.parameters['x']}}` or the run's name."""

import copy
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kfp import dsl
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH
from kfp.local import placeholder_utils

from workshop.sandbox.pipelines_api.engine.contract import Job, Task
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder
from workshop.sandbox.pipelines_api.engine.values import as_text

_INPUT = re.compile(r"""\{\{\$\.inputs\.parameters\[(?:'([^']*)'|"([^"]*)")\]\}\}""")
_STRUCTURES = ('{"Concat": ', '{"IfPresent": ')


def of_run(job: Job, task: Task) -> dict[str, str]:
    """Return the values of the placeholders that do not depend on inputs, such as names, ids and times."""
    created = datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        dsl.PIPELINE_JOB_NAME_PLACEHOLDER: job.name,
        dsl.PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER: resource_name(job),
        dsl.PIPELINE_JOB_ID_PLACEHOLDER: job.run_id,
        dsl.PIPELINE_TASK_NAME_PLACEHOLDER: task.path.rpartition("/")[2],
        dsl.PIPELINE_TASK_ID_PLACEHOLDER: task.task_id,
        dsl.PIPELINE_ROOT_PLACEHOLDER: job.pipeline_root,
        dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER: created,
        dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER: created,
        dsl.WORKSPACE_PATH_PLACEHOLDER: str(RunFolder(job.directory).workspace),
    }


def pipeline_name(job: Job) -> str:
    """Return the name of the pipeline of a run."""
    return str(job.spec.get("pipelineInfo", {}).get("name", "pipeline"))


def resource_name(job: Job) -> str:
    """Return a unique name for a run, like the name of its Workflow on a cluster."""
    return f"{pipeline_name(job)}-{job.run_id[:8]}"


def fill(value: Any, substitutions: Mapping[str, str], parameters: Mapping[str, Any]) -> Any:
    """Replace the placeholders in all texts of a value, at every level.

    Args:
        value: any value that JSON can represent.
        substitutions: a replacement for each placeholder, as `of_run` returns it.
        parameters: the values of `{{$.inputs.parameters['name']}}`. A name without a value becomes `null`.
    """
    if isinstance(value, dict):
        return {
            fill(key, substitutions, parameters): fill(inner, substitutions, parameters) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [fill(inner, substitutions, parameters) for inner in value]
    if not isinstance(value, str) or "{{$" not in value:
        return value
    return _INPUT.sub(lambda match: as_text(parameters.get(match[1] or match[2])), _substitute(value, substitutions))


def command_line(
    parts: list[str], executor_input: Mapping[str, Any], job: Job, task: Task, mounted: bool = True
) -> list[str]:
    """Return the command and the arguments of a container, ready for execution.

    Args:
        parts: command and arguments of the specification.
        executor_input: the task's `ExecutorInput`; it replaces `{{$}}`.
        job: the run.
        task: the task.
        mounted: whether the workspace is mounted at the same path as on a cluster.

    Raises:
        EngineError: a placeholder cannot be replaced.
    """
    substitutions = of_run(job, task)
    if not mounted:
        substitutions[WORKSPACE_MOUNT_PATH] = substitutions[dsl.WORKSPACE_PATH_PLACEHOLDER]
    whole = json.dumps(executor_input)
    filled: list[str] = []
    for part in parts:
        if part == dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER:
            # The value is inserted unchanged: a value that looks like a placeholder is the user's own text.
            filled.append(whole)
        else:
            filled += _replace_with_kfp(_substitute(part, substitutions), executor_input, job, task)
    return filled


def _substitute(text: str, substitutions: Mapping[str, str]) -> str:
    for placeholder, replacement in substitutions.items():
        text = text.replace(placeholder, replacement)
    return text


def _replace_with_kfp(part: str, executor_input: Mapping[str, Any], job: Job, task: Task) -> list[str]:
    if "{{$" not in part and not part.startswith(_STRUCTURES):
        return [part]
    try:
        filled: list[str] = placeholder_utils.replace_placeholders(
            full_command=[part],
            executor_input_dict=copy.deepcopy(dict(executor_input)),
            pipeline_resource_name=job.name,
            task_resource_name=task.name,
            pipeline_root=job.pipeline_root,
            unique_pipeline_id=job.run_id,
        )
    except Exception as error:
        raise EngineError(f"cannot replace the placeholders in {part!r}: {error}") from error
    return filled
