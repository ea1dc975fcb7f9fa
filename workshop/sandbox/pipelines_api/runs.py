"""The Run service, and what the sandbox tells of a run beside the contract: each task's record, log and artifacts."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from time import time as now
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import delete
from sqlmodel import Session, select
from starlette.concurrency import run_in_threadpool

from workshop.sandbox.pipelines_api import engine, experiments, messages, pipelines
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.errors import ApiError, Code, invalid, not_found
from workshop.sandbox.pipelines_api.listing import list_page
from workshop.sandbox.pipelines_api.package import Package, check_arguments, read_document
from workshop.sandbox.pipelines_api.queries import ListQuery, belonging_to, find, named
from workshop.sandbox.pipelines_api.states import ENDED, change
from workshop.sandbox.pipelines_api.tables import (
    ARCHIVED,
    AVAILABLE,
    Experiment,
    PipelineVersion,
    Run,
    Store,
    TaskRecord,
    keep_manifest,
    manifest,
)

SERVICE_ACCOUNT = "pipeline-runner"  # that of a standalone installation
LOOK_AGAIN_SECONDS = 0.2
PIECE_BYTES = 1 << 18
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
    """Return what a request wants to run: the spec that it holds, or the version that it names.

    Raises:
        ApiError: it does neither, or both, or what it names is not there.
    """
    reference = body.pipeline_version_reference
    named_version = reference is not None and (reference.pipeline_id or reference.pipeline_version_id)
    if bool(body.pipeline_spec) == bool(named_version):
        raise invalid("a run needs one of pipeline_spec (a compiled pipeline) and pipeline_version_reference")
    if body.pipeline_spec:
        return read_document(body.pipeline_spec), None
    version = pipelines.find_version(session, reference.pipeline_id or "", reference.pipeline_version_id or "")
    return read_document(manifest(session, version.manifest)), version


def check_runnable(package: Package, parameters: Mapping[str, Any], runner: str) -> list[str]:
    """Check that a pipeline can be run here with these arguments, and return warnings.

    Raises:
        ApiError: it cannot.
    """
    warnings = check_arguments(package.spec, parameters)
    errors, ignored = engine.check(package.spec, package.platform, runner)
    if errors:
        raise invalid(f"the sandbox cannot run the pipeline {package.name!r}: {'; '.join(errors)}")
    return [*warnings, *ignored]


def add(session: Session, experiment: Experiment, **fields: Any) -> Run:
    """Add a run that waits for its turn.

    Args:
        session: to write with.
        experiment: what it belongs to.
        fields: of `Run`.
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
            page = list_page(session, Run, FIELDS, query, *belonging_to(session, Run, experiment_id))
            return messages.page("runs", page, _shown(session, page.rows))

    @routes.post("")
    def create_run(body: messages.RunBody, experiment_id: str = "") -> dict:
        name = named(body.display_name, "The run name is empty. Please specify a valid name")
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
                manifest=version.manifest if version else keep_manifest(session, package.document),
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
            owner = session.exec(select(Experiment).where(Experiment.experiment_id == found.experiment_id)).first()
            if owner and owner.storage_state == ARCHIVED:
                raise ApiError(
                    Code.FAILED_PRECONDITION,
                    f"Failed to unarchive run {run_id} as experiment {found.experiment_id} must be un-archived first",
                )
            found.storage_state = AVAILABLE
        return {}

    @routes.post("/{run_id}:terminate")
    def terminate_run(run_id: str) -> dict:
        """Stop a run and the processes of its tasks. A run that waits is cancelled at once."""
        with store.writing() as session:
            found = find(session, Run, run_id)
            if found.state in ENDED:
                raise invalid(f"Failed to terminate run {run_id}: it has ended already ({found.state})")
            waits = found.state == "PENDING"
            change(found, "CANCELING")
            if waits:
                change(found, "CANCELED")
        dispatcher.cancel(run_id)
        return {}

    @routes.post("/{run_id}:retry")
    def retry_run(run_id: str) -> dict:
        """Run what has not succeeded once more: tasks that have are not run again."""
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
    def get_run(run_id: str, experiment_id: str = "") -> dict:
        with store.reading() as session:
            return _shown(session, [find(session, Run, run_id)])[0]

    @routes.delete("/{run_id}")
    def delete_run(run_id: str) -> dict:
        """Delete a run, ended or not: what runs of it is stopped. Its artifacts in S3 stay."""
        with store.writing() as session:
            found = find(session, Run, run_id)
            session.exec(delete(TaskRecord).where(TaskRecord.run_id == run_id))
            session.delete(found)
        dispatcher.forget(run_id)
        return {}

    return routes


def details_router(store: Store, dispatcher: Dispatcher, sandbox: Path) -> APIRouter:
    """Return the routes beside the contract.

    `GET runs/RUN/tasks`: every task with inputs, outputs, exit code, in the order in which they were made.
    `GET runs/RUN/nodes/NODE/log?follow=true&tail=BYTES`: a task's log, to its end and as it is written, by `pod_name`
    or task id; the real server has the same under `/apis/v1alpha1`, and so has this one.
    `GET runs/RUN/nodes/NODE/artifacts/NAME`: an output artifact that is one object, as S3 has it.
    """
    routes = APIRouter(prefix="/runs/{run_id}")

    @routes.get("/tasks")
    def list_tasks(run_id: str) -> dict:
        with store.reading() as session:
            run = find(session, Run, run_id)
            return {
                "tasks": [messages.task_record(task) for task in _tasks(session, [run_id])],
                "warnings": run.warnings,
            }

    @routes.get("/nodes/{node_id}/log")
    def read_log(request: Request, run_id: str, node_id: str, follow: bool = False, tail: int = 0):
        with store.reading() as session:
            task = _node(session, run_id, node_id)
        if not task.log:
            raise not_found("Log", f"of {task.name!r} (it is not a task that runs something)")
        path = dispatcher.directory(run_id) / task.log
        start = max(path.stat().st_size - tail, 0) if tail > 0 and path.exists() else 0
        pieces = _followed(request, store, task.task_id, path, start) if follow else _pieces(path, start)
        return StreamingResponse(pieces, media_type="text/plain")

    @routes.get("/nodes/{node_id}/artifacts/{artifact_name}")
    def read_artifact(run_id: str, node_id: str, artifact_name: str):
        with store.reading() as session:
            task = _node(session, run_id, node_id)
        found = task.outputs.get("artifacts", {}).get(artifact_name)
        if not found:
            raise not_found("Artifact", artifact_name)
        return StreamingResponse(_object(sandbox, found[0]["uri"]), media_type="application/octet-stream")

    return routes


def checked_root(given: str | None) -> str:
    """Return a pipeline root, without a slash at its end.

    Raises:
        ApiError: it is no address in S3.
    """
    if given and not given.startswith(("s3://", "minio://")):
        raise invalid(f"pipeline_root is {given!r}; it must be like s3://BUCKET/PREFIX")
    return (given or "").rstrip("/")


def _shown(session: Session, rows: list[Run]) -> list[dict]:
    tasks: dict[str, list[TaskRecord]] = {row.run_id: [] for row in rows}
    for task in _tasks(session, list(tasks)):
        tasks[task.run_id].append(task)
    documents = {row.manifest: manifest(session, row.manifest) for row in rows if row.inline}
    return [messages.run(row, tasks[row.run_id], documents.get(row.manifest) if row.inline else None) for row in rows]


def _tasks(session: Session, run_ids: list[str]) -> list[TaskRecord]:
    return list(
        session.exec(select(TaskRecord).where(TaskRecord.run_id.in_(run_ids)).order_by(TaskRecord.sequence)).all()
    )


def _node(session: Session, run_id: str, node_id: str) -> TaskRecord:
    find(session, Run, run_id)
    for task in _tasks(session, [run_id]):
        if node_id in (task.task_id, messages.pod_name(task)):
            return task
    raise not_found("Node", node_id)


def _pieces(path: Path, start: int) -> Iterator[bytes]:
    """Yield a file from some byte on, piece by piece: a log may be larger than memory."""
    while piece := _piece(path, start):
        start += len(piece)
        yield piece


def _piece(path: Path, start: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(PIECE_BYTES)


async def _followed(request: Request, store: Store, task_id: str, path: Path, start: int) -> AsyncIterator[bytes]:
    """Yield a log as it is written, to the end of its task, or until nobody reads it any more.

    It waits without holding a thread: those are few, and all requests share them.
    """
    while not await request.is_disconnected():
        runs = await run_in_threadpool(_still_runs, store, task_id)
        while piece := await run_in_threadpool(_piece, path, start):
            start += len(piece)
            yield piece
        if not runs:
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _still_runs(store: Store, task_id: str) -> bool:
    with store.reading() as session:
        state = session.exec(select(TaskRecord.state).where(TaskRecord.task_id == task_id)).first()
    return state in ("PENDING", "RUNNING")


def _object(sandbox: Path, uri: str) -> Iterator[bytes]:
    """Return the pieces of an object in the sandbox's S3."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from workshop.sandbox import Sandbox

    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in ("s3", "minio"):
        raise not_found("Artifact", f"at {uri} (it does not lie in the sandbox's S3)")
    environment = Sandbox(sandbox).task_environment()
    session = boto3.Session(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], region_name=environment["AWS_REGION"]
    )
    try:
        s3 = session.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL_S3"])
        return s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 16)
    except (BotoCoreError, ClientError) as error:
        raise not_found("Artifact", f"at {uri} ({error}); a folder is to be listed in S3") from None
