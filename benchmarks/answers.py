"""Measures the most frequent requests, with few and with many runs in the database."""

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import insert
from sqlmodel import select

from benchmarks import zero_work
from benchmarks.server import Server, cores, run_of
from workshop.sandbox.pipelines_api.tables import Run, TaskRecord

SIZES = (0, 1_000, 10_000)
REQUESTS, WARM_UP = 200, 20
PAGE = 20
SEED = 20261124
# In every group of this many runs, one run has failed and has a name that the filter finds.
GROUP = 10
FOUND = "daily"


@dataclass(frozen=True)
class Latency:
    """The 50th and 95th percentile of the time of a request, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Request:
    """A kind of request.

    Attributes:
        name: the name in the table.
        make: returns method, path and body.
        undo: takes the response, and undoes the effect of the request; it is not timed.
    """

    name: str
    make: Callable[[], tuple]
    undo: Callable[[dict], object] = lambda answer: None


def measure(server: Server, tell: Callable[[str], None]) -> dict[str, dict[int, Latency]]:
    """Measure every kind of request at every size of the database.

    Args:
        server: a server with an empty database. The runs of the benchmark stay in the database.
        tell: prints the current step.

    Returns:
        The latencies, by the name of the request and the number of runs.
    """
    pattern = _pattern(server)
    found: dict[str, dict[int, Latency]] = {}
    with _cores_taken(server):
        for size in SIZES:
            ids = _fill(server, pattern, size)
            for request in _requests(server, [pattern, *ids]):
                tell(f"{size:,} runs in the database: {request.name}")
                found.setdefault(request.name, {})[size] = _latency(server, request)
    return found


def _pattern(server: Server) -> str:
    """Execute one run, the original of the copies in the database; return its id."""
    run_id = server.call("POST", "/runs", run_of(zero_work.one))["run_id"]
    server.await_end(run_id, "SUCCEEDED")
    return run_id


@contextmanager
def _cores_taken(server: Server) -> Iterator[None]:
    """Fill all places for runs with sleeping runs. Further runs then wait and use no CPU."""
    sleeping = [server.call("POST", "/runs", run_of(zero_work.long))["run_id"] for _ in range(cores())]
    for run_id in sleeping:
        server.await_task(run_id)
    time.sleep(1)  # wait until the tasks have imported their packages
    yield
    for run_id in sleeping:
        server.call("POST", f"/runs/{run_id}:terminate")
        server.await_end(run_id, "FAILED")
        server.call("DELETE", f"/runs/{run_id}")


def _fill(server: Server, pattern: str, size: int) -> list[str]:
    """Add copies of an ended run until there are `size` copies; return the ids of all copies."""
    with server.store.writing() as session:
        run = session.exec(select(Run).where(Run.run_id == pattern)).one()
        tasks = session.exec(select(TaskRecord).where(TaskRecord.run_id == pattern)).all()
        ids = list(session.exec(select(Run.run_id).where(Run.description == "a copy")).all())
        runs = [_copy(run, number) for number in range(len(ids), size)]
        if runs:
            session.connection().execute(insert(Run), runs)
            copies = [copy for made in runs for copy in _copies_of_tasks(tasks, made["run_id"])]
            session.connection().execute(insert(TaskRecord), copies)
    return [*ids, *(made["run_id"] for made in runs)]


def _copy(run: Run, number: int) -> dict:
    """Return a copy of a run with an earlier time of creation; a higher number means a later time."""
    special = number % GROUP == 0
    moment = run.created_at - 2 * SIZES[-1] + number
    return run.model_dump(exclude={"sequence"}) | {
        "run_id": str(uuid4()),
        "description": "a copy",
        "display_name": f"{FOUND if special else 'other'} run {number}",
        "state": "FAILED" if special else "SUCCEEDED",
        "error": "a task failed" if special else "",
        "created_at": moment,
        "scheduled_at": moment,
        "finished_at": moment + 1,
    }


def _copies_of_tasks(tasks: list[TaskRecord], run_id: str) -> Iterator[dict]:
    ids = {"": ""} | {task.task_id: str(uuid4()) for task in tasks}
    for task in tasks:
        yield task.model_dump(exclude={"sequence"}) | {
            "run_id": run_id,
            "task_id": ids[task.task_id],
            "parent_id": ids[task.parent_id],
            "fingerprint": uuid4().hex,
        }


def _requests(server: Server, ids: list[str]) -> list[Request]:
    chance = random.Random(SEED)
    newest = f"/runs?page_size={PAGE}&sort_by={quote('created_at desc')}"
    last = f"{newest}&page_token={quote(_last_token(server))}"
    body = run_of(zero_work.one)
    return [
        Request("create a run", lambda: ("POST", "/runs", body), lambda made: _delete(server, made)),
        Request("get a run", lambda: ("GET", f"/runs/{chance.choice(ids)}")),
        Request(f"list, newest {PAGE}", lambda: ("GET", newest)),
        Request(f"list, last {PAGE} by token", lambda: ("GET", last)),
        Request("list, display_name IS_SUBSTRING", _filtered(newest, "display_name", "IS_SUBSTRING", FOUND)),
        Request("list, state EQUALS", _filtered(newest, "state", "EQUALS", "FAILED")),
    ]


def _filtered(path: str, key: str, operation: str, value: str) -> Callable[[], tuple]:
    predicate = {"key": key, "operation": operation, "string_value": value}
    whole = f"{path}&filter={quote(json.dumps({'predicates': [predicate]}))}"
    return lambda: ("GET", whole)


def _last_token(server: Server) -> str:
    """Return the token of the last page of all runs; "" if all runs fit on one page."""
    path = f"/runs?sort_by={quote('created_at desc')}"
    token, before = "", server.call("GET", f"{path}&page_size=1")["total_size"] - PAGE
    while before > 0:
        page = server.call("GET", f"{path}&page_size={min(before, 200)}&page_token={quote(token)}")
        token, before = page["next_page_token"], before - len(page["runs"])
    return token


def _delete(server: Server, made: dict) -> None:
    server.call("DELETE", f"/runs/{made['run_id']}")


def _latency(server: Server, request: Request) -> Latency:
    taken = []
    for _ in range(WARM_UP + REQUESTS):
        seconds, answer = server.timed(*request.make())
        taken.append(seconds * 1000)
        request.undo(json.loads(answer))
    taken = taken[WARM_UP:]
    return Latency(statistics.median(taken), statistics.quantiles(taken, n=20)[-1])
