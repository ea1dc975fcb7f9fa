"""Kubeflow Pipelines on one machine: the v2beta1 REST API of its server 2.16.1, and an engine that executes runs.

A plain `kfp.Client()` works with this server as with a cluster. The contract is the swagger file of the real server
(`backend/api/v2beta1/swagger` in https://github.com/kubeflow/pipelines). The source code of the real server defines the
behaviour that the swagger file leaves open. `app.py` builds the server, `tables.py` defines the database,
`dispatcher.py` starts a `worker.py` for each run, and `engine/` executes the run.

`docs/api_differences.md` lists every known difference from the real server. In addition to the contract,
`run_details.py` serves the inputs, outputs and exit code of every task, its log, and its artifacts.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from workshop.sandbox.server import Record, Server, http_status

SECRET_VARIABLE = "WORKSHOP_PIPELINES_SECRET"
DIRECTORY_VARIABLE = "WORKSHOP_PIPELINES_DIR"
RUNNER_VARIABLE = "WORKSHOP_RUNNER"
RUNNERS = ("subprocess", "docker")
NAMESPACES_VARIABLE = "WORKSHOP_NAMESPACES"
NAMESPACES = ("alice", "bob")  # of a server with several users


class PipelinesApi(Server):
    """The Pipelines API server. The server listens on loopback, and every path begins with a secret.

    Args:
        directory: the folder of the database and of the run folders.
        secret: the first part of every path. The server gets it as an environment variable, which only its user can
            read.
        runner: how tasks are executed, one of `RUNNERS`.
        multi_user: whether the server has several users, one for each of `NAMESPACES`.
    """

    name = "pipelines-api"
    stands_for = "Kubeflow Pipelines"
    usual_ports = {"http": 8889}

    def __init__(self, directory: Path, secret: str, runner: str = "subprocess", multi_user: bool = False) -> None:
        super().__init__(directory)
        self.keys = f"{hashlib.sha256(secret.encode()).hexdigest()[:16]}-{runner}{'-users' if multi_user else ''}"
        self._secret = secret
        self._runner = runner
        self._namespaces = ",".join(NAMESPACES) if multi_user else ""

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [sys.executable, "-m", __name__, str(ports["http"])]

    def environment(self) -> dict[str, str]:
        return {
            SECRET_VARIABLE: self._secret,
            DIRECTORY_VARIABLE: str(self.directory),
            RUNNER_VARIABLE: self._runner,
            NAMESPACES_VARIABLE: self._namespaces,
        }

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/healthz") == 200
