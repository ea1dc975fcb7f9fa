"""Many clients at the same time, and requests during changes of state."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.support import simple
from tests.support.api import Api, await_that

THREADS = 50


@pytest.mark.slow
def test_fifty_clients_create_list_and_delete_and_nothing_is_lost(own_api, echo):
    def one_client(number: int) -> list[str]:
        mine = Api(own_api.endpoint)
        kept = []
        for turn in range(3):
            experiment = mine.call("POST", "/experiments", json={"display_name": f"{number}-{turn}"})["experiment_id"]
            body = {"display_name": "p", "name": f"{number}-{turn}"}
            pipeline = mine.call("POST", "/pipelines", json=body)["pipeline_id"]
            mine.call("GET", "/experiments", params={"page_size": 5, "sort_by": "created_at desc"})
            mine.call("GET", "/pipelines", params={"page_size": 5})
            if turn == 1:
                mine.call("DELETE", f"/experiments/{experiment}")
                mine.call("DELETE", f"/pipelines/{pipeline}")
            else:
                kept.append(experiment)
        return kept

    with ThreadPoolExecutor(THREADS) as pool:
        kept = {identifier for found in pool.map(one_client, range(THREADS)) for identifier in found}
    assert len(kept) == 2 * THREADS
    listed = own_api.call("GET", "/experiments", params={"page_size": 200})
    assert {item["experiment_id"] for item in listed["experiments"] if item["display_name"] != "Default"} == kept
    assert own_api.call("GET", "/pipelines", params={"page_size": 1})["total_size"] == 2 * THREADS


@pytest.mark.slow
def test_terminate_during_completion_ends_in_one_consistent_state(own_api, echo):
    for delay in (0, 0.05, 0.15, 0.25, 0.35, 0.5):
        run = own_api.run(echo, {"text": str(delay)})["run_id"]
        time.sleep(delay)
        answer = own_api.session.post(f"{own_api.base}/runs/{run}:terminate")
        ended = own_api.await_state(run)
        if answer.status_code == 400:
            assert ended["state"] == "SUCCEEDED"
        else:
            assert ended["state"] in ("FAILED", "SUCCEEDED")
        states = {task["state"] for task in own_api.tasks(run).values()}
        assert not states & {"PENDING", "RUNNING"}
        assert (ended["state"] == "SUCCEEDED") == (states == {"SUCCEEDED"})


@pytest.mark.slow
def test_runs_wait_in_order_when_there_are_more_than_cores(own_api, compiled, monkeypatch):
    import os

    slow = compiled(simple.slow)
    cores = os.cpu_count()
    runs = [own_api.run(slow, {"seconds": 60.0})["run_id"] for _ in range(cores + 2)]
    for run in runs[:cores]:
        own_api.await_state(run, "RUNNING")
    time.sleep(0.5)
    assert [own_api.get(run)["state"] for run in runs[cores:]] == ["PENDING"] * 2
    own_api.call("POST", f"/runs/{runs[-1]}:terminate")
    assert own_api.get(runs[-1])["state"] == "FAILED", "a run that waits ends at once"
    own_api.call("POST", f"/runs/{runs[0]}:terminate")
    own_api.await_state(runs[cores], "RUNNING")
    for run in runs:
        own_api.call("DELETE", f"/runs/{run}")


@pytest.mark.slow
def test_fifty_clients_that_follow_a_silent_log_block_no_request(own_api, compiled):
    run = own_api.run(compiled(simple.slow))["run_id"]
    node = await_that(lambda: own_api.tasks(run).get("sleep"), "the task does not start")["node_id"]
    url = f"{own_api.own}/runs/{run}/nodes/{node}/log?follow=true"
    followers = [requests.get(url, stream=True, timeout=30) for _ in range(THREADS)]
    for _ in range(3):
        own_api.call("GET", "/experiments", timeout=5)
    for follower in followers:
        follower.close()
    own_api.call("POST", f"/runs/{run}:terminate")
    assert own_api.await_state(run)["state"] == "FAILED"
