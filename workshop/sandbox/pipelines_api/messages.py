"""Reads request bodies and writes responses, both in the way of grpc-gateway.

In a request, a field name may be in snake_case or camelCase. Unknown fields are ignored. 64-bit integers may be text.

In a response, empty and zero fields are left out. 64-bit integers are text. Times are in RFC 3339 and UTC, with whole
seconds. A time that is not known yet is 1970-01-01T00:00:00Z, as in the real server.
"""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Strict
from pydantic.alias_generators import to_camel

from workshop.sandbox.pipelines_api.engine.values import MAX_DEPTH
from workshop.sandbox.pipelines_api.listing import Page, is_valid_unicode
from workshop.sandbox.pipelines_api.tables import Experiment, Pipeline, PipelineVersion, RecurringRun, Run, TaskRecord

MAX_NAME = 255  # the length of the columns in the real server's database
MAX_NUMBER = 10**300  # protocol buffers store numbers as doubles
MAX_TIME = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be an integer, not a boolean")
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    return value


def _without_surrogates(value: str) -> str:
    if not is_valid_unicode(value):
        raise ValueError("contains half of a character (a lone surrogate)")
    return value


def _storable(value: Any, depth: int = 0) -> Any:
    """Refuse values that cannot be stored and returned: NaN, infinity, invalid Unicode, deep nesting."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise ValueError("is too large")
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
    """The settings that all messages of the contract share."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class ExperimentBody(Message):
    """`V2beta1Experiment` in a request."""

    display_name: Text | None = None
    description: Text | None = None


class PipelineBody(Message):
    """`V2beta1Pipeline` in a request."""

    name: Text | None = None
    display_name: Text | None = None
    description: Text | None = None


class UrlBody(Message):
    """`V2beta1Url`."""

    pipeline_url: Text | None = None


class PipelineVersionBody(Message):
    """`V2beta1PipelineVersion` in a request."""

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
    """The fields that runs and recurring runs share."""

    experiment_id: Text | None = None
    display_name: Text | None = None
    description: Text | None = None
    pipeline_spec: Json | None = None
    pipeline_version_reference: VersionReference | None = None
    runtime_config: RuntimeConfig | None = None
    service_account: Text | None = None


class RunBody(Source):
    """`V2beta1Run` in a request."""


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
    """`V2beta1RecurringRun` in a request."""

    max_concurrency: Integer | None = None
    trigger: Trigger | None = None
    mode: Literal["MODE_UNSPECIFIED", "ENABLE", "DISABLE", 0, 1, 2] | None = None
    no_catchup: bool | None = None


def time(seconds: float) -> str:
    """Return a time in the format of the contract.

    Args:
        seconds: seconds since the epoch.
    """
    return datetime.fromtimestamp(int(min(max(seconds, 0), MAX_TIME)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def experiment(row: Experiment) -> dict:
    """Return a `V2beta1Experiment`."""
    return _without_empty(
        experiment_id=row.experiment_id,
        display_name=row.display_name,
        description=row.description,
        created_at=time(row.created_at),
        storage_state=row.storage_state,
        last_run_created_at=time(row.last_run_created_at),
    )


def pipeline(row: Pipeline) -> dict:
    """Return a `V2beta1Pipeline`."""
    return _without_empty(
        pipeline_id=row.pipeline_id,
        name=row.name,
        display_name=row.display_name,
        description=row.description,
        created_at=time(row.created_at),
    )


def pipeline_version(row: PipelineVersion, document: dict) -> dict:
    """Return a `V2beta1PipelineVersion`."""
    return _without_empty(
        pipeline_id=row.pipeline_id,
        pipeline_version_id=row.pipeline_version_id,
        name=row.name,
        display_name=row.display_name,
        description=row.description,
        created_at=time(row.created_at),
        package_url=_without_empty(pipeline_url=row.package_url),
        code_source_url=row.code_source_url,
        pipeline_spec=document,
    )


def run(row: Run, tasks: list[TaskRecord], document: dict | None) -> dict:
    """Return a `V2beta1Run`.

    Args:
        row: the run.
        tasks: its tasks, in the order of creation.
        document: its pipeline, if the request that created the run contained the pipeline; None otherwise.
    """
    below: dict[str, list[TaskRecord]] = {}
    for task in tasks:
        below.setdefault(task.parent_id, []).append(task)
    details = _without_empty(task_details=[task_detail(task, below.get(task.task_id, [task])) for task in tasks])
    return _without_empty(
        experiment_id=row.experiment_id,
        run_id=row.run_id,
        display_name=row.display_name,
        storage_state=row.storage_state,
        description=row.description,
        service_account=row.service_account,
        recurring_run_id=row.recurring_run_id,
        **_source(row, document),
        runtime_config=_without_empty(parameters=row.parameters, pipeline_root=row.pipeline_root),
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
        below: the tasks that it contains; the task itself if it contains none.
    """
    return _without_empty(
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
    """Return the name that replaces a task's pod name. The log endpoint accepts this name."""
    readable = "".join(letter if letter.isalnum() else "-" for letter in task.name.lower())
    return f"{readable[:40].strip('-')}-{task.task_id[:8]}"


def task_record(task: TaskRecord) -> dict:
    """Return the whole record of a task. This message is not part of the contract."""
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
    return _without_empty(
        recurring_run_id=row.recurring_run_id,
        display_name=row.display_name,
        description=row.description,
        **_source(row, document),
        runtime_config=_without_empty(parameters=row.parameters, pipeline_root=row.pipeline_root),
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
    """Return a `V2beta1Trigger`, for the database and for responses."""
    if body.cron_schedule:
        return {"cron_schedule": _without_empty(cron=body.cron_schedule.cron, **_span(body.cron_schedule))}
    schedule = body.periodic_schedule
    assert schedule is not None
    return {"periodic_schedule": _without_empty(interval_second=str(schedule.interval_second), **_span(schedule))}


def _by_name(values: dict) -> dict:
    """Sort parameters and artifacts by name: a compiled pipeline does not keep their order."""
    return {kind: dict(sorted(values.get(kind, {}).items())) for kind in ("parameters", "artifacts")}


def _span(schedule: CronSchedule | PeriodicSchedule) -> dict:
    moments = {"start_time": schedule.start_time, "end_time": schedule.end_time}
    return {name: time(moment.timestamp()) for name, moment in moments.items() if moment}


def _source(row: Run | RecurringRun, document: dict | None) -> dict:
    if document is not None:
        return {"pipeline_spec": document}
    reference = _without_empty(pipeline_id=row.pipeline_id, pipeline_version_id=row.pipeline_version_id)
    return {"pipeline_version_reference": reference}


def _history(history: list[dict]) -> list[dict]:
    return [
        _without_empty(update_time=time(entry["at"]), state=entry["state"], error=_status(entry.get("error", "")))
        for entry in history
    ]


def _status(message: str) -> dict:
    """Return a `GooglerpcStatus`. Code 2, UNKNOWN, is the gRPC code for an error in the user's program."""
    return {"code": 2, "message": message} if message else {}


def _without_empty(**fields: Any) -> dict:
    return {name: value for name, value in fields.items() if value not in ("", None, [], {}, False)}


def page(field: str, rows: Page, items: list[dict]) -> dict:
    """Return the response of a list request.

    Args:
        field: the name of the list.
        rows: the page of the database.
        items: the messages of the page.
    """
    return _without_empty(**{field: items}, total_size=rows.total_size, next_page_token=rows.next_page_token)
