"""A registry of images: the program of Docker's registry image, run as a process."""

import shutil
import sys
from collections.abc import Mapping

from workshop.sandbox import docker_engine
from workshop.sandbox.server import Record, Server, http_status

# The program's name in Debian's package docker-registry, and its original name.
PROGRAMS = ("docker-registry", "registry")


class Registry(Server):
    """A registry on loopback, from which Docker pulls without encryption and without a login.

    The registry needs its program and a Docker Engine that answers on this machine. Without the program and the
    engine, the sandbox has no registry.

    Args:
        directory: the folder of the images.
    """

    name = "registry"
    usual_ports = {"http": 5000}

    @property
    def stands_for(self) -> str:  # type: ignore[override]  # the text depends on this machine
        """The service that the registry replaces, and the reason if the registry cannot run here."""
        reason = what_is_missing()
        return "Amazon ECR's images" + (f" (not here: {reason})" if reason else "")

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [sys.executable, "-P", "-m", "workshop.sandbox.registry_server", str(ports["http"]), _program()]

    def environment(self) -> dict[str, str]:
        return {"OTEL_TRACES_EXPORTER": "none"}  # version 3 would look for a collector of traces on loopback

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/v2/") == 200


def what_is_missing() -> str:
    """Return why this machine cannot use a registry; "" if it can. Takes milliseconds."""
    if not _program():
        return "the program docker-registry is not installed"
    if sys.platform == "darwin" or not docker_engine.is_local():
        return "Docker runs on another machine, whose loopback is not this one's"
    if not docker_engine.answers():
        return str(docker_engine.NoDockerEngine())
    return ""


def _program() -> str:
    return next(filter(None, map(shutil.which, PROGRAMS)), "")
