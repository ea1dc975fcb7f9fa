"""A running Pipelines API for the tests of this folder, and clients for it."""

import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import kfp
import kfp_server_api
import pytest
import requests
import simple
import yaml
from contract import problems
from engine_bench import Bench
from kfp import compiler

WITHIN_SECONDS = 60
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


def pytest_configure(config):
    """Tell pytest about the mark of tests that need Docker."""
    config.addinivalue_line("markers", "docker: needs a running Docker engine; skipped without")


class Api:
    """Talks to a server over plain HTTP.

    Args:
        endpoint: what `KF_PIPELINES_ENDPOINT` holds.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.base = f"{endpoint}/apis/v2beta1"
        self.session = requests.Session()
        self.session.trust_env = False

    def call(self, method: str, path: str, kind: str = "", **options) -> dict:
        """Make a request, check that it succeeds and that the answer has the shape `kind`, and return the answer."""
        answer = self.session.request(method, self.base + path, **{"timeout": 60} | options)
        assert answer.status_code == 200, answer.text
        if kind:
            assert problems(kind, answer.json()) == []
        return answer.json()

    def refused(self, status: int, method: str, path: str, **options) -> str:
        """Make a request, check that it is refused with this status and a proper body; return the message."""
        answer = self.session.request(method, self.base + path, timeout=60, **options)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
        body = answer.json()
        assert set(body) == {"error", "code", "message", "details"}
        assert body["error"] == body["message"] and isinstance(body["code"], int) and isinstance(body["details"], list)
        return body["message"]

    def run(self, spec: dict, parameters: dict | None = None, **fields) -> dict:
        """Create a run of a compiled pipeline."""
        body = {"display_name": "a run", "pipeline_spec": spec, "runtime_config": {"parameters": parameters or {}}}
        return self.call("POST", "/runs", "V2beta1Run", json=body | fields)

    def get(self, run_id: str) -> dict:
        """Return a run."""
        return self.call("GET", f"/runs/{run_id}", "V2beta1Run")

    def await_state(self, run_id: str, *states: str) -> dict:
        """Wait until a run is in one of these states (ended, by default), and return it."""
        return await_that(lambda: self._in_state(run_id, states or ENDED), f"run {run_id} is in none of {states}")

    def _in_state(self, run_id: str, states: tuple[str, ...]) -> dict | None:
        run = self.get(run_id)
        return run if run["state"] in states else None

    def tasks(self, run_id: str) -> dict[str, dict]:
        """Return the records of a run's tasks, by path."""
        return {task["path"]: task for task in self.call("GET", f"/runs/{run_id}/tasks")["tasks"]}

    def log(self, run_id: str, path: str) -> str:
        """Return a task's log."""
        node = self.tasks(run_id)[path]["node_id"]
        answer = self.session.get(f"{self.endpoint}/apis/v1alpha1/runs/{run_id}/nodes/{node}/log", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.text


def await_that(condition: Callable, otherwise: str, seconds: float = WITHIN_SECONDS):
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
    return found


@pytest.fixture
def api(shared_sandbox) -> Api:
    """The API of the shared sandbox."""
    return Api(shared_sandbox.environment()["KF_PIPELINES_ENDPOINT"])


@pytest.fixture
def own_api(sandbox) -> Api:
    """The API of a sandbox of the test's own, which is up."""
    sandbox.up()
    return Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])


@pytest.fixture
def client(api, tmp_path, monkeypatch) -> kfp.Client:
    """A plain `kfp.Client()`, as a lesson makes it."""
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.endpoint)
    warnings.simplefilter("ignore")
    return kfp.Client()


@pytest.fixture
def generated(api) -> kfp_server_api.ApiClient:
    """The generated client."""
    return kfp_server_api.ApiClient(kfp_server_api.Configuration(host=api.endpoint))


@pytest.fixture
def unique(request) -> str:
    """A name that no other test uses on the shared sandbox."""
    return f"test-{abs(hash(request.node.nodeid)) % 10**12:012}"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Compile a pipeline function and return its spec, in the form in which the API takes and shows it."""
    folder = tmp_path_factory.mktemp("compiled")

    def compile_it(function) -> dict:
        path = folder / f"{function.name}.yaml"
        compiler.Compiler().compile(function, str(path))
        spec, *platform = yaml.safe_load_all(path.read_text())
        return {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec

    return compile_it


@pytest.fixture(scope="session")
def echo(compiled) -> dict:
    """A compiled pipeline of one task that takes a text and prints it."""
    return compiled(simple.echo)


@pytest.fixture
def echo_file(echo, tmp_path) -> str:
    """The same in a file."""
    path = tmp_path / "echo.yaml"
    path.write_text(json.dumps(echo))
    return str(path)


@pytest.fixture
def httpserver_folder(tmp_path):
    """A folder, and the address at which this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def bench(shared_sandbox, tmp_path) -> Bench:
    """Runs pipelines with the engine alone."""
    environment = {name: value for name, value in shared_sandbox.environment().items() if value is not None}
    return Bench(tmp_path, environment, Path(sys.prefix))
