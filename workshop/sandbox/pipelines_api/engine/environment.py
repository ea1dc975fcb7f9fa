"""What a task finds in its environment: little of what this machine has set, and all that the run gives it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workshop.sandbox.pipelines_api.engine.contract import Job
from workshop.sandbox.processes import SERVER_MARK

# By this a task's processes are found again, wherever they have gone.
TASK_MARK = "WORKSHOP_TASK_ID"

# How to reach the outside, and where pip finds its index. What else is set for pip, such as a target folder, is meant
# for this process and not for tasks.
_KEPT = (
    "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_CERT",
    "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX", "UV_OFFLINE",
    "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_CONFIG_FILE", "UV_CACHE_DIR",
    SERVER_MARK,
)  # fmt: skip
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def of_process(job: Job, executor: Mapping[str, Any], task_id: str, scratch: Path) -> dict[str, str]:
    """Return the environment of a task that runs as a process of this machine.

    Args:
        job: the run.
        executor: the task's executor.
        task_id: the task's id.
        scratch: a folder for temporary files.
    """
    base = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = with_first(job.python / "bin", os.environ.get("PATH", _DEFAULT_PATH))
    return base | {"PATH": path, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"} | _own(job, executor, task_id)


def of_container(job: Job, executor: Mapping[str, Any], task_id: str, scratch: Path) -> dict[str, str]:
    """Return what a task that runs in a container finds besides what the image sets."""
    # The image does not know the user, and `getpass.getuser()` must not fail for that.
    home = {"HOME": str(scratch), "LOGNAME": "workshop", "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    return home | _own(job, executor, task_id)


def with_own_packages(found: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment in which what pip installs goes to a folder, and not to where other tasks would see it.

    Args:
        found: the environment of a process.
        folder: made when missing.
    """
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [found.get("PYTHONPATH"), str(folder)]))
    return dict(found) | {"PIP_TARGET": str(folder), "PYTHONPATH": path}


def with_first(folder: Path, path: str) -> str:
    """Return a search path that begins with a folder."""
    return f"{folder}{os.pathsep}{path}"


def _own(job: Job, executor: Mapping[str, Any], task_id: str) -> dict[str, str]:
    given = {variable["name"]: variable.get("value", "") for variable in executor["container"].get("env", [])}
    return dict(job.environment) | given | {"WORKSHOP_RUN_ID": job.run_id, TASK_MARK: task_id}
