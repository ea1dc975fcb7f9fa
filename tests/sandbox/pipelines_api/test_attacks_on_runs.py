"""Tasks that misbehave: no run is stuck, no slot is lost, and no process is left."""

import multiprocessing
import os
import socket
import sqlite3
import time
from pathlib import Path

import psutil
import pytest
from kfp import dsl
from sqlmodel import select

from tests.support import simple
from tests.support.api import ENDED, Api, await_that
from tests.support.attacks import Peak, server_process
from tests.support.simple import OPTIONS
from workshop.sandbox.pipelines_api import worker
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher, Errors, Worker
from workshop.sandbox.pipelines_api.states import change
from workshop.sandbox.pipelines_api.tables import Run, Store, store_manifest

pytestmark = [pytest.mark.attack, pytest.mark.slow]

NEXT_WITHIN_SECONDS = 10


@dsl.component(**OPTIONS)
def write_oddly(how: str, data: dsl.Output[dsl.Dataset], word: dsl.OutputPath(str)):
    import os
    import pathlib
    import socket

    target, where = (word, how[6:]) if how.startswith("param ") else (data.path, how)
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    if where == "pipe":
        os.mkfifo(target)
    elif where == "socket":
        os.chdir(pathlib.Path(target).parent)
        socket.socket(socket.AF_UNIX).bind("./" + pathlib.Path(target).name)
    elif where == "device":
        pathlib.Path(target).symlink_to("/dev/zero")
    elif where == "link":
        pathlib.Path(target).symlink_to("/etc/hostname")
    elif where == "endless":
        with open(target, "wb") as file:
            file.truncate(1 << 40)
    elif where == "pipe in a folder":
        pathlib.Path(target).mkdir()
        os.mkfifo(target + "/pipe")
    elif where == "outputs":
        os.mkfifo(pathlib.Path(target).parents[1] / "executor_output.json")
    elif where == "log":
        log = pathlib.Path(os.environ["TMPDIR"]).parent / "log"
        log.unlink()
        os.mkfifo(log)
        raise ValueError("after the log")


@dsl.pipeline(name="writes-oddly")
def writes_oddly(how: str):
    write_oddly(how=how).set_caching_options(False)


@dsl.component(**OPTIONS)
def leave_daemons(seconds: float):
    import signal
    import subprocess
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The daemon has no variables, a session of its own, and no parent: its parent ends at once.
    script = "trap '' TERM; while :; do sleep 3061; done"
    subprocess.run(["sh", "-c", f'env -i setsid sh -c "{script}" </dev/null >/dev/null 2>&1 &'], check=True)
    print("left", flush=True)
    time.sleep(seconds)


@dsl.pipeline(name="leaves-daemons")
def leaves_daemons(seconds: float):
    leave_daemons(seconds=seconds).set_caching_options(False)


def daemons() -> list[psutil.Process]:
    """Return the daemons of `leave_daemons`."""
    found = []
    for process in psutil.process_iter():
        try:
            if "3061" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def _has_said(api: Api, run: str, word: str) -> bool:
    tasks = api.tasks(run)
    return any(task["has_log"] and word in api.log(run, path) for path, task in tasks.items())


def all_slots_are_free(api: Api, echo: dict) -> None:
    """Check that as many runs as there are cores end soon."""
    begun = time.monotonic()
    runs = [api.run(echo, {"text": f"{time.monotonic()} {n}"})["run_id"] for n in range(os.cpu_count() or 1)]
    for run in runs:
        assert api.await_state(run)["state"] == "SUCCEEDED"
    assert time.monotonic() - begun < NEXT_WITHIN_SECONDS * len(runs)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("pipe", "'data' cannot be stored: data is a named pipe"),
        ("socket", "data is a socket"),
        ("device", "data is a"),
        ("link", "data is a link out of the folder of the run"),
        ("endless", "data has 1,099,511,627,776 bytes; the limit is 10,737,418,240 bytes"),
        ("pipe in a folder", "pipe is a named pipe"),
        ("param pipe", "'word' cannot be read: word is a named pipe"),
        ("param device", "word is a"),
        ("param link", "word is a link out of the folder of the run"),
        ("param endless", "the limit is 10,485,760 bytes"),
        ("log", "it ended with exit code 1"),
    ],
)
def test_only_regular_files_within_a_limit_are_handed_over(api, compiled, echo, how, said):
    begun = time.monotonic()
    run = api.run(compiled(writes_oddly), {"how": how})["run_id"]
    ended = api.await_state(run)
    assert ended["state"] == "FAILED" and said in ended["error"]["message"], ended["error"]
    assert time.monotonic() - begun < 30
    api.log(run, "write-oddly")
    all_slots_are_free(api, echo)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_daemons_that_hide_are_ended_with_their_task(own_api, compiled, echo, seconds):
    run = own_api.run(compiled(leaves_daemons), {"seconds": seconds})["run_id"]
    if seconds:
        await_that(lambda: _has_said(own_api, run, "left") and daemons(), "no daemon was started")
        own_api.call("POST", f"/runs/{run}:terminate")
    assert own_api.await_state(run)["state"] == ("FAILED" if seconds else "SUCCEEDED")
    assert "left" in own_api.log(run, "leave-daemons")
    await_that(lambda: not daemons(), "a daemon is left", 5)
    all_slots_are_free(own_api, echo)


def test_daemons_of_a_killed_worker_are_ended(own_api, compiled, echo):
    run = own_api.run(compiled(leaves_daemons), {"seconds": 60.0})["run_id"]
    await_that(daemons, "no daemon was started")
    fork_servers = server_process(own_api).children()
    for process in [child for one in fork_servers for child in one.children()]:
        process.kill()
    assert own_api.await_state(run)["state"] == "FAILED"
    await_that(lambda: not daemons(), "a daemon is left", 10)
    all_slots_are_free(own_api, echo)


@pytest.fixture
def waiting_run(tmp_path, echo):
    """A database with one run that is being executed."""
    store = Store(tmp_path / "db.sqlite")
    with store.writing() as session:
        digest = store_manifest(session, echo)
        session.add(
            Run(run_id="r", experiment_id="e", display_name="r", manifest=digest, created_at=0, state="RUNNING")
        )
    return store


def test_a_worker_whose_upload_hangs_ends_after_its_run_was_terminated(
    waiting_run, tmp_path, shared_sandbox, compiled, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = shared_sandbox.environment()
        environment["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(worker.Sandbox, "task_environment", lambda _: environment)
        with waiting_run.writing() as session:
            run = session.exec(select(Run)).one()
            run.manifest, run.parameters = store_manifest(session, compiled(writes_a_file)), {}
        processes = multiprocessing.get_context("fork")
        theirs, ours = processes.Pipe()
        arguments = (tmp_path / "db.sqlite", tmp_path, "r", "subprocess", theirs)
        process = processes.Process(target=worker.work, args=arguments, daemon=True)
        process.start()
        silent.settimeout(60)
        silent.accept()  # the upload has begun, and gets no answer
        with waiting_run.writing() as session:
            change(session.exec(select(Run)).one(), "CANCELING")
        ours.send("cancel")
        begun = time.monotonic()
        process.join(20)
        assert process.exitcode == 0
        assert time.monotonic() - begun < NEXT_WITHIN_SECONDS
    with waiting_run.reading() as session:
        assert session.exec(select(Run.state)).one() == "FAILED"


@dsl.component(**OPTIONS)
def write_file(data: dsl.Output[dsl.Dataset]):
    with open(data.path, "w") as file:
        file.write("x")


@dsl.pipeline(name="writes-a-file")
def writes_a_file():
    write_file().set_caching_options(False)


def test_the_dispatcher_keeps_its_pause_and_the_reason_while_the_database_is_full(waiting_run, tmp_path, monkeypatch):
    class Ended:
        pid, exitcode, sentinel = 1 << 22, 1, None

        def close(self):
            pass

    ready, unused = os.pipe()
    os.close(unused)  # so `ready` can always be read, like the sentinel of an ended process
    Ended.sentinel = ready
    theirs, ours = multiprocessing.Pipe()
    theirs.send("The disk is full. The end of the run could not be recorded: full")
    dispatcher = Dispatcher(waiting_run, tmp_path / "db.sqlite", tmp_path, "subprocess", lambda: 60.0)
    dispatcher._workers["r"] = Worker(Ended(), ours, "x")
    logged = []
    monkeypatch.setattr("workshop.sandbox.pipelines_api.dispatcher.log.error", lambda *_, **__: logged.append(1))
    steps = []
    full = True
    finalize = dispatcher._finalize

    def fail(run_id: str, reason: str) -> None:
        steps.append(time.monotonic())
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        finalize(run_id, reason)

    monkeypatch.setattr(dispatcher, "_finalize", fail)
    monkeypatch.setattr(dispatcher, "_start_waiting", lambda: None)
    dispatcher._thread.start()
    time.sleep(3)
    assert 2 <= len(steps) <= 5, "one attempt a second"
    assert len(logged) == 1
    full = False
    time.sleep(1.5)
    dispatcher.stop()
    os.close(ready)
    with waiting_run.reading() as session:
        run = session.exec(select(Run)).one()
    assert (run.state, run.error) == ("FAILED", "The disk is full. The end of the run could not be recorded: full")


def test_an_error_is_logged_once_a_minute(monkeypatch):
    logged = []
    monkeypatch.setattr("workshop.sandbox.pipelines_api.dispatcher.log.error", lambda *_, **__: logged.append(1))
    errors = Errors()
    for _ in range(1_000):
        errors.note(OSError(24, "Too many open files"))
    assert (errors.count, len(logged)) == (1_000, 1)


def test_down_leaves_waiting_runs_pending_and_they_run_after_up(sandbox, own_api, compiled, echo):
    cores = os.cpu_count() or 1
    running = [own_api.run(compiled(simple.slow))["run_id"] for _ in range(cores)]
    for run in running:
        own_api.await_state(run, "RUNNING")
    waiting = [own_api.run(echo, {"text": str(n)})["run_id"] for n in range(6)]
    sandbox.down()
    with sqlite3.connect(sandbox.directory / "pipelines-api" / "pipelines.sqlite") as database:
        states = dict(database.execute("select run_id, state from run"))
        started = dict(database.execute("select run_id, state_history from run"))
    assert [states[run] for run in waiting] == ["PENDING"] * 6
    assert not any("RUNNING" in started[run] for run in waiting)
    sandbox.up()
    again = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    assert {again.await_state(run)["state"] for run in waiting} == {"SUCCEEDED"}


@dsl.component(**OPTIONS)
def nothing(item: str):
    pass


@dsl.pipeline(name="many")
def many(items: list):
    with dsl.ParallelFor(items) as item:
        nothing(item=item)


def test_3000_iterations_over_a_megabyte_stay_small_and_end_soon(sandbox, own_api, compiled):
    items = [f"{number:04} " + "x" * 345 for number in range(3_000)]
    with Peak(server_process(own_api)) as peak:
        run = own_api.run(compiled(many), {"items": items})["run_id"]
        loop = "for-loop-1/iteration-2999"
        await_that(lambda: _count(sandbox, "task") > 6_000, "the loop does not unroll", 120)
        assert list(own_api.tasks(run)[loop]["inputs"]["parameters"].values()) == [items[-1]]
        begun = time.monotonic()
        own_api.call("POST", f"/runs/{run}:terminate")
        await_that(lambda: _state(sandbox, run) == "FAILED", "the run is not terminated", 30)
        ended = time.monotonic() - begun
        states = {task["state"] for task in own_api.tasks(run).values()}
    assert states <= set(ENDED)
    assert ended < NEXT_WITHIN_SECONDS, "6 s on a machine without other work"
    own_api.call("POST", "/experiments", json={"display_name": "a write, after which the journal can shrink"})
    files = (sandbox.directory / "pipelines-api").glob("pipelines.sqlite*")
    size = sum(file.stat().st_size for file in files) / 2**20
    memory = server_process(own_api).memory_info().rss / 2**20
    print(f"terminated in {ended:.1f} s; database {size:.1f} MB; server {memory:.0f} MB, {peak}")
    assert size < 20
    assert memory < 250


def _state(sandbox, run: str) -> str:
    with sqlite3.connect(sandbox.directory / "pipelines-api" / "pipelines.sqlite") as database:
        return str(database.execute("select state from run where run_id = ?", (run,)).fetchone()[0])


def _count(sandbox, table: str) -> int:
    path: Path = sandbox.directory / "pipelines-api" / "pipelines.sqlite"
    with sqlite3.connect(path) as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])
