"""How long a pipeline takes whose tasks do nothing: here, started by hand, and with `kfp.local`."""

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
LOCAL_WITHIN_SECONDS = 60


@dataclass(frozen=True)
class Timing:
    """What a run took, in seconds.

    Attributes:
        whole: from the request that creates it to the answer that says that it has succeeded.
        before: from that request to the start of the first task.
        task: the median from the start of a task to its end, by the server's records.
        gap: the median from the end of a task, which makes room for the next, to the start of that one.
        after: from the end of the last task to the end of the run.
    """

    whole: float
    before: float
    task: float
    gap: float
    after: float


@dataclass(frozen=True)
class Floor:
    """The seconds of processes that are started by hand.

    Attributes:
        one: the median of ten, one after the other.
        chain: all ten, one after the other.
        side_by_side: all ten, as many at once as there are cores.
    """

    one: float
    chain: float
    side_by_side: float


@dataclass(frozen=True)
class StartUp:
    """All that was measured of tasks that do nothing.

    Attributes:
        interpreter, executor: Python alone, and the command of a task, started by hand.
        chain, side_by_side: runs of ten tasks.
        first_after_pip, next_after_pip: the seconds of a run of one task as kfp makes it by default, with a pip
            command. The first makes an environment for the packages, in which all later ones run.
        local_chain, local_venv: the seconds of `kfp.local`, or why it could not.
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
    """Measure tasks that do nothing; what is compared takes turns, so that it meets the same moods of the machine.

    Args:
        server: the server.
        tell: takes what is being done.
    """
    # What is started by hand and by kfp.local leaves its scripts in the folder for temporary files.
    with tempfile.TemporaryDirectory() as scratch:
        turns = []
        for number in range(ROUNDS):
            tell(f"{zero_work.TASKS} tasks of zero work, by hand and in runs, {number + 1} of {ROUNDS}")
            floors = (_floor(["python3", "-c", "pass"], scratch), _executor(scratch))
            turns.append((*floors, _run(server, zero_work.chain, 1), _run(server, zero_work.side_by_side, cores())))
        tell("one task with the pip command that dsl.component adds, twice")
        after_pip = [_run(server, zero_work.one_after_pip, 1).whole for _ in range(2)]
        tell("kfp.local: the chain, and the task with the pip command")
        local = [_local_engine(scratch, "chain"), _local_engine(scratch, "one_after_pip", "venv")]
    return StartUp(*map(_middle, zip(*turns, strict=True)), *after_pip, *local)


def _middle(found: Sequence):
    """Return the median of every field of some timings of one kind."""
    names = [field.name for field in fields(found[0])]
    return type(found[0])(**{name: statistics.median(getattr(one, name) for one in found) for name in names})


def _executor(scratch: str) -> Floor:
    """Return what the command of a task takes by hand."""
    container = compiled(zero_work.one)["deploymentSpec"]["executors"]["exec-nothing"]["container"]
    given = json.dumps({"inputs": {}, "outputs": {"outputFile": f"{scratch}/executor_output.json"}})
    command = [part.replace("{{$}}", given) for part in (*container["command"], *container["args"])]
    return _floor(command, scratch)


def _local_engine(scratch: str, *arguments: str) -> float | str:
    """Return the seconds that `kfp.local` takes for a pipeline, or why it could not run it.

    Args:
        scratch: where temporary files go.
        arguments: those of `benchmarks.local_engine`.
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
        said = process.communicate(timeout=LOCAL_WITHIN_SECONDS)[0].split()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"not done after {LOCAL_WITHIN_SECONDS} s"
    return float(said[-1]) if process.returncode == 0 else "it failed; it installs packages, which may need a network"


def _run(server: Server, pipeline, at_once: int) -> Timing:
    created, begun = time.time(), time.perf_counter()
    run_id = server.call("POST", "/runs", run_of(pipeline))["run_id"]
    server.await_end(run_id, "SUCCEEDED")
    whole = time.perf_counter() - begun
    with server.store.reading() as session:
        run = session.exec(select(Run).where(Run.run_id == run_id)).one()
        tasks = session.exec(select(TaskRecord).where(TaskRecord.run_id == run_id, TaskRecord.kind != "dag")).all()
    if any(task.cached for task in tasks):
        raise BenchmarkError("a task was not run, but taken from the cache")
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
    """Return what a command takes by hand, in the environment of the tasks."""
    path = f"{ensure() / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {"PATH": path, "HOME": str(Path.home()), "TMPDIR": scratch}

    def start(_number: int) -> float:
        begun = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - begun

    start(0)  # from here on, its files are in the memory of the machine
    begun = time.perf_counter()
    one_by_one = [start(number) for number in range(zero_work.TASKS)]
    between = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(start, range(zero_work.TASKS)))
    return Floor(statistics.median(one_by_one), between - begun, time.perf_counter() - between)
