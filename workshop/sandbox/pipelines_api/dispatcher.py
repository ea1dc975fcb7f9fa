"""Starts a worker process for each run, in order, and sees each of them to its end."""

import logging
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import time as now
from typing import Literal

import psutil
from sqlmodel import select

from workshop.sandbox.files import full_disk
from workshop.sandbox.pipelines_api.states import STARTED, change
from workshop.sandbox.pipelines_api.tables import Run, Store, TaskRecord, forget_unused_manifests
from workshop.sandbox.processes import end, find, has_mark, start_mark

AFTER_AN_ERROR_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
RUN_MARK = "WORKSHOP_RUN_ID"  # in the environment of every process of a run's tasks
WORKER = "workshop.sandbox.pipelines_api.worker"
FORK_SERVER_ENDED = 255  # what multiprocessing says of a worker when it can no longer know
SERVER_ENDED = (
    "The sandbox's Pipelines server ended while this run was executing. Retry the run: tasks that succeeded "
    "are not run again."
)
log = logging.getLogger("uvicorn.error")


@dataclass
class Worker:
    """A process that executes a run, and the pipe by which it is told to stop."""

    process: BaseProcess
    orders: Connection
    started: str  # the process's start mark


class Dispatcher:
    """Executes runs, as many at once as there are cores; the rest wait in the order in which they came.

    Args:
        store: the database.
        database: its file, for the workers.
        sandbox: the sandbox's folder.
        runner: what tasks are run with.
        fire_due: makes the recurring runs that are due, and returns the seconds until it must be called again.
    """

    def __init__(
        self,
        store: Store,
        database: Path,
        sandbox: Path,
        runner: Literal["subprocess", "docker"],
        fire_due: Callable[[], float],
    ) -> None:
        self.runner = runner
        self._store = store
        self._database = database
        self._sandbox = sandbox
        self._fire_due = fire_due
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()
        self._woken, self._waker = multiprocessing.Pipe(duplex=False)
        self._stopping = False
        # Workers are forked from a process that has imported what they need, which takes longer than most tasks.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([WORKER])
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin, after putting in order what an earlier server has left."""
        self._recover()
        self._thread.start()

    def stop(self) -> None:
        """End, and the workers with it: their runs are FAILED with the reason."""
        self._stopping = True
        self.wake()
        self._thread.join(timeout=3)
        with self._lock:
            for worker in self._workers.values():
                worker.process.terminate()

    def wake(self) -> None:
        """Look again for something to do."""
        self._waker.send(None)

    def cancel(self, run_id: str) -> None:
        """Have a run stopped, if it executes."""
        with self._lock:
            worker = self._workers.get(run_id)
            if worker:
                _tell(worker, "cancel")

    def forget(self, run_id: str) -> None:
        """Stop a run that was deleted, and delete its folder."""
        with self._lock:
            executing = run_id in self._workers
        if executing:
            self.cancel(run_id)  # its folder goes when its worker has ended
        else:
            shutil.rmtree(self.directory(run_id), ignore_errors=True)

    def directory(self, run_id: str) -> Path:
        """Return a run's folder.

        Args:
            run_id: the id of a run in the database; never what somebody sent.
        """
        return self._database.parent / "runs" / run_id

    def _loop(self) -> None:
        wait_for = 0.0
        while not self._stopping:
            with self._lock:
                sentinels = [worker.process.sentinel for worker in self._workers.values()]
            wait([*sentinels, self._woken], timeout=wait_for)
            while self._woken.poll():
                self._woken.recv()
            wait_for = min(self._attempt(self._see_off_the_ended), self._attempt(self._fire_due))
            wait_for = min(wait_for, self._attempt(self._start_waiting))

    def _attempt(self, step: Callable[[], float | None]) -> float:
        """Do a step, which must not keep the others from being done, and return how long to wait after it."""
        try:
            wait_for = step()
        except Exception:
            log.exception("the dispatcher goes on after an error")
            wait_for = AFTER_AN_ERROR_SECONDS
        return LONGEST_WAIT_SECONDS if wait_for is None else wait_for

    def _start_waiting(self) -> None:
        while len(self._workers) < (os.cpu_count() or 1) and not self._stopping:
            with self._store.writing() as session:
                # A run that is being cancelled or retried may still have a worker.
                waiting = select(Run).where(Run.state == "PENDING", Run.run_id.not_in(list(self._workers)))
                run = session.exec(waiting.order_by(Run.sequence)).first()
                if run is None:
                    return
                change(run, "RUNNING")
            self._start(run.run_id)

    def _start(self, run_id: str) -> None:
        from workshop.sandbox.pipelines_api.worker import work

        theirs, ours = self._processes.Pipe(duplex=False)
        arguments = (self._database, self._sandbox, run_id, self.runner, theirs)
        process = self._processes.Process(target=work, args=arguments, name=f"run {run_id}", daemon=True)
        try:
            with self._lock:
                process.start()
                self._workers[run_id] = Worker(process, ours, start_mark(process.pid))
        except Exception as error:
            ours.close()
            self._settle(run_id, f"The process that executes this run could not be started: {error!r}. Retry the run.")
            raise
        finally:
            theirs.close()
        with self._store.reading() as session:
            state = session.exec(select(Run.state).where(Run.run_id == run_id)).first()
        if state != "RUNNING":  # terminated or deleted in between
            self.cancel(run_id)

    def _see_off_the_ended(self) -> None:
        with self._lock:
            ended = [run_id for run_id, worker in self._workers.items() if worker.process.exitcode is not None]
        for run_id in ended:
            worker = self._workers[run_id]
            self._end_what_is_left(run_id, (worker.process.pid, worker.started))
            self._settle(run_id, f"{full_disk(self._sandbox)} {_how_it_ended(worker.process.exitcode)}".strip())
            worker.orders.close()
            worker.process.close()
            with self._lock:
                del self._workers[run_id]

    def _end_what_is_left(self, run_id: str, *workers: tuple[int, str]) -> None:
        """End what a run has left running when its worker could not, be it processes or containers."""
        from workshop.sandbox.pipelines_api.engine.containers import remove_left

        _end_processes(run_id, *workers)
        if self.runner == "docker":
            remove_left(run_id)

    def _settle(self, run_id: str, reason: str) -> None:
        """See that a run whose worker is gone has ended, and that nothing of a deleted one is left."""
        keep_only_logs(self.directory(run_id))  # first: on a full disk the database needs the room
        with self._store.writing() as session:
            run = session.exec(select(Run).where(Run.run_id == run_id)).first()
            if run is not None and run.state in STARTED:
                _close(session, run, reason)
        if run is None:
            shutil.rmtree(self.directory(run_id), ignore_errors=True)

    def _recover(self) -> None:
        """Close what an earlier server has left open, and delete what belonged to what was deleted."""
        with self._store.writing() as session:
            for run in session.exec(select(Run).where(Run.state.in_(STARTED))).all():
                self._end_what_is_left(run.run_id)
                _close(session, run, SERVER_ENDED)
                keep_only_logs(self.directory(run.run_id))
            known = set(session.exec(select(Run.run_id)).all())
            forget_unused_manifests(session)
        folder = self._database.parent / "runs"
        for left in folder.iterdir() if folder.exists() else ():
            if left.name not in known:
                shutil.rmtree(left, ignore_errors=True)


def close_tasks(session, run_id: str, state: str, message: str) -> None:
    """Bring the tasks of a run that have not ended into a last state.

    Args:
        session: to write with.
        run_id: the run.
        state: the state.
        message: why.
    """
    unfinished = select(TaskRecord).where(TaskRecord.run_id == run_id, TaskRecord.state.in_(("PENDING", "RUNNING")))
    for task in session.exec(unfinished).all():
        task.state, task.ended, task.error = state, now(), message
        task.state_history = [*task.state_history, {"at": task.ended, "state": state, "error": message}]


def keep_only_logs(folder: Path) -> None:
    """Delete what a run has left on this machine but its logs: its artifacts are in S3.

    Args:
        folder: the run's folder.
    """
    for name in ("downloads", "workspace"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for left in folder.glob("tasks/*/*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        elif left.name != "log":
            left.unlink(missing_ok=True)


def _close(session, run: Run, reason: str) -> None:
    state, message = ("CANCELED", "") if run.state == "CANCELING" else ("FAILED", reason)
    close_tasks(session, run.run_id, state, message)
    change(run, state, message)


def _tell(worker: Worker, order: str) -> None:
    with suppress(OSError):  # it has ended
        worker.orders.send(order)


def _how_it_ended(exit_code: int) -> str:
    if exit_code == FORK_SERVER_ENDED:
        return SERVER_ENDED
    how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return f"The process that executed this run {how}. Retry the run: tasks that succeeded are not run again."


def _end_processes(run_id: str, *workers: tuple[int, str]) -> None:
    """Kill what a run has left running.

    Args:
        run_id: the run.
        workers: PID and start mark of workers to kill too, in case they still run.
    """

    def belongs(process: psutil.Process) -> bool:
        is_worker = any(process.pid == pid and start_mark(pid) == started for pid, started in workers)
        return is_worker or has_mark(process, RUN_MARK, run_id)

    end(lambda: find(belongs))
