"""Runs a `workshop` command as a child process, and leaves no process or temporary file behind.

Lessons start kernels, and kernels start programs. A signal that ends only the command would leave kernels and
programs running, with sockets and temporary files. So the command that the reader types starts itself a second
time, in a new session, and waits. When it receives a signal, it ends every process that carries the child's mark.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from workshop.clean_environment import LESSONS_MARK, OUTER_TMPDIR, for_lessons
from workshop.errors import WorkshopError
from workshop.sandbox import processes
from workshop.sandbox.files import make_temporary_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Programs of a lesson get this many seconds to finish; then they are killed.
PATIENCE_SECONDS = 2


class _Received(BaseException):
    """A signal that asks to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def is_child() -> bool:
    """Tell whether this process is the child, which does the work."""
    return LESSONS_MARK in os.environ


def run_again(output: Path | None = None) -> int:
    """Run the current command again as a child process, and wait for its end.

    The child gets a clean environment and its own temporary folder, which is deleted afterwards.

    Args:
        output: folder that only one such command may use at a time.

    Returns:
        The exit status: the child's, or 128 plus the number of the signal that ended the command.

    Raises:
        WorkshopError: another command uses the folder, or the folder cannot be written.
    """
    mark = secrets.token_hex(8)
    temporary = make_temporary_folder()
    try:
        with _only_one(output) as lock, _signals_raise():
            return _wait_for_child(mark, temporary, lock)
    except _Received as received:
        name = signal.Signals(received.number).name
        with suppress(OSError):  # the terminal may be gone
            print(
                f"ended by {name}. The sandbox is still up; to stop it: .venv/bin/workshop sandbox down",
                file=sys.stderr,
                flush=True,
            )
        return 128 + received.number
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for socket in output.glob("kernel-ipc-*") if output else ():  # a killed kernel leaves its sockets
            socket.unlink(missing_ok=True)


def _wait_for_child(mark: str, temporary: Path, lock: list[int]) -> int:
    own = {LESSONS_MARK: mark, OUTER_TMPDIR: tempfile.gettempdir(), "TMPDIR": str(temporary)}
    environment = for_lessons(os.environ, temporary / "ipython") | own
    command = [sys.executable, "-P", "-m", "workshop", *sys.argv[1:]]
    child = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=lock)
    try:
        return child.wait()
    finally:
        for number in SIGNALS:  # a second signal must not leave half of the processes
            signal.signal(number, signal.SIG_IGN)
        child.kill()  # the child must not see its kernels die, or it would start the next lesson
        child.wait()
        processes.end(lambda: processes.find(partial(_is_marked, mark)), PATIENCE_SECONDS)


def _is_marked(mark: str, process: processes.psutil.Process) -> bool:
    return processes.has_mark(process, LESSONS_MARK, mark)


@contextmanager
def _signals_raise() -> Iterator[None]:
    def received(number: int, _: FrameType | None) -> NoReturn:
        raise _Received(number)

    # A signal that is ignored stays ignored: `nohup` ignores SIGHUP.
    before = {n: signal.signal(n, received) for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _only_one(output: Path | None) -> Iterator[list[int]]:
    """Hold the lock of a folder; the child inherits its descriptor, and so holds it as long as it runs."""
    if output is None:
        yield []
        return
    path = output.with_name(output.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise cannot_write(output, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _is_held(output, lock) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "since": f"{datetime.now():%H:%M:%S}"}))
        lock.flush()
        yield [lock.fileno()]


def _is_held(output: Path, lock: IO[str]) -> WorkshopError:
    lock.seek(0)
    try:
        holder = json.loads(lock.read())
        who, end = f"PID {holder['pid']}, since {holder['since']}", f"end it (kill {holder['pid']})"
    except (ValueError, KeyError, TypeError):  # the other command holds the lock but has not written its PID yet
        who, end = "another `workshop run`", "end it"
    return WorkshopError(
        f"lessons already run in {output} ({who}). Wait until they have ended, {end}, or choose another folder: "
        "workshop run --output FOLDER"
    )


def cannot_write(output: Path, error: OSError) -> WorkshopError:
    """Return the error for a folder of executed notebooks that cannot be written.

    Args:
        output: the folder.
        error: the error of the system.
    """
    reason = error.strerror or "some files cannot be written"
    return WorkshopError(
        f"executed notebooks cannot be written to {output}: {reason}. Choose a folder that you may write to: "
        "workshop run --output /some/folder"
    )
