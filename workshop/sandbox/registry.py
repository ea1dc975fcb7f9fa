"""A registry of images: the program that Docker's own registry image runs, here as a process."""

import http.client
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from workshop.sandbox.supervisor import HOST, Record, Server, http_status

# As Debian's package docker-registry calls it, and as its makers do.
PROGRAMS = ("docker-registry", "registry")
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
ENGINE_ANSWERS_WITHIN_SECONDS = 2
CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: '{images}'}}
  delete: {{enabled: true}}
http: {{addr: '{address}'}}
"""


class Registry(Server):
    """A registry on loopback, from which Docker pulls without encryption and without a login.

    It is a part of the sandbox only where its program is installed and a Docker engine of this machine answers:
    without one, nobody could put an image in.

    Args:
        directory: where images are kept.
    """

    name = "registry"
    usual_ports = {"http": 5000}

    @property
    def stands_for(self) -> str:
        """What it stands for, and why it is not there if it is not."""
        reason = what_is_missing()
        return "Amazon ECR's images" + (f" (not here: {reason})" if reason else "")

    def command(self, ports: Mapping[str, int]) -> list[str]:
        images = self.directory / "images"
        images.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "config.yml"
        quoted = str(images).replace("'", "''")
        configuration.write_text(CONFIGURATION.format(images=quoted, address=f"{HOST}:{ports['http']}"))
        # Variables called REGISTRY_... would win over the file.
        foreign = [word for name in os.environ if name.startswith("REGISTRY_") for word in ("-u", name)]
        return ["env", *foreign, _program(), "serve", str(configuration)]

    def environment(self) -> dict[str, str]:
        return {"OTEL_TRACES_EXPORTER": "none"}  # version 3 would look for a collector of traces on loopback

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/v2/") == 200


def what_is_missing() -> str:
    """Say what keeps a registry from being of use here; nothing if nothing does. Takes milliseconds."""
    if not _program():
        return "the program docker-registry is not installed"
    engine = os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE
    if sys.platform == "darwin" or not _is_local(engine):
        return "Docker runs on another machine, whose loopback is not this one's"
    if not _answers(engine):
        return f"no Docker engine answers at {engine}"
    return ""


def _program() -> str:
    return next(filter(None, map(shutil.which, PROGRAMS)), "")


def _is_local(engine: str) -> bool:
    parts = urlsplit(engine)
    return parts.scheme == "unix" or (parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "localhost", "::1"))


def _answers(engine: str) -> bool:
    """Ask the engine for a sign of life, as `docker` does first; one that wants encryption is not asked further."""
    parts = urlsplit(engine)
    connection = http.client.HTTPConnection("localhost", timeout=ENGINE_ANSWERS_WITHIN_SECONDS)
    try:
        connection.sock = _connect(parts)
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connect(parts) -> socket.socket:
    if parts.scheme == "tcp":
        return socket.create_connection((parts.hostname, parts.port or 2375), ENGINE_ANSWERS_WITHIN_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ENGINE_ANSWERS_WITHIN_SECONDS)
    connection.connect(parts.path)
    return connection
