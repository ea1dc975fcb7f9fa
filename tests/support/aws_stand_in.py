"""An AWS with the answers of a test, for states that the emulated account cannot have. This AWS records every call."""

import re
import shlex
import threading
from collections.abc import Callable, Mapping
from typing import Any

from botocore import xform_name
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request, determine_request_protocol
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model
from werkzeug import Response
from werkzeug.serving import make_server

from tests.support.shell import Shell


class Refusal(Exception):
    """What AWS answers instead of a result.

    Args:
        code: such as "AccessDenied".
        message: for the reader.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


Answer = Mapping[str, Any] | Refusal
# A test that needs another answer at another time gives a function without arguments.
Answers = Mapping[str, Answer | Callable[[], Answer]]


class AwsStandIn:
    """An HTTP server that speaks the protocols of AWS.

    Each call is recorded in the shell's list of calls, as the command of the AWS CLI that makes the same call.

    Args:
        shell: gets the endpoint, credentials and a region.
        answers: result by operation, such as `{"ListNodegroups": {"nodegroups": []}}`. Other operations answer with
            an empty result.
    """

    def __init__(self, shell: Shell, answers: Answers) -> None:
        self.answers = dict(answers)
        self._shell = shell
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        shell.environment |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}",
            "AWS_ACCESS_KEY_ID": "anything",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        request = Request(environ)
        service = _service(request)
        model = get_service_model(service)
        operation, in_path = _operation(request, model)
        protocol = determine_request_protocol(model, request.content_type)
        parameters = PROTOCOL_PARSERS[protocol](model.operation_model(operation)).parse(
            {
                "method": request.method,
                "values": request.values,
                "headers": request.headers,
                "body": request.data,
                "url_path": request.path,
                "url_params": in_path,
            }
        )
        self._shell.record("aws", service, xform_name(operation, "-"), *_words(parameters))
        answer = self.answers.get(operation, {})
        if callable(answer):
            answer = answer()
        serializer = get_serializer_class(model.service_name, protocol)(model.operation_model(operation))
        made = serializer.serialize(answer)
        return Response(made["body"], made["status_code"], made["headers"])(environ, start_response)


def _service(request: Request) -> str:
    name = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", request.headers["Authorization"])[1]
    # Both generations of load balancers sign with the same name.
    if name == "elasticloadbalancing":
        return "elbv2" if request.values["Version"] == "2015-12-01" else "elb"
    return name


def _operation(request: Request, model: Any) -> tuple[str, dict[str, str]]:
    """Return the name of the operation, and the parameters in the path."""
    if "Action" in request.values:
        return request.values["Action"], {}
    if "X-Amz-Target" in request.headers:
        return request.headers["X-Amz-Target"].rpartition(".")[2], {}
    for name in model.operation_names:
        http = model.operation_model(name).http
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(http["requestUri"]))
        found = re.fullmatch(pattern, request.path)
        if found and http["method"] == request.method:
            return name, found.groupdict()
    raise LookupError(f"no operation of {model.service_name} is {request.method} {request.path}")


def _words(parameters: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in sorted(parameters.items()):
        values = value if isinstance(value, list) else [value]
        words += [f"--{xform_name(name, '-')}", *(item if isinstance(item, str) else repr(item) for item in values)]
    return words


def as_call(command: str) -> str:
    """Write a command of the AWS CLI with its options in the order in which calls are recorded."""
    words = shlex.split(command)
    options = [index for index, word in enumerate(words) if word.startswith("--")]
    groups = [words[start:end] for start, end in zip(options, [*options[1:], None], strict=True)]
    return shlex.join([*words[: options[0]], *(word for group in sorted(groups) for word in group)])
