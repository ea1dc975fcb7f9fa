"""Errors as the Pipelines API server gives them: a gRPC code, the HTTP status that belongs to it, a message."""

from enum import IntEnum


class Code(IntEnum):
    """The codes of google.rpc.Code that occur here."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto, by which grpc-gateway goes.
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
    """A request that is answered with an error.

    Args:
        code: why, in the words of gRPC.
        message: what is wrong, and what to do.
        status: HTTP status, where it is not the one that belongs to the code.
    """

    def __init__(self, code: Code, message: str, status: int | None = None) -> None:
        # What is quoted from a request may hold half a character, which no answer can.
        self.message = message.encode("utf-8", "replace").decode()
        super().__init__(self.message)
        self.code = code
        self.status = status or HTTP_STATUS[code]

    def body(self) -> dict:
        """Return the answer's body, `{error, code, message, details}`."""
        detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": int(self.code), "message": self.message}
        return {"error": self.message, "code": int(self.code), "message": self.message, "details": [detail]}


def invalid(message: str) -> ApiError:
    """Return the error for something wrong with a request."""
    return ApiError(Code.INVALID_ARGUMENT, message)


def not_found(kind: str, identifier: str) -> ApiError:
    """Return the error for something that is not there, such as a `Run` with this id."""
    return ApiError(Code.NOT_FOUND, f"{kind} {identifier} not found.")


def exists(message: str) -> ApiError:
    """Return the error for a name that is taken."""
    return ApiError(Code.ALREADY_EXISTS, message)
