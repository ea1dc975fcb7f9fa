"""Errors in the form of the Pipelines API server: a gRPC code, its HTTP status, and a message."""

from enum import IntEnum
from typing import Any

MAX_MESSAGE = 4_000  # letters; a message may quote what the client has sent


class Code(IntEnum):
    """The codes of google.rpc.Code that this server uses."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


# Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto, which grpc-gateway follows.
HTTP_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.FAILED_PRECONDITION: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}


class ApiError(Exception):
    """A request that the server answers with an error.

    Args:
        code: the gRPC code.
        message: what is wrong, and what to do.
        status: the HTTP status, if it differs from the usual status of the code.
    """

    def __init__(self, code: Code, message: str, status: int | None = None) -> None:
        # A quotation from a request may contain a lone surrogate, but a response cannot.
        shown = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
        self.message = shown.encode("utf-8", "replace").decode()
        super().__init__(self.message)
        self.code = code
        self.status = status or HTTP_STATUS[code]

    def body(self) -> dict[str, Any]:
        """Return the body of the response, `{error, code, message, details}`."""
        detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": int(self.code), "message": self.message}
        return {"error": self.message, "code": int(self.code), "message": self.message, "details": [detail]}


def invalid(message: str) -> ApiError:
    """Return the error for an invalid request."""
    return ApiError(Code.INVALID_ARGUMENT, message)


def not_found(kind: str, identifier: str) -> ApiError:
    """Return the error for an object that does not exist, such as a `Run` with this id."""
    return ApiError(Code.NOT_FOUND, f"{kind} {identifier} not found.")


def exists(message: str) -> ApiError:
    """Return the error for a name that is already in use."""
    return ApiError(Code.ALREADY_EXISTS, message)
