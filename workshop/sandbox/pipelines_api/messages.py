"""Request bodies, read as grpc-gateway reads them, and answers, written as it writes them.

A field may be spelt in snake_case or camelCase; fields that nobody knows are left out; 64-bit integers may be text.
Answers leave out whatever is empty or zero, hold 64-bit integers as text, and times as RFC 3339 in UTC with whole
seconds. A time that has not come yet is 1970-01-01T00:00:00Z: the real server says so, too.
"""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Strict
from pydantic.alias_generators import to_camel

from workshop.sandbox.pipelines_api.listing import Page, is_whole
from workshop.sandbox.pipelines_api.tables import Experiment, Pipeline, PipelineVersion, RecurringRun, Run, TaskRecord

LONGEST_NAME = 255  # columns of the server's database
DEEPEST = 100  # lists and objects in each other; no answer could be written of what is much deeper
LARGEST_NUMBER = 10**300  # protocol buffers hold numbers as doubles
LAST_MOMENT = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be an integer, not a boolean")
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    return value


def _without_surrogates(value: str) -> str:
    if not is_whole(value):
        raise ValueError("holds half of a character (a lone surrogate)")
    return value


def _storable(value: Any, depth: int = 0) -> Any:
    """Refuse what cannot be kept and shown again: NaN, infinity, text that is no UTF-8, nesting without end."""
    if depth > DEEPEST:
        raise ValueError(f"is nested deeper than {DEEPEST} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise ValueError("must not be as large as that")
    if isinstance(value, str):
        _without_surrogates(value)
    inside = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inside:
        _storable(one, depth + 1)
    return value


Text = Annotated[str, Strict(), AfterValidator(_without_surrogates)]
Integer = Annotated[int, BeforeValidator(_number)]
Json = Annotated[dict[str, Any], AfterValidator(_storable)]


class Message(BaseModel):
    """What every message of the contract has in common."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class ExperimentBody(Message):
    """`V2beta1Experiment`, as it comes."""

    display_name: Text | None = None
    description: Text | None = None


class PipelineBody(Message):
    """`V2beta1Pipeline`, as it comes."""

    name: Text | None = None
    display_name: Text | None = None
    description: Text | None = None


class UrlBody(Message):
    """`V2beta1Url`."""

    pipeline_url: Text | None = None


class PipelineVersionBody(Message):
    """`V2beta1PipelineVersion`, as it comes."""

    name: Text | None = None
    display_name: Text | None = None
    description: Text | None = None
    package_url: UrlBody | None = None
    code_source_url: Text | None = None


class PipelineAndVersionBody(Message):
    """`V2beta1CreatePipelineAndVersionRequest`."""

    pipeline: PipelineBody | None = None
    pipeline_version: PipelineVersionBody | None = None


class VersionReference(Message):
    """`V2beta1PipelineVersionReference`."""

    pipeline_id: Text | None = None
    pipeline_version_id: Text | None = None


class RuntimeConfig(Message):
    """`V2beta1RuntimeConfig`."""

    parameters: Json | None = None
    pipeline_root: Text | None = None


class Source(Message):
    """What runs and recurring runs say of what to run."""

    experiment_id: Text | None = None
    display_name: Text | None = None
    description: Text | None = None
    pipeline_spec: Json | None = None
    pipeline_version_reference: VersionReference | None = None
    runtime_config: RuntimeConfig | None = None
    service_account: Text | None = None


class RunBody(Source):
    """`V2beta1Run`, as it comes."""


class CronSchedule(Message):
    """`V2beta1CronSchedule`."""

    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    cron: Text | None = None


class PeriodicSchedule(Message):
    """`V2beta1PeriodicSchedule`."""

    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    interval_second: Integer | None = None


class Trigger(Message):
    """`V2beta1Trigger`."""

    cron_schedule: CronSchedule | None = None
    periodic_schedule: PeriodicSchedule | None = None


class RecurringRunBody(Source):
    """`V2beta1RecurringRun`, as it comes."""

    max_concurrency: Integer | None = None
    trigger: Trigger | None = None
    mode: Literal["MODE_UNSPECIFIED", "ENABLE", "DISABLE", 0, 1, 2] | None = None
    no_catchup: bool | None = None


def time(seconds: float) -> str:
    """Write seconds since the epoch as the contract does."""
    return datetime.fromtimestamp(int(min(max(seconds, 0), LAST_MOMENT)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def experiment(row: Experiment) -> dict:
    """Return a `V2beta1Experiment`."""
    return _filled(
        experiment_id=row.experiment_id,
        display_name=row.display_name,
        description=row.description,
        created_at=time(row.created_at),
        storage_state=row.storage_state,
        last_run_created_at=time(row.last_run_created_at),
    )


def pipeline(row: Pipeline) -> dict:
    """Return a `V2beta1Pipeline`."""
    return _filled(
        pipeline_id=row.pipeline_id,
        name=row.name,
        display_name=row.display_name,
        description=row.description,
        created_at=time(row.created_at),
    )


def pipeline_version(row: PipelineVersion, document: dict) -> dict:
    """Return a `V2beta1PipelineVersion`."""
    return _filled(
        pipeline_id=row.pipeline_id,
        pipeline_version_id=row.pipeline_version_id,
        name=row.name,
        display_name=row.display_name,
        description=row.description,
        created_at=time(row.created_at),
        package_url=_filled(pipeline_url=row.package_url),
        code_source_url=row.code_source_url,
        pipeline_spec=document,
    )


def run(row: Run, tasks: list[TaskRecord], document: dict | None) -> dict:
    """Return a `V2beta1Run`.

    Args:
        row: the run.
        tasks: its tasks, in the order in which they were made.
        document: what it executes, where the run itself holds it.
    """
    below: dict[str, list[TaskRecord]] = {}
    for task in tasks:
        below.setdefault(task.parent_id, []).append(task)
    details = _filled(task_details=[task_detail(task, below.get(task.task_id, [task])) for task in tasks])
    return _filled(
        experiment_id=row.experiment_id,
        run_id=row.run_id,
        display_name=row.display_name,
        storage_state=row.storage_state,
        description=row.description,
        service_account=row.service_account,
        recurring_run_id=row.recurring_run_id,
        **_source(row, document),
        runtime_config=_filled(parameters=row.parameters, pipeline_root=row.pipeline_root),
        created_at=time(row.created_at),
        scheduled_at=time(row.scheduled_at),
        finished_at=time(row.finished_at),
        state=row.state,
        error=_status(row.error),
        run_details=details,
        state_history=_history(row.state_history),
    )


def task_detail(task: TaskRecord, below: list[TaskRecord]) -> dict:
    """Return a `V2beta1PipelineTaskDetail`.

    Args:
        task: the task.
        below: the tasks that it holds; itself, if it holds none.
    """
    return _filled(
        run_id=task.run_id,
        task_id=task.task_id,
        display_name=task.name,
        create_time=time(task.created),
        start_time=time(task.started),
        end_time=time(task.ended),
        state=task.state,
        error=_status(task.error),
        parent_task_id=task.parent_id,
        state_history=_history(task.state_history),
        child_tasks=[{"pod_name": pod_name(child)} for child in below],
    )


def pod_name(task: TaskRecord) -> str:
    """Return what stands for the name of a task's pod: by it, its log is found."""
    readable = "".join(letter if letter.isalnum() else "-" for letter in task.name.lower())
    return f"{readable[:40].strip('-')}-{task.task_id[:8]}"


def task_record(task: TaskRecord) -> dict:
    """Return all that is known of a task; this is not part of the contract."""
    return {
        "task_id": task.task_id,
        "node_id": pod_name(task),
        "path": task.path,
        "name": task.name,
        "kind": task.kind,
        "parent_task_id": task.parent_id,
        "state": task.state,
        "cached": task.cached,
        "started": task.started,
        "ended": task.ended,
        "inputs": _by_name(task.inputs),
        "outputs": _by_name(task.outputs),
        "exit_code": task.exit_code,
        "error": task.error,
        "attempts": task.attempts,
        "has_log": bool(task.log),
    }


def recurring_run(row: RecurringRun, document: dict | None) -> dict:
    """Return a `V2beta1RecurringRun`."""
    return _filled(
        recurring_run_id=row.recurring_run_id,
        display_name=row.display_name,
        description=row.description,
        **_source(row, document),
        runtime_config=_filled(parameters=row.parameters, pipeline_root=row.pipeline_root),
        service_account=row.service_account,
        max_concurrency=str(row.max_concurrency),
        trigger=row.trigger,
        mode="ENABLE" if row.enabled else "DISABLE",
        status="ENABLED" if row.enabled else "DISABLED",
        created_at=time(row.created_at),
        updated_at=time(row.updated_at),
        no_catchup=row.no_catchup,
        experiment_id=row.experiment_id,
    )


def trigger(body: Trigger) -> dict:
    """Return a `V2beta1Trigger`, as it is kept and shown."""
    if body.cron_schedule:
        return {"cron_schedule": _filled(cron=body.cron_schedule.cron, **_span(body.cron_schedule))}
    schedule = body.periodic_schedule
    return {"periodic_schedule": _filled(interval_second=str(schedule.interval_second), **_span(schedule))}


def _by_name(values: dict) -> dict:
    """Put parameters and artifacts in the order of their names: a compiled pipeline keeps none."""
    return {kind: dict(sorted(values.get(kind, {}).items())) for kind in ("parameters", "artifacts")}


def _span(schedule: CronSchedule | PeriodicSchedule) -> dict:
    moments = {"start_time": schedule.start_time, "end_time": schedule.end_time}
    return {name: time(moment.timestamp()) for name, moment in moments.items() if moment}


def _source(row: Run | RecurringRun, document: dict | None) -> dict:
    if document is not None:
        return {"pipeline_spec": document}
    reference = _filled(pipeline_id=row.pipeline_id, pipeline_version_id=row.pipeline_version_id)
    return {"pipeline_version_reference": reference}


def _history(history: list[dict]) -> list[dict]:
    return [
        _filled(update_time=time(entry["at"]), state=entry["state"], error=_status(entry.get("error", "")))
        for entry in history
    ]


def _status(message: str) -> dict:
    """Return a `GooglerpcStatus`; code 2, UNKNOWN, is what gRPC has for an error of the user's program."""
    return {"code": 2, "message": message} if message else {}


def _filled(**fields: Any) -> dict:
    return {name: value for name, value in fields.items() if value not in ("", None, [], {}, False)}


def page(field: str, page: Page, items: list[dict]) -> dict:
    """Return a list's answer.

    Args:
        field: what the list is called.
        page: where the items are from.
        items: what is on the page.
    """
    return _filled(**{field: items}, total_size=page.total_size, next_page_token=page.next_page_token)
