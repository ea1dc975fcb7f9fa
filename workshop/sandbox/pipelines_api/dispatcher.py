"""Starts a worker process for each run, in order, and waits for each one to end."""

import logging
import multiprocessing
import os
import threading
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
from workshop.sandbox.pipelines_api.engine import run_folder
from workshop.sandbox.pipelines_api.engine.containers import remove_containers
from workshop.sandbox.pipelines_api.engine.contract import Runner
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder
from workshop.sandbox.pipelines_api.states import SERVER_ENDED, STARTED, change, close
from workshop.sandbox.pipelines_api.tables import Run, Store, delete_unused_manifests
from workshop.sandbox.processes import end, find, has_mark, start_mark

AFTER_AN_ERROR_SECONDS = 1.0
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
    """

    process: BaseProcess
    orders: Connection
    started: str  # the process's start mark


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
        self._lock = threading.Lock()
        self._woken, self._waker = multiprocessing.Pipe(duplex=False)
        self._stopping = False
        # Workers are forked from a process that has done the imports, which take longer than most tasks.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([worker.__name__])
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Close the runs of an earlier server, then begin."""
        self._recover()
        self._thread.start()

    def stop(self) -> None:
        """End all workers and the dispatcher. The runs of the workers become FAILED with the reason."""
        self._stopping = True
        self.wake()
        self._thread.join(timeout=3)
        with self._lock:
            for running in self._workers.values():
                running.process.terminate()

    def wake(self) -> None:
        """Check now for runs that can start."""
        self._waker.send(None)

    def cancel(self, run_id: str) -> None:
        """Stop a run if it is executing."""
        with self._lock:
            running = self._workers.get(run_id)
            if running:
                _tell(running, "cancel")

    def discard(self, run_id: str) -> None:
        """Stop a run that was deleted from the database, and delete its folder."""
        with self._lock:
            executing = run_id in self._workers
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
        while not self._stopping:
            with self._lock:
                sentinels = [running.process.sentinel for running in self._workers.values()]
            wait([*sentinels, self._woken], timeout=wait_for)
            while self._woken.poll():
                self._woken.recv()
            wait_for = min(self._attempt(self._reap), self._attempt(self._fire_due))
            wait_for = min(wait_for, self._attempt(self._start_waiting))

    def _attempt(self, step: Callable[[], float | None]) -> float:
        """Do a step and return the seconds to wait after it. An error in one step does not prevent the other steps."""
        try:
            wait_for = step()
        except Exception:
            log.exception("the dispatcher continues after an error")
            wait_for = AFTER_AN_ERROR_SECONDS
        return LONGEST_WAIT_SECONDS if wait_for is None else wait_for

    def _start_waiting(self) -> None:
        while len(self._workers) < (os.cpu_count() or 1) and not self._stopping:
            with self._store.writing() as session:
                # A run that was cancelled and retried may still have its old worker.
                waiting = select(Run).where(Run.state == "PENDING", col(Run.run_id).not_in(list(self._workers)))
                run = session.exec(waiting.order_by(col(Run.sequence))).first()
                if run is None:
                    return
                change(run, "RUNNING")
            self._start(run.run_id)

    def _start(self, run_id: str) -> None:
        theirs, ours = self._processes.Pipe(duplex=False)
        arguments = (self._database, self._sandbox, run_id, self.runner, theirs)
        process = self._processes.Process(target=worker.work, args=arguments, name=f"run {run_id}", daemon=True)
        try:
            with self._lock:
                process.start()
                self._workers[run_id] = Worker(process, ours, start_mark(process.pid or 0))
        except Exception as error:
            ours.close()
            self._finalize(
                run_id, f"The process that executes this run could not be started: {error!r}. Retry the run."
            )
            raise
        finally:
            theirs.close()
        with self._store.reading() as session:
            state = session.exec(select(Run.state).where(Run.run_id == run_id)).first()
        if state != "RUNNING":  # the run was terminated or deleted while its worker started
            self.cancel(run_id)

    def _reap(self) -> None:
        """Finalize the runs whose worker processes have ended."""
        with self._lock:
            ended = [(run_id, one, one.process.exitcode) for run_id, one in self._workers.items()]
        for run_id, one, exit_code in ended:
            if exit_code is None:
                continue
            self._end_leftovers(run_id, (one.process.pid, one.started))
            self._finalize(run_id, f"{full_disk(self._sandbox)} {_describe_end(exit_code)}".strip())
            one.orders.close()
            one.process.close()
            with self._lock:
                del self._workers[run_id]

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


def _tell(running: Worker, order: str) -> None:
    with suppress(OSError):  # the worker has ended
        running.orders.send(order)


def _describe_end(exit_code: int) -> str:
    if exit_code == FORK_SERVER_ENDED:
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
        return is_worker or has_mark(process, RUN_MARK, run_id)

    end(lambda: find(belongs))
