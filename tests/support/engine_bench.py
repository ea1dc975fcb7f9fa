"""Runs compiled pipelines with the engine alone, without the API."""

import json
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import boto3
import psutil
import yaml
from kfp import compiler

from workshop.sandbox.pipelines_api import engine
from workshop.sandbox.pipelines_api.engine import Job, Outcome, Task


@cache
def compiled(pipeline) -> tuple[dict, dict]:
    """Compile a pipeline, and return its spec and its platform's."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        documents = list(yaml.safe_load_all(path.read_text()))
    return documents[0], documents[1] if len(documents) > 1 else {}


class Memory:
    """Records in memory, in the order of their arrival."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.saved: list[Task] = []

    def save(self, tasks: Sequence[Task]) -> None:
        with self.lock:
            self.saved += tasks

    def find_cached(self, fingerprint: str) -> dict | None:
        with self.lock:
            same = [task for task in self.saved if task.fingerprint == fingerprint and task.state == "SUCCEEDED"]
        return same[-1].outputs if same else None

    def states(self, path: str) -> list[str]:
        """Return all states of a task, in order."""
        with self.lock:
            return [task.state for task in self.saved if task.path == path]

    def await_state(self, path: str, state: str) -> Task:
        """Wait until a task is in a state, and return it."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with self.lock:
                found = [task for task in self.saved if task.path == path and task.state == state]
            if found:
                return found[-1]
            time.sleep(0.02)
        raise AssertionError(f"{path} is not {state}: {self.states(path)}")


@dataclass
class Ran:
    """A run that has ended, with its outcome, its records and its job."""

    outcome: Outcome
    memory: Memory
    job: Job
    tasks: dict[str, Task] = field(default_factory=dict)

    @property
    def outputs(self) -> dict:
        return self.tasks[""].outputs["parameters"]

    def log(self, path: str) -> str:
        return (self.job.directory / self.tasks[path].log).read_text()


class Bench:
    """Runs pipelines.

    Args:
        folder: the folder for runs and package environments.
        environment: the environment variables of tasks.
        python: the virtual environment that replaces the image.
    """

    def __init__(self, folder: Path, environment: dict, python: Path) -> None:
        self.folder = folder
        self.environment = environment
        self.python = python

    def job(self, pipeline, arguments: dict | None = None, **fields) -> Job:
        """Prepare a run."""
        run_id = str(uuid.uuid4())
        spec, platform = compiled(pipeline)
        known = {
            "run_id": run_id,
            "name": "a run",
            "spec": spec,
            "platform": platform,
            "parameters": arguments or {},
            "pipeline_root": engine.DEFAULT_PIPELINE_ROOT,
            "directory": self.folder / "runs" / run_id,
            "environment": self.environment,
            "python": self.python,
            "package_environments": self.folder / "package-environments",
            "created": time.time(),
        }
        return Job(**known | fields)

    def run(self, pipeline, arguments: dict | None = None, memory: Memory | None = None, **fields) -> Ran:
        """Run a pipeline until it ends. No process and no unfinished task may be left."""
        return self.execute(self.job(pipeline, arguments, **fields), memory)

    def execute(self, job: Job, memory: Memory | None = None, cancelled: threading.Event | None = None) -> Ran:
        """Execute a job until it ends. No process and no unfinished task may be left."""
        memory = memory or Memory()
        before = len(memory.saved)
        outcome = engine.execute(job, memory, cancelled or threading.Event())
        tasks = {task.path: task for task in memory.saved[before:]}
        assert all(task.state in ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED") for task in tasks.values()), tasks
        assert all(task.ended >= task.created > 0 for task in tasks.values()), tasks
        json.dumps([task.inputs for task in tasks.values()] + [task.outputs for task in tasks.values()])
        assert processes_of(job) == []
        return Ran(outcome, memory, job, tasks)

    def s3(self):
        """Return a client of the S3 that tasks use."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def again(self, ran: Ran, **fields) -> Job:
        """Return the job of a retry, like the one that the API creates."""
        return replace(ran.job, done=ran.tasks, **fields)


def processes_of(job: Job) -> list[psutil.Process]:
    """Return the processes of a run on this machine."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("WORKSHOP_RUN_ID") == job.run_id
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found
