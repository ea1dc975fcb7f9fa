"""Starts, watches and stops the sandbox's servers.

A server is started detached, so that it outlives the notebook that needed it first. `run/NAME.json` records each
running server.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from workshop.clean_environment import OUTER_TMPDIR, for_servers
from workshop.sandbox import processes
from workshop.sandbox.errors import SandboxError, cannot_write
from workshop.sandbox.files import full_disk, make_temporary_folder, write_atomically
from workshop.sandbox.processes import SERVER_MARK
from workshop.sandbox.server import NotYet, Record, Server

READY_WITHIN_SECONDS = 40
ANSWER_WITHIN_SECONDS = 10
START_ATTEMPTS = 3
TRY_AGAIN_SECONDS = 0.2
# A start takes 2 to 3 s as a rule. After this time, a message names the server that has not started yet.
SAY_AFTER_SECONDS = 5

# This file shows that the sandbox made its folder. `reset` deletes nothing from a folder without this file.
MARKER = "made-by-workshop-sandbox.txt"
MARKER_TEXT = "`workshop sandbox reset` deletes this sandbox: the files that the sandbox made in this folder.\n"
# The sandbox's folder holds these and one folder for each server; `reset` deletes them and nothing else.
KEPT = ("identity.json", "run", "aws", "kube", "task-packages")


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
        """Start every server that is not running, and return when all servers answer.

        Returns:
            The record of each server, by its name.

        Raises:
            SandboxError: a server does not start; the message holds the end of its log.
        """
        running = self._all_up()
        if running is None:
            with self.locked():
                self.claim()
                running = self._all_up() or self._start_missing()
        return running

    def down(self) -> list[str]:
        """Stop every server of this sandbox, recorded or not, and return the names of the servers that ran."""
        with self.locked():
            return self._stop(*self.servers)

    def reset(self) -> None:
        """Stop every server and delete the sandbox's files; other files in its folder stay.

        Raises:
            SandboxError: the sandbox did not make the folder. Nothing is deleted.
        """
        with self.locked():
            self.claim()
            self._stop(*self.servers, at_once=True)
            for name in (*self._own_names, MARKER):
                kept = self.directory / name
                # A link is deleted, and not the folder that it leads to.
                shutil.rmtree(kept) if kept.is_dir() and not kept.is_symlink() else kept.unlink(missing_ok=True)
            if self.directory.exists() and not any(self.directory.iterdir()):
                self.directory.rmdir()

    def claim(self) -> None:
        """Mark the folder as this sandbox's. The caller holds the lock.

        Raises:
            SandboxError: the folder holds files with the names of the sandbox's files, and the sandbox did not make
                them. `reset` would delete these files.
        """
        marker = self.directory / MARKER
        if marker.exists():
            return
        foreign = [name for name in self._own_names if os.path.lexists(self.directory / name)]
        if foreign and not _is_older_sandbox(self.directory):
            raise SandboxError(
                f"{self.directory} is no folder of the sandbox, but holds: {', '.join(foreign)}. The sandbox would "
                "overwrite or delete these. Choose a new folder: export WORKSHOP_SANDBOX_DIR=/some/folder"
            )
        write_atomically(marker, MARKER_TEXT)

    @property
    def _own_names(self) -> tuple[str, ...]:
        return (*KEPT, *(server.name for server in self.servers))

    def record(self, server: Server) -> Record | None:
        """Return the record of a server whose process runs, else None.

        In a copy of a sandbox's folder, the records name servers of the original folder, so this method ignores them.
        """
        record = Record.read(self._record_path(server))
        try:
            ours = record and record.is_running() and self._is_ours(server, record)
        except psutil.Error:
            ours = False
        return record if ours else None

    def log(self, server: Server, lines: int) -> str:
        """Return the last lines of a server's log."""
        try:
            text = self._log_path(server).read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this sandbox's lock, so that two notebooks that start at once do not start two of each server.

        The lock file is beside the folder, so it survives the deletion of the folder.
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
            raise cannot_write(self.directory, error) from None
        try:
            yield
        except OSError as error:
            raise cannot_write(self.directory, error) from None
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
        if record is None or not record.seeded or record.keys != server.keys:
            return None
        if not Path(record.temporary).is_dir():  # some systems delete old files in /tmp, and with them sockets
            return None
        return record if _answers(server, record, ANSWER_WITHIN_SECONDS) else None

    def _start_missing(self) -> dict[str, Record]:
        (self.directory / "run").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self.directory / "run").close()  # a folder that is read-only ends no server
        started = {server.name: self._start(server) for server in self.servers if not self._up(server)}
        with ThreadPoolExecutor() as pool:
            awaited = [pool.submit(self._await_ready, s, started[s.name]) for s in self.servers if s.name in started]
        for future in awaited:
            future.result()
        records = {server.name: self.record(server) for server in self.servers}
        return {name: record for name, record in records.items() if record}

    def _start(self, server: Server) -> Record:
        """Start one server on its old ports, else on its usual ports, else on free ports."""
        self._stop(server, at_once=True)
        server.directory.mkdir(parents=True, exist_ok=True)
        ports = processes.choose_ports(server.usual_ports | self._old_ports(server), server.second_port_above)
        temporary = str(make_temporary_folder(os.environ.get(OUTER_TMPDIR, "")))
        own = {SERVER_MARK: self._mark(server), "TMPDIR": temporary}
        environment = for_servers(os.environ) | server.environment() | own
        pid = processes.spawn_detached(server.command(ports), environment, self._log_path(server), server.directory)
        record = Record(pid, processes.start_mark(pid), ports, server.keys, temporary=temporary)
        record.write(self._record_path(server))
        return record

    def _await_ready(self, server: Server, record: Record) -> None:
        for attempt in range(START_ATTEMPTS):
            if attempt:
                # Another program took the port after it was found free: our server ended, or the other program answers.
                self._record_path(server).unlink(missing_ok=True)
                record = self._start(server)
            answers = _answers(server, record, READY_WITHIN_SECONDS)
            if answers and processes.listens(record.pid, record.port):
                self._seed(server, record)
                return
            if not answers and record.is_running():
                raise self._failed(server, f"does not answer after {READY_WITHIN_SECONDS} s")
        raise self._failed(server, "ended while it started")

    def _seed(self, server: Server, record: Record) -> None:
        """Prepare a server; ask it again, without growing pauses, until it can do its work."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        say = _Waiting(server)
        while True:
            try:
                server.seed(record)
                break
            except NotYet as error:
                if time.monotonic() > deadline or not record.is_running():
                    raise self._failed(server, f"answers, but does not work: {error}") from None
                say.once_it_takes_long()
                time.sleep(TRY_AGAIN_SECONDS)
            except Exception as error:
                raise self._failed(server, f"answers, but cannot be prepared: {error}") from error
        replace(record, seeded=True).write(self._record_path(server))

    def _failed(self, server: Server, what: str) -> SandboxError:
        """Stop an unusable server, and return the error that gives the reason."""
        log = self.log(server, 15)
        self._stop(server)
        reason = (
            full_disk(self.directory) or "Correct the error that the log shows, then start again: workshop sandbox up"
        )
        return SandboxError(
            f"the sandbox's {server.name} {what}. The end of its log ({self._log_path(server)}):\n{log or '(empty)'}\n"
            f"{reason}"
        )

    def _stop(self, *servers: Server, at_once: bool = False) -> list[str]:
        """Stop servers and return the names of the servers that ran."""
        stopped = []
        for server in servers:
            record = Record.read(self._record_path(server))
            if self._processes(server):
                processes.end(partial(self._processes, server), 0 if at_once else server.stop_within_seconds)
                server.tidy(self._old_ports(server))
                stopped.append(server.name)
            if record and Path(record.temporary).name.startswith("workshop-") and not record.is_running():
                shutil.rmtree(record.temporary, ignore_errors=True)
        return stopped

    def _processes(self, server: Server) -> list[psutil.Process]:
        """Find every process of this server of this sandbox, also when its record is gone or its folder was moved."""
        record = Record.read(self._record_path(server))

        def belongs(process: psutil.Process) -> bool:
            mark = process.environ().get(SERVER_MARK, "")
            if mark == self._mark(server):
                return True
            is_recorded = record and process.pid == record.pid and record.is_running()
            return bool(mark and is_recorded and not Path(mark.rpartition(":")[0]).exists())

        return processes.find(belongs)

    def _old_ports(self, server: Server) -> dict[str, int]:
        record = Record.read(self._record_path(server))
        try:
            return {role: int(record.ports[role]) for role in server.usual_ports} if record else {}
        except (ValueError, KeyError, TypeError):
            return {}

    def _is_ours(self, server: Server, record: Record) -> bool:
        return processes.has_mark(psutil.Process(record.pid), SERVER_MARK, self._mark(server))

    def _mark(self, server: Server) -> str:
        return f"{self.directory}:{server.name}"

    def _record_path(self, server: Server) -> Path:
        return self.directory / "run" / f"{server.name}.json"

    def _log_path(self, server: Server) -> Path:
        return self.directory / "run" / f"{server.name}.log"


def _is_older_sandbox(directory: Path) -> bool:
    """Tell whether a version of the sandbox that wrote no marker made the folder."""
    try:
        return str(json.loads((directory / "identity.json").read_text())["access_key"]).startswith("SANDBOX")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _answers(server: Server, record: Record, seconds: float) -> bool:
    """Wait until a server answers; give up after some seconds, or at once when its process is gone."""
    deadline = time.monotonic() + seconds
    say = _Waiting(server)
    while not server.is_ready(record):
        if time.monotonic() > deadline or not record.is_running():
            return False
        say.once_it_takes_long()
        time.sleep(0.03)
    return True


class _Waiting:
    """Prints one message when a server takes long to start."""

    def __init__(self, server: Server) -> None:
        self._name = server.name.replace("-", " ")
        self._begun = time.monotonic()
        self._said = False

    def once_it_takes_long(self) -> None:
        if not self._said and time.monotonic() - self._begun > SAY_AFTER_SECONDS:
            print(f"waiting for the {self._name} ...", file=sys.stderr, flush=True)
            self._said = True
