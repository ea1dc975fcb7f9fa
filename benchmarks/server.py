"""The sandbox that is measured, and one connection to its Pipelines API that stays open."""

import http.client
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import yaml
from kfp import compiler

from workshop.sandbox import Sandbox
from workshop.sandbox.pipelines_api import PipelinesApi
from workshop.sandbox.pipelines_api.states import ENDED
from workshop.sandbox.pipelines_api.tables import Store

# The server closes a connection that has been silent for five seconds.
SILENT_SECONDS = 3
LOOK_EVERY_SECONDS = 0.02
WITHIN_SECONDS = 120


class BenchmarkError(Exception):
    """Something that is to be measured does not work."""


class Server:
    """A sandbox's Pipelines API.

    Args:
        sandbox: the sandbox; started here.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.start()
        self.store = Store(sandbox.directory / PipelinesApi.name / "pipelines.sqlite")

    def start(self) -> None:
        """Start what does not run, and connect."""
        self.sandbox.up()
        address = urlsplit(self.sandbox.environment()["KF_PIPELINES_ENDPOINT"])
        self._prefix = f"{address.path}/apis/v2beta1"
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        self._used = 0.0

    def kill(self) -> None:
        """End the server's process as `kill -9` does, and return when it is gone."""
        record = next(record for part, record, _ in self.sandbox.status() if part.name == PipelinesApi.name)
        process = psutil.Process(record.pid)
        process.kill()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)

    def timed(self, method: str, path: str, body: dict | None = None) -> tuple[float, bytes]:
        """Make a request, and return the seconds to the last byte of its answer, and the answer.

        Raises:
            BenchmarkError: it is refused.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if content else {}
        if time.monotonic() - self._used > SILENT_SECONDS:
            self._connection.close()
            self._connection.connect()
        begun = time.perf_counter()
        self._connection.request(method, self._prefix + path, content, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        seconds = time.perf_counter() - begun
        self._used = time.monotonic()
        if answer.status != 200:
            raise BenchmarkError(f"{method} {path} is answered with {answer.status}: {text.decode()}")
        return seconds, text

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """Make a request, and return what its answer says."""
        return json.loads(self.timed(method, path, body)[1])

    def await_end(self, run_id: str, *states: str) -> None:
        """Wait until a run has ended, in one of these states.

        Raises:
            BenchmarkError: it ends in another one, or not at all.
        """
        deadline = time.monotonic() + WITHIN_SECONDS
        while (run := self.call("GET", f"/runs/{run_id}"))["state"] not in ENDED:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"a run is still {run['state']} after {WITHIN_SECONDS} s")
            time.sleep(LOOK_EVERY_SECONDS)
        if run["state"] not in states:
            raise BenchmarkError(f"a run is {run['state']}: {run.get('error')}")

    def await_task(self, run_id: str) -> None:
        """Wait until a task of a run is at work."""
        deadline = time.monotonic() + WITHIN_SECONDS
        while not any(t["started"] and t["kind"] != "dag" for t in self.call("GET", f"/runs/{run_id}/tasks")["tasks"]):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no task has started after {WITHIN_SECONDS} s")
            time.sleep(LOOK_EVERY_SECONDS)


@contextmanager
def fresh_server() -> Iterator[Server]:
    """Give a server with an empty database, in a sandbox that is gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sandbox = Sandbox(Path(folder).resolve() / "sandbox")
        try:
            yield Server(sandbox)
        finally:
            sandbox.reset()


@cache
def compiled(pipeline) -> dict:
    """Compile a pipeline, and return its spec."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(path))
        return next(iter(yaml.safe_load_all(path.read_text())))


def run_of(pipeline) -> dict:
    """Return the request for a run of a pipeline."""
    return {"display_name": f"a run of {pipeline.name}", "pipeline_spec": compiled(pipeline)}


def cores() -> int:
    """Return how many runs, and how many tasks of a run, the sandbox executes at once."""
    return os.cpu_count() or 1
