"""The Run service."""

from collections.abc import Mapping
from time import time as now
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from sqlalchemy import delete
from sqlmodel import Session, col, select
from starlette.responses import JSONResponse

from workshop.sandbox.pipelines_api import engine, experiments, messages, pipelines
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.contract import Runner
from workshop.sandbox.pipelines_api.errors import ApiError, Code, invalid
from workshop.sandbox.pipelines_api.listing import list_page
from workshop.sandbox.pipelines_api.package import Package, check_arguments, from_database, read_document
from workshop.sandbox.pipelines_api.queries import ListQuery, checked_name, experiment_condition, find
from workshop.sandbox.pipelines_api.run_details import tasks_of
from workshop.sandbox.pipelines_api.states import ENDED, change
from workshop.sandbox.pipelines_api.tables import (
    ARCHIVED,
    AVAILABLE,
    Experiment,
    PipelineVersion,
    Run,
    Store,
    TaskRecord,
    manifest,
    store_manifest,
)

SERVICE_ACCOUNT = "pipeline-runner"  # the service account of a standalone installation
FIELDS = {
    "id": Run.run_id,
    "run_id": Run.run_id,
    "name": Run.display_name,
    "display_name": Run.display_name,
    "description": Run.description,
    "created_at": Run.created_at,
    "scheduled_at": Run.scheduled_at,
    "finished_at": Run.finished_at,
    "storage_state": Run.storage_state,
    "state": Run.state,
    "status": Run.state,
    "experiment_id": Run.experiment_id,
    "pipeline_id": Run.pipeline_id,
    "pipeline_version_id": Run.pipeline_version_id,
    "recurring_run_id": Run.recurring_run_id,
    "service_account": Run.service_account,
}


def resolve_source(session: Session, body: messages.Source) -> tuple[Package, PipelineVersion | None]:
    """Return the pipeline that a request names: by its spec, or by a pipeline version.

    The server checks a spec once, when the spec arrives: in an upload or in this request. A spec from the database is
    known to be valid.

    Returns:
        The pipeline, and its version (None if the request contains a spec).

    Raises:
        ApiError: the request contains neither or both, the spec is not valid, or the version does not exist.
    """
    reference = body.pipeline_version_reference
    named_version = reference is not None and (reference.pipeline_id or reference.pipeline_version_id)
    if bool(body.pipeline_spec) == bool(named_version):
        raise invalid("a run needs one of pipeline_spec (a compiled pipeline) and pipeline_version_reference")
    if body.pipeline_spec:
        return read_document(body.pipeline_spec), None
    assert reference is not None
    version = pipelines.find_version(session, reference.pipeline_id or "", reference.pipeline_version_id or "")
    return from_database(manifest(session, version.manifest)), version


def check_runnable(package: Package, parameters: Mapping[str, Any], runner: Runner) -> list[str]:
    """Check that the sandbox can run a pipeline with these arguments.

    Args:
        package: the pipeline.
        parameters: the arguments by name.
        runner: how tasks are executed.

    Returns:
        Warnings, one sentence each.

    Raises:
        ApiError: the sandbox cannot run the pipeline.
    """
    warnings = check_arguments(package.spec, parameters)
    errors, ignored = engine.check(package.spec, package.platform, runner)
    if errors:
        raise invalid(f"the sandbox cannot run the pipeline {package.name!r}: {'; '.join(errors)}")
    return [*warnings, *ignored]


def add(session: Session, experiment: Experiment, **fields: Any) -> Run:
    """Add a run in the state PENDING.

    Args:
        session: a session that writes.
        experiment: the experiment of the run.
        fields: the other fields of `Run`.
    """
    made = Run(run_id=str(uuid4()), experiment_id=experiment.experiment_id, created_at=int(now()), **fields)
    made.scheduled_at = made.scheduled_at or made.created_at
    change(made, "PENDING", " ".join(made.warnings))
    experiment.last_run_created_at = made.created_at
    session.add(made)
    session.flush()
    return made


def router(store: Store, dispatcher: Dispatcher) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/runs")

    @routes.get("")
    def list_runs(query: ListQuery, experiment_id: str = "") -> dict:
        with store.reading() as session:
            page = list_page(session, Run, FIELDS, query, *experiment_condition(session, Run, experiment_id))
            return messages.page("runs", page, _to_messages(session, page.rows))

    @routes.post("")
    def create_run(body: messages.RunBody, experiment_id: str = "") -> dict:
        name = checked_name(body.display_name, "The run name is empty. Please specify a valid name")
        config = body.runtime_config or messages.RuntimeConfig()
        parameters = config.parameters or {}
        with store.reading() as session:
            package, version = resolve_source(session, body)
        warnings = check_runnable(package, parameters, dispatcher.runner)
        with store.writing() as session:
            made = add(
                session,
                experiments.for_new_run(session, body.experiment_id or experiment_id),
                display_name=name,
                description=body.description or "",
                service_account=body.service_account or SERVICE_ACCOUNT,
                pipeline_id=version.pipeline_id if version else "",
                pipeline_version_id=version.pipeline_version_id if version else "",
                inline=version is None,
                manifest=version.manifest if version else store_manifest(session, package.document),
                parameters=parameters,
                pipeline_root=checked_root(config.pipeline_root),
                warnings=warnings,
            )
        dispatcher.wake()
        return messages.run(made, [], package.document if made.inline else None)

    @routes.post("/{run_id}:archive")
    def archive_run(run_id: str) -> dict:
        with store.writing() as session:
            find(session, Run, run_id).storage_state = ARCHIVED
        return {}

    @routes.post("/{run_id}:unarchive")
    def unarchive_run(run_id: str) -> dict:
        with store.writing() as session:
            found = find(session, Run, run_id)
            experiment = session.exec(select(Experiment).where(Experiment.experiment_id == found.experiment_id)).first()
            if experiment and experiment.storage_state == ARCHIVED:
                raise ApiError(
                    Code.FAILED_PRECONDITION,
                    f"Failed to unarchive run {run_id} as experiment {found.experiment_id} must be un-archived first",
                )
            found.storage_state = AVAILABLE
        return {}

    @routes.post("/{run_id}:terminate")
    def terminate_run(run_id: str) -> dict:
        """Stop a run and the processes of its tasks. A run that has not started becomes CANCELED at once."""
        with store.writing() as session:
            found = find(session, Run, run_id)
            if found.state in ENDED:
                raise invalid(f"Failed to terminate run {run_id}: it has already ended ({found.state})")
            has_not_started = found.state == "PENDING"
            change(found, "CANCELING")
            if has_not_started:
                change(found, "CANCELED")
        dispatcher.cancel(run_id)
        return {}

    @routes.post("/{run_id}:retry")
    def retry_run(run_id: str) -> dict:
        """Execute a failed run again. Tasks that have succeeded are not executed again."""
        with store.writing() as session:
            found = find(session, Run, run_id)
            if found.storage_state == ARCHIVED:
                raise ApiError(Code.FAILED_PRECONDITION, f"Failed to retry run {run_id}: unarchive it first")
            if found.state not in ("FAILED", "CANCELED"):
                raise invalid(f"Failed to retry run {run_id}: it is {found.state}, neither FAILED nor CANCELED")
            found.finished_at, found.error = 0, ""
            change(found, "PENDING")
        dispatcher.wake()
        return {}

    @routes.get("/{run_id}")
    def get_run(run_id: str, experiment_id: str = "") -> JSONResponse:
        with store.reading() as session:
            # A loop can have thousands of tasks, so the framework must not copy the message.
            return JSONResponse(_to_messages(session, [find(session, Run, run_id)])[0])

    @routes.delete("/{run_id}")
    def delete_run(run_id: str) -> dict:
        """Delete a run. A run in progress is stopped first. The artifacts in S3 stay."""
        with store.writing() as session:
            found = find(session, Run, run_id)
            session.exec(delete(TaskRecord).where(col(TaskRecord.run_id) == run_id))
            session.delete(found)
        dispatcher.discard(run_id)
        return {}

    return routes


def checked_root(given: str | None) -> str:
    """Check a pipeline root, and return it without a slash at its end.

    Raises:
        ApiError: the root is not an address in S3.
    """
    if given and not given.startswith(("s3://", "minio://")):
        raise invalid(f"pipeline_root is {given!r}; it must be like s3://BUCKET/PREFIX")
    return (given or "").rstrip("/")


def _to_messages(session: Session, rows: list[Run]) -> list[dict]:
    tasks: dict[str, list[TaskRecord]] = {row.run_id: [] for row in rows}
    for task in tasks_of(session, list(tasks)):
        tasks[task.run_id].append(task)
    documents = {row.manifest: manifest(session, row.manifest) for row in rows if row.inline}
    return [messages.run(row, tasks[row.run_id], documents.get(row.manifest) if row.inline else None) for row in rows]
