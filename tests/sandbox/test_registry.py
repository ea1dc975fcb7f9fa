"""The sandbox's registry: a part where its program and a Docker engine are, and nowhere else."""

import hashlib
import json
import os
import socket
import ssl
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support import docker_stub
from workshop.sandbox import registry
from workshop.sandbox.registry import what_is_missing

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
needs_the_program = pytest.mark.skipif(
    not registry._program(), reason="the program docker-registry is not installed; to run it: apt-get install it"
)


@pytest.fixture
def engine():
    """The address of a server that answers like a Docker Engine to `/_ping`."""
    with docker_stub.engine() as address:
        yield address


@pytest.fixture
def program(tmp_path):
    """Any program of that name, first on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "docker-registry").symlink_to("/bin/true")
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


@pytest.fixture
def sandbox(borrowing_sandbox):
    """A sandbox with the test's own registry and Pipelines API, not started."""
    return borrowing_sandbox


@pytest.fixture
def with_registry(engine, sandbox):
    """A sandbox that is up, with its registry."""
    os.environ["DOCKER_HOST"] = engine
    sandbox.up()
    return sandbox


def call(sandbox, method: str, path: str, body: bytes = b"", **headers: str):
    url = path if path.startswith("http") else f"http://{sandbox.environment()['REGISTRY']}{path}"
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)


def tags(sandbox, name: str) -> list[str]:
    return json.load(call(sandbox, "GET", f"/v2/{name}/tags/list"))["tags"]


def push_empty_image(sandbox, name: str, tag: str) -> str:
    """Push the smallest of images, as Docker would, and return its digest."""
    config = b'{"rootfs": {"type": "layers", "diff_ids": []}}'
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    where = call(sandbox, "POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
    joined = "&" if "?" in where else "?"
    call(sandbox, "PUT", f"{where}{joined}digest={digest}", config, **{"Content-Type": "application/octet-stream"})
    manifest_type = "application/vnd.docker.distribution.manifest.v2+json"
    described = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(config), "digest": digest}
    manifest = {"schemaVersion": 2, "mediaType": manifest_type, "config": described, "layers": []}
    pushed = call(
        sandbox, "PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest).encode(), **{"Content-Type": manifest_type}
    )
    return pushed.headers["Docker-Content-Digest"]


@needs_the_program
def test_where_docker_is_clients_are_sent_to_the_registry(with_registry):
    address = with_registry.environment()["REGISTRY"]
    assert address.startswith("127.0.0.1:")
    assert call(with_registry, "GET", "/v2/").status == 200


@needs_the_program
def test_a_client_that_first_tries_tls_is_answered_at_once(with_registry):
    # Docker asks a registry on loopback by TLS first, and by HTTP only after an answer.
    host, port = with_registry.environment()["REGISTRY"].split(":")
    context = ssl.create_default_context()
    with socket.create_connection((host, int(port)), timeout=5) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.slow
@needs_the_program
def test_what_was_pushed_survives_a_restart(with_registry):
    digest = push_empty_image(with_registry, "some/image", "v1")
    address = with_registry.environment()["REGISTRY"]
    assert "registry" in with_registry.down()
    with_registry.up()
    assert with_registry.environment()["REGISTRY"] == address
    assert tags(with_registry, "some/image") == ["v1"]
    assert call(with_registry, "GET", f"/v2/some/image/manifests/{digest}").status == 200


@needs_the_program
def test_an_image_can_be_deleted(with_registry):
    digest = push_empty_image(with_registry, "image", "v1")
    assert call(with_registry, "DELETE", f"/v2/image/manifests/{digest}").status == 202
    assert not tags(with_registry, "image")


@needs_the_program
def test_it_listens_on_loopback_only_and_takes_no_settings_from_the_environment(engine, sandbox):
    os.environ["REGISTRY_HTTP_ADDR"] = "0.0.0.0:0"
    os.environ["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"] = str(Path("elsewhere").resolve())
    os.environ["DOCKER_HOST"] = engine
    sandbox.up()
    push_empty_image(sandbox, "image", "v1")
    assert not Path("elsewhere").exists()
    assert (sandbox.directory / "registry" / "images").exists()
    record = next(record for server, record, _ in sandbox.status() if server.name == "registry")
    listening = [
        c.laddr.ip for c in psutil.Process(record.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


@needs_the_program
def test_after_reset_nothing_of_it_is_left(with_registry):
    push_empty_image(with_registry, "image", "v1")
    with_registry.reset()
    assert not with_registry.directory.exists()


@needs_the_program
def test_it_is_shown_by_status_and_stopped_by_down_also_when_docker_has_ended(with_registry, workshop_command):
    os.environ["DOCKER_HOST"] = "tcp://127.0.0.1:1"
    assert "registry" in workshop_command("sandbox", "status").stdout
    assert workshop_command("sandbox", "down").stdout.rstrip().endswith(", registry")


@pytest.mark.slow
def test_without_docker_the_registry_is_the_accounts_and_status_says_why(sandbox, workshop_command, program):
    os.environ["DOCKER_HOST"] = "unix:///nowhere.sock"
    sandbox.up()
    assert sandbox.environment()["REGISTRY"] == ECR
    shown = " ".join(workshop_command("sandbox", "status", env=os.environ | {"COLUMNS": "300"}).stdout.split())
    assert "registry │ down" in shown and "no Docker Engine answers at unix:///nowhere.sock" in shown


def test_without_the_program_its_package_is_named(monkeypatch, engine):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("DOCKER_HOST", engine)
    assert what_is_missing() == "the program docker-registry is not installed"


def test_with_program_and_engine_nothing_is_missing(program, engine):
    os.environ["DOCKER_HOST"] = engine
    assert what_is_missing() == ""


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2375", "ssh://user@host"])
def test_an_engine_on_another_machine_cannot_reach_it(program, host):
    os.environ["DOCKER_HOST"] = host
    assert "another machine" in what_is_missing()


@pytest.mark.slow
def test_an_engine_that_accepts_and_says_nothing_does_not_hold_up_the_sandbox(program):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        os.environ["DOCKER_HOST"] = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert "no Docker Engine answers" in what_is_missing()
