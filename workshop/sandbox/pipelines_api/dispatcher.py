"""Starts a worker process for each run, in order, and waits for each one to end."""

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
from sqlmodel import col, select

from workshop.sandbox.files import full_disk
from workshop.sandbox.pipelines_api import worker
from workshop.sandbox.pipelines_api.engine import orphans, run_folder
from workshop.sandbox.pipelines_api.engine.containers import remove_containers
from workshop.sandbox.pipelines_api.engine.contract import Runner
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder
from workshop.sandbox.pipelines_api.states import SERVER_ENDED, STARTED, change, close
from workshop.sandbox.pipelines_api.tables import Run, Store, delete_unused_manifests
from workshop.sandbox.processes import end, find, has_mark, start_mark

AFTER_AN_ERROR_SECONDS = 1.0
AFTER_A_SIGTERM_SECONDS = 2.0
LOG_AGAIN_SECONDS = 60.0
# A worker ends a cancelled run within 6 s. A worker that is blocked, for example in an endless expression, is killed.
KILL_AFTER_SECONDS = 8.0
LONGEST_WAIT_SECONDS = 60.0
RUN_MARK = "WORKSHOP_RUN_ID"  # marks all processes of a run: the engine sets this variable for every task
FORK_SERVER_ENDED = 255  # the exit code that multiprocessing reports after the fork server has ended
log = logging.getLogger("uvicorn.error")


@dataclass
class Worker:
    """A process that executes a run.

    Attributes:
        process: the process.
        orders: the pipe that tells the process to stop.
        started: the process's start mark.
        must_end_at: the monotonic time at which a cancelled process is killed; None for a run that is not cancelled.
    """

    process: BaseProcess
    orders: Connection
    started: str
    must_end_at: float | None = None


class Dispatcher:
    """Executes runs, at most one per CPU core at the same time. The other runs wait in the order of their creation.

    Args:
        store: the database.
        database: the database file, for the workers.
        sandbox: the sandbox's folder.
        runner: how tasks are executed.
        fire_due: creates the runs of recurring runs that are due, and returns the seconds until the next call.
    """

    def __init__(
        self,
        store: Store,
        database: Path,
        sandbox: Path,
        runner: Runner,
        fire_due: Callable[[], float],
    ) -> None:
        self.runner = runner
        self._store = store
        self._database = database
        self._sandbox = sandbox
        self._fire_due = fire_due
        self._workers: dict[str, Worker] = {}
        self._reasons: dict[str, str] = {}  # why the worker of a run ended, until the database has recorded the end
        self._errors = Errors()
        self._lock = threading.Lock()
        self._woken, self._waker = multiprocessing.Pipe(duplex=False)
        self._stopping = threading.Event()
        self._starts_again_at = 0.0
        # Workers are forked from a process that has done the imports, which take longer than most tasks.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([worker.__name__])
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Close the runs of an earlier server, then begin."""
        orphans.adopt()
        self._recover()
        self._thread.start()

    def stop(self) -> None:
        """End all workers and the dispatcher. The runs of the workers become FAILED with the reason."""
        self.start_no_more()
        self._thread.join(timeout=3)
        with self._lock:
            for running in self._workers.values():
                running.process.terminate()

    def start_no_more(self) -> None:
        """Start no further run: the server ends. Runs that wait stay PENDING, and the next server starts them."""
        self._stopping.set()
        self.wake()

    def wake(self) -> None:
        """Check now for runs that can start."""
        self._waker.send(None)

    def cancel(self, run_id: str) -> None:
        """Stop a run if it is executing."""
        with self._lock:
            running = self._workers.get(run_id)
            if running:
                running.must_end_at = running.must_end_at or time.monotonic() + KILL_AFTER_SECONDS
                _tell(running, "cancel")
        self.wake()

    def discard(self, run_id: str) -> None:
        """Stop a run that was deleted from the database, and delete its folder."""
        with self._lock:
            executing = run_id in self._workers or run_id in self._reasons
        if executing:
            self.cancel(run_id)  # the folder is deleted after the worker has ended
        else:
            self.folder(run_id).remove()

    def folder(self, run_id: str) -> RunFolder:
        """Return the folder of a run.

        Args:
            run_id: the id of a run that is in the database. The id becomes part of a path, so never pass text from a
                request.
        """
        return run_folder.of_run(self._database.parent, run_id)

    def _loop(self) -> None:
        wait_for = 0.0
        while not self._stopping.is_set():
            failed_before = self._errors.count
            try:
                self._await_event(wait_for)
            except Exception as error:
                self._errors.note(error)
            steps = (self._reap, self._close, self._fire_due, self._start_waiting)
            wait_for = min(self._attempt(step) for step in steps)
            if self._errors.count != failed_before:
                # The events of the failed steps are still there, so the next wait would return at once.
                self._stopping.wait(AFTER_AN_ERROR_SECONDS)

    def _await_event(self, seconds: float) -> None:
        with self._lock:
            sentinels = [running.process.sentinel for running in self._workers.values()]
        wait([*sentinels, self._woken], timeout=seconds)
        while self._woken.poll():
            self._woken.recv()

    def _attempt(self, step: Callable[[], float | None]) -> float:
        """Do a step and return the seconds to wait after it. An error in one step does not prevent the other steps."""
        try:
            wait_for = step()
        except Exception as error:
            self._errors.note(error)
            wait_for = AFTER_AN_ERROR_SECONDS
        return LONGEST_WAIT_SECONDS if wait_for is None else wait_for

    def _start_waiting(self) -> float | None:
        while len(self._workers) < (os.cpu_count() or 1) and not self._stopping.is_set():
            if (left := self._starts_again_at - time.monotonic()) > 0:
                return left
            # A run that was cancelled and retried may still have its old worker.
            is_free = col(Run.run_id).not_in([*self._workers, *self._reasons])
            waiting = select(Run).where(Run.state == "PENDING", is_free).order_by(col(Run.sequence))
            with self._store.reading() as session:  # a full disk does not prevent reading
                if session.exec(waiting).first() is None:
                    return None
            with self._store.writing() as session:
                run = session.exec(waiting).first()
                if run is None or self._stopping.is_set():
                    return None
                change(run, "RUNNING")
            if self._stopping.is_set():  # the server was told to end in the meantime
                with self._store.writing() as session:
                    change(session.exec(select(Run).where(Run.run_id == run.run_id)).one(), "PENDING")
                return None
            self._start(run.run_id)
        return None

    def _start(self, run_id: str) -> None:
        try:
            self._start_worker(run_id)
        except Exception as error:
            self._reasons[run_id] = (
                f"The process that executes this run could not be started: {error!r}. Retry the run."
            )
            self._close()
            raise
        with self._store.reading() as session:
            state = session.exec(select(Run.state).where(Run.run_id == run_id)).first()
        if state != "RUNNING":  # the run was terminated or deleted while its worker started
            self.cancel(run_id)

    def _start_worker(self, run_id: str) -> None:
        theirs, ours = self._processes.Pipe()
        arguments = (self._database, self._sandbox, run_id, self.runner, theirs)
        process = self._processes.Process(target=worker.work, args=arguments, name=f"run {run_id}", daemon=True)
        try:
            with self._lock:
                process.start()
                self._workers[run_id] = Worker(process, ours, start_mark(process.pid or 0))
        except Exception:
            ours.close()
            raise
        finally:
            theirs.close()

    def _reap(self) -> float | None:
        """Note the reason of each worker process that has ended. Kill the workers that were cancelled and do not end.

        Returns:
            The seconds until the next worker must be killed; None if no run is being cancelled.
        """
        with self._lock:
            workers = [(run_id, one, one.process.exitcode) for run_id, one in self._workers.items()]
        seconds = []
        for run_id, one, exit_code in workers:
            if exit_code is not None:
                self._take_reason(run_id, one, exit_code)
            elif one.must_end_at is not None:
                seconds.append(max(one.must_end_at - time.monotonic(), 0.05))
                if time.monotonic() > one.must_end_at:
                    one.process.kill()
        return min(seconds, default=None)

    def _take_reason(self, run_id: str, one: Worker, exit_code: int) -> None:
        if exit_code in (worker.TOLD_TO_END, -signal.SIGTERM):
            # The sandbox tells all its processes to end, in any order. This server is probably one of them.
            self._starts_again_at = time.monotonic() + AFTER_A_SIGTERM_SECONDS
        said = _said(one.orders) or f"{full_disk(self._sandbox)} {_describe_end(exit_code)}".strip()
        self._reasons.setdefault(run_id, said)
        self._end_leftovers(run_id, (one.process.pid, one.started))
        with self._lock:
            del self._workers[run_id]
        one.orders.close()
        one.process.close()

    def _close(self) -> None:
        """End the runs whose workers have ended. A run that cannot be recorded now keeps its reason."""
        for run_id, reason in list(self._reasons.items()):
            self._finalize(run_id, reason)
            del self._reasons[run_id]

    def _end_leftovers(self, run_id: str, *workers: tuple[int | None, str]) -> None:
        """End the processes and containers of a run whose worker process has ended."""
        _end_processes(run_id, *workers)
        if self.runner == "docker":
            remove_containers(run_id)

    def _finalize(self, run_id: str, reason: str) -> None:
        """End a run whose worker process is gone. Delete the folder of a run that was deleted."""
        self.folder(run_id).keep_only_logs()  # the database may need the space on a full disk
        with self._store.writing() as session:
            run = session.exec(select(Run).where(Run.run_id == run_id)).first()
            if run is not None and run.state in STARTED:
                close(session, run, reason)
        if run is None:
            self.folder(run_id).remove()

    def _recover(self) -> None:
        """Close the unfinished runs of an earlier server, and delete the files of deleted runs."""
        with self._store.writing() as session:
            for run in session.exec(select(Run).where(col(Run.state).in_(STARTED))).all():
                self._end_leftovers(run.run_id)
                close(session, run, SERVER_ENDED)
                self.folder(run.run_id).keep_only_logs()
            known = set(session.exec(select(Run.run_id)).all())
            delete_unused_manifests(session)
        for folder in run_folder.all_runs(self._database.parent):
            if folder.name not in known:
                run_folder.remove(folder)


class Errors:
    """Counts the errors of the dispatcher, and logs each kind once a minute at most: a full disk causes many."""

    def __init__(self) -> None:
        self.count = 0
        self._logged: dict[str, float] = {}

    def note(self, error: Exception) -> None:
        """Count an error, and log it if its kind was not logged during the last minute."""
        self.count += 1
        kind, moment = f"{type(error).__name__}: {error}"[:200], time.monotonic()
        if moment - self._logged.get(kind, -math.inf) > LOG_AGAIN_SECONDS:
            self._logged = {known: at for known, at in self._logged.items() if moment - at <= LOG_AGAIN_SECONDS}
            self._logged[kind] = moment
            log.error("the dispatcher continues after an error", exc_info=error)


def _said(orders: Connection) -> str:
    """Return the reason that a worker has sent before its end; "" if it has sent none."""
    with suppress(EOFError, OSError):
        if orders.poll():
            return str(orders.recv())
    return ""


def _tell(running: Worker, order: str) -> None:
    with suppress(OSError):  # the worker has ended
        running.orders.send(order)


def _describe_end(exit_code: int) -> str:
    if exit_code in (FORK_SERVER_ENDED, worker.TOLD_TO_END):
        return SERVER_ENDED
    how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return f"The process that executed this run {how}. Retry the run: tasks that succeeded are not run again."


def _end_processes(run_id: str, *workers: tuple[int | None, str]) -> None:
    """Kill the processes that a run left running.

    Args:
        run_id: the run.
        workers: PID and start mark of workers to kill too, in case they still run.
    """

    def belongs(process: psutil.Process) -> bool:
        is_worker = any(process.pid == pid and start_mark(pid) == started for pid, started in workers)
        # The tasks of other runs are below their own workers, so an orphan of this process belongs to no other run.
        if orphans.is_orphan(process):
            ended.add(process.pid)
            return True
        return is_worker or has_mark(process, RUN_MARK, run_id)

    ended: set[int] = set()
    end(lambda: find(belongs))
    for pid in ended:
        orphans.reap(pid)
