"""The process of the emulated AWS account: `python -m workshop.sandbox.aws_server PORT`.

moto carries out the requests. This server stands in front of moto, because moto answers anyone, offers every service,
and forgets its contents when it ends. Other settings come from the environment.
"""

import asyncio
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.credentials import Credentials
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.test import create_environ, run_wsgi_app

from workshop.sandbox import aws_signature
from workshop.sandbox.aws_account import ACCESS_KEY_VARIABLE, DIRECTORY_VARIABLE, REGION, SECRET_KEY_VARIABLE
from workshop.sandbox.aws_errors import UNKNOWN_KEYS, Answer, error, xml
from workshop.sandbox.aws_journal import AwsRequest, Journal
from workshop.sandbox.files import full_disk
from workshop.sandbox.http_guard import SAFE_HEADERS, Receive, Refused, Send, check_sender, read_body
from workshop.sandbox.http_server import serve

# The services that the scripts and the lessons call, by the name under which clients sign, with moto's modules. The
# first module answers the requests. None of them starts a container.
SERVICES: dict[str, tuple[str, ...]] = {
    "cloudformation": (),  # answered by this module: moto's CloudFormation takes 4 s to load
    "ec2": ("ec2",),
    "ecr": ("ecr",),
    "ecr-public": (),  # moto has no ECR Public
    "eks": ("eks",),
    "elasticloadbalancing": ("elb", "elbv2", "ec2"),
    "iam": ("iam",),
    "logs": ("logs",),
    "servicequotas": ("servicequotas",),
    "sts": ("sts",),
}
# moto loads a service when a client first asks for it. These take long, so a quiet server loads them in advance.
LOADED_IN_ADVANCE = ("ec2", "elb", "elbv2", "logs")
LOAD_AFTER_SECONDS = 10
OPEN_PATH = "/healthz"  # this path needs no signature; it only shows that the server is up
LARGEST_BODY = 1 << 20  # AWS accepts less for each of these services
TRY_AGAIN = 'Run the cell with connect() again; in a shell, run: eval "$(.venv/bin/workshop sandbox env)"'

log = logging.getLogger("uvicorn.error")


class Account:
    """moto, with a journal. The account carries out one request at a time.

    Args:
        directory: the folder of the journal.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._journal = Journal(directory / "journal.jsonl")
        self._loaded: set[str] = set()
        self._apps: dict[str, Any] = {}  # moto's WSGI application of each service
        self._lock = threading.Lock()
        for place, request in enumerate(self._journal.requests()):
            self._change(request, place)

    def carry_out(self, request: AwsRequest) -> Answer:
        """Carry out a request, and record a request that changes something.

        Args:
            request: a request whose signature was checked.
        """
        service = request.service
        if service == "cloudformation":
            return _cloudformation(request)
        if not SERVICES.get(service):
            known = ", ".join(name for name, modules in SERVICES.items() if modules)
            message = f"the sandbox's AWS account has no service {service}. It has: {known}"
            return error(request.protocol, 501, "NotImplemented", message)
        with self._lock:
            self._load(*SERVICES[service])
            return self._record(request) if request.changes else self._ask_moto(request)

    def load_in_advance(self) -> None:
        """Load the services that take long, one after another."""
        for module in LOADED_IN_ADVANCE:
            get_backend(module)  # type: ignore[call-overload]  # the import does not need the lock
            with self._lock:
                self._load(module)

    def _record(self, request: AwsRequest) -> Answer:
        """Carry out a request that changes something. The journal holds it before the client gets the response."""
        try:
            before = self._journal.write(request)
        except OSError as problem:
            reason = full_disk(self._directory) or f"The sandbox cannot write to {self._directory}: {problem.strerror}."
            return error(request.protocol, 507, "InsufficientStorage", f"Nothing was changed. {reason}")
        answer = self._change(request, self._journal.count - 1)
        if answer.status >= 400:
            self._journal.delete_from(before)
        return answer

    def _change(self, request: AwsRequest, place: int) -> Answer:
        """Carry out a request with the random numbers of its place, so that a repetition makes the same ids."""
        self._load(*SERVICES[request.service])
        mock_random.seed(1 + place)
        return self._ask_moto(request)

    def _load(self, *modules: str) -> None:
        """Load services of moto. A service makes its first contents, such as a network, always with the same ids."""
        for module in modules:
            if module not in self._loaded:
                mock_random.seed(f"load {module}")
                backends: Any = get_backend(module)  # type: ignore[call-overload]
                regions = backends[DEFAULT_ACCOUNT_ID]
                regions[REGION if REGION in regions else "aws"]
                self._loaded.add(module)

    def _app(self, service: str) -> Any:
        """Return moto's application of one service. moto's own dispatcher would also offer `/moto-api`."""
        if service not in self._apps:
            self._apps[service] = create_backend_app(SERVICES[service][0])  # type: ignore[arg-type]
        return self._apps[service]

    def _ask_moto(self, request: AwsRequest) -> Answer:
        path, _, query = request.target.partition("?")
        environ = create_environ(
            path,
            f"http://{request.headers['host']}",
            query_string=query,
            method=request.method,
            headers=request.headers,
            data=request.body,
        )
        environ |= {"REQUEST_URI": request.target, "RAW_URI": request.target}
        try:
            body, status, headers = run_wsgi_app(self._app(request.service), environ, buffered=True)
        except NotImplementedError as problem:
            return error(request.protocol, 501, "NotImplemented", f"the sandbox's AWS account: {problem}")
        except Exception:
            log.exception("moto cannot carry out %s %s", request.method, path)
            return error(request.protocol, 500, "InternalFailure", "moto failed. Look at: workshop sandbox logs")
        kept = [(name, value) for name, value in headers.items() if name.lower() != "content-length"]
        return Answer(int(status.split()[0]), kept, b"".join(body))


def _cloudformation(request: AwsRequest) -> Answer:
    """Answer for a CloudFormation without stacks: eksctl, which makes stacks, cannot make a cluster here."""
    operation, name = request.operation, request.parameters.get("StackName", "")
    if operation == "DescribeStacks" and name:
        return error("query", 400, "ValidationError", f"Stack with id {name} does not exist")
    if operation not in ("DescribeStacks", "DeleteStack"):
        return error("query", 501, "NotImplemented", f"the sandbox's CloudFormation has no {operation}")
    result = "<DescribeStacksResult><Stacks/></DescribeStacksResult>" if operation == "DescribeStacks" else ""
    return xml(200, f"<{operation}Response>{result}</{operation}Response>")


class App:
    """The ASGI application: checks each request, and lets the account carry it out.

    Args:
        account: carries out the requests.
        keys: the keys that sign every request.
    """

    def __init__(self, account: Account, keys: Credentials) -> None:
        self._account = account
        self._keys = keys
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer = await self._answer(scope, receive)
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        headers += [(b"content-length", str(len(answer.body)).encode()), *SAFE_HEADERS]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Any, receive: Receive) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += f"?{scope['query_string'].decode('latin-1')}"
        request = AwsRequest(scope["method"], target, headers)
        try:
            check_sender(scope["method"], scope["headers"], scope["server"][1])
            if scope["path"] == OPEN_PATH:
                return Answer(200, [], b"")
            body = await read_body(receive, LARGEST_BODY, f"the request has more than {LARGEST_BODY:,} bytes")
        except Refused as refused:
            return error(request.protocol, refused.status, "AccessDenied", refused.message)
        request = replace(request, body=body)
        try:
            url = f"http://{headers['host']}{target}"
            aws_signature.check(self._keys, request.method, url, headers, body)
        except (aws_signature.WrongSignature, ValueError) as problem:
            return error(request.protocol, 403, UNKNOWN_KEYS[request.protocol], f"{problem}. {TRY_AGAIN}")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._account.carry_out, request)


def main() -> None:
    """Serve until a signal ends the process."""
    keys = Credentials(os.environ.pop(ACCESS_KEY_VARIABLE), os.environ.pop(SECRET_KEY_VARIABLE))
    account = Account(Path(os.environ[DIRECTORY_VARIABLE]))
    timer = threading.Timer(LOAD_AFTER_SECONDS, account.load_in_advance)
    timer.daemon = True
    timer.start()
    serve(App(account, keys), int(sys.argv[1]), lifespan="off")


if __name__ == "__main__":
    main()
