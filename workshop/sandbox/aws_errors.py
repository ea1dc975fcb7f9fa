"""Errors of the emulated account, in the form that the client of each service reads."""

import json
from dataclasses import dataclass
from xml.sax.saxutils import escape

# The protocol of a service: https://smithy.io/2.0/aws/protocols/index.html. The other services read JSON.
PROTOCOLS = {"ec2": "ec2", **dict.fromkeys(("cloudformation", "elasticloadbalancing", "iam", "sts"), "query")}
# The code by which the clients of each protocol know unknown keys.
UNKNOWN_KEYS = {"ec2": "AuthFailure", "query": "InvalidClientTokenId", "json": "UnrecognizedClientException"}
REQUEST_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Answer:
    """A response of the account.

    Attributes:
        status: the HTTP status.
        headers: name and value of each header.
        body: the body.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def protocol_of(service: str, content_type: str) -> str:
    """Return the protocol of a client: "ec2", "query" or "json".

    Args:
        service: the name under which the client signs; "" if it does not sign.
        content_type: the type of the request's body.
    """
    form = content_type.startswith("application/x-www-form-urlencoded")
    return PROTOCOLS.get(service, "query" if form else "json")


def error(protocol: str, status: int, code: str, message: str) -> Answer:
    """Return an error in the form that a client reads.

    Args:
        protocol: the protocol of the client, from `protocol_of`.
        status: the HTTP status.
        code: AWS's name of the error.
        message: what is wrong, and what to do.
    """
    if protocol == "json":
        body = json.dumps({"__type": code, "message": message})
        return Answer(status, [("content-type", "application/json"), ("x-amzn-errortype", code)], body.encode())
    inside = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if protocol == "ec2":
        inside = f"<Errors><Error>{inside}</Error></Errors><RequestID>{REQUEST_ID}</RequestID>"
        return xml(status, f"<Response>{inside}</Response>")
    inside = f"<Error><Type>Sender</Type>{inside}</Error><RequestId>{REQUEST_ID}</RequestId>"
    return xml(status, f"<ErrorResponse>{inside}</ErrorResponse>")


def xml(status: int, body: str) -> Answer:
    """Return a response in XML."""
    return Answer(status, [("content-type", "text/xml")], body.encode())
