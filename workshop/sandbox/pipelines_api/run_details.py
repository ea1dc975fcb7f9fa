"""Serves details of a run that the contract of the real server does not have: task records, logs and artifacts.

`GET runs/RUN/tasks?page_size=NUMBER&page_token=TOKEN`: the tasks with their inputs, outputs and exit codes, in the
order of creation. `next_page_token` of the answer is the token of the next page.

`GET runs/RUN/nodes/NODE/log?follow=true&tail=BYTES`: the log of a task, optionally until the task ends. NODE is a
`pod_name` of `child_tasks` or a task id. The real server has this endpoint under `/apis/v1alpha1`; this server has it
there too.

`GET runs/RUN/nodes/NODE/artifacts/NAME`: the content of an output artifact that is a single object in S3.
"""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import or_
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from workshop.sandbox import Sandbox
from workshop.sandbox.pipelines_api import messages
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.artifacts import Store as ArtifactStore
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.regular_files import open_to_read
from workshop.sandbox.pipelines_api.errors import invalid, not_found
from workshop.sandbox.pipelines_api.queries import find
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
    def read_log(request: Request, run_id: str, node_id: str, follow: bool = False, tail: int = 0) -> StreamingResponse:
        with store.reading() as session:
            task = _find_node(session, run_id, node_id)
        if not task.log:
            raise not_found("Log", f"of {task.name!r} (it is not a task that runs something)")
        path = dispatcher.folder(run_id).log(task.log)
        start = max(path.stat().st_size - tail, 0) if tail > 0 and path.exists() else 0
        chunks = _follow(request, store, task.task_id, path, start) if follow else _read_chunks(path, start)
        return StreamingResponse(chunks, media_type="text/plain")

    @routes.get("/nodes/{node_id}/artifacts/{artifact_name}")
    def read_artifact(run_id: str, node_id: str, artifact_name: str) -> StreamingResponse:
        with store.reading() as session:
            task = _find_node(session, run_id, node_id)
        found = task.outputs.get("artifacts", {}).get(artifact_name)
        if not found:
            raise not_found("Artifact", artifact_name)
        chunks = _read_object(sandbox, dispatcher.folder(run_id).downloads, found[0]["uri"])
        return StreamingResponse(chunks, media_type="application/octet-stream")

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
    find(session, Run, run_id)
    # The name of a node ends with the first letters of the id of its task.
    named = or_(col(TaskRecord.task_id) == node_id, col(TaskRecord.task_id).startswith(node_id[-8:], autoescape=True))
    for task in session.exec(select(TaskRecord).where(TaskRecord.run_id == run_id, named)).all():
        if node_id in (task.task_id, messages.pod_name(task)):
            return task
    raise not_found("Node", node_id)


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
