"""Kubeflow Pipelines on one machine: the v2beta1 REST API of its server 2.16.1, and an engine that executes runs.

A plain `kfp.Client()` works with this server as with a cluster. The contract is the swagger file of the real server
(`backend/api/v2beta1/swagger` in https://github.com/kubeflow/pipelines). The source code of the real server defines the
behaviour that the swagger file leaves open. `app.py` builds the server, `tables.py` defines the database,
`dispatcher.py` starts a `worker.py` for each run, and `engine/` executes the run.

Differences from the real server:

- There is one user and no namespace. The server ignores `namespace` in requests and leaves it out of responses.
  `Authorize` allows everything.
- ReportService and VisualizationService answer 501 with their names.
- A wrong method on a known path is answered with 405; the real server answers 501.
- Errors of uploads have the same form as all other errors, `{error, code, message, details}`. The message contains the
  reason.
- An upload must be YAML or JSON. Archives are refused, so that a zip file of data is not mistaken for a pipeline.
- An upload without a `name` gets the name of the compiled pipeline, not the name of the file.
- All arguments are checked when a run is created, and the error names every wrong argument. The real server finds some
  errors only during the run.
- A pipeline that needs a cluster is refused at the same moment. Settings that need a cluster are ignored with a
  warning. Warnings, including those about arguments in quotes, are in `error.message` of the first entry of the run's
  `state_history`.
- A run in an archived experiment is refused; the real server accepts it.
- The `error` of a run says which task failed and why; on the real server it is empty.
- `task_details` has one entry for the run and one for each task, loop iteration, condition and nested pipeline. The
  real server also lists driver and executor pods. `parent_task_id` is set here. `pod_name` in `child_tasks` is a name
  that the log endpoint accepts.
- A cached task is SKIPPED, and its record has `cached`. On a cluster it is SUCCEEDED, and the dashboard shows an arrow.
  The cache compares the image, the command, the arguments, and the URIs of input artifacts.
- Inside a component, `artifact.uri` is the local file of `artifact.path`. Everywhere else it is the address in S3, as
  on a cluster. A component must not return it as a value: the local file is deleted when the run ends.
- A task that returns NaN or infinity fails, and the error names the output. JSON cannot represent these numbers.
- A terminated run becomes CANCELED after its processes have ended.
- A retry executes the failed tasks and all tasks after them, and tasks that used the result of a failure.
- The runs of a recurring run are named NAME-1, NAME-2, and so on. Schedules are in UTC, and runs start only while the
  sandbox is up. The catch-up rule decides about missed runs.
- There is no dashboard. The links that kfp prints lead to a small page (`page.html`) about the linked object.

In addition to the contract, `run_details.py` serves the inputs, outputs and exit code of every task, its log, and its
artifacts.
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


class PipelinesApi(Server):
    """The Pipelines API server. It listens on loopback, and every path begins with a secret.

    Args:
        directory: the folder of the database and of the run folders.
        secret: the first part of every path. The server gets it as an environment variable, which only its user can
            read.
        runner: how tasks are executed, one of `RUNNERS`.
    """

    name = "pipelines-api"
    stands_for = "Kubeflow Pipelines"
    usual_ports = {"http": 8889}

    def __init__(self, directory: Path, secret: str, runner: str = "subprocess") -> None:
        super().__init__(directory)
        self.keys = f"{hashlib.sha256(secret.encode()).hexdigest()[:16]}-{runner}"
        self._secret = secret
        self._runner = runner

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [sys.executable, "-m", __name__, str(ports["http"])]

    def environment(self) -> dict[str, str]:
        return {
            SECRET_VARIABLE: self._secret,
            DIRECTORY_VARIABLE: str(self.directory),
            RUNNER_VARIABLE: self._runner,
        }

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/healthz") == 200
