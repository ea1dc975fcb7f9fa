"""Finds, starts and ends processes, and chooses ports for them.

A PID alone does not name a process: the system gives the PID of an ended process to a new one. So a process is named
by its PID and its start mark, which `start_mark` returns.
"""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from workshop.sandbox.errors import SandboxError

HOST = "127.0.0.1"
# Every process of a server has this variable in its environment. The variable identifies the process when the
# record is lost.
SERVER_MARK = "WORKSHOP_SANDBOX_SERVER"
LOOK_AGAIN_SECONDS = 0.02
KILLED_WITHIN_SECONDS = 40

# The server is the child of a child. So no notebook has to reap the server, and Ctrl-C in a notebook's terminal
# does not reach it.
# The umask keeps the server's files private, even in a folder that others may read.
_LAUNCHER = """
import os, subprocess, sys
os.umask(0o077)
with open(sys.argv[1], "ab") as log:
    print(subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True).pid)
"""


def spawn_detached(command: list[str], environment: Mapping[str, str], log: Path, folder: Path) -> int:
    """Start a process that outlives this one.

    Args:
        command: program and arguments.
        environment: all environment variables of the process.
        log: file for its output; emptied first.
        folder: the folder in which the process starts.

    Returns:
        The process's PID.

    Raises:
        SandboxError: the program cannot be started.
    """
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(log), *command]
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise SandboxError(f"cannot start {command[0]}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def start_mark(pid: int) -> str:
    """Return the start mark of a process. Two processes with the same PID have different start marks.

    On Linux the mark is the boot's id and the clock ticks since boot (field 22 of `/proc/PID/stat`, see proc(5)):
    setting the clock does not change it. Elsewhere the mark is the start time that the kernel recorded.

    Args:
        pid: the process.

    Returns:
        The mark, or "" when there is no such process.
    """
    try:
        if sys.platform == "linux":
            stat = Path(f"/proc/{pid}/stat").read_bytes()
            return f"{_boot_id()}-{stat.rpartition(b')')[2].split()[19].decode()}"
        return repr(psutil.Process(pid).create_time())
    except (OSError, psutil.Error):
        return ""


def is_running(pid: int, started: str) -> bool:
    """Tell whether a process runs: the process with this start mark, not a later process with the same PID.

    Args:
        pid: the process.
        started: its start mark.
    """
    with suppress(psutil.Error):
        return bool(started) and start_mark(pid) == started and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def find(belongs: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Return the running processes of this machine that belong together.

    Args:
        belongs: tells whether a process is one of them. A process that raises an error of the system is not one of
            them: the process is another user's, or has just ended.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if belongs(process) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def has_mark(process: psutil.Process, variable: str, value: str) -> bool:
    """Tell whether a process was started with this value of an environment variable.

    Raises:
        psutil.Error: the process is another user's, or has ended.
    """
    return process.environ().get(variable) == value


def end(find_processes: Callable[[], list[psutil.Process]], patience: float = 0) -> None:
    """End processes: ask each process to end, wait, and kill the remaining processes.

    The search for processes is repeated, because a process may start another one before it ends. The parents of
    ended processes can still read the exit codes. A zombie counts as ended.

    Args:
        find_processes: returns the processes that still run.
        patience: seconds between the request and the kill; 0 kills at once.
    """
    seen: set[psutil.Process] = set()
    asked: set[psutil.Process] = set()

    def left() -> list[psutil.Process]:
        # A process that is ending may lose its environment, and therefore its mark, before it disappears.
        seen.update(find_processes())
        return [process for process in seen if _runs(process)]

    deadline = time.monotonic() + patience
    while patience and (running := left()) and time.monotonic() < deadline:
        for process in set(running) - asked:
            with suppress(psutil.Error):
                process.terminate()
        asked.update(running)
        time.sleep(LOOK_AGAIN_SECONDS)
    deadline = time.monotonic() + KILLED_WITHIN_SECONDS
    while (running := left()) and time.monotonic() < deadline:
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(LOOK_AGAIN_SECONDS)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def listens(pid: int, port: int) -> bool:
    """Tell whether the process with this PID accepts connections on a TCP port."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def choose_ports(wanted: Mapping[str, int], second_above: int = 0) -> dict[str, int]:
    """Choose a port for each role: the wanted port if it is free, else a random free port. No two roles share a port.

    Args:
        wanted: port by role; 0 means any. second_above: the distance from each port to a second port above it,
        which must be free too; 0 for none.

    Raises:
        SandboxError: no port is free.
    """
    ports: dict[str, int] = {}
    taken: set[int] = set()
    for role, port in wanted.items():
        # These ports are below the range that systems use for outgoing connections.
        candidates = [port] * bool(port) + random.sample(range(12_000, 22_000), 200)
        pairs = ({candidate, candidate + second_above} for candidate in candidates)
        pair = next((pair for pair in pairs if not pair & taken and all(map(_is_free, pair))), None)
        if pair is None:
            raise SandboxError(f"no port between 12000 and 22000 on {HOST} is free for {role}. End what holds them.")
        ports[role] = min(pair)
        taken |= pair
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As the servers do, treat a port in TIME_WAIT after a restart as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError:
            return False
        return True


@cache
def _boot_id() -> str:
    """Return the id of this boot of the machine; "" where the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
