"""Machines with odd settings, folders and disks: commands still work, or print the cause and the next step in one
line."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import nbformat
import psutil
import pytest
import requests
import yaml
from kfp import compiler, dsl

from tests.support import simple
from tests.support.api import Api, await_that
from tests.support.processes import environment
from workshop import clean_environment, lessons, toc
from workshop.clean_environment import LESSONS_MARK
from workshop.project import ROOT
from workshop.sandbox import Sandbox, SandboxError, files, processes
from workshop.sandbox.server import Record
from workshop.supervised import SIGNALS, WorkshopError

MAKE_ENVIRONMENT = "scripts/make_environment.sh"


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)


def start(*command: str | Path, **options) -> subprocess.Popen:
    """Start a command in a new session; its standard output and error go to one pipe."""

    def take_signals() -> None:
        # A shell ignores SIGINT for background programs, and nohup ignores SIGHUP. Tests may run in these ways too.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*map(str, command)], start_new_session=True, preexec_fn=take_signals, **pipes, **options)


# The reader's settings.


@pytest.fixture
def settings_of_a_reader(tmp_path) -> dict[str, str]:
    """An environment in which an AWS profile, Python, IPython and bash are set up to fail."""
    home, modules = tmp_path / "home", tmp_path / "modules"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").write_text("[this cannot be parsed\n")
    startup = home / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-first.py").write_text("raise SystemExit('the start-up file of IPython ran')\n")
    modules.mkdir()
    for name in ("boto3", "botocore", "kfp", "moto", "pandas", "pipelines", "sitecustomize", "typer"):
        (modules / f"{name}.py").write_text(f"raise SystemExit('the {name} of PYTHONPATH was imported')\n")
    (home / "bash_env").write_text("export PATH=/nowhere\n")
    (home / "startup.py").write_text("raise SystemExit('PYTHONSTARTUP ran')\n")
    return os.environ | {
        "HOME": str(home),
        "AWS_PROFILE": "nonesuch",
        "AWS_RETRY_MODE": "bogus",
        "AWS_DEFAULTS_MODE": "bogus",
        "PYTHONPATH": str(modules),
        "PYTHONSTARTUP": str(home / "startup.py"),
        "PYTHONWARNINGS": "error",
        "BASH_ENV": str(home / "bash_env"),
        "IPYTHONDIR": str(home / ".ipython"),
    }


@pytest.mark.slow
def test_the_readers_settings_reach_neither_the_sandbox_nor_a_lesson(sandbox, tmp_path, settings_of_a_reader):
    # sitecustomize runs before any code of the project. The project cannot undo its effects on the first process.
    (Path(settings_of_a_reader["PYTHONPATH"]) / "sitecustomize.py").write_text(
        "import sys\nsys.from_pythonpath = True\n"
    )
    command = [sys.executable, "-m", "workshop", "run", "00", "--output", tmp_path / "out"]
    done = run(*command, env=settings_of_a_reader)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    for process in psutil.process_iter():
        if environment(process).get(processes.SERVER_MARK, "").startswith(f"{sandbox.directory}:"):
            found = environment(process)
            assert not {"PYTHONPATH", "BASH_ENV", "AWS_PROFILE", "AWS_RETRY_MODE", LESSONS_MARK} & set(found)
            assert found["AWS_CONFIG_FILE"] == os.devnull


def test_a_kernel_gets_no_setting_that_runs_code_of_the_reader(settings_of_a_reader, tmp_path):
    found = clean_environment.for_lessons(settings_of_a_reader, tmp_path / "ipython")
    assert found["IPYTHONDIR"] == str(tmp_path / "ipython")
    assert found["AWS_PROFILE"] == "nonesuch", "on a real target the profile chooses the account"
    assert not {"PYTHONPATH", "PYTHONSTARTUP", "PYTHONWARNINGS", "BASH_ENV"} & set(found)


def test_cells_of_any_kernel_run_without_bash_env_and_with_a_temporary_folder_that_exists(monkeypatch, tmp_path):
    monkeypatch.setenv("BASH_ENV", "/some/file")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    clean_environment.clean_cells()
    assert "BASH_ENV" not in os.environ
    assert run("bash", "-c", "mktemp").returncode == 0


# Folders that were moved or copied.


@pytest.fixture
def project(tmp_path) -> Path:
    """The files with which `make` checks its environment, and an environment without packages."""
    folder = tmp_path / "erste Übung"
    (folder / "scripts").mkdir(parents=True)
    for name in ("Makefile", MAKE_ENVIRONMENT, "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "docker" / "component").mkdir(parents=True)
    (folder / "docker" / "component" / "requirements.txt").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    tag = sys.implementation.cache_tag
    (folder / ".venv" / ".made-for").write_text(f"{folder.resolve()}\n{tag}\n")
    (folder / ".venv" / ".ready").touch()
    return folder


def check(folder: Path) -> str:
    done = run(folder / MAKE_ENVIRONMENT, "--check")
    assert done.returncode == (1 if done.stdout else 0)
    return done.stdout


def test_an_environment_that_fits_its_folder_is_left_alone(project):
    assert check(project) == ""
    assert MAKE_ENVIRONMENT not in run("make", "-n", "run", cwd=project).stdout


def test_a_folder_that_was_moved_or_copied_gets_a_new_environment(project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    moved = project.rename(tmp_path / "moved")
    for folder in (copy, moved):
        assert check(folder) == f"this folder was moved or copied: its .venv was made for {project.resolve()}\n"
        assert MAKE_ENVIRONMENT in run("make", "-n", "run", cwd=folder).stdout


def test_an_environment_whose_python_is_gone_is_made_again(project):
    for link in (project / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    assert check(project) == "the Python of .venv is missing\n"
    assert MAKE_ENVIRONMENT in run("make", "-n", "run", cwd=project).stdout


def test_an_environment_of_another_python_is_made_again(project):
    (project / ".venv" / ".made-for").write_text(f"{project.resolve()}\ncpython-399\n")
    assert check(project) == ".venv was made with another Python (cpython-399)\n"


PYTHON_THAT_INSTALLS_NOTHING = """\
#!/bin/bash
case "$*" in
  *" venv "*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >>made ;;
  *compileall*) echo started; sleep {compiling} ;;
  *"-m pip install"*) {pip} ;;
  *"-m pip"* | *"-m uv"*) ;;
  *component_environment*) echo .component ;;
  *) exec {python} "$@" ;;
esac
"""


def stub(project: Path, compiling: float = 0, pip: str = "true") -> dict[str, str]:
    """Return an environment in which the set-up of a project takes no packages."""
    shutil.rmtree(project / ".venv")
    python = project / "python"
    text = PYTHON_THAT_INSTALLS_NOTHING.format(compiling=compiling, pip=pip, python=shlex.quote(sys.executable))
    python.write_text(text)
    python.chmod(0o755)
    return os.environ | {"PYTHON": str(python)}


def test_a_missing_temporary_folder_does_not_stop_the_set_up(project):
    done = run(project / MAKE_ENVIRONMENT, env=stub(project) | {"TMPDIR": "/nowhere"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_set_up_that_cannot_download_names_the_proxy(project):
    environment = stub(project, pip="exit 1") | {"HTTPS_PROXY": "http://127.0.0.1:1"}
    done = run(project / MAKE_ENVIRONMENT, env=environment)
    assert done.returncode == 1
    assert "HTTPS_PROXY (it is http://127.0.0.1:1)" in done.stderr
    assert not (project / ".venv" / ".ready").exists()


def test_an_interrupt_ends_the_set_up_at_any_time(project):
    setup = start(project / MAKE_ENVIRONMENT, env=stub(project, compiling=60))
    said = ""
    while "started" not in said:
        said += setup.stdout.readline()
    os.killpg(setup.pid, signal.SIGINT)
    said, _ = setup.communicate(timeout=50)
    assert setup.returncode == 130, said
    assert "ready" not in said and not (project / ".venv" / ".ready").exists()


def test_a_dry_run_of_the_set_up_changes_nothing_and_its_commands_make_the_environment(project):
    environment = stub(project)
    dry = run(project / MAKE_ENVIRONMENT, "--dry-run", env=environment)
    assert dry.returncode == 0, dry.stderr
    assert not (project / ".venv").exists()
    pasted = run("bash", "-ec", dry.stdout, cwd=project, env=environment)
    assert pasted.returncode == 0, pasted.stderr
    assert (project / "made").read_text() == "venv\n"
    assert (project / ".venv" / "uv.txt").read_text().startswith("uv==")
    assert (project / ".venv" / ".ready").exists() and check(project) == ""


@pytest.mark.slow
def test_two_set_ups_at_once_make_one_environment(project):
    environment = stub(project, compiling=2)
    both = [start(project / MAKE_ENVIRONMENT, env=environment) for _ in range(2)]
    said = [setup.communicate(timeout=60)[0] for setup in both]
    assert [setup.returncode for setup in both] == [0, 0], said
    assert (project / "made").read_text() == "venv\n"
    assert sum("another process is setting up this folder" in text for text in said) == 1


@pytest.mark.slow
def test_the_servers_of_a_copied_sandbox_are_not_those_of_the_original(sandbox, tmp_path):
    sandbox.up()
    shutil.copytree(sandbox.directory, tmp_path / "copy", ignore=shutil.ignore_patterns("object-store"))
    copy = Sandbox(tmp_path / "copy")
    assert [record for _, record, _ in copy.status()] == [None] * 4
    assert copy.down() == []
    assert all(answers for server, _, answers in sandbox.status() if server.name != "registry")


@pytest.mark.slow
def test_the_servers_of_a_sandbox_that_was_moved_are_stopped(sandbox, tmp_path):
    sandbox.up()
    pids = [record.pid for _, record, _ in sandbox.status() if record]
    sandbox.directory.rename(tmp_path / "moved")
    stopped = Sandbox(tmp_path / "moved").down()  # with Docker, also the registry
    assert stopped[:3] == ["object-store", "aws-account", "pipelines-api"]
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


# Temporary folders and disks.


@pytest.mark.slow
def test_a_long_temporary_folder_is_no_obstacle_and_down_deletes_what_servers_have_left(
    sandbox, tmp_path, workshop_command
):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    done = workshop_command("sandbox", "up", env=os.environ | {"TMPDIR": str(long)})
    assert done.returncode == 0, done.stderr
    compiler.Compiler().compile(simple.echo, str(tmp_path / "echo.yaml"))
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    started = api.run(yaml.safe_load((tmp_path / "echo.yaml").read_text()))
    assert api.await_state(started["run_id"])["state"] == "SUCCEEDED"
    records = [Record.read(path) for path in (sandbox.directory / "run").glob("*.json")]
    folders = [Path(record.temporary) for record in records]
    assert [left for folder in folders for left in folder.glob("pymp-*")], "the fork server has its socket there"
    sandbox.down()
    assert not [folder for folder in folders if folder.exists()]
    assert not list(long.iterdir())


def test_a_temporary_folder_that_is_missing_is_replaced_and_one_that_is_unusable_is_named(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", None)
    made = files.make_temporary_folder()
    made.rmdir()
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(SandboxError, match="Set TMPDIR to a folder that you may write to"):
        files.make_temporary_folder()


def test_a_lesson_that_fails_on_a_full_disk_names_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "fails.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("{}['csv-s3-reader']")]), path)

    class Failing(toc.Lesson):
        pass

    Failing.path = path
    monkeypatch.setattr(files, "free_mb", lambda _: 0)
    work = tmp_path / "work"
    work.mkdir()
    result = lessons.run_one(Failing("fails", "Fail", 1, "nothing"), work, {})
    assert "KeyError" in result.error
    assert f"The disk of {work} is full (0 MB are free)" in result.error


@dsl.component(**simple.OPTIONS)
def write_much(table: dsl.Output[dsl.Dataset]):
    with open(table.path, "wb") as file:
        file.write(bytes(20 * 2**20))


@dsl.pipeline(name="writes-much")
def writes_much():
    write_much()


@pytest.mark.slow
def test_a_run_that_fails_on_a_full_disk_names_the_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    compiler.Compiler().compile(writes_much, str(tmp_path / "much.yaml"))
    code = """if True:
        import sys
        from pathlib import Path
        import yaml
        from tests.support.api import Api
        from workshop.sandbox import Sandbox
        from workshop.sandbox.files import free_mb
        disk = Path(sys.argv[1])
        sandbox = Sandbox(disk / "sandbox")
        sandbox.up()
        try:
            with open(disk / "filler", "wb") as filler:
                try:
                    while True:
                        filler.write(b"x" * 2**16)
                except OSError:
                    pass
            filler = open(disk / "filler", "r+b")
            filler.truncate((disk / "filler").stat().st_size - 4 * 2**20)  # room for the database, not for the artifact
            api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
            started = api.run(yaml.safe_load(open(sys.argv[2])), {})
            run = api.await_state(started["run_id"])
            print(run["state"], run["error"]["message"])
        finally:
            sandbox.down()
    """
    private = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    small = f"mount -t tmpfs -o size=600m tmpfs {shlex.quote(str(disk))}"
    if not shutil.which("unshare") or run(*private, "sh", "-c", small).returncode:
        pytest.skip("a small disk cannot be mounted here; to run it: Linux, as root or with user namespaces")
    command = shlex.join([sys.executable, "-c", code, str(disk), str(tmp_path / "much.yaml")])
    done = run(*private, "sh", "-c", f"{small} && exec {command}", cwd=ROOT)
    assert re.search(r"FAILED The disk of .*/sandbox is full \(\d MB are free\)\. Make room", done.stdout), done


# Folders that cannot be written.


def test_an_output_folder_that_cannot_be_written_is_one_line_that_names_the_option(tmp_path, workshop_command):
    (tmp_path / "file").touch()
    done = workshop_command("run", "00", "--output", str(tmp_path / "file" / "out"))
    assert done.returncode == 1
    assert "workshop run --output /some/folder" in done.stderr and len(done.stderr.splitlines()) == 1


def test_pictures_that_cannot_be_written_are_one_line_that_names_the_option(tmp_path):
    (tmp_path / "images").touch()
    with pytest.raises(WorkshopError, match="workshop run --output /some/folder"):
        lessons.prepare_folder(tmp_path)


def test_jupyterlab_without_a_home_that_can_be_written_is_one_line(tmp_path, workshop_command):
    (tmp_path / "file").touch()
    done = workshop_command("lab", env=os.environ | {"HOME": str(tmp_path / "file")})
    assert done.returncode == 1
    assert "HOME=/some/folder make lab" in done.stderr and len(done.stderr.splitlines()) == 1


def listing(address: str) -> dict | None:
    """Return a folder's contents; None while the server, which prints its address first, does not answer."""
    try:
        return requests.get(address, timeout=30).json()
    except requests.ConnectionError:
        return None


@pytest.mark.slow
def test_make_lab_serves_the_lessons_also_for_root(tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "BROWSER": "true"}
    lab = start("make", "-C", ROOT, "lab", env=environment)
    try:
        said, address = "", None
        while not address:
            line = lab.stdout.readline()
            assert line, said
            said += line
            address = re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", said)
        listed = await_that(partial(listing, address[0].replace("/lab", "/api/contents")), "it does not answer")
        assert "00_start_here.ipynb" in [entry["name"] for entry in listed["content"]]
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.communicate(timeout=30)


# Two at once, and endings.


def assert_that_a_pipeline_runs(sandbox, folder: Path) -> None:
    compiler.Compiler().compile(simple.echo, str(folder / "echo.yaml"))
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    run = api.run(yaml.safe_load((folder / "echo.yaml").read_text()))["run_id"]
    ended = api.await_state(run)
    assert ended["state"] == "SUCCEEDED", ended["error"]


@pytest.mark.slow
def test_a_sandbox_that_a_run_has_started_works_after_the_end_of_the_run(sandbox, tmp_path, workshop_command):
    done = workshop_command("run", "00", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    folders = [Path(record.temporary) for _, record, _ in sandbox.status() if record]
    assert len(folders) >= 3 and all(folder.is_dir() for folder in folders)
    assert_that_a_pipeline_runs(sandbox, tmp_path)


@pytest.mark.slow
def test_servers_whose_temporary_folder_was_deleted_are_started_again(sandbox, tmp_path):
    sandbox.up()
    assert_that_a_pipeline_runs(sandbox, tmp_path)  # makes a socket in the folder
    for _, record, _ in sandbox.status():
        if record:
            shutil.rmtree(record.temporary)
    sandbox.up()
    assert_that_a_pipeline_runs(sandbox, tmp_path)


def start_lesson(output: Path, environment: dict[str, str]) -> subprocess.Popen:
    return start(sys.executable, "-m", "workshop", "run", "00", "--output", output, env=environment)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_says_at_once_what_holds_the_first(sandbox, tmp_path, workshop_command):
    output = tmp_path / "out"
    first = start_lesson(output, dict(os.environ))
    await_that(lambda: (tmp_path / "out.lock").exists() and (tmp_path / "out.lock").read_text(), "no lock", 60)
    second = workshop_command("run", "00", "--output", str(output))
    assert first.poll() is None, "the second does not wait for the first"
    said, _ = first.communicate(timeout=300)
    assert second.returncode == 1 and first.returncode == 0, said
    assert re.search(rf"PID {first.pid}, since \d\d:\d\d:\d\d", second.stderr), second.stderr
    assert "--output FOLDER" in second.stderr
    assert workshop_command("run", "00", "--output", str(output)).returncode == 0, "the lock is free again"


def of_lessons(folder: Path) -> list[psutil.Process]:
    """Return every process that a `workshop run` with this temporary folder has started."""
    return processes.find(
        lambda p: LESSONS_MARK in p.environ() and p.environ().get("TMPDIR", "").startswith(f"{folder}/")
    )


@pytest.fixture
def short_folder():
    """A temporary folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


def assert_that_a_signal_leaves_nothing(started, number, send, output: Path, temporary: Path, sandbox) -> None:
    def has_kernel() -> bool:
        return any("ipykernel_launcher" in " ".join(process.cmdline()) for process in of_lessons(temporary))

    await_that(has_kernel, "no kernel was started", 300)
    send(number)
    said, _ = started.communicate(timeout=120)
    assert started.returncode != 0
    assert signal.Signals(number).name in said and "Traceback" not in said
    assert not of_lessons(temporary)
    assert not list(output.glob("kernel-ipc-*"))
    sandbox.down()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.slow
def test_a_run_that_is_ended_leaves_no_process_socket_or_temporary_file(sandbox, tmp_path, short_folder, number):
    sandbox.up()
    output = tmp_path / "out"
    started = start_lesson(output, os.environ | {"TMPDIR": str(short_folder)})
    assert_that_a_signal_leaves_nothing(started, number, started.send_signal, output, short_folder, sandbox)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_make_run_that_is_ended_leaves_no_process_socket_or_temporary_file(sandbox, short_folder, number):
    sandbox.up()
    started = start("make", "-C", ROOT, "run", env=os.environ | {"TMPDIR": str(short_folder)})

    def send(number: int) -> None:
        # A terminal that closes signals every process of the group; `kill` signals make alone, and make its child.
        os.killpg(started.pid, number) if number == signal.SIGHUP else started.send_signal(number)

    output = ROOT / "build" / "lessons"
    assert_that_a_signal_leaves_nothing(started, number, send, output, short_folder, sandbox)


# PIDs.


def test_a_start_mark_tells_a_process_from_a_later_one_with_its_pid():
    process = subprocess.Popen(["sleep", "60"])
    try:
        mark = processes.start_mark(process.pid)
        assert mark and mark == processes.start_mark(process.pid) != processes.start_mark(os.getpid())
        assert processes.is_running(process.pid, mark)
        assert not processes.is_running(process.pid, f"{mark}0") and not processes.is_running(process.pid, "")
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_running(process.pid, mark), "a zombie does not run"
    process.wait()
    assert processes.start_mark(process.pid) == ""


def test_end_asks_first_then_kills_and_also_finds_what_was_started_meanwhile(tmp_path):
    script = f"""
        trap 'touch "{tmp_path}/asked"; sleep 61 & while :; do sleep 0.1; done' TERM
        touch "{tmp_path}/ready"
        while :; do sleep 0.1; done
    """
    stubborn = subprocess.Popen(["bash", "-c", script], env=os.environ | {"MARK_OF_THE_TEST": str(tmp_path)})
    await_that((tmp_path / "ready").exists, "it does not start")

    def ours() -> list[psutil.Process]:
        return processes.find(lambda process: processes.has_mark(process, "MARK_OF_THE_TEST", str(tmp_path)))

    processes.end(ours, patience=1)
    assert (tmp_path / "asked").exists() and ours() == []
    assert stubborn.wait() == -signal.SIGKILL


def test_a_record_of_an_older_form_counts_as_none(tmp_path):
    (tmp_path / "record").write_text(json.dumps({"pid": 1, "created": 1.0, "ports": {"http": 9}}))
    assert Record.read(tmp_path / "record") is None
