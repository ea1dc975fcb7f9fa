"""Runs a script of this folder with a Python that has the project's packages.

This file must run on Python 3.6 and newer, because it runs before the right Python is found. For the same reason, the
scripts that use it keep to syntax that Python 3.8 can parse.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
MISSING = 3


def use_project_python(*packages):
    # type: (str) -> None
    """Continue in the project's `.venv`; without `.venv`, continue in the running Python.

    A Kubeflow notebook image and a conda environment have no `.venv`, but their Python has the packages.

    Args:
        packages: modules that the script imports.

    Raises:
        SystemExit: with status 3, when neither Python has the packages.
    """
    wanted = os.access(str(PYTHON), os.X_OK)
    # With -E, the project's Python ignores PYTHONPATH and PYTHONHOME, which belong to another Python.
    if wanted and not (_is_project_python() and sys.flags.ignore_environment):
        os.execv(str(PYTHON), [str(PYTHON), "-E", *sys.argv])
    sys.path.insert(1, str(ROOT))
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        make = f"make -C {str(ROOT)!r} .venv/.ready"
        sys.stderr.write(
            "{}: the Python {} has no {}. Make the project's environment: {}. Elsewhere: pip install {}\n".format(
                Path(sys.argv[0]).name, sys.executable, " and no ".join(missing), make, " ".join(map(_pinned, missing))
            )
        )
        sys.exit(MISSING)


def _is_project_python():
    # type: () -> bool
    """Tell whether this Python is the one of `.venv`; the second test prevents an endless loop on a broken `.venv`."""
    return Path(sys.prefix).resolve() == VENV.resolve() or os.path.abspath(sys.executable) == str(PYTHON)  # noqa: PTH100


def _pinned(package):
    # type: (str) -> str
    """Add the version of the SDK, which must fit the installed Kubeflow Pipelines."""
    if package != "kfp":
        return package
    lines = (ROOT / "versions.env").read_text().splitlines()
    name = "KUBEFLOW_PIPELINES_VERSION="
    return "kfp==" + next(line[len(name) :] for line in lines if line.startswith(name))
