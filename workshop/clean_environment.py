"""Keeps the reader's own settings away from the sandbox and from the lessons.

An AWS profile, a PYTHONPATH, a BASH_ENV or a start-up file changes what programs do. A lesson and a server of the
sandbox must do the same on every machine. So this module makes the environment of every process that the project
starts.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# Marks every process that `workshop run` starts, so that all of them can be ended. The sandbox's servers stay.
LESSONS_MARK = "WORKSHOP_LESSONS"
# The temporary folder outside of `workshop run`, whose own one is deleted at its end. The sandbox's servers stay, so
# their files must not be in that one.
OUTER_TMPDIR = "WORKSHOP_OUTER_TMPDIR"

# These variables add code, or change what Python, Jupyter, pip and bash do.
_PREFIXES = ("PYTHON", "IPYTHON", "BASH_FUNC_")
_NAMES = {
    # https://www.gnu.org/software/bash/manual/html_node/Bash-Variables.html
    *("BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "CDPATH", "GLOBIGNORE", "POSIXLY_CORRECT"),
    *("JUPYTER_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("PIP_TARGET", "PIP_UPGRADE", "PIP_USER", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"),
}
# These variables change only Python's text encoding and its folder for compiled files.
_HARMLESS = {"PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}

# Settings of AWS and Kubeflow clients. A client of the sandbox must never use the settings of a real account or
# cluster.
CLIENT_PREFIXES = ("AWS_", "KF_PIPELINES_")
# Servers must not get these variables either: SeaweedFS would accept AWS keys in its environment as its own keys.
_SERVER_PREFIXES = (*CLIENT_PREFIXES, "WEED_", "MOTO_")
# Servers read no file of the reader. ~/.aws/config may even be damaged.
_NO_AWS_FILES = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def for_lessons(environment: Mapping[str, str], ipython_folder: Path) -> dict[str, str]:
    """Return the environment for a lesson's kernel.

    AWS settings stay: on a real target they choose the account. On the sandbox, `connect()` replaces the AWS settings.

    Args:
        environment: the environment to begin with.
        ipython_folder: where IPython keeps its files, in place of the reader's folder with start-up files.
    """
    return _without_code(environment) | {"IPYTHONDIR": str(ipython_folder), "JUPYTER_PREFER_ENV_PATH": "1"}


def for_servers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a server of the sandbox.

    Args:
        environment: the environment to begin with.
    """
    kept = {name: value for name, value in _without_code(environment).items() if not name.startswith(_SERVER_PREFIXES)}
    for name in (LESSONS_MARK, OUTER_TMPDIR):
        kept.pop(name, None)
    return kept | _NO_AWS_FILES


def is_clean(environment: Mapping[str, str]) -> bool:
    """Tell whether an environment holds none of the variables that bring the reader's code into Python."""
    return not any(name.startswith("PYTHON") and name not in _HARMLESS for name in environment)


def without_python_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that bring the reader's code into Python."""
    return {name: value for name, value in environment.items() if is_clean({name: value})}


def clean_cells() -> None:
    """Keep the reader's settings away from programs that cells of this kernel start.

    `%%bash` reads BASH_ENV, and `mktemp` fails when TMPDIR does not exist. Python then takes another folder.
    """
    for name in list(os.environ):
        if name in _NAMES - {"PIP_TARGET", "PIP_UPGRADE"} or name.startswith("BASH_FUNC_"):
            del os.environ[name]
    if "TMPDIR" in os.environ and not Path(os.environ["TMPDIR"]).is_dir():
        with suppress(OSError):
            os.environ["TMPDIR"] = tempfile.gettempdir()


def _without_code(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in _HARMLESS or (name not in _NAMES and not name.startswith(_PREFIXES))
    }
