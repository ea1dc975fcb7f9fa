"""Starts, watches and stops the sandbox's servers.

A server is started detached, so that it outlives the notebook that needed it first. What is running is written
down in `run/NAME.json`; a process counts as ours only if its start time is the one written there, so that a
number which the system has given to another process since is never taken for a server, nor ended as one.
"""

import abc
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import psutil
from filelock import FileLock, Timeout

from workshop.errors import WorkshopError

HOST = "127.0.0.1"
READY_WITHIN_SECONDS = 40
ANSWER_WITHIN_SECONDS = 10
START_ATTEMPTS = 3
# Set in every server's environment: how a server is found again when its record is gone.
MARK = "WORKSHOP_SANDBOX_SERVER"
# What a server must not take from the environment: SeaweedFS lets in whoever holds the AWS keys that it finds there.
FOREIGN_PREFIXES = ("AWS_", "KF_PIPELINES_", "WEED_", "MOTO_", "PIP_TARGET", "PIP_UPGRADE", "PIP_USER", "PYTHONPATH")
# A clock that is set moves the start times of all processes a little.
SAME_START_SECONDS = 5


# What the sandbox keeps in its folder besides one folder for each server; `reset` deletes this and nothing else.
KEPT = ("identity.json", "run", "aws", "kube", "task-packages")


class SandboxError(WorkshopError):
    """The sandbox could not do what was asked."""


@dataclass(frozen=True)
class Record:
    """A started server.

    Attributes:
        pid: process id.
        created: when the process started, in seconds since the epoch as `psutil` gives it.
        ports: port number by its role; the first role is the one that clients talk to.
        keys: which keys it was started with.
        seeded: whether it has been brought to the state in which lessons expect it.
    """

    pid: int
    created: float
    ports: dict[str, int]
    keys: str = ""
    seeded: bool = False

    @property
    def address(self) -> str:
        return f"http://{HOST}:{next(iter(self.ports.values()))}"


class Server(abc.ABC):
    """One part of the sandbox.

    Args:
        directory: where the server keeps its data; made when missing.
    """

    name: ClassVar[str]
    stands_for: ClassVar[str]
    # Port by role; 0 stands for any free port. The first is the one that clients talk to.
    usual_ports: ClassVar[dict[str, int]]
    # A server that takes a second port for each role takes the one this far above it.
    second_port_above: ClassVar[int] = 0
    # How long it may take to end of itself; 0 for a server that has nothing to finish.
    stop_within_seconds: ClassVar[float] = 4

    # Which keys it is started with; a server with other keys than these is of no use.
    keys = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abc.abstractmethod
    def command(self, ports: Mapping[str, int]) -> list[str]:
        """Return the command line that serves on these ports."""

    @abc.abstractmethod
    def is_ready(self, record: Record) -> bool:
        """Tell whether the server answers."""

    def environment(self) -> dict[str, str]:
        """Return what the server needs in its environment besides what is there."""
        return {}

    def tidy(self, ports: Mapping[str, int]) -> None:  # noqa: B027 - most servers leave nothing
        """Take away what the server leaves outside its folder when it has ended."""

    def seed(self, record: Record) -> None:  # noqa: B027 - most servers need nothing here
        """Bring a server that has just started to the state in which lessons expect it."""


class Supervisor:
    """Keeps a set of servers running below one folder.

    Args:
        directory: the sandbox's folder.
        servers: the parts, in the order in which they are shown.
    """

    def __init__(self, directory: Path, servers: list[Server]) -> None:
        self.directory = directory
        self.servers = servers

    def up(self) -> dict[str, Record]:
        """Start what is not running, and return when everything answers.

        Returns:
            The record of each server, by its name.

        Raises:
            SandboxError: a server does not start; the message holds the end of its log.
        """
        running = self._all_up()
        if running is None:
            with self.locked():
                running = self._all_up() or self._start_missing()
        return running

    def down(self) -> list[str]:
        """Stop every server of this sandbox, recorded or not, and return the names of those that ran."""
        with self.locked():
            return self._stop(*self.servers)

    def reset(self) -> None:
        """Stop every server and delete what the sandbox has kept; whatever else lies in its folder stays."""
        with self.locked():
            self._stop(*self.servers, at_once=True)
            for name in (*KEPT, *(server.name for server in self.servers)):
                kept = self.directory / name
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
            if self.directory.exists() and not any(self.directory.iterdir()):
                self.directory.rmdir()

    def record(self, server: Server) -> Record | None:
        """Return the record of a server whose process lives, else None."""
        try:
            record = Record(**json.loads(self._record_path(server).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return record if _process(record) else None

    def log(self, server: Server, lines: int) -> str:
        """Return the last lines of a server's log."""
        try:
            text = self._log_path(server).read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this sandbox's lock: two notebooks that start at once must not start two of everything.

        The lock lies beside the folder, not in it, so that it survives a deleted folder.
        """
        lock = FileLock(self.directory.with_name(self.directory.name + ".lock"))
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            lock.acquire(timeout=3 * READY_WITHIN_SECONDS)
        except Timeout:
            raise SandboxError(
                f"another process has held {lock.lock_file} for {3 * READY_WITHIN_SECONDS} s while it starts or stops "
                "the sandbox. Look at it with `workshop sandbox status`, end it, and try again."
            ) from None
        except OSError as error:
            raise _unwritable(self.directory, error) from None
        try:
            yield
        except OSError as error:
            raise _unwritable(self.directory, error) from None
        finally:
            lock.release()

    def _all_up(self) -> dict[str, Record] | None:
        records = {}
        for server in self.servers:
            record = self._up(server)
            if record is None:
                return None
            records[server.name] = record
        return records

    def _up(self, server: Server) -> Record | None:
        """Return the record of a server that can be used as it is."""
        record = self.record(server)
        expected = record and record.seeded and record.keys == server.keys
        usable = expected and _wait(lambda: server.is_ready(record), ANSWER_WITHIN_SECONDS, record)
        return record if usable else None

    def _start_missing(self) -> dict[str, Record]:
        (self.directory / "run").mkdir(parents=True, exist_ok=True)
        started = {server.name: self._start(server) for server in self.servers if not self._up(server)}
        with ThreadPoolExecutor() as pool:
            awaited = [pool.submit(self._await_ready, s, started[s.name]) for s in self.servers if s.name in started]
        for future in awaited:
            future.result()
        return {server.name: self.record(server) for server in self.servers}

    def _start(self, server: Server) -> Record:
        """Start one server on its old ports, on its usual ones, or on free ones, in that order of preference."""
        self._stop(server, at_once=True)
        server.directory.mkdir(parents=True, exist_ok=True)
        ports = _choose_ports(server.usual_ports | self._old_ports(server), server.second_port_above)
        ours = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
        environment = ours | server.environment() | {MARK: self._mark(server)}
        pid = _spawn_detached(server.command(ports), environment, self._log_path(server))
        try:
            created = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            created = 0.0
        return self._write_record(server, Record(pid, created, ports, server.keys))

    def _await_ready(self, server: Server, record: Record) -> None:
        for attempt in range(START_ATTEMPTS):
            if attempt:
                # Somebody took its port between our look and its start: it ended, or somebody else answers instead.
                self._record_path(server).unlink(missing_ok=True)
                record = self._start(server)
            answers = _wait(lambda r=record: server.is_ready(r), READY_WITHIN_SECONDS, record)
            if answers and _listens(record):
                self._seed(server, record)
                return
            if not answers and _process(record):
                raise self._failed(server, f"does not answer after {READY_WITHIN_SECONDS} s")
        raise self._failed(server, "ended while it started")

    def _seed(self, server: Server, record: Record) -> None:
        try:
            server.seed(record)
        except Exception as error:
            raise self._failed(server, f"answers, but cannot be prepared: {error}") from error
        self._write_record(server, replace(record, seeded=True))

    def _failed(self, server: Server, what: str) -> SandboxError:
        """Stop a server that is of no use, and say why."""
        log = self.log(server, 15)
        self._stop(server)
        return SandboxError(
            f"the sandbox's {server.name} {what}. The end of its log ({self._log_path(server)}):\n{log or '(empty)'}\n"
            "Try `workshop sandbox reset` if what it keeps may be damaged."
        )

    def _stop(self, *servers: Server, at_once: bool = False) -> list[str]:
        """Stop servers and return the names of those that ran."""
        stopped = []
        for server in servers:
            if processes := self._processes(server):
                end(processes, 0 if at_once else server.stop_within_seconds)
                server.tidy(self._old_ports(server))
                stopped.append(server.name)
        return stopped

    def _processes(self, server: Server) -> list[psutil.Process]:
        """Find every process that serves this part of this sandbox, whether a record of it is left or not."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # somebody else's, or gone
                if process.environ().get(MARK) == self._mark(server) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _write_record(self, server: Server, record: Record) -> Record:
        write_whole(self._record_path(server), json.dumps(asdict(record)))
        return record

    def _old_ports(self, server: Server) -> dict[str, int]:
        try:
            old = json.loads(self._record_path(server).read_text())["ports"]
            return {role: int(old[role]) for role in server.usual_ports}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _mark(self, server: Server) -> str:
        return f"{self.directory}:{server.name}"

    def _record_path(self, server: Server) -> Path:
        return self.directory / "run" / f"{server.name}.json"

    def _log_path(self, server: Server) -> Path:
        return self.directory / "run" / f"{server.name}.log"


def end(processes: Iterable[psutil.Process], patience: float = 0) -> None:
    """Ask processes to end, and make them end if they have not after so many seconds; at once, when it is 0."""
    alive = list(processes)
    if patience:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        alive = _still_alive(alive, patience)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _still_alive(alive, READY_WITHIN_SECONDS)


def http_status(record: Record, path: str) -> int | None:
    """Ask a server for a page, past any proxy.

    Returns:
        The HTTP status, or None when nobody answers within a second.
    """
    port = next(iter(record.ports.values()))
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _wait(condition: Callable[[], bool], seconds: float, record: Record) -> bool:
    """Wait until the condition holds; give up after some seconds, or at once when the process is gone."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or _process(record) is None:
            return False
        time.sleep(0.03)
    return True


def _process(record: Record) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.created) > SAME_START_SECONDS or process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _listens(record: Record) -> bool:
    """Tell whether it is this very process that holds the port."""
    try:
        connections = psutil.Process(record.pid).net_connections("tcp")
    except psutil.Error:
        return False
    port = next(iter(record.ports.values()))
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _still_alive(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end, and return those that have not.

    One that has ended stays in the table of processes until whoever adopted it notices, which can take seconds; it is
    not waited for.
    """
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _choose_ports(wanted: Mapping[str, int], second_above: int) -> dict[str, int]:
    """Give each role the wanted port if it is free, else one picked by chance; no two the same."""
    ports: dict[str, int] = {}
    taken: set[int] = set()
    for role, port in wanted.items():
        # Below the range from which systems take the ports of outgoing connections.
        candidates = [port] * bool(port) + random.sample(range(12_000, 22_000), 200)
        pairs = ({candidate, candidate + second_above} for candidate in candidates)
        pair = next((pair for pair in pairs if not pair & taken and all(map(_is_free, pair))), None)
        if pair is None:
            raise SandboxError(f"no free port between 12000 and 22000 on {HOST} for {role}; end what holds them.")
        ports[role] = min(pair)
        taken |= pair
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As the servers do: a port in TIME_WAIT after a restart counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError:
            return False
        return True


# The child of a child: it belongs to no notebook, so none leaves it behind as a zombie or takes it down with Ctrl-C.
# What a server writes is for its user alone, also where its folder was there before and others may look into it.
_LAUNCHER = """
import os, subprocess, sys
os.umask(0o077)
with open(sys.argv[1], "ab") as log:
    print(subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True).pid)
"""


def _spawn_detached(command: list[str], environment: Mapping[str, str], log: Path) -> int:
    log.write_bytes(b"")
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(log), *command]
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, cwd=log.parent)
    if done.returncode != 0:
        raise SandboxError(f"cannot start {command[0]}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing, even when this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)  # noqa: PTH105


def _unwritable(directory: Path, error: OSError) -> SandboxError:
    return SandboxError(
        f"the sandbox cannot write below {directory}: {error.strerror or error}. Give it a folder that you may "
        "write to, with space left: export WORKSHOP_SANDBOX_DIR=/some/folder"
    )
