"""Executes one run in its own process."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from workshop.sandbox import Sandbox, component_environment
from workshop.sandbox.files import full_disk
from workshop.sandbox.pipelines_api import engine, package
from workshop.sandbox.pipelines_api.engine import cache, orphans, run_folder
from workshop.sandbox.pipelines_api.engine.contract import DEFAULT_PIPELINE_ROOT, Job, Outcome, Runner, Task
from workshop.sandbox.pipelines_api.states import ENDED, SERVER_ENDED, change, close_tasks, history_with
from workshop.sandbox.pipelines_api.tables import Run, Store, TaskRecord, manifest
from workshop.sandbox.processes import SERVER_MARK

TASKS_AT_ONCE = 300  # tasks in one transaction: other writers must not wait long
TASK_FIELDS = [field.name for field in fields(Task)]


# The exit code of a worker that the system or the sandbox has told to end.
TOLD_TO_END = 3


def work(database: Path, sandbox: Path, run_id: str, runner: Runner, orders: Connection) -> NoReturn:
    """Execute a run, record its tasks and its end in the database, and end this process.

    The process ends at once. Python itself would wait for a thread that is blocked, for example by an S3 that hangs.

    Args:
        database: the database file.
        sandbox: the sandbox's folder.
        run_id: a run in the state RUNNING.
        runner: how tasks are executed.
        orders: a pipe from and to the server. Any message from the server cancels the run. The run fails if the pipe
            closes, because then the server has ended. The worker sends the reason if it cannot record the end of the
            run.
    """
    stop = _Stop(orders)
    signal.signal(signal.SIGTERM, lambda *_: stop.because_of_the_server())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orphans.adopt()
    try:
        _work(database, sandbox, run_id, runner, stop)
    except Exception as error:
        traceback.print_exc()
        with suppress(OSError):
            orders.send(f"{full_disk(sandbox)} The end of the run could not be recorded: {error}".strip())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(TOLD_TO_END if stop.server_ended else 0)


def _work(database: Path, sandbox: Path, run_id: str, runner: Runner, stop: "_Stop") -> None:
    store = Store(database)
    records = DatabaseRecords(store, run_id, stop.event)
    folder = run_folder.of_run(database.parent, run_id)
    try:
        job = _job(store, database.parent, sandbox, run_id, runner)
        outcome = engine.execute(job, records, stop.event)
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("FAILED", f"{type(error).__name__}: {error}")
    if outcome.state == "FAILED" and (full := full_disk(sandbox)):
        outcome = Outcome("FAILED", f"{full} {outcome.error}")
    ended_early = stop.server_ended and outcome.state != "SUCCEEDED"
    folder.keep_only_logs()  # the database may need the space on a full disk
    _finish(store, run_id, Outcome("FAILED", SERVER_ENDED) if ended_early else outcome)


class DatabaseRecords:
    """Stores tasks in the database. It implements `engine.Records`.

    Args:
        store: the database.
        run_id: the run that the tasks belong to.
        cancelled: set by this class if the run was deleted.
    """

    def __init__(self, store: Store, run_id: str, cancelled: threading.Event) -> None:
        self._store = store
        self._run_id = run_id
        self._cancelled = cancelled

    def save(self, tasks: Sequence[Task]) -> None:
        """Store the states of tasks, in their order. One task may have several states."""
        try:
            for start in range(0, len(tasks), TASKS_AT_ONCE):
                self._save(tasks[start : start + TASKS_AT_ONCE])
        except IntegrityError:  # the run was deleted
            self._cancelled.set()

    def _save(self, tasks: Sequence[Task]) -> None:
        with self._store.writing() as session:
            known = select(TaskRecord.task_id, TaskRecord.state_history)
            known = known.where(col(TaskRecord.task_id).in_({task.task_id for task in tasks}))
            histories: dict[str, list] = {task_id: list(history) for task_id, history in session.exec(known).all()}
            rows: dict[str, dict[str, Any]] = {}
            for task in tasks:
                history = histories[task.task_id] = history_with(histories.get(task.task_id, []), task)
                values = {name: getattr(task, name) for name in TASK_FIELDS}
                rows[task.task_id] = values | {"run_id": self._run_id, "state_history": history}
            statement = insert(TaskRecord)
            changed = {name: statement.excluded[name] for name in (*TASK_FIELDS, "state_history")}
            session.execute(statement.on_conflict_do_update(["task_id"], set_=changed), list(rows.values()))

    def find_cached(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the outputs of the latest succeeded task with this fingerprint, or None."""
        same = select(TaskRecord.outputs)
        same = same.where(TaskRecord.fingerprint == fingerprint, TaskRecord.state == "SUCCEEDED")
        with self._store.reading() as session:
            found = session.exec(same.order_by(col(TaskRecord.ended).desc())).first()
        return None if found is None else dict(found)


class _Stop:
    """Whether the run must stop, and why."""

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


def _job(store: Store, data: Path, sandbox: Path, run_id: str, runner: Runner) -> Job:
    with store.reading() as session:
        run = session.exec(select(Run).where(Run.run_id == run_id)).one()
        pipeline = package.from_database(manifest(session, run.manifest))
    root = run.pipeline_root or pipeline.spec.get("defaultPipelineRoot") or DEFAULT_PIPELINE_ROOT
    folder = run_folder.of_run(data, run_id)
    return Job(
        run_id=run_id,
        name=run.display_name,
        spec=pipeline.spec,
        platform=pipeline.platform,
        parameters=run.parameters,
        pipeline_root=root.rstrip("/"),
        directory=folder.path,
        environment=Sandbox(sandbox).task_environment(),
        python=component_environment.ensure(),
        package_environments=data / "package-environments",
        runner=runner,
        tasks_at_once=os.cpu_count() or 1,
        created=float(run.created_at),
        done=_take_successful_tasks(store, folder, run_id),
        # `workshop sandbox down` finds the processes of tasks by the mark of the server that started them.
        inherited=(SERVER_MARK,),
    )


def _take_successful_tasks(store: Store, folder: run_folder.RunFolder, run_id: str) -> Mapping[str, Task]:
    """Return the successful tasks of an earlier attempt at this run, and delete its other tasks.

    The records of the successful tasks stay in the database. No record is lost if this attempt ends early.
    """
    with store.writing() as session:
        rows = session.exec(select(TaskRecord).where(TaskRecord.run_id == run_id)).all()
        done: dict[str, Task] = {}
        for row in rows:
            task = Task(**{name: getattr(row, name) for name in TASK_FIELDS})
            if task.kind != "dag" and cache.is_successful(task):
                done[task.path] = task
            else:
                session.delete(row)
                run_folder.remove(folder.task(row.task_id).path)
    return done


def _finish(store: Store, run_id: str, outcome: Outcome) -> None:
    with store.writing() as session:
        run = session.exec(select(Run).where(Run.run_id == run_id)).first()
        if run is None or run.state in ENDED:
            return
        state = "CANCELED" if run.state == "CANCELING" and outcome.state == "FAILED" else outcome.state
        close_tasks(session, run_id, "CANCELED" if state == "CANCELED" else "FAILED", outcome.error)
        change(run, state, "" if state == "CANCELED" else outcome.error)
