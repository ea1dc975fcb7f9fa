"""Tells whether a Docker Engine answers. Everything in the project that needs Docker asks here."""

import http.client
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from workshop.sandbox.errors import SandboxError

if TYPE_CHECKING:
    from docker import DockerClient

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
ANSWERS_WITHIN_SECONDS = 2


class NoDockerEngine(SandboxError):
    """No Docker Engine answers. The message names its address and says what to do."""

    def __init__(self, reason: str = "") -> None:
        because = f" ({reason})" if reason else ""
        super().__init__(
            f"no Docker Engine answers at {address()}{because}. Start Docker, or set DOCKER_HOST to the address of an "
            "engine that runs"
        )


def address() -> str:
    """Return the address of the engine that `docker` and its SDK use."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS


def is_local() -> bool:
    """Tell whether the engine runs on this machine, so that it shares its loopback."""
    parts = urlsplit(address())
    return parts.scheme == "unix" or (parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "localhost", "::1"))


def answers() -> bool:
    """Tell whether an engine answers, without importing Docker's SDK: milliseconds for an engine of this machine."""
    parts = urlsplit(address())
    if parts.scheme not in ("unix", "tcp") or os.environ.get("DOCKER_TLS_VERIFY"):
        with suppress(NoDockerEngine):
            connect(ANSWERS_WITHIN_SECONDS).close()
            return True
        return False
    connection = http.client.HTTPConnection("localhost", timeout=ANSWERS_WITHIN_SECONDS)
    try:
        connection.sock = _open(parts)
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def connect(timeout: float = 60) -> "DockerClient":
    """Return a client of the engine.

    Args:
        timeout: seconds that the engine may take for each answer.

    Raises:
        NoDockerEngine: no engine answers.
    """
    import docker

    try:
        return docker.from_env(timeout=timeout)
    except docker.errors.DockerException as error:
        raise NoDockerEngine(str(error)) from error


def _open(parts: SplitResult) -> socket.socket:
    if parts.scheme == "tcp":
        return socket.create_connection((parts.hostname or "", parts.port or 2375), ANSWERS_WITHIN_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWERS_WITHIN_SECONDS)
    try:
        connection.connect(parts.path)
    except OSError:
        connection.close()
        raise
    return connection
