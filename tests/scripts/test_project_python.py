"""The Python scripts run with the project's packages, whichever Python starts them."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from workshop.project import ROOT

SCRIPTS = ("clean_up.py", "upload_pipeline.py")
VENV = Path(sys.prefix)


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the files that the scripts need, in a folder with a space and a non-ASCII letter, without `.venv`."""
    copy = tmp_path / "my projéct"
    for folder in ("scripts", "workshop"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "versions.env", copy)
    return copy


@pytest.fixture
def other_python(tmp_path) -> Path:
    """A Python without any package."""
    venv.create(tmp_path / "other", with_pip=False, symlinks=True)
    return tmp_path / "other" / "bin" / "python"


@pytest.fixture
def start(project, other_python, tmp_path):
    """Call a script of the copy with the given Python, by default one without packages."""

    def call(*command: str, python: Path = other_python, **variables: str) -> subprocess.CompletedProcess:
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        launcher = programs / "python3"
        launcher.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        launcher.chmod(0o755)
        environment = os.environ | {"PATH": f"{programs}:{project / 'scripts'}:/usr/bin:/bin"} | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return call


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.slow
def test_a_script_runs_in_the_projects_environment(project, start, script, activated):
    (project / ".venv").symlink_to(VENV)
    activation = {"VIRTUAL_ENV": str(VENV), "PATH": f"{VENV / 'bin'}:/usr/bin:/bin"} if activated else {}
    done = start(str(project / "scripts" / script), "--help", **activation)
    assert done.stdout.startswith("usage:"), done.stderr


def test_a_script_is_found_on_the_path_of_a_bash_cell(project, start):
    (project / ".venv").symlink_to(VENV)
    done = start("bash", "-euc", "clean_up.py --help")
    assert done.stdout.startswith("usage:"), done.stderr


def test_packages_of_another_python_do_not_reach_the_script(project, start, tmp_path):
    (project / ".venv").symlink_to(VENV)
    (tmp_path / "boto3.py").write_text("raise ImportError('a foreign boto3')\n")
    done = start(str(project / "scripts" / "clean_up.py"), "--help", PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith("usage:"), done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("is_broken", [False, True], ids=["no .venv", "a .venv without its Python"])
def test_without_venv_the_python_that_has_the_packages_goes_on(project, start, script, is_broken):
    if is_broken:
        (project / ".venv" / "bin").mkdir(parents=True)
        (project / ".venv" / "bin" / "python").symlink_to("/gone/python")
    done = start(str(project / "scripts" / script), "--help", python=VENV / "bin" / "python")
    assert done.stdout.startswith("usage:"), done.stderr


@pytest.mark.parametrize("script, package", [("clean_up.py", "boto3"), ("upload_pipeline.py", "kfp==")])
def test_no_python_with_the_packages_is_3_with_how_to_make_one(project, start, script, package):
    done = start(str(project / "scripts" / script), "--help")
    assert done.returncode == 3 and done.stdout == ""
    assert f"make -C '{project}' .venv/.ready" in done.stderr and f"pip install {package}" in done.stderr
