"""A `kill -9` of the server or of a worker, at any moment, loses no acknowledged data."""

import multiprocessing
import os
import random
import time

import psutil
import pytest
import requests
from sqlmodel import select

from tests.support import simple
from tests.support.api import ENDED, Api, await_that
from tests.support.processes import environment, kill, processes_of_runs, server_pid, worker_pids
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.tables import Run, Store, store_manifest
from workshop.sandbox.processes import SERVER_MARK

SEED = 20261124


@pytest.mark.parametrize(
    "kills", [2, pytest.param(15, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.exhaustive)]
)
def test_kills_at_random_moments_lose_no_data_and_leave_no_process(sandbox, compiled, echo, kills):
    chance = random.Random(SEED)
    sandbox.up()
    slow = compiled(simple.slow)
    experiments, pipelines, runs = set(), set(), set()
    for turn in range(kills):
        api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
        begun = time.monotonic()
        moment = chance.uniform(0, 0.4)
        target = chance.choice(["server", "server", "worker"])
        number = 0
        while time.monotonic() - begun < moment:
            number += 1
            try:
                name = f"{turn}-{number}"
                experiments.add(api.call("POST", "/experiments", json={"display_name": name})["experiment_id"])
                pipelines.add(api.call("POST", "/pipelines", json={"name": name})["pipeline_id"])
                if number == 1:
                    spec, arguments = (slow, {"seconds": 0.3}) if turn % 2 else (echo, {"text": name})
                    runs.add(api.run(spec, arguments)["run_id"])
            except requests.ConnectionError:
                break
        if target == "server":
            kill(server_pid(sandbox))
            sandbox.up()
        elif workers := worker_pids(sandbox):
            kill(chance.choice(workers))
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    for run in runs:
        ended = api.await_state(run)
        assert ended["state"] in ("SUCCEEDED", "FAILED")
        assert ended["state"] == "SUCCEEDED" or "etry the run" in ended["error"]["message"], ended
    assert len(runs) >= kills // 2
    if kills == 50:  # of a few kills, none may have hit a run
        assert {api.get(run)["state"] for run in runs} == {"SUCCEEDED", "FAILED"}
    assert experiments <= everything(api, "/experiments", "experiment_id")
    assert pipelines <= everything(api, "/pipelines", "pipeline_id")
    for run in runs:
        assert not {task["state"] for task in api.tasks(run).values()} & {"PENDING", "RUNNING"}
    await_that(lambda: not processes_of_runs(runs), "processes of tasks are left", 10)
    sandbox.down()
    assert not [
        p for p in psutil.process_iter() if environment(p).get(SERVER_MARK, "").startswith(f"{sandbox.directory}:")
    ]


def everything(api, path: str, key: str) -> set[str]:
    found, token = set(), ""
    while True:
        page = api.call("GET", path, params={"page_size": 200, "page_token": token})
        found |= {item[key] for items in page.values() if isinstance(items, list) for item in items}
        if not (token := page.get("next_page_token", "")):
            return found


@pytest.fixture
def running(own_api, compiled):
    """A run that executes a slow task."""
    run = own_api.run(compiled(simple.slow))["run_id"]
    own_api.await_state(run, "RUNNING")
    await_that(lambda: len(processes_of_runs([run])) >= 2, "the task does not start")
    return run


@pytest.mark.slow
def test_a_run_that_was_executing_is_failed_after_a_restart_and_can_be_retried(sandbox, own_api, running):
    kill(server_pid(sandbox))
    await_that(lambda: not processes_of_runs([running]), "the worker outlives its server", 10)
    sandbox.up()
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    run = api.await_state(running)
    assert run["state"] == "FAILED" and "server ended while this run was executing" in run["error"]["message"]
    assert api.tasks(running)["sleep"]["state"] in ("FAILED", "CANCELED")
    api.call("POST", f"/runs/{running}:retry")
    api.await_state(running, "RUNNING")
    api.call("DELETE", f"/runs/{running}")


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_is_failed_with_the_signal(sandbox, own_api, running):
    fork_servers = {child.pid for child in psutil.Process(server_pid(sandbox)).children()}
    for pid in set(worker_pids(sandbox)) - fork_servers:
        kill(pid)
    run = own_api.await_state(running)
    assert run["state"] == "FAILED" and "signal 9" in run["error"]["message"]
    assert not processes_of_runs([running])


@pytest.mark.slow
def test_a_run_whose_fork_server_is_killed_is_failed_and_the_next_one_runs(sandbox, own_api, running, echo):
    for child in psutil.Process(server_pid(sandbox)).children():
        kill(child.pid)
    assert own_api.await_state(running)["state"] == "FAILED"
    assert not processes_of_runs([running])
    assert own_api.await_state(own_api.run(echo, {"text": "next"})["run_id"])["state"] == "SUCCEEDED"


@pytest.mark.slow
def test_waiting_runs_start_after_a_restart(sandbox, own_api, running, echo, compiled):
    others = [own_api.run(compiled(simple.slow))["run_id"] for _ in range(os.cpu_count() - 1)]
    waiting = own_api.run(echo, {"text": "patient"})["run_id"]
    assert own_api.get(waiting)["state"] == "PENDING"
    kill(server_pid(sandbox))
    sandbox.up()
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    assert api.await_state(waiting)["state"] == "SUCCEEDED"
    assert {api.get(run)["state"] for run in [running, *others]} == {"FAILED"}


@pytest.mark.slow
def test_stopping_the_sandbox_ends_runs_and_records_the_reason(sandbox, own_api, running):
    sandbox.down()
    assert not processes_of_runs([running])
    sandbox.up()
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    run = api.get(running)
    assert run["state"] in ENDED and "server ended" in run["error"]["message"]


def test_a_run_whose_worker_cannot_be_started_is_failed(tmp_path, echo, monkeypatch):
    store = Store(tmp_path / "db.sqlite")
    with store.writing() as session:
        digest = store_manifest(session, echo)
        session.add(Run(run_id="r", experiment_id="e", display_name="r", manifest=digest, created_at=0))
    dispatcher = Dispatcher(store, tmp_path / "db.sqlite", tmp_path, "subprocess", lambda: 1.0)

    def refuse(_process):
        raise ConnectionRefusedError("no fork server")

    monkeypatch.setattr(multiprocessing.get_context("forkserver").Process, "start", refuse)
    with pytest.raises(ConnectionRefusedError):
        dispatcher._start_waiting()
    with store.reading() as session:
        run = session.exec(select(Run)).one()
    assert run.state == "FAILED" and "could not be started" in run.error
