"""Builds the environment variables of a task: a few of this machine, and all variables of the run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workshop.sandbox.pipelines_api.engine.contract import Job

# Marks all processes of a task, so that they can be found even after they have left their process group.
TASK_MARK = "WORKSHOP_TASK_ID"

# Locale, proxies, certificates and package indexes. Other settings of pip, such as a target folder, are meant for this
# process and not for tasks.
_INHERITED = (
    "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST", "PIP_CERT",
    "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX", "UV_OFFLINE",
    "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_CONFIG_FILE", "UV_CACHE_DIR",
)  # fmt: skip
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def of_process(job: Job, executor: Mapping[str, Any], task_id: str, scratch: Path) -> dict[str, str]:
    """Return the environment of a task that runs as a process on this machine.

    Args:
        job: the run.
        executor: the task's executor.
        task_id: the task's id.
        scratch: a folder for temporary files.
    """
    base = {name: os.environ[name] for name in (*_INHERITED, *job.inherited) if name in os.environ}
    path = prepend_path(job.python / "bin", os.environ.get("PATH", _DEFAULT_PATH))
    return base | {"PATH": path, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"} | _own(job, executor, task_id)


def of_container(job: Job, executor: Mapping[str, Any], task_id: str, scratch: Path) -> dict[str, str]:
    """Return the variables of a task that runs in a container, in addition to the variables of the image.

    Args:
        job: the run.
        executor: the task's executor.
        task_id: the task's id.
        scratch: a folder for temporary files.
    """
    # The user id is unknown inside the image. `getpass.getuser()` must not fail for that reason.
    home = {"HOME": str(scratch), "LOGNAME": "workshop", "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    return home | _own(job, executor, task_id)


def with_private_packages(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment in which pip installs packages into a folder that no other task uses.

    Args:
        variables: the environment of a process.
        folder: the folder; it is created if it does not exist.
    """
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [variables.get("PYTHONPATH"), str(folder)]))
    return dict(variables) | {"PIP_TARGET": str(folder), "PYTHONPATH": path}


def prepend_path(folder: Path, path: str) -> str:
    """Return a search path with a folder added in front."""
    return f"{folder}{os.pathsep}{path}"


def _own(job: Job, executor: Mapping[str, Any], task_id: str) -> dict[str, str]:
    given = {variable["name"]: variable.get("value", "") for variable in executor["container"].get("env", [])}
    return dict(job.environment) | given | {"WORKSHOP_RUN_ID": job.run_id, TASK_MARK: task_id}
