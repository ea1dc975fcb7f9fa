"""Runs processes and containers of tasks, and ends them with everything that they have started."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from workshop.sandbox import processes
from workshop.sandbox.pipelines_api.engine.environment import TASK_MARK
from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError

PATIENCE_SECONDS = 2


class Running:
    """What a run has running on this machine, so that all of it can be stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[int, Callable[[], None]] = {}
        self._stopping = False

    def process(self, command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> int:
        """Run a process to its end, and end whatever it leaves behind.

        Args:
            command: program and arguments; the program is looked for on the PATH of `environment`.
            environment: everything that it finds in its environment.
            folder: where it starts.
            log: file to which its output is added as it comes.

        Returns:
            Its exit code; negative when a signal ended it.

        Raises:
            EngineError: it cannot be started.
            Cancelled: `stop` was called.
        """
        process = _start(command, environment, folder, log)
        task_id = environment.get(TASK_MARK, "")
        try:
            with self.stoppable(lambda: _end(process.pid, task_id)):
                _await_end(process)
        finally:
            _end(process.pid, task_id)
            exit_code = process.wait()
        return exit_code

    @contextmanager
    def stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """Make what happens inside end when the run is stopped.

        Args:
            stop: ends it; called from another thread.

        Raises:
            Cancelled: the run is being stopped, or was while this went on.
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
        """Stop everything, and let nothing new begin. Returns at once."""
        with self._lock:
            self._stopping = True
            stops = list(self._stops.values())
        for stop in stops:
            threading.Thread(target=stop, daemon=True).start()


def _start(command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen:
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
            )
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise EngineError(
                "its inputs are too long for a command line; hand large values on as artifacts"
            ) from error
        raise EngineError(f"cannot start {command[0] if command else 'a task without a command'}: {error}") from error


def _end(group: int, task_id: str) -> None:
    """End a process group, and the processes that left the group but carry the task's mark."""

    def belongs(process: psutil.Process) -> bool:
        return os.getpgid(process.pid) == group or (bool(task_id) and processes.has_mark(process, TASK_MARK, task_id))

    processes.end(lambda: processes.find(belongs), PATIENCE_SECONDS)


def _await_end(process: subprocess.Popen) -> None:
    """Wait until a process has ended. Its PID stays taken, so that its group's number names no other group yet."""
    if hasattr(os, "waitid"):  # on macOS from Python 3.13 on
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
