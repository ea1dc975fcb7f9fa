"""The messages of requests, and the responses in the form of grpc-gateway.

`protojson.py` reads the requests.

In a response, empty and zero fields are left out. 64-bit integers are text. Times are in RFC 3339 and UTC, with whole
seconds. A time that is not known yet is 1970-01-01T00:00:00Z, as in the real server.
"""

import zlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

from workshop.sandbox.pipelines_api import states, task_details
from workshop.sandbox.pipelines_api.listing import Page
from workshop.sandbox.pipelines_api.tables import Experiment, Pipeline, PipelineVersion, RecurringRun, Run, TaskRecord

NO_TIME = "0001-01-01T00:00:00Z"  # the end of a task that has not ended
MAX_TIME = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
EXACT = 2**53  # every integer up to this size is a double


class Message(BaseModel):
    """A message of a request. `protojson` has read the message, so its values have the right types."""

    model_config = ConfigDict(extra="ignore")


class ExperimentBody(Message):
    """`V2beta1Experiment` in a request."""

    display_name: str = ""
    description: str = ""
    namespace: str = ""


class PipelineBody(Message):
    """`V2beta1Pipeline` in a request."""

    name: str = ""
    display_name: str = ""
    description: str = ""
    namespace: str = ""


class UrlBody(Message):
    """`V2beta1Url`."""

    pipeline_url: str = ""


class PipelineVersionBody(Message):
    """`V2beta1PipelineVersion` in a request."""

    pipeline_id: str = ""
    name: str = ""
    display_name: str = ""
    description: str = ""
    package_url: UrlBody | None = None
    code_source_url: str = ""


class PipelineAndVersionBody(Message):
    """`V2beta1CreatePipelineAndVersionRequest`."""

    pipeline: PipelineBody = PipelineBody()
    pipeline_version: PipelineVersionBody = PipelineVersionBody()


class VersionReference(Message):
    """`V2beta1PipelineVersionReference`."""

    pipeline_id: str = ""
    pipeline_version_id: str = ""


class RuntimeConfig(Message):
    """`V2beta1RuntimeConfig`."""

    parameters: dict[str, Any] = {}
    pipeline_root: str = ""


class Source(Message):
    """The fields that runs and recurring runs share."""

    experiment_id: str = ""
    display_name: str = ""
    description: str = ""
    pipeline_spec: dict[str, Any] | None = None
    pipeline_version_reference: VersionReference = VersionReference()
    runtime_config: RuntimeConfig = RuntimeConfig()
    service_account: str = ""


class RunBody(Source):
    """`V2beta1Run` in a request."""

    run_id: str = ""
    recurring_run_id: str = ""


class CronSchedule(Message):
    """`V2beta1CronSchedule`."""

    start_time: datetime | None = None
    end_time: datetime | None = None
    cron: str = ""


class PeriodicSchedule(Message):
    """`V2beta1PeriodicSchedule`."""

    start_time: datetime | None = None
    end_time: datetime | None = None
    interval_second: int = 0


class Trigger(Message):
    """`V2beta1Trigger`."""

    cron_schedule: CronSchedule | None = None
    periodic_schedule: PeriodicSchedule | None = None


class RecurringRunBody(Source):
    """`V2beta1RecurringRun` in a request."""

    namespace: str = ""
    max_concurrency: int = 0
    trigger: Trigger | None = None
    mode: str | int = 0
    no_catchup: bool = False


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
        namespace=row.namespace,
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
        namespace=row.namespace,
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
        pipeline_spec=_as_double(document),
    )


def run(row: Run, tasks: list[TaskRecord], document: dict | None) -> dict:
    """Return a `V2beta1Run`.

    Args:
        row: the run.
        tasks: its tasks, in the order of creation.
        document: its pipeline, if the request that created the run contained the pipeline; None otherwise.
    """
    return _without_empty(
        experiment_id=row.experiment_id,
        run_id=row.run_id,
        display_name=row.display_name,
        storage_state=row.storage_state,
        description=row.description,
        service_account=row.service_account,
        recurring_run_id=row.recurring_run_id,
        runtime_config=_without_empty(parameters=_as_double(row.parameters), pipeline_root=row.pipeline_root),
        created_at=time(row.created_at),
        scheduled_at=time(row.scheduled_at),
        finished_at=time(row.finished_at),
        state=states.shown_state(row),
        error=_status(row.error),
        run_details=_without_empty(task_details=_task_details(row, tasks)),
        state_history=_history(row.state_history),
    ) | _source(row, document)


def _task_details(row: Run, tasks: list[TaskRecord]) -> list[dict]:
    if not tasks:
        return []
    workflow = task_details.workflow_name(row, pipeline_name(tasks))
    return [_task_detail(row, entry) for entry in task_details.entries(workflow, row, tasks)]


def pipeline_name(tasks: list[TaskRecord]) -> str:
    """Return the name of the pipeline of a run.

    Args:
        tasks: the tasks of the run.
    """
    return next((task.name for task in tasks if not task.path), "pipeline")


def _task_detail(row: Run, entry: task_details.Entry) -> dict:
    """Return a `V2beta1PipelineTaskDetail`. An entry without a name is the record of a task for the cache."""
    return _without_empty(
        run_id=row.run_id,
        task_id=entry.task_id,
        display_name=entry.name,
        create_time=time(row.created_at),
        start_time=time(entry.started),
        end_time=time(entry.ended) if entry.ended else NO_TIME,
        state=entry.state,
        execution_id="" if entry.name else str(zlib.crc32(entry.task_id.encode())),
        error=_status(entry.error),
        state_history=[{"update_time": time(at), "state": state} for at, state in entry.history],
        child_tasks=[{"pod_name": child} for child in entry.children],
    )


def task_record(task: TaskRecord) -> dict:
    """Return the whole record of a task. This message is not part of the contract."""
    return {
        "task_id": task.task_id,
        "node_id": task.task_id,
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
    message = _without_empty(
        recurring_run_id=row.recurring_run_id,
        display_name=row.display_name,
        description=row.description,
        runtime_config=_without_empty(parameters=_as_double(row.parameters), pipeline_root=row.pipeline_root),
        service_account=row.service_account,
        max_concurrency=str(row.max_concurrency),
        mode="ENABLE" if row.enabled else "DISABLE",
        status="ENABLED" if row.enabled else "DISABLED",
        created_at=time(row.created_at),
        updated_at=time(row.updated_at),
        no_catchup=row.no_catchup,
        namespace=row.namespace,
        experiment_id=row.experiment_id,
    )
    return message | _source(row, document) | ({} if row.trigger is None else {"trigger": row.trigger})


def trigger(body: Trigger) -> dict:
    """Return a `V2beta1Trigger`, for the database and for responses."""
    if body.cron_schedule:
        return {"cron_schedule": _without_empty(cron=body.cron_schedule.cron, **_span(body.cron_schedule))}
    if schedule := body.periodic_schedule:
        return {"periodic_schedule": _without_empty(interval_second=str(schedule.interval_second), **_span(schedule))}
    return {}


def _by_name(values: dict) -> dict:
    """Sort parameters and artifacts by name: a compiled pipeline does not keep their order."""
    return {kind: dict(sorted(values.get(kind, {}).items())) for kind in ("parameters", "artifacts")}


def _span(schedule: CronSchedule | PeriodicSchedule) -> dict:
    moments = {"start_time": schedule.start_time, "end_time": schedule.end_time}
    return {name: time(moment.timestamp()) for name, moment in moments.items() if moment}


def _source(row: Run | RecurringRun, document: dict | None) -> dict:
    """Return the field that names the pipeline.

    Of a pipeline with a platform specification, the real server shows nothing, or an empty object if the platform
    specification is empty.
    """
    if document is None:
        reference = _without_empty(pipeline_id=row.pipeline_id, pipeline_version_id=row.pipeline_version_id)
        return {"pipeline_version_reference": reference}
    if "pipeline_spec" in document:
        return {} if document.get("platform_spec") else {"pipeline_spec": {}}
    return {"pipeline_spec": _as_double(document)}


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


def _as_double(value: Any) -> Any:
    """Return a value as the real server shows it: numbers are doubles there."""
    if isinstance(value, dict):
        return {name: _as_double(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_double(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > EXACT:
        value = float(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(Decimal(repr(value)))
    return value


def page(field: str, rows: Page, items: list[dict]) -> dict:
    """Return the response of a list request.

    Args:
        field: the name of the list.
        rows: the page of the database.
        items: the messages of the page.
    """
    return _without_empty(**{field: items}, total_size=rows.total_size, next_page_token=rows.next_page_token)
