"""Every server of the sandbox answers to its own clients only."""

import contextlib
import hashlib
import json
import resource
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass

import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.support.account import client
from workshop.sandbox.aws_server import SERVICES

pytestmark = pytest.mark.attack

FORM = "application/x-www-form-urlencoded"
CALLER = "Action=GetCallerIdentity&Version=2011-06-15"


@dataclass(frozen=True)
class Answer:
    status: int
    text: str


class Account:
    """The emulated account, as raw HTTP sees it."""

    def __init__(self, sandbox):
        environment = sandbox.environment()
        self.host = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        self.keys = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])

    def signed(self, service="sts", body=CALLER, target="/", keys=None, method="POST"):
        """Return the headers of a request that is signed as clients sign it."""
        request = AWSRequest(method, f"http://{self.host}{target}", {"Content-Type": FORM}, body.encode())
        SigV4Auth(keys or self.keys, service, "us-east-1").add_auth(request)
        return {"Host": self.host, **dict(request.headers.items())}

    def send(self, headers, body=CALLER, target="/", method="POST"):
        """Send a request with exactly these headers. A list of pairs may name a header twice."""
        pairs = headers.items() if isinstance(headers, dict) else headers
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        host, _, port = self.host.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(("\r\n".join(lines) + body).encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return Answer(int(answer.split()[1]), answer.decode())


@pytest.fixture
def account(shared_sandbox):
    return Account(shared_sandbox)


def test_a_signed_request_is_answered_and_the_same_request_without_its_signature_is_not(account):
    headers = account.signed()
    assert account.send(headers).status == 200
    for missing in ("Authorization", "X-Amz-Date"):
        refused = account.send({name: value for name, value in headers.items() if name != missing})
        assert refused.status == 403 and "connect()" in refused.text and "eval" in refused.text
        assert "nosniff" in refused.text


@pytest.mark.parametrize(
    "access_key, secret_key",
    [("AKIAOTHER", None), (None, "another"), ("AKIAOTHER", "another"), (None, ""), ("é", None)],
)
def test_other_keys_are_refused(account, access_key, secret_key):
    keys = Credentials(
        access_key or account.keys.access_key, account.keys.secret_key if secret_key is None else secret_key
    )
    assert account.send(account.signed(keys=keys)).status == 403


def test_a_signature_is_valid_for_one_request_only(account):
    headers = account.signed()
    assert account.send(headers, body="Action=GetCallerIdentity&Version=2011-06-16").status == 403
    assert account.send(headers, target="/?Action=GetCallerIdentity").status == 403
    assert account.send(headers, method="PUT").status == 403
    assert account.send(headers | {"X-Amz-Date": "20300101T000000Z"}).status == 403
    assert account.send(headers | {"X-Amz-Content-SHA256": hashlib.sha256(b"another").hexdigest()}).status == 403
    assert account.send(headers | {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}).status == 403
    assert account.send({**headers, "Authorization": headers["Authorization"].replace("/sts/", "/iam/")}).status == 403
    assert account.send(headers | {"Authorization": headers["Authorization"].replace("host;", "")}).status == 403


@pytest.mark.parametrize(
    "authorization", ["", "Basic eDp5", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b/c", "é"]
)
def test_a_malformed_signature_is_refused(account, authorization):
    assert account.send(account.signed() | {"Authorization": authorization}).status == 403


def test_requests_of_other_web_pages_and_other_names_are_refused(account):
    headers = account.signed()
    port = account.host.partition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}0", ""):
        assert account.send(headers | {"Host": host}).status in (400, 403)
    assert account.send([*headers.items(), ("Host", account.host)]).status in (400, 403)
    for origin in ("http://evil.example", "null", "http://[::1", "http://[", f"http://127.0.0.1:{int(port) + 1}", "é"):
        assert account.send(headers | {"Origin": origin}).status == 403
    assert account.send(headers | {"Origin": f"http://{account.host}"}).status == 200
    for site in ("cross-site", "same-site"):
        assert account.send(headers | {"Sec-Fetch-Site": site}).status == 403


@pytest.mark.parametrize(
    "target",
    [
        "/moto-api/",
        "/moto-api/reset",
        "/moto-api/data.json",
        "/moto-api/recorder/upload-recording",
        "/moto-api/recorder/replay-recording",
        "//moto-api/reset",
        "/%6doto-api/reset",
        "/latest/meta-data/iam/security-credentials/",
    ],
)
def test_the_interface_of_moto_itself_is_closed_without_and_with_the_keys(account, shared_sandbox, target):
    for method in ("GET", "POST"):
        assert account.send({"Host": account.host}, "", target, method).status == 403
        signed = account.signed("iam", "", target, method=method)
        assert account.send(signed, "", target, method).status >= 400
    assert "kubeflow-demo" in client(shared_sandbox, "eks").list_clusters()["clusters"]


@pytest.mark.parametrize("service", ["batch", "lambda", "s3", "ecs", "ssm", "execute-api", "moto_api", "x"])
def test_other_services_do_not_exist(account, service):
    answer = account.send(account.signed(service))
    assert answer.status == 501 and "has no service" in answer.text


def test_no_service_of_the_account_starts_containers():
    """moto starts a container in these services, and in no other."""
    import moto

    folder = next(iter(moto.__path__))
    found = subprocess.run(["grep", "-rlE", "docker", folder, "--include=*.py"], capture_output=True, text=True).stdout
    with_docker = {path.removeprefix(f"{folder}/").partition("/")[0] for path in found.splitlines()}
    offered = {module for modules in SERVICES.values() for module in modules}
    assert {"batch", "awslambda"} <= with_docker
    assert not offered & with_docker - {"ecr"}, "ECR names docker in media types only"


@pytest.mark.parametrize(
    "service, operation, code",
    [
        ("ec2", "describe_vpcs", "AuthFailure"),
        ("iam", "list_roles", "InvalidClientTokenId"),
        ("eks", "list_clusters", "UnrecognizedClientException"),
        ("ecr", "describe_repositories", "UnrecognizedClientException"),
        ("logs", "describe_log_groups", "UnrecognizedClientException"),
        ("cloudformation", "describe_stacks", "InvalidClientTokenId"),
        ("elbv2", "describe_load_balancers", "InvalidClientTokenId"),
    ],
)
def test_each_client_reads_that_its_keys_are_old_and_what_to_do(shared_sandbox, service, operation, code):
    stale = client(shared_sandbox, service)
    stale._request_signer._credentials = Credentials("SANDBOXOLD", "old")
    with pytest.raises(ClientError, match=r"connect\(\) again") as raised:
        getattr(stale, operation)()
    assert raised.value.response["Error"]["Code"] == code


def test_cloudformation_has_no_stacks(shared_sandbox):
    stacks = client(shared_sandbox, "cloudformation")
    assert stacks.describe_stacks()["Stacks"] == []
    with pytest.raises(ClientError, match="eksctl-x does not exist"):
        stacks.describe_stacks(StackName="eksctl-x")
    stacks.delete_stack(StackName="eksctl-x")
    stacks.get_waiter("stack_delete_complete").wait(StackName="eksctl-x")
    with pytest.raises(ClientError, match="no CreateStack"):
        stacks.create_stack(StackName="x", TemplateBody="{}")


def test_a_body_that_is_too_large_is_refused(account):
    body = "x" * (2 << 20)
    assert account.send(account.signed(body=body), body).status == 413


def test_the_keys_are_in_no_command_line_and_no_log(shared_sandbox):
    secret = shared_sandbox.environment()["AWS_SECRET_ACCESS_KEY"]
    commands = [psutil.Process(record.pid).cmdline() for _, record, _ in shared_sandbox.status() if record]
    assert secret not in json.dumps(commands) + json.dumps(shared_sandbox.logs(10_000))


def object_store(sandbox):
    return next(record for server, record, _ in sandbox.status() if server.name == "object-store")


@pytest.mark.parametrize("role", ["master.port", "volume.port", "filer.port", "admin.port"])
@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/dir/assign"),
        ("GET", "/vol/grow?count=1"),
        ("GET", "/col/delete?collection=x"),
        ("POST", "/submit"),
        ("POST", "/buckets/x/made.txt"),
        ("PUT", "/buckets/x/made.txt"),
        ("GET", "/buckets/"),
        ("DELETE", "/buckets/x?recursive=true"),
        ("GET", "/3,01637037d6"),
        ("POST", "/3,01637037d6"),
        ("DELETE", "/3,01637037d6"),
        ("GET", "/debug/pprof/"),
    ],
)
def test_the_inner_http_ports_of_the_object_store_carry_nothing_out(shared_sandbox, role, method, path):
    port = object_store(shared_sandbox).ports[role]
    headers = f"Host: 127.0.0.1:{port}\r\nContent-Length: 1\r\nConnection: close"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{headers}\r\n\r\nx".encode())
        assert int(connection.makefile("rb").readline().split()[1]) >= 400


@pytest.mark.parametrize("role", ["s3.port", "master.port", "volume.port", "filer.port", "admin.port"])
def test_the_inner_grpc_ports_of_the_object_store_want_its_certificate(shared_sandbox, role):
    port = object_store(shared_sandbox).ports[role] + 10_000
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(preface)
        assert not connection.recv(9).startswith(b"\0\0"), "without TLS, no frame of HTTP/2 comes back"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain) as connection, contextlib.suppress(ssl.SSLError, ConnectionError):
        connection.sendall(preface)
        assert connection.recv(9) == b"", "without a certificate, no frame of HTTP/2 comes back"


def test_the_files_with_keys_are_private(shared_sandbox):
    folder = shared_sandbox.directory
    names = ("identity.json", "object-store/inner.key", "object-store/identities.json", "aws-account/journal.jsonl")
    assert [name for name in names if (folder / name).stat().st_mode & 0o077] == []
    assert [log.name for log in (folder / "run").iterdir() if log.stat().st_mode & 0o077] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "KF_PIPELINES_ENDPOINT"])
def test_two_thousand_idle_connections_do_not_keep_other_clients_out(sandbox, name):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        sandbox.up()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    host, port = sandbox.environment()[name].split("/")[2].split(":")
    code = """
        import resource, socket, sys, time
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        held = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) for _ in range(2000)]
        print("held", flush=True)
        time.sleep(60)
    """
    attack = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), host, port], stdout=subprocess.PIPE, text=True
    )
    try:
        assert attack.stdout.readline() == "held\n"
        begun = time.monotonic()
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(
                    f"GET /healthz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
                )
                assert b" 200 " in connection.recv(100)
        assert time.monotonic() - begun < 10
    finally:
        attack.kill()
        attack.wait()
    assert sum(len(log) for log in sandbox.logs(10_000).values()) < 200_000


def test_malformed_requests_get_400_and_no_line_in_the_log(account, shared_sandbox):
    host, _, port = account.host.partition(":")
    before = shared_sandbox.logs(10_000)["aws-account"]
    for sent in (b"\x16\x03\x01\x02\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert shared_sandbox.logs(10_000)["aws-account"] == before


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_request_without_its_end_is_closed_after_ten_seconds(account, sent):
    host, _, port = account.host.partition(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert 5 < time.monotonic() - begun < 25
