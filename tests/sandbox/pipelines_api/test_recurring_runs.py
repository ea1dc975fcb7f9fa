"""Recurring runs: when a run is due, and that it is created."""

import re
import time
from datetime import UTC, datetime

import pytest

from tests.support.api import await_that
from workshop.sandbox.pipelines_api import recurring_runs
from workshop.sandbox.pipelines_api.schedules import NEVER, cron_problem, next_moment
from workshop.sandbox.pipelines_api.tables import Experiment, RecurringRun, Run, Store, store_manifest

MONDAY = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()


def every(seconds: int, **span) -> dict:
    return {"periodic_schedule": {"interval_second": str(seconds)} | span}


def cron(expression: str, **span) -> dict:
    return {"cron_schedule": {"cron": expression} | span}


def text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


@pytest.mark.parametrize(
    ("trigger", "seconds"),
    [
        (every(90), 90),
        (every(60, start_time=text(MONDAY + 1000)), 1060),
        (cron("0 30 12 * * *"), 1800),
        (cron("30 * * * * ?"), 30),
        (cron("0 0 9 ? * 2-6"), 21 * 3600),
        (cron("0 0 0 1 * *"), 7.5 * 24 * 3600),
        (cron("0 30 12 * *"), 1800),
        (cron("@hourly"), 3600),
        (cron("@every 1h30m"), 5400),
        (cron("0 0 0 30 2 *"), NEVER),
        (every(60, end_time=text(MONDAY + 59)), NEVER),
        (cron("@hourly", end_time=text(MONDAY + 3600)), 3600),
    ],
)
def test_the_first_run_is_due_where_the_schedule_says(trigger, seconds):
    assert next_moment(trigger, 0, MONDAY, MONDAY, catch_up=True) - MONDAY == pytest.approx(seconds)


def test_with_catch_up_every_missed_time_is_due_and_without_it_only_the_latest():
    for trigger in (every(60), cron("0 * * * * *")):
        now = MONDAY + 605
        assert next_moment(trigger, MONDAY, MONDAY, now, catch_up=True) == MONDAY + 60
        assert next_moment(trigger, MONDAY, MONDAY, now, catch_up=False) == MONDAY + 600
        assert next_moment(trigger, MONDAY + 600, MONDAY, now, catch_up=False) == MONDAY + 660


@pytest.mark.parametrize(
    "good", ["* * * * * *", "0 0 9 ? * 2-6", "0 */5 * * *", "@daily", "@every 10s", "0 0 0 1 1 MON"]
)
def test_cron_expressions_of_the_real_server_are_accepted(good):
    assert cron_problem(good) == ""


@pytest.mark.parametrize(
    "bad",
    [
        "0 0 0 L * *",
        "0 0 0 * * 1#2",
        "R R * * * *",
        "",
        "* *",
        "x * * * * *",
        "99 * * * * *",
        "@sometimes",
        "@every",
        "@every soon",
        "* " * 8,
    ],
)
def test_other_cron_expressions_are_refused_with_a_reason(bad):
    assert cron_problem(bad)


@pytest.mark.parametrize(
    "change",
    [
        {"trigger": every(60) | cron("* * * * * *")},
        {"trigger": every(0)},
        {"trigger": every(10**15)},
        {"trigger": cron("x")},
        {"max_concurrency": 0},
        {"max_concurrency": 11},
        {"runtime_config": {"parameters": {"unknown": 1}}},
        {"namespace": "elsewhere"},
        {"mode": "SOMETIMES"},
    ],
    ids=str,
)
def test_an_invalid_recurring_run_is_refused(api, echo, change):
    body = {"display_name": "r", "pipeline_spec": echo, "trigger": every(60), "max_concurrency": 1, "mode": "ENABLE"}
    api.refused(400, "POST", "/recurringruns", json=body | change)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"display_name": ""}, 500),
        ({"pipeline_spec": None}, 500),
        ({"pipeline_spec": {"just": "text"}}, 500),
        ({"pipeline_spec": None, "pipeline_version_reference": {"pipeline_id": "no-such"}}, 404),
        ({"pipeline_spec": None, "pipeline_version_reference": {"pipeline_version_id": "no-such"}}, 500),
        ({"experiment_id": "no-such"}, 404),
    ],
    ids=str,
)
def test_a_refused_recurring_run_has_the_status_of_the_server(api, echo, change, status):
    body = {"display_name": "r", "pipeline_spec": echo, "trigger": every(60), "max_concurrency": 1}
    api.refused(status, "POST", "/recurringruns", json={k: v for k, v in (body | change).items() if v is not None})


def test_a_recurring_run_without_a_trigger_runs_once(api, echo):
    body = {"display_name": "Once only", "pipeline_spec": echo, "max_concurrency": 1, "mode": "ENABLE"}
    made = api.call("POST", "/recurringruns", "V2beta1RecurringRun", json=body)
    assert "trigger" not in made and made["namespace"] == "kubeflow" and made["service_account"] == "pipeline-runner"
    query = {"sort_by": "created_at desc", "page_size": 200}

    def runs() -> list[dict]:
        found = api.call("GET", "/runs", "V2beta1ListRunsResponse", params=query)["runs"]
        return [run for run in found if run.get("recurring_run_id") == made["recurring_run_id"]]

    [run] = await_that(runs, "it does not run")
    assert re.fullmatch(r"onceonly\w{5}-1-\d+", run["display_name"]) and "service_account" not in run
    ended = api.await_state(run["run_id"])
    assert [entry["state"] for entry in ended["state_history"]] == ["RUNNING", "SUCCEEDED"]
    assert len(runs()) == 1
    api.call("DELETE", f"/recurringruns/{made['recurring_run_id']}")


@pytest.fixture
def store(tmp_path, echo) -> Store:
    """A database with one recurring run. No dispatcher executes its runs."""
    store = Store(tmp_path / "db.sqlite")
    with store.writing() as session:
        session.add(Experiment(experiment_id="e", display_name="e", created_at=0))
        session.add(
            RecurringRun(
                recurring_run_id="r",
                experiment_id="e",
                display_name="often",
                manifest=store_manifest(session, echo),
                max_concurrency=3,
                trigger=every(60),
                created_at=int(MONDAY),
            )
        )
    return store


def made(store) -> list[tuple[int, float]]:
    """Return the number and the scheduled time of each run that was made."""
    from sqlmodel import select

    with store.reading() as session:
        runs = session.exec(select(Run)).all()
    assert all(re.fullmatch(r"often\w{5}-\d+-\d+", run.display_name) for run in runs)
    return [(int(run.display_name.split("-")[1]), run.scheduled_at - MONDAY) for run in runs]


def change(store, **fields) -> None:
    from sqlmodel import select

    with store.writing() as session:
        for row in session.exec(select(RecurringRun)).all():
            for name, value in fields.items():
                setattr(row, name, value)


def end_all(store) -> None:
    from sqlmodel import select

    with store.writing() as session:
        for run in session.exec(select(Run)).all():
            run.state = "SUCCEEDED"


def test_missed_runs_are_created_up_to_the_maximum_concurrency(store):
    recurring_runs.fire_due(store, MONDAY + 301)
    assert made(store) == [(1, 60), (2, 120), (3, 180)]
    end_all(store)
    recurring_runs.fire_due(store, MONDAY + 302)
    assert made(store)[3:] == [(4, 240), (5, 300)]
    assert recurring_runs.fire_due(store, MONDAY + 302) == pytest.approx(58)


def test_without_catch_up_only_the_latest_run_is_created(store):
    change(store, no_catchup=True)
    recurring_runs.fire_due(store, MONDAY + 301)
    assert made(store) == [(1, 300)]


def test_a_disabled_recurring_run_creates_no_run_and_catches_up_after_it_is_enabled(store):
    change(store, enabled=False)
    recurring_runs.fire_due(store, MONDAY + 100)
    assert made(store) == []
    change(store, enabled=True)
    recurring_runs.fire_due(store, MONDAY + 100)
    assert made(store) == [(1, 60)]


def test_a_recurring_run_without_its_pipeline_creates_no_run_and_blocks_no_other(store):
    change(store, manifest="", pipeline_id="gone")
    recurring_runs.fire_due(store, MONDAY + 61)
    assert made(store) == []


def test_a_recurring_run_without_its_pipeline_skips_the_missed_times(store):
    change(store, manifest="", pipeline_id="gone", trigger=every(1, start_time=text(0)))
    begun = time.monotonic()
    recurring_runs.fire_due(store, MONDAY)
    assert made(store) == [] and time.monotonic() - begun < 5


def test_a_start_at_the_end_of_the_calendar_is_never_due_and_blocks_no_other(store):
    for trigger in (
        cron("0 0 0 * * *", start_time="9999-12-31T23:59:59Z"),
        every(60, start_time="9999-12-31T23:59:59Z"),
    ):
        change(store, trigger=trigger)
        assert recurring_runs.fire_due(store, MONDAY + 100) > 0
    assert made(store) == []


@pytest.mark.slow
def test_a_recurring_run_creates_runs_while_the_sandbox_is_up(own_api, echo):
    body = {"display_name": "often", "pipeline_spec": echo, "max_concurrency": 2, "mode": "ENABLE", "trigger": every(1)}
    recurring = own_api.call("POST", "/recurringruns", "V2beta1RecurringRun", json=body)["recurring_run_id"]
    query = {"filter": '{"predicates": [{"operation": "EQUALS", "key": "state", "string_value": "SUCCEEDED"}]}'}

    def succeeded() -> dict[str, str]:
        runs = own_api.call("GET", "/runs", params=query).get("runs", [])
        return {run["display_name"].split("-")[1]: run["recurring_run_id"] for run in runs}

    await_that(lambda: {"1", "2"} <= set(succeeded()), "the first two did not come")
    assert set(succeeded().values()) == {recurring}
    own_api.call("POST", f"/recurringruns/{recurring}:disable")
