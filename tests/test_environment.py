"""The files that fix versions agree, and the environments can be made from them in any folder."""

import importlib.util
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from workshop.project import ROOT, versions
from workshop.sandbox import SandboxError, component_environment

LOCKS = ("requirements.txt", "docker/component/requirements.txt")
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def project(pyproject):
    return pyproject["project"]


@pytest.fixture(scope="module")
def lock():
    return (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("path", LOCKS)
def test_the_lock_satisfies_every_dependency_of_pyproject(pyproject, path):
    lock = (ROOT / path).read_text()
    wanted = pyproject["project"]["dependencies"] if path == LOCKS[0] else pyproject["dependency-groups"]["component"]
    pins = {}
    for name, version in PIN.findall(lock):
        pins.setdefault(canonicalize_name(name), []).append(version)
    for text in wanted:
        requirement = Requirement(text)
        locked = pins.get(canonicalize_name(requirement.name), [])
        assert locked, f"{text} is not in {path}: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in locked), f"{text}, but locked: {locked}"


@pytest.mark.parametrize("path", [*LOCKS, "benchmarks/requirements.txt"])
def test_every_package_in_the_lock_has_hashes_and_none_an_address(path):
    lock = (ROOT / path).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock)
    without = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not without
    assert "://" not in lock and "--index" not in lock


# A lock that uv writes for one Python lacks versions that another Python needs.
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", ["linux x86_64", "linux aarch64", "darwin arm64"])
def test_a_component_gets_the_versions_of_the_lessons(pyproject, python, machine):
    lessons, component = (_pins(ROOT / path, python, machine) for path in LOCKS)
    names = {canonicalize_name(Requirement(text).name) for text in pyproject["dependency-groups"]["component"]}
    assert names <= component.keys(), "run `make lock`"
    shared = lessons.keys() & component.keys()
    assert {"boto3", "kfp", "numpy", "pandas", "protobuf"} <= shared
    assert {name: component[name] for name in shared} == {name: lessons[name] for name in shared}, "run `make lock`"


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


@pytest.mark.slow
def test_tasks_run_with_what_the_component_image_holds_and_nothing_else(capfd):
    folder = component_environment.ensure()
    capfd.readouterr()
    assert component_environment.ensure() == folder
    assert capfd.readouterr() == ("", "")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = _output(sys.executable, "-m", "uv", "pip", "freeze", "--python", str(folder / "bin/python3"))
    assert dict(PIN.findall(lines)) == _pins(component_environment.REQUIREMENTS, here)
    code = """if True:
        import importlib.util
        import boto3, kfp.dsl, pandas, sklearn.linear_model
        print([name for name in ("jupyterlab", "moto", "workshop") if importlib.util.find_spec(name)])
    """
    assert _output(str(folder / "bin/python3"), "-c", code).strip() == "[]"
    code = "import pipelines.s3_streams; print(pipelines.__file__)"
    assert Path(_output(str(folder / "bin/python3"), "-c", code).strip()).resolve() == ROOT / "pipelines/__init__.py"
    assert _output(str(folder / "bin/python3"), "-m", "pip", "--version").startswith("pip ")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Make environments of one small package, in the test's own folder; return that folder."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", component_environment.REQUIREMENTS.read_text())
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(next(entry for entry in entries if entry.startswith("six==")))
    location = tmp_path / "a clone" / "tests" / ".component"
    location.parent.mkdir(parents=True)
    monkeypatch.setattr(component_environment, "REQUIREMENTS", requirements)
    monkeypatch.setattr(component_environment, "LOCATION", location)
    return location


@pytest.mark.slow
def test_a_half_made_environment_of_tasks_is_made_again(tiny):
    folder = component_environment.ensure()
    assert list(folder.glob("lib/*/site-packages/__pycache__/six.*.pyc"))
    (folder / ".ready").unlink()
    (folder / "left-over").touch()
    assert component_environment.ensure() == folder
    assert (folder / ".ready").exists() and not (folder / "left-over").exists()
    # The Python from which the environment was made is missing.
    for link in (folder / "bin").glob("python*"):
        link.unlink()
        link.symlink_to(tiny / "gone")
    component_environment.ensure()
    assert (folder / "bin" / "python3").exists()


@pytest.mark.slow
def test_a_new_lock_replaces_the_environment_of_tasks_for_this_python_only(tiny):
    old = component_environment.ensure()
    (tiny / "half made").mkdir()
    (tiny / "other").mkdir()
    (tiny / "other" / ".ready").write_text("cpython 3.99 elsewhere")
    with component_environment.REQUIREMENTS.open("a") as requirements:
        requirements.write("\n# changed\n")
    new = component_environment.ensure()
    assert new != old
    assert {path.name for path in tiny.iterdir() if path.is_dir()} == {new.name, "other"}


def test_two_processes_make_one_environment_of_tasks(tiny):
    both = [_make_elsewhere(tiny) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {out for out, _ in said} == {f"{component_environment.ensure()}\n"}
    assert sum("making" in err for _, err in said) == 1


@pytest.mark.slow
def test_an_environment_of_tasks_waits_for_a_uv_whose_parent_was_killed(tiny, tmp_path):
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'; sleep 1; touch '{tmp_path}/ended'\n")
    uv.chmod(0o755)
    killed = _make_elsewhere(tiny, f"made.sys.executable = {str(uv)!r}")
    while not (tmp_path / "started").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    component_environment.ensure()
    assert (tmp_path / "ended").exists()
    killed.communicate()


def test_settings_of_a_notebook_do_not_change_the_environment_of_tasks(tiny, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "uv").mkdir(parents=True)
    (elsewhere / "uv" / "__main__.py").write_text("raise SystemExit('not the uv of the lock')")
    for name in ("PIP_TARGET", "UV_TARGET", "UV_PREFIX", "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV", "PYTHONPATH"):
        monkeypatch.setenv(name, str(elsewhere))
    for name in ("PIP_USER", "UV_SYSTEM_PYTHON", "UV_VENV_SEED", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UV_PYTHON", "3.99")
    monkeypatch.chdir(elsewhere)
    folder = component_environment.ensure()
    packages = {path.name for path in folder.glob("lib/*/site-packages/*") if path.suffix in (".dist-info", ".py")}
    assert packages - {"_virtualenv.py"} == {"six.py", next(n for n in packages if n.startswith("six-"))}
    assert [path.name for path in elsewhere.iterdir()] == ["uv"]


def test_an_environment_of_tasks_that_cannot_be_made_shows_the_error_of_uv_and_the_next_command(tiny):
    pinned = component_environment.REQUIREMENTS.read_text()
    component_environment.REQUIREMENTS.write_text(re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", pinned))
    with pytest.raises(SandboxError, match=r"(?s)`uv pip sync` says:.*six.*-m workshop.sandbox.component_environment"):
        component_environment.ensure()
    assert not list(tiny.glob("*/.ready"))
    shutil.rmtree(tiny)
    tiny.touch()
    with pytest.raises(SandboxError, match="can be written"):
        component_environment.ensure()


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
        assert re.fullmatch(
            r"|#.*|[A-Z0-9_]+_VERSION=\d+(\.\d+)+|[A-Z_]+_UNTIL=\d{4}-\d\d-\d\d|[A-Z_]+_IMAGE=[a-z0-9][\w.:/@-]*", line
        ), line


@pytest.mark.exhaustive  # the gate sets up its own clone in such a folder
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
    assert check.stdout == "every lesson has the required parts\n", check.stdout + check.stderr
    assert not list((other / "lib").glob("*/site-packages/kfp*"))
    assert len(list(project_copy.glob(".component/*/.ready"))) == 1

    parameters = ["-p", f"zip_path={olist_zip}", "-p", "csv_name=olist_orders_dataset.csv"]
    own = environment | {"WORKSHOP_SETTINGS": "/nonexistent", "WORKSHOP_TARGET": "sandbox"}
    run = subprocess.run([command, "run", "05", *parameters], cwd=tmp_path, env=own, capture_output=True, text=True)
    subprocess.run([command, "sandbox", "reset", "--yes"], env=own, check=True)
    assert run.returncode == 0, run.stdout + run.stderr

    moved = project_copy.rename(tmp_path / "a moved clone")
    again = subprocess.run(
        ["make", "--directory", moved, ".venv/.ready"], env=environment, capture_output=True, text=True
    )
    assert (
        f"this folder was moved or copied: its .venv was made for {project_copy}; creating .venv again" in again.stdout
    )
    kfp = subprocess.run(
        [moved / ".venv" / "bin" / "kfp", "--version"], env=environment, capture_output=True, text=True
    )
    assert kfp.returncode == 0, kfp.stderr
    shutil.rmtree(moved)


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


def _pins(path: Path, python: str, machine: str | None = None) -> dict[str, str]:
    """Return the packages of a lock for one Python, by name; on this machine, or on one such as `linux x86_64`."""
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.9"}
    if machine:
        system, _, processor = machine.partition(" ")
        environment |= {"sys_platform": system, "platform_system": system.title(), "platform_machine": processor}
    entries = (line.rstrip("\\ ") for line in path.read_text().splitlines() if PIN.match(line))
    requirements = [Requirement(entry) for entry in entries]
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
    pins = {r.name: str(r.specifier).removeprefix("==") for r in chosen}
    assert len(pins) == len(chosen), f"{path} holds two versions of a package for Python {python}"
    return pins


def _make_elsewhere(location: Path, first: str = "") -> subprocess.Popen:
    """Start a process that makes the environment of tasks, after one more statement."""
    code = f"""if True:
        from pathlib import Path
        from workshop.sandbox import component_environment as made
        made.LOCATION, made.REQUIREMENTS = Path({str(location)!r}), Path({str(component_environment.REQUIREMENTS)!r})
        {first}
        made.main()
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **pipes)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _caches() -> dict[str, str]:
    """Return the variables with which pip and uv of this machine find packages and caches."""
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


def test_nothing_that_kfp_would_import_without_need_is_in_the_environment():
    """`kubernetes`, which kfp imports, imports this package if it is installed, and the import of its grammar takes
    seconds."""
    assert importlib.util.find_spec("kubernetes_validate") is None
