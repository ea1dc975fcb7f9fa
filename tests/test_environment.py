"""The four files that fix versions hold together, and the environment is made from them anywhere."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from workshop.project import ROOT, versions

PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock():
    return (ROOT / "requirements.txt").read_text()


def test_the_lock_satisfies_every_dependency_of_pyproject(project, lock):
    pins = {}
    for name, version in PIN.findall(lock):
        pins.setdefault(canonicalize_name(name), []).append(version)
    for text in project["dependencies"]:
        requirement = Requirement(text)
        locked = pins.get(canonicalize_name(requirement.name), [])
        assert locked, f"{text} is not in requirements.txt: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in locked), f"{text}, but locked: {locked}"


def test_every_package_in_the_lock_has_hashes_and_none_an_address(lock):
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock)
    without = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not without
    assert "://" not in lock and "--index" not in lock


def test_the_environment_is_what_the_lock_says(lock):
    installed = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "freeze", "--python", sys.executable],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pins = set(PIN.findall(lock))
    strange = [line for line in PIN.findall(installed) if line not in pins and line[0] not in ("pip", "setuptools")]
    assert not strange, f"installed, but not from the lock: {strange}; run scripts/make_environment.sh"


def test_the_conda_environment_installs_the_lock(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(
        str(part).partition("=")[2] for part in environment["dependencies"] if str(part).startswith("python=")
    )
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == ["-r requirements.txt"]
    assert python == versions()["PYTHON_VERSION"]
    assert Version(python) >= Version(project["requires-python"].removeprefix(">="))


def test_no_pipelines_package_is_newer_than_the_backend(lock):
    backend = Version(versions()["KUBEFLOW_PIPELINES_VERSION"])
    for package in ("kfp", "kfp-kubernetes", "kfp-pipeline-spec", "kfp-server-api"):
        locked = Version(dict(PIN.findall(lock))[package])
        assert locked <= backend and locked.release[:2] == backend.release[:2], f"{package} {locked}, backend {backend}"


def test_versions_env_is_plain_for_every_reader():
    for line in (ROOT / "versions.env").read_text().splitlines():
        assert re.fullmatch(r"|#.*|[A-Z_]+_VERSION=\d+(\.\d+)+", line), line


def test_the_environment_is_made_in_a_path_with_a_space_while_another_one_is_active(project_copy, tmp_path, olist_zip):
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    environment = {
        "PATH": f"{other}/bin:/usr/local/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": str(other),
        "PYTHON": sys.executable,
    }
    environment |= _caches()
    make = ["make", "--directory", str(project_copy)]
    first = subprocess.run([*make, ".venv/.ready"], env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    second = subprocess.run([*make, ".venv/.ready"], env=environment, capture_output=True, text=True)
    assert "up to date" in second.stdout, second.stdout
    command = project_copy / ".venv" / "bin" / "workshop"
    check = subprocess.run([command, "check"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert check.stdout == "every lesson holds what it must\n", check.stdout + check.stderr
    assert not list((other / "lib").glob("*/site-packages/kfp*"))

    parameters = ["-p", f"zip_path={olist_zip}", "-p", "csv_name=olist_orders_dataset.csv"]
    own = environment | {"WORKSHOP_SETTINGS": "/nonexistent", "WORKSHOP_TARGET": "sandbox"}
    run = subprocess.run([command, "run", "05", *parameters], cwd=tmp_path, env=own, capture_output=True, text=True)
    subprocess.run([command, "sandbox", "reset", "--yes"], env=own, check=True)
    assert run.returncode == 0, run.stdout + run.stderr
    shutil.rmtree(project_copy)


def test_an_unknown_argument_to_a_script_is_wrong_usage():
    done = subprocess.run([ROOT / "scripts/make_environment.sh", "--wrong"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--wrong" in done.stderr


def test_an_old_python_is_named_with_what_to_do(tmp_path):
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14", "python"):
        (tmp_path / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
        (tmp_path / name).chmod(0o755)
    copy = tmp_path / "project" / "scripts" / "make_environment.sh"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / "scripts" / "make_environment.sh").read_bytes())
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", copy], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert "3.11" in done.stderr and "3.9.2" in done.stderr


def _caches() -> dict[str, str]:
    """What the package clients of this machine need to find packages and their caches."""
    import os

    wanted = (
        "HOME",
        "XDG_",
        "UV_CACHE",
        "UV_INDEX",
        "UV_DEFAULT",
        "PIP_",
        "SSL_",
        "HTTP",
        "NO_PROXY",
        "REQUESTS_",
        "CURL_",
    )
    return {name: value for name, value in os.environ.items() if name.upper().startswith(wanted)}
