"""Kubeflow Pipelines on one machine: the v2beta1 REST API of its server, 2.16.1, and an engine that executes runs.

A plain `kfp.Client()` talks to it as to a cluster. The contract is the server's own (`backend/api/v2beta1/swagger` in
https://github.com/kubeflow/pipelines); where that is silent, the server's source says how it behaves. `app.py` puts
the services together, `tables.py` is the database, `dispatcher.py` starts a `worker.py` for each run, and `engine/`
executes it.

What differs from the real server:

- One user, no namespaces: a `namespace` in a request is not looked at, and answers hold none. `Authorize` allows all.
- ReportService and VisualizationService answer 501, by name.
- A wrong method on a known path is answered with 405, where the real server says 501.
- Errors of uploads have the form of all others, `{error, code, message, details}`, with the reason in the message.
- An upload must be YAML or JSON: archives are refused, so that a zip of data is not mistaken for a pipeline.
- Without a `name`, an uploaded pipeline takes the name that it was compiled with, not that of its file.
- Arguments are checked when a run is created, all at once and by name; the real server finds some only in the run.
- What needs a cluster is refused at that moment, or ignored with a warning. Warnings, also for arguments in quotes,
  are the `error.message` of the run's first entry in `state_history`.
- A run in an archived experiment is refused; the real server takes it.
- A run's `error` says which task failed and why; on the real server it is empty.
- `task_details` has one entry for each task, loop iteration, condition and nested pipeline, and one for the run; the
  real server lists its driver and executor pods besides. `parent_task_id` is filled in here. `pod_name` in
  `child_tasks` names what the log endpoint takes.
- A cached task is SKIPPED, and its record says `cached`; on a cluster it is SUCCEEDED, and the dashboard shows an
  arrow. The cache looks at image, command, arguments, and the URIs of input artifacts.
- Inside a component, `artifact.uri` is the local file that `artifact.path` names; everywhere else it is the address in
  S3, as on a cluster. Do not return it as a value: the local file goes when the run ends.
- A number that JSON cannot hold (NaN, infinity) fails the task that returns it, by name.
- A terminated run becomes CANCELED once its processes are gone.
- A retry runs what has not succeeded, from the failed task on, and what was computed from a failure.
- A recurring run's runs are called NAME-1, NAME-2, and so on. Schedules are in UTC, and fire while the sandbox is up;
  what was missed meanwhile follows the catch-up rule.
- There is no dashboard; the links that kfp prints lead to one small page (`page.html`) with what they name.

Beside the contract (`runs.details_router`): every task's inputs, outputs and exit code, its log, and its artifacts.
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
    """The Pipelines API server, on loopback, below a path that only its user knows.

    Args:
        directory: where it keeps its database and what runs leave.
        secret: the first part of every path; handed over in the server's environment, which only its user can read.
        runner: what tasks are run with, one of `RUNNERS`.
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
