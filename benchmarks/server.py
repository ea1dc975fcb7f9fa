"""The measured sandbox, and one open connection to its Pipelines API."""

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

# The server closes a connection after five seconds without a request.
MAX_IDLE_SECONDS = 3
POLL_SECONDS = 0.02
TIMEOUT_SECONDS = 120


class BenchmarkError(Exception):
    """A measured program does not work."""


class Server:
    """The Pipelines API of a sandbox.

    Args:
        sandbox: the sandbox; it is started here.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.start()
        self.store = Store(sandbox.directory / PipelinesApi.name / "pipelines.sqlite")

    def start(self) -> None:
        """Start the servers that do not run, and connect."""
        self.sandbox.up()
        address = urlsplit(self.sandbox.environment()["KF_PIPELINES_ENDPOINT"])
        self._prefix = f"{address.path}/apis/v2beta1"
        self._own_prefix = f"{address.path}/apis/sandbox/v1"
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        self._used = 0.0

    def kill(self) -> None:
        """End the server's process as `kill -9` does, and wait for its end."""
        record = next(record for part, record, _ in self.sandbox.status() if part.name == PipelinesApi.name)
        process = psutil.Process(record.pid)
        process.kill()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)

    def timed(self, method: str, path: str, body: dict | None = None) -> tuple[float, bytes]:
        """Make a request; return the seconds to the last byte of the response, and the body.

        Raises:
            BenchmarkError: the status is not 200.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if content else {}
        if time.monotonic() - self._used > MAX_IDLE_SECONDS:
            self._connection.close()
            self._connection.connect()
        begun = time.perf_counter()
        prefix = self._own_prefix if path.endswith("/tasks") else self._prefix
        self._connection.request(method, prefix + path, content, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        seconds = time.perf_counter() - begun
        self._used = time.monotonic()
        if answer.status != 200:
            raise BenchmarkError(f"{method} {path}: expected status 200, got {answer.status}: {text.decode()}")
        return seconds, text

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        """Make a request and return the JSON of the response."""
        return json.loads(self.timed(method, path, body)[1])

    def await_end(self, run_id: str, *states: str) -> None:
        """Wait until a run has ended in one of these states.

        Raises:
            BenchmarkError: the run ends in another state, or does not end.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (run := self.call("GET", f"/runs/{run_id}"))["state"] not in ENDED:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"a run is still {run['state']} after {TIMEOUT_SECONDS} s")
            time.sleep(POLL_SECONDS)
        if run["state"] not in states:
            raise BenchmarkError(f"a run ended as {run['state']} instead of {' or '.join(states)}: {run.get('error')}")

    def await_task(self, run_id: str) -> None:
        """Wait until a task of a run has started.

        Raises:
            BenchmarkError: no task starts.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not any(t["started"] and t["kind"] != "dag" for t in self.call("GET", f"/runs/{run_id}/tasks")["tasks"]):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no task has started after {TIMEOUT_SECONDS} s")
            time.sleep(POLL_SECONDS)


@contextmanager
def fresh_server() -> Iterator[Server]:
    """Return a server with an empty database, in a sandbox that is deleted at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sandbox = Sandbox(Path(folder).resolve() / "sandbox")
        try:
            yield Server(sandbox)
        finally:
            sandbox.reset()


@cache
def compiled(pipeline) -> dict:
    """Compile a pipeline and return its spec."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(path))
        return next(iter(yaml.safe_load_all(path.read_text())))


def run_of(pipeline) -> dict:
    """Return the body of the request that creates a run of a pipeline."""
    return {"display_name": f"a run of {pipeline.name}", "pipeline_spec": compiled(pipeline)}


def cores() -> int:
    """Return the number of runs, and of tasks in a run, that the sandbox executes at once."""
    return os.cpu_count() or 1
