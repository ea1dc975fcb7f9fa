"""Fills in what a compiled pipeline leaves open: `{{$.inputs.parameters['x']}}`, the run's name, and the like."""

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
from workshop.sandbox.pipelines_api.engine.values import as_text

_INPUT = re.compile(r"""\{\{\$\.inputs\.parameters\[(?:'([^']*)'|"([^"]*)")\]\}\}""")
_STRUCTURES = ('{"Concat": ', '{"IfPresent": ')


def of_run(job: Job, task: Task) -> dict[str, str]:
    """Return what stands for itself, whatever the task's inputs are: the run's and the task's names and ids."""
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
        dsl.WORKSPACE_PATH_PLACEHOLDER: str(job.directory / "workspace"),
    }


def resource_name(job: Job) -> str:
    """Return a name of the run that nobody else has, as a cluster would give it."""
    return f"{job.spec.get('pipelineInfo', {}).get('name', 'pipeline')}-{job.run_id[:8]}"


def fill(value: Any, words: Mapping[str, str], parameters: Mapping[str, Any]) -> Any:
    """Fill in a value, however deep the texts lie in it.

    Args:
        value: anything that JSON can hold.
        words: what stands for what, as `of_run` returns it.
        parameters: what `{{$.inputs.parameters['name']}}` stands for; a name without a value becomes `null`.
    """
    if isinstance(value, dict):
        return {fill(key, words, parameters): fill(inner, words, parameters) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, words, parameters) for inner in value]
    if not isinstance(value, str) or "{{$" not in value:
        return value
    return _INPUT.sub(lambda match: as_text(parameters.get(match[1] or match[2])), _with_words(value, words))


def command_line(
    parts: list[str], executor_input: Mapping[str, Any], job: Job, task: Task, mounted: bool = True
) -> list[str]:
    """Return a container's command and arguments as they are to be executed.

    Args:
        parts: command and arguments of the specification.
        executor_input: what the task gets to know; it stands where the specification says `{{$}}`.
        job: the run.
        task: the task.
        mounted: whether the workspace is to be found where a cluster mounts it.

    Raises:
        EngineError: a placeholder cannot be filled in.
    """
    words = of_run(job, task)
    if not mounted:
        words[WORKSPACE_MOUNT_PATH] = words[dsl.WORKSPACE_PATH_PLACEHOLDER]
    whole = json.dumps(executor_input)
    filled: list[str] = []
    for part in parts:
        if part == dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER:
            # Put in as it is: a value that looks like a placeholder is the learner's own text.
            filled.append(whole)
        else:
            filled += _filled_by_kfp(_with_words(part, words), executor_input, job, task)
    return filled


def _with_words(text: str, words: Mapping[str, str]) -> str:
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return text


def _filled_by_kfp(part: str, executor_input: Mapping[str, Any], job: Job, task: Task) -> list[str]:
    if "{{$" not in part and not part.startswith(_STRUCTURES):
        return [part]
    try:
        return placeholder_utils.replace_placeholders(
            full_command=[part],
            executor_input_dict=copy.deepcopy(dict(executor_input)),
            pipeline_resource_name=job.name,
            task_resource_name=task.name,
            pipeline_root=job.pipeline_root,
            unique_pipeline_id=job.run_id,
        )
    except Exception as error:
        raise EngineError(f"cannot fill in {part!r}: {error}") from error
