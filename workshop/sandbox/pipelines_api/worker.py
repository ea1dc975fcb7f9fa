"""The process that executes one run."""

import os
import shutil
import signal
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, fields
from multiprocessing.connection import Connection
from pathlib import Path
from time import time as now
from typing import Any, Literal

from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from workshop.sandbox.files import full_disk
from workshop.sandbox.pipelines_api import engine
from workshop.sandbox.pipelines_api.dispatcher import SERVER_ENDED, close_tasks, keep_only_logs
from workshop.sandbox.pipelines_api.engine.contract import DEFAULT_PIPELINE_ROOT, Job, Outcome, Task
from workshop.sandbox.pipelines_api.package import read_document
from workshop.sandbox.pipelines_api.states import ENDED, change
from workshop.sandbox.pipelines_api.tables import Run, Store, TaskRecord, manifest

TASK_FIELDS = [field.name for field in fields(Task)]


def work(
    database: Path, sandbox: Path, run_id: str, runner: Literal["subprocess", "docker"], orders: Connection
) -> None:
    """Execute a run, write down what happens, and end.

    Args:
        database: the database's file.
        sandbox: the sandbox's folder.
        run_id: a run that is RUNNING.
        runner: what its tasks are run with.
        orders: where an order to stop comes from; it breaks off when the server ends.
    """
    stop = _Stop(orders)
    signal.signal(signal.SIGTERM, lambda *_: stop.because_of_the_server())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = Store(database)
    records = DatabaseRecords(store, run_id, stop.event)
    try:
        job = _job(store, database.parent, sandbox, run_id, runner)
        outcome = engine.execute(job, records, stop.event)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("FAILED", f"{type(error).__name__}: {error}")
    if outcome.state == "FAILED" and (full := full_disk(sandbox)):
        outcome = Outcome("FAILED", f"{full} {outcome.error}")
    ended_early = stop.server_ended and outcome.state != "SUCCEEDED"
    keep_only_logs(database.parent / "runs" / run_id)  # first: on a full disk the database needs the room
    _finish(store, run_id, Outcome("FAILED", SERVER_ENDED) if ended_early else outcome)
    store.close()


class DatabaseRecords:
    """Writes tasks down in the database.

    Args:
        store: the database.
        run_id: the run to which they belong.
        cancelled: set when the run is no longer there.
    """

    def __init__(self, store: Store, run_id: str, cancelled: threading.Event) -> None:
        self._store = store
        self._run_id = run_id
        self._cancelled = cancelled

    def save(self, task: Task) -> None:
        """Keep the task as it is now."""
        values = asdict(task)
        try:
            with self._store.writing() as session:
                row = session.exec(select(TaskRecord).where(TaskRecord.task_id == task.task_id)).first()
                if row is None:
                    row = TaskRecord(run_id=self._run_id, **values)
                    session.add(row)
                else:
                    for name, value in values.items():
                        setattr(row, name, value)
                _note_state(row)
        except IntegrityError:  # the run was deleted
            self._cancelled.set()

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of the latest succeeded task with this fingerprint, or None."""
        same = select(TaskRecord).where(TaskRecord.fingerprint == fingerprint, TaskRecord.state == "SUCCEEDED")
        with self._store.reading() as session:
            found = session.exec(same.order_by(TaskRecord.ended.desc())).first()
        return found.outputs if found else None


class _Stop:
    """Whether to stop, and why."""

    def __init__(self, orders: Connection) -> None:
        self.event = threading.Event()
        self.server_ended = False
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()

    def because_of_the_server(self) -> None:
        self.server_ended = True
        self.event.set()

    def _listen(self, orders: Connection) -> None:
        try:
            while True:
                orders.recv()
                self.event.set()
        except (EOFError, OSError):
            self.because_of_the_server()


def _job(store: Store, folder: Path, sandbox: Path, run_id: str, runner: Literal["subprocess", "docker"]) -> Job:
    from workshop.sandbox import Sandbox
    from workshop.sandbox.component_environment import ensure

    with store.reading() as session:
        run = session.exec(select(Run).where(Run.run_id == run_id)).one()
        package = read_document(manifest(session, run.manifest))
    root = run.pipeline_root or package.spec.get("defaultPipelineRoot") or DEFAULT_PIPELINE_ROOT
    return Job(
        run_id=run_id,
        name=run.display_name,
        spec=package.spec,
        platform=package.platform,
        parameters=run.parameters,
        pipeline_root=root.rstrip("/"),
        directory=folder / "runs" / run_id,
        environment=Sandbox(sandbox).task_environment(),
        python=ensure(),
        layers=folder / "layers",
        runner=runner,
        tasks_at_once=os.cpu_count() or 1,
        created=float(run.created_at),
        done=_take_what_is_done(store, folder / "runs" / run_id, run_id),
    )


def _take_what_is_done(store: Store, folder: Path, run_id: str) -> Mapping[str, Task]:
    """Return the tasks that an earlier attempt at this run has done, and clear away the others.

    The records of what is done stay, so that they are not lost if this attempt ends before it gets there.
    """
    with store.writing() as session:
        rows = session.exec(select(TaskRecord).where(TaskRecord.run_id == run_id)).all()
        done = [row for row in rows if row.kind != "dag" and (row.state == "SUCCEEDED" or row.cached)]
        tasks = {row.path: Task(**{name: getattr(row, name) for name in TASK_FIELDS}) for row in done}
        for row in rows:
            if row not in done:
                session.delete(row)
                shutil.rmtree(folder / "tasks" / row.task_id, ignore_errors=True)
    return tasks


def _note_state(row: TaskRecord) -> None:
    history = row.state_history or []
    if not history or history[-1]["state"] != row.state:
        row.state_history = [*history, {"at": now(), "state": row.state, "error": row.error}]


def _finish(store: Store, run_id: str, outcome: Outcome) -> None:
    with store.writing() as session:
        run = session.exec(select(Run).where(Run.run_id == run_id)).first()
        if run is None or run.state in ENDED:
            return
        state = "CANCELED" if run.state == "CANCELING" and outcome.state == "FAILED" else outcome.state
        close_tasks(session, run_id, "CANCELED" if state == "CANCELED" else "FAILED", outcome.error)
        change(run, state, "" if state == "CANCELED" else outcome.error)
