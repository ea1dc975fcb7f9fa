"""Measures pipelines with tasks that do nothing: in the sandbox, by hand, and with `kfp.local`."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from sqlmodel import select

from benchmarks import zero_work
from benchmarks.server import BenchmarkError, Server, compiled, cores, run_of
from workshop.project import ROOT
from workshop.sandbox.component_environment import ensure
from workshop.sandbox.pipelines_api.tables import Run, TaskRecord

ROUNDS = 5
LOCAL_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Timing:
    """The times of a run, in seconds.

    Attributes:
        whole: from the request that creates the run to the response with the state SUCCEEDED.
        before: from that request to the start of the first task.
        task: the median from the start of a task to its end, in the server's records.
        gap: the median from the end of a task to the start of the task that takes its place.
        after: from the end of the last task to the end of the run.
    """

    whole: float
    before: float
    task: float
    gap: float
    after: float


@dataclass(frozen=True)
class Floor:
    """The seconds of processes without the sandbox.

    Attributes:
        one: the median of ten processes that run one after the other.
        chain: all ten processes, one after the other.
        side_by_side: all ten processes, one per core at a time.
    """

    one: float
    chain: float
    side_by_side: float


@dataclass(frozen=True)
class StartUp:
    """All figures of tasks that do nothing.

    Attributes:
        interpreter, executor: Python alone, and the command of a task, without the sandbox.
        chain, side_by_side: runs of ten tasks.
        first_after_pip, next_after_pip: the seconds of a run of one task with kfp's default pip command. The first run
            makes an environment for the packages; all later runs use it.
        local_chain, local_venv: the seconds of `kfp.local`, or the reason why it failed.
    """

    interpreter: Floor
    executor: Floor
    chain: Timing
    side_by_side: Timing
    first_after_pip: float
    next_after_pip: float
    local_chain: float | str
    local_venv: float | str


def measure(server: Server, tell: Callable[[str], None]) -> StartUp:
    """Measure tasks that do nothing. The compared ways take turns, so other load on the machine affects all ways.

    Args:
        server: the server.
        tell: prints the current step.
    """
    # The processes without the sandbox, and kfp.local, leave scripts in the folder for temporary files.
    with tempfile.TemporaryDirectory() as scratch:
        turns = []
        for number in range(ROUNDS):
            tell(f"{zero_work.TASKS} tasks that do nothing, by hand and in runs, {number + 1} of {ROUNDS}")
            floors = (_floor(["python3", "-c", "pass"], scratch), _executor(scratch))
            turns.append((*floors, _run(server, zero_work.chain, 1), _run(server, zero_work.side_by_side, cores())))
        tell("one task with the pip command that dsl.component adds, twice")
        after_pip = [_run(server, zero_work.one_after_pip, 1).whole for _ in range(2)]
        tell("kfp.local: the chain, and the task with the pip command")
        local = [_local_engine(scratch, "chain"), _local_engine(scratch, "one_after_pip", "venv")]
    return StartUp(*map(_middle, zip(*turns, strict=True)), *after_pip, *local)


def _middle(found: Sequence):
    """Return the medians of all fields of timings."""
    names = [field.name for field in fields(found[0])]
    return type(found[0])(**{name: statistics.median(getattr(one, name) for one in found) for name in names})


def _executor(scratch: str) -> Floor:
    """Measure the command of a task without the sandbox."""
    container = compiled(zero_work.one)["deploymentSpec"]["executors"]["exec-nothing"]["container"]
    given = json.dumps({"inputs": {}, "outputs": {"outputFile": f"{scratch}/executor_output.json"}})
    command = [part.replace("{{$}}", given) for part in (*container["command"], *container["args"])]
    return _floor(command, scratch)


def _local_engine(scratch: str, *arguments: str) -> float | str:
    """Return the seconds of a pipeline with `kfp.local`, or the reason why it failed.

    Args:
        scratch: the folder for temporary files.
        arguments: the arguments of `benchmarks.local_engine`.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.local_engine", *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": scratch},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=LOCAL_TIMEOUT_SECONDS)[0].split()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"not finished after {LOCAL_TIMEOUT_SECONDS} s"
    return float(output[-1]) if process.returncode == 0 else "failed; it installs packages, which may need a network"


def _run(server: Server, pipeline, at_once: int) -> Timing:
    created, begun = time.time(), time.perf_counter()
    run_id = server.call("POST", "/runs", run_of(pipeline))["run_id"]
    server.await_end(run_id, "SUCCEEDED")
    whole = time.perf_counter() - begun
    with server.store.reading() as session:
        run = session.exec(select(Run).where(Run.run_id == run_id)).one()
        tasks = session.exec(select(TaskRecord).where(TaskRecord.run_id == run_id, TaskRecord.kind != "dag")).all()
    if any(task.cached for task in tasks):
        raise BenchmarkError("a task was taken from the cache instead of executed")
    starts, ends = sorted(task.started for task in tasks), sorted(task.ended for task in tasks)
    gaps = [start - end for start, end in zip(starts[at_once:], ends, strict=False)]
    return Timing(
        whole=whole,
        before=starts[0] - created,
        task=statistics.median(task.ended - task.started for task in tasks),
        gap=statistics.median(gaps or [0.0]),
        after=run.state_history[-1]["at"] - ends[-1],
    )


def _floor(command: list[str], scratch: str) -> Floor:
    """Measure a command in the environment of the tasks, without the sandbox."""
    path = f"{ensure() / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {"PATH": path, "HOME": str(Path.home()), "TMPDIR": scratch}

    def start(_number: int) -> float:
        begun = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - begun

    start(0)  # after this run, the files of the command are in the page cache
    begun = time.perf_counter()
    one_by_one = [start(number) for number in range(zero_work.TASKS)]
    between = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(start, range(zero_work.TASKS)))
    return Floor(statistics.median(one_by_one), between - begun, time.perf_counter() - between)
