"""Serves what only the sandbox has: task records, logs and artifacts of a run, under `/apis/sandbox/v1`.

`GET runs/RUN/tasks?page_size=NUMBER&page_token=TOKEN`: the tasks with their inputs, outputs and exit codes, in the
order of creation. `next_page_token` of the answer is the token of the next page.

`GET runs/RUN/nodes/NODE/log?follow=true&tail=BYTES`: the log of a task, optionally until the task ends. NODE is the
`node_id` of a task record, or a `pod_name` of `child_tasks` that names an executor.

`GET runs/RUN/nodes/NODE/artifacts/NAME`: the content of an output artifact that is a single object in S3.

The real server has a log endpoint under `/apis/v1alpha1`, which never returns a log in an installation for one user.
The sandbox returns the log there too. Errors of that endpoint have the server's form: status 200, and a text.
"""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from workshop.sandbox import Sandbox
from workshop.sandbox.pipelines_api import access as access_rules
from workshop.sandbox.pipelines_api import messages, task_details
from workshop.sandbox.pipelines_api.access import Access
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.artifacts import Store as ArtifactStore
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.regular_files import open_to_read
from workshop.sandbox.pipelines_api.errors import ApiError, invalid, not_found
from workshop.sandbox.pipelines_api.queries import EVERY_METHOD, find, flag, number
from workshop.sandbox.pipelines_api.states import UNFINISHED_TASK
from workshop.sandbox.pipelines_api.tables import Run, Store, TaskRecord

POLL_SECONDS = 0.2
CHUNK_BYTES = 1 << 18
TASKS_ON_A_PAGE = 200
PAGE_TOKEN = re.compile(r"[1-9][0-9]{0,17}")


def router(store: Store, dispatcher: Dispatcher, sandbox: Path) -> APIRouter:
    """Return the routes.

    Args:
        store: the database.
        dispatcher: knows the folders of runs.
        sandbox: the sandbox's folder.
    """
    routes = APIRouter(prefix="/runs/{run_id}")

    @routes.get("/tasks")
    def list_tasks(run_id: str, page_size: int = TASKS_ON_A_PAGE, page_token: str = "") -> dict:
        after = int(page_token) if PAGE_TOKEN.fullmatch(page_token) else 0
        if page_token and not after:
            raise invalid(f"the page_token {page_token[:40]!r} does not come from an earlier response")
        size = min(max(page_size, 1), TASKS_ON_A_PAGE)
        with store.reading() as session:
            run = find(session, Run, run_id)
            page = select(TaskRecord).where(TaskRecord.run_id == run_id, col(TaskRecord.sequence) > after)
            rows = session.exec(page.order_by(col(TaskRecord.sequence)).limit(size + 1)).all()
            more = {"next_page_token": str(rows[size - 1].sequence)} if len(rows) > size else {}
            return {"tasks": [messages.task_record(row) for row in rows[:size]], "warnings": run.warnings} | more

    @routes.get("/nodes/{node_id}/log")
    def read_log(request: Request, run_id: str, node_id: str) -> StreamingResponse:
        return _log(store, dispatcher, request, run_id, node_id)

    @routes.get("/nodes/{node_id}/artifacts/{artifact_name}")
    def read_artifact(run_id: str, node_id: str, artifact_name: str) -> StreamingResponse:
        with store.reading() as session:
            task = _find_node(session, run_id, node_id)
            session.refresh(task, ["outputs"])
            found = task.outputs.get("artifacts", {}).get(artifact_name)
        if not found:
            raise not_found("Artifact", artifact_name)
        chunks = _read_object(sandbox, dispatcher.folder(run_id).downloads, found[0]["uri"])
        return StreamingResponse(chunks, media_type="application/octet-stream")

    return routes


def log_router(store: Store, dispatcher: Dispatcher) -> APIRouter:
    """Return the route of the log endpoint of the real server.

    Args:
        store: the database.
        dispatcher: knows the folders of runs.
    """
    routes = APIRouter(prefix="/runs/{run_id}")

    @routes.api_route("/nodes/{node_id}/log", methods=EVERY_METHOD)
    def read_log(request: Request, run_id: str, node_id: str) -> Response:
        try:
            return _log(store, dispatcher, request, run_id, node_id)
        except ApiError as error:
            message = f"BadRequestError: Failed to read logs for run {run_id}: {error.message}"
            answer = JSONResponse({"error_message": message, "error_details": message})
            answer.headers["content-type"] = "text/plain; charset=utf-8"
            return answer

    return routes


def artifact_router(store: Store, access: Access) -> APIRouter:
    """Return the route of the real server for artifacts. For pipelines of version 2, the server finds none.

    Args:
        store: the database.
        access: the rights of users.
    """
    routes = APIRouter(prefix="/runs/{run_id}")

    @routes.get("/nodes/{node_id}/artifacts/{artifact_name}:read")
    def read_artifact(run_id: str, node_id: str, artifact_name: str) -> Response:
        status, message = 404, "artifact not found: <nil>"
        if access.multi_user:  # the endpoint of the real server does not see who asks
            with store.reading() as session:
                run = session.exec(select(Run).where(Run.run_id == run_id)).first()
            namespace = run.namespace if run else ""
            status, message = 403, access_rules.refusal_of_artifacts(run_id, namespace)
        answer = JSONResponse({"error_message": message, "error_details": message}, status)
        answer.headers["content-type"] = "text/plain; charset=utf-8"
        return answer

    return routes


def tasks_of(session: Session, run_ids: list[str]) -> list[TaskRecord]:
    """Return the tasks of some runs, in the order of creation. Their inputs and outputs are not loaded: they may be
    large.

    Args:
        session: a session.
        run_ids: the runs.
    """
    large = [defer(getattr(TaskRecord, name), raiseload=True) for name in ("inputs", "outputs")]
    wanted = select(TaskRecord).where(col(TaskRecord.run_id).in_(run_ids)).options(*large)
    return list(session.exec(wanted.order_by(col(TaskRecord.sequence))).all())


def _find_node(session: Session, run_id: str, node_id: str) -> TaskRecord:
    run = find(session, Run, run_id)
    tasks = tasks_of(session, [run_id])
    workflow = task_details.workflow_name(run, messages.pipeline_name(tasks))
    for task in tasks:
        if node_id in (task.task_id, task_details.node_id(workflow, task.path, "executor")):
            return task
    raise not_found("Node", node_id)


def _log(store: Store, dispatcher: Dispatcher, request: Request, run_id: str, node_id: str) -> StreamingResponse:
    follow, tail = flag(request, "follow"), number(request, "tail")
    with store.reading() as session:
        task = _find_node(session, run_id, node_id)
    if not task.log:
        raise not_found("Log", f"of {task.name!r} (it is not a task that runs something)")
    path = dispatcher.folder(run_id).log(task.log)
    start = max(path.stat().st_size - tail, 0) if tail > 0 and path.exists() else 0
    chunks = _follow(request, store, task.task_id, path, start) if follow else _read_chunks(path, start)
    return StreamingResponse(chunks, media_type="text/plain")


def _read_chunks(path: Path, start: int) -> Iterator[bytes]:
    """Yield the content of a file in chunks: a log may be larger than the memory.

    Args:
        path: the file.
        start: the position in bytes of the first chunk.
    """
    while chunk := _read_chunk(path, start):
        start += len(chunk)
        yield chunk


def _read_chunk(path: Path, start: int) -> bytes:
    file = open_to_read(path)
    if file is None:
        return b""
    with file:
        file.seek(start)
        return file.read(CHUNK_BYTES)


async def _follow(request: Request, store: Store, task_id: str, path: Path, start: int) -> AsyncIterator[bytes]:
    """Yield a log while it grows, until the task ends or the client disconnects.

    The coroutine holds no thread while it waits. All requests share a small pool of threads.
    """
    while not await request.is_disconnected():
        is_running = await run_in_threadpool(_is_running, store, task_id)
        while chunk := await run_in_threadpool(_read_chunk, path, start):
            start += len(chunk)
            yield chunk
        if not is_running:
            return
        await asyncio.sleep(POLL_SECONDS)


def _is_running(store: Store, task_id: str) -> bool:
    with store.reading() as session:
        state = session.exec(select(TaskRecord.state).where(TaskRecord.task_id == task_id)).first()
    return state in UNFINISHED_TASK


def _read_object(sandbox: Path, downloads: Path, uri: str) -> Iterator[bytes]:
    """Return the content of an object in the sandbox's S3, in chunks."""
    artifacts = ArtifactStore(Sandbox(sandbox).task_environment(), downloads, threading.Event())
    try:
        return artifacts.stream(uri)
    except (EngineError, FileNotFoundError) as error:
        raise not_found("Artifact", f"at {uri} ({error})") from None
