"""Fixtures: a running Pipelines API, clients for it, and compiled pipelines."""

import json
import sys
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import kfp
import kfp_server_api
import pytest
import yaml
from kfp import compiler

from tests.support import simple
from tests.support.api import Api
from tests.support.engine_bench import Bench
from workshop.sandbox import Sandbox


@pytest.fixture
def sandbox(borrowing_sandbox) -> Sandbox:
    """A sandbox with the test's own Pipelines API, not started."""
    return borrowing_sandbox


@pytest.fixture
def api(shared_sandbox) -> Api:
    """The API of the shared sandbox."""
    return Api(shared_sandbox.environment()["KF_PIPELINES_ENDPOINT"])


@pytest.fixture
def own_api(sandbox) -> Api:
    """The test's own Pipelines API, which is up."""
    sandbox.up()
    return Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])


@pytest.fixture
def client(api, tmp_path, monkeypatch) -> kfp.Client:
    """A plain `kfp.Client()`, like in a lesson."""
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.endpoint)
    warnings.simplefilter("ignore")
    return kfp.Client()


@pytest.fixture
def generated(api) -> kfp_server_api.ApiClient:
    """The generated client."""
    return kfp_server_api.ApiClient(kfp_server_api.Configuration(host=api.endpoint))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Compile a pipeline function, and return its spec in the form that the API takes and shows."""
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
    """The path of a file that holds the compiled pipeline `echo`."""
    path = tmp_path / "echo.yaml"
    path.write_text(json.dumps(echo))
    return str(path)


@pytest.fixture
def httpserver_folder(tmp_path):
    """A folder, and the address of a server that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def bench(shared_sandbox, tmp_path) -> Bench:
    """Runs pipelines with the engine, without the API."""
    environment = {name: value for name, value in shared_sandbox.environment().items() if value is not None}
    return Bench(tmp_path, environment, Path(sys.prefix))
