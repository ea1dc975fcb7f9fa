"""Errors in the form of the Pipelines API server: a gRPC code, its HTTP status, and a message.

The server has two kinds of errors:

- Its services answer `{code, message, details}`. `details[0].message` is the reason. `message` is the reason with the
  steps in front of it that failed because of it, such as `Failed to get a run: Failed to fetch run X: ...`.
- The gateway in front of the services answers `{code, message}` when it cannot read a request.

Source: `backend/src/common/util/error.go` of kubeflow/pipelines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

MAX_MESSAGE = 4_000  # letters; a message may quote what the client has sent


class Code(IntEnum):
    """The codes of google.rpc.Code that this server uses."""

    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


# Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto, which grpc-gateway follows.
HTTP_STATUS = {
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
SERVER_ERROR = "Internal Server Error"


class ApiError(Exception):
    """A request that the server answers with an error.

    Args:
        code: the gRPC code.
        reason: what is wrong, and what to do.
        status: the HTTP status, if it differs from the usual status of the code.
        message: the reason with its kind in front; the reason alone by default.
        by_gateway: whether the gateway refuses the request, not a service.
        by_sandbox: whether only the sandbox refuses the request, to protect itself or to prevent a useless run. The
            real server would accept the request, so the error never becomes an internal one.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        status: int | None = None,
        message: str = "",
        by_gateway: bool = False,
        by_sandbox: bool = False,
    ) -> None:
        # A quotation from a request may contain a lone surrogate, but a response cannot.
        self.reason = _encodable(reason)
        self.message = (
            _encodable(message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}...") or self.reason
        )
        super().__init__(self.message)
        self.code = code
        self.status = status or HTTP_STATUS[code]
        self.by_gateway = by_gateway
        self.by_sandbox = by_sandbox
        self.detail_code = code

    def within(self, step: str) -> "ApiError":
        """Return the same error with the step that failed because of it.

        Args:
            step: what the server tried to do.
        """
        reason, message = self.reason, f"{step}: {self.message}"
        if self.detail_code == Code.UNKNOWN:  # an error without a kind has its steps below it
            reason = message = f"{self.message}\n{step}"
        outer = ApiError(self.code, reason, self.status, message, self.by_gateway, self.by_sandbox)
        outer.detail_code = self.detail_code
        return outer

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        answer: dict[str, Any] = {"code": int(self.code), "message": self.message}
        if self.by_gateway:
            return answer
        detail = {
            "@type": "type.googleapis.com/google.rpc.Status",
            "code": int(self.detail_code),
            "message": self.reason,
        }
        return answer | {"details": [detail]}


@contextmanager
def during(step: str) -> Iterator[None]:
    """Put a step in front of the message of an error that is raised inside.

    Args:
        step: what the server tries to do.

    Raises:
        ApiError: the error of the body, with the step.
    """
    try:
        yield
    except ApiError as error:
        raise (error if error.by_gateway else error.within(step)) from None


def unreadable(message: str) -> ApiError:
    """Return the error of the gateway for a request that it cannot read."""
    return ApiError(Code.INVALID_ARGUMENT, message, by_gateway=True)


def invalid(reason: str, hint: str = "") -> ApiError:
    """Return the error for an invalid request.

    Args:
        reason: what is wrong.
        hint: what to do. The real server gives no hints.
    """
    return ApiError(Code.INVALID_ARGUMENT, reason, message=f"Invalid input error: {reason}{hint}")


def impossible(reason: str) -> ApiError:
    """Return the error for a pipeline that only the sandbox refuses: too large for it, or unable to run anywhere."""
    return ApiError(Code.INVALID_ARGUMENT, reason, message=f"Invalid input error: {reason}", by_sandbox=True)


def invalid_because(reason: str, cause: str) -> ApiError:
    """Return the error for an invalid request whose cause is another error."""
    return ApiError(Code.INVALID_ARGUMENT, reason, message=f"InvalidInputError: {reason}: {cause}")


def unknown_version(reason: str) -> ApiError:
    """Return the error for a message that the server takes for a message of another version of the API."""
    return ApiError(Code.INVALID_ARGUMENT, reason, message=f"UnknownApiVersionError: {reason}")


def not_found(kind: str, identifier: str) -> ApiError:
    """Return the error for an object that does not exist, such as a `Run` with this id."""
    reason = f"{kind} {identifier} not found"
    return ApiError(Code.NOT_FOUND, reason, message=f"ResourceNotFoundError: {reason}")


def exists(reason: str) -> ApiError:
    """Return the error for a name that is already in use."""
    return ApiError(Code.ALREADY_EXISTS, reason, message=f"Already exist error: {reason}")


def conflict(reason: str, cause: str) -> ApiError:
    """Return the error for an object whose state does not allow the operation."""
    return ApiError(Code.ABORTED, reason, message=f"BadRequestError: {reason}: {cause}")


def precondition(reason: str, cause: str) -> ApiError:
    """Return the error for an operation that needs another operation first."""
    return ApiError(Code.FAILED_PRECONDITION, reason, message=f"FailedPreconditionError: {reason}: {cause}")


def internal(step: str, cause: str) -> ApiError:
    """Return the error that the server calls internal. Only the message tells the cause.

    Args:
        step: what the server tried to do.
        cause: why it failed.
    """
    return ApiError(Code.INTERNAL, SERVER_ERROR, message=f"InternalServerError: {step}: {cause}")


def unclassified(reason: str) -> ApiError:
    """Return the error that the server gives no kind: an internal one, with the code UNKNOWN in its details."""
    error = ApiError(Code.INTERNAL, f"Internal error: {reason}")
    error.detail_code = Code.UNKNOWN
    return error


@contextmanager
def internally(step: str) -> Iterator[None]:
    """Turn an error that is raised inside into an internal error, as the server does in some places.

    Args:
        step: what the server tries to do.

    Raises:
        ApiError: the internal error.
    """
    try:
        yield
    except ApiError as error:
        if error.by_gateway:
            raise
        raise (error.within(step) if error.by_sandbox else internal(step, error.message)) from None


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
