"""The server answers its own user and refuses all other clients."""

import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from tests.support.api import Api


@pytest.fixture
def address(api) -> tuple[str, int, str]:
    """Host, port and secret of the server."""
    host, _, rest = api.endpoint.removeprefix("http://").partition(":")
    port, _, secret = rest.partition("/")
    return host, int(port), secret


def send(address, path: str, method="GET", body="", **headers) -> int:
    """Send a request with exactly these headers, and return its HTTP status."""
    host, port, _ = address
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}"] if body else []
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(("\r\n".join([*lines, "Connection: close", "", ""]) + body).encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1])


def test_only_the_secret_path_is_answered(address):
    _, port, secret = address
    host = f"127.0.0.1:{port}"
    assert send(address, f"/{secret}/apis/v2beta1/healthz", Host=host) == 200
    for path in (
        "/apis/v2beta1/healthz",
        "/",
        f"/{secret}",
        f"/{secret}x/apis/v2beta1/healthz",
        "/x/apis/v2beta1/healthz",
    ):
        assert send(address, path, Host=host) == 404
    assert len(secret) >= 32


def test_other_host_headers_are_refused(address):
    _, port, secret = address
    path = f"/{secret}/apis/v2beta1/healthz"
    assert send(address, path, Host=f"localhost:{port}") == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert send(address, path, Host=host) in (400, 403)


def test_requests_from_other_web_pages_are_refused(address):
    _, port, secret = address
    path, host = f"/{secret}/apis/v2beta1/healthz", f"127.0.0.1:{port}"
    assert send(address, path, Host=host, Origin=f"http://{host}") == 200
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", "http://localhost"):
        assert send(address, path, Host=host, Origin=origin) == 403
    assert send(address, path, Host=host, Sec_Fetch_Site="cross-site") == 403


def test_a_link_in_a_notebook_works_but_the_page_cannot_be_embedded(address):
    _, port, secret = address
    host, link = f"127.0.0.1:{port}", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert send(address, f"/{secret}/", Host=host, Sec_Fetch_Dest="document", **link) == 200
    assert send(address, f"/{secret}/", Host=host, Sec_Fetch_Dest="iframe", **link) == 403
    path = f"/{secret}/apis/v2beta1/experiments"
    form = {"Content_Type": "application/json", "Sec_Fetch_Dest": "document"} | link
    assert send(address, path, "POST", "{}", Host=host, **form) == 403


def test_the_page_loads_nothing_from_other_servers(api):
    answer = api.session.get(f"{api.endpoint}/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text and "https://" not in answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
def test_json_needs_the_content_type_of_json(address, kind):
    _, port, secret = address
    body = json.dumps({"display_name": "made by a form"})
    path, host = f"/{secret}/apis/v2beta1/experiments", f"127.0.0.1:{port}"
    assert send(address, path, "POST", body, Host=host, Content_Type=kind) == 415


def test_the_server_listens_on_loopback_only_and_no_command_line_shows_the_secret(shared_sandbox, address):
    for server, record, _ in shared_sandbox.status():
        if server.name == "pipelines-api":
            process = psutil.Process(record.pid)
            every = [process, *process.children(recursive=True)]
            processes = [one for one in every if one.status() != psutil.STATUS_ZOMBIE]
    listening = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    assert not [process for process in processes if address[2] in " ".join(process.cmdline())]
    assert address[2] not in "".join(shared_sandbox.logs(1000).values())


@pytest.mark.slow
def test_a_task_sees_neither_the_secret_nor_the_environment_of_the_notebook(sandbox, compiled):
    from kfp import dsl

    @dsl.component(base_image="python:3.12", install_kfp_package=False)
    def show_environment() -> str:
        import json
        import os

        return json.dumps(dict(os.environ))

    @dsl.pipeline(name="show-environment")
    def show() -> str:
        return show_environment().output

    os.environ["CANARY"] = "of whoever starts the sandbox"
    sandbox.up()
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    run = api.await_state(api.run(compiled(show))["run_id"])
    assert run["state"] == "SUCCEEDED"
    environment = api.tasks(run["run_id"])["show-environment"]["outputs"]["parameters"]["Output"]
    assert api.endpoint.rpartition("/")[2] not in environment and "CANARY" not in environment
    assert "AWS_ENDPOINT_URL_S3" in environment


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "..", "%00"])
def test_a_path_in_a_request_reads_no_file(api, address, echo, name):
    run = api.await_state(api.run(echo)["run_id"])["run_id"]
    node = api.tasks(run)["say"]["node_id"]
    _, port, secret = address
    for path in (
        f"/runs/{name}/tasks",
        f"/runs/{name}/nodes/{node}/log",
        f"/runs/{run}/nodes/{name}/log",
        f"/runs/{run}/nodes/{node}/artifacts/{name}",
    ):
        # Sent unchanged: most clients would resolve the dots first.
        # A path with dots is redirected to the same path without them, which the server does not know.
        assert send(address, f"/{secret}/apis/sandbox/v1{path}", Host=f"127.0.0.1:{port}") in (301, 400, 404)


@pytest.mark.slow
def test_only_the_user_can_read_the_files_even_in_an_open_folder(sandbox, echo):
    sandbox.directory.chmod(0o755)
    sandbox.up()
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    api.await_state(api.run(echo)["run_id"])
    written = [path for path in Path(sandbox.directory, "pipelines-api").rglob("*")]
    assert {"pipelines.sqlite", "log"} <= {path.name for path in written}
    assert not [path for path in written if path.stat().st_mode & 0o077]
