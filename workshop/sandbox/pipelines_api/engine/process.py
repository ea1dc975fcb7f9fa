"""Runs the processes of tasks, and ends them together with all processes that they have started."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from workshop.sandbox import processes
from workshop.sandbox.pipelines_api.engine import orphans
from workshop.sandbox.pipelines_api.engine.environment import TASK_MARK
from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError
from workshop.sandbox.pipelines_api.engine.regular_files import open_to_append

TERMINATE_WITHIN_SECONDS = 2


class Running:
    """The processes and containers of a run, which can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[int, Callable[[], None]] = {}
        self._stopping = False
        self._leaders: set[int] = set()

    def process(self, command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> int:
        """Run a process until it ends, then end all processes that it has left behind.

        Args:
            command: program and arguments. The program is searched on the PATH of `environment`.
            environment: the whole environment of the process.
            folder: its working folder.
            log: the file that receives its output.

        Returns:
            The exit code; negative if a signal ended the process.

        Raises:
            EngineError: the process cannot be started.
            Cancelled: `stop` was called.
        """
        # `_end` must not take a process for an orphan before the process is known.
        with self._lock:
            process = _start(command, environment, folder, log)
            self._leaders.add(process.pid)
        task_id = environment.get(TASK_MARK, "")
        try:
            with self.stoppable(lambda: self._end(process.pid, task_id)):
                _await_end(process)
        finally:
            self._end(process.pid, task_id)
            exit_code = process.wait()
            with self._lock:
                self._leaders.discard(process.pid)
        return exit_code

    @contextmanager
    def stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """Stop the work inside the `with` block when the run is stopped.

        Args:
            stop: ends the work; called from another thread.

        Raises:
            Cancelled: the run was stopped before or during the work.
        """
        with self._lock:
            if self._stopping:
                raise Cancelled
            self._stops[id(stop)] = stop
        try:
            yield
        finally:
            with self._lock:
                del self._stops[id(stop)]
        if self._stopping:
            raise Cancelled

    def stop(self) -> None:
        """Stop all work, and prevent new work. This method does not wait."""
        with self._lock:
            self._stopping = True
            stops = list(self._stops.values())
        for stop in stops:
            threading.Thread(target=stop, daemon=True).start()

    def _end(self, group: int, task_id: str) -> None:
        """End a process group, the processes that left the group but carry the task's mark, and all orphans.

        While the first process of a task runs, that process is the parent of the orphans of the task. So the orphans
        that this process has got belong to tasks whose first process has ended.
        """
        ended: set[int] = set()

        def belongs(process: psutil.Process) -> bool:
            if os.getpgid(process.pid) == group or self._is_orphan(process):
                ended.add(process.pid)
                return True
            return bool(task_id) and processes.has_mark(process, TASK_MARK, task_id)

        processes.end(lambda: processes.find(belongs), TERMINATE_WITHIN_SECONDS)
        for pid in ended - {group}:
            orphans.reap(pid)

    def _is_orphan(self, process: psutil.Process) -> bool:
        if not orphans.is_orphan(process):
            return False
        with self._lock:
            return process.pid not in self._leaders


def _start(command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    try:
        with open_to_append(log) as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=orphans.adopt,  # one call of the system, which is safe beside other threads
            )
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise EngineError("its inputs are too long for a command line; pass large values as artifacts") from error
        raise EngineError(f"cannot start {command[0] if command else 'a task without a command'}: {error}") from error


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended. The process stays a zombie, so the system cannot reuse its PID as the number
    of another group."""
    if hasattr(os, "waitid"):  # macOS has os.waitid from Python 3.13 on
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
