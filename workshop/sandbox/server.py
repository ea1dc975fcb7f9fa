"""One server of the sandbox: how to start it, and the record of the process that runs it."""

import abc
import http.client
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from workshop.sandbox.files import write_atomically
from workshop.sandbox.processes import HOST, is_running


@dataclass(frozen=True)
class Record:
    """A started server.

    Attributes:
        pid: process id.
        started: the process's start mark, from `processes.start_mark`.
        ports: port number by its role; clients use the port of the first role.
        keys: which keys it was started with.
        seeded: whether the server has the contents that lessons expect.
        temporary: folder for its temporary files.
    """

    pid: int
    started: str
    ports: dict[str, int]
    keys: str = ""
    seeded: bool = False
    temporary: str = ""

    @property
    def port(self) -> int:
        """The port that clients talk to."""
        return next(iter(self.ports.values()))

    @property
    def address(self) -> str:
        """The URL that clients talk to."""
        return f"http://{HOST}:{self.port}"

    def is_running(self) -> bool:
        """Tell whether the server's process runs. A reused PID is never mistaken for the server."""
        return is_running(self.pid, self.started)

    def write(self, path: Path) -> None:
        """Write the record to a file."""
        write_atomically(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Read a record; return None if the file is missing or damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


class NotYet(Exception):
    """A server answers, but cannot do its work yet."""


class Server(abc.ABC):
    """One part of the sandbox.

    Args:
        directory: where the server keeps its data; made when missing.
    """

    name: ClassVar[str]
    stands_for: str
    # Port by role; 0 means any free port. Clients use the port of the first role.
    usual_ports: ClassVar[dict[str, int]]
    # A server with two ports for each role uses a second port at this distance above the first.
    second_port_above: ClassVar[int] = 0
    # Seconds that the server may take to end by itself; 0 for a server that has nothing to finish.
    stop_within_seconds: ClassVar[float] = 4

    # The keys that the server is started with. A running server with other keys is replaced.
    keys = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abc.abstractmethod
    def command(self, ports: Mapping[str, int]) -> list[str]:
        """Return the command line that serves on these ports. It runs in the server's folder."""

    @abc.abstractmethod
    def is_ready(self, record: Record) -> bool:
        """Tell whether the server answers."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables that only this server gets."""
        return {}

    def tidy(self, ports: Mapping[str, int]) -> None:  # noqa: B027 - most servers leave nothing
        """Delete the files that the ended server has left outside its folder."""

    def seed(self, record: Record) -> None:  # noqa: B027 - most servers need nothing here
        """Give a server that has just started the contents that lessons expect.

        Raises:
            NotYet: the server answers but cannot do its work yet; the caller tries again.
        """


def http_status(record: Record, path: str) -> int | None:
    """Ask a server for a page, without any proxy.

    Returns:
        The HTTP status, or None when there is no answer within a second.
    """
    connection = http.client.HTTPConnection(HOST, record.port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
