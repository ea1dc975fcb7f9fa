"""The S3 client of the components, and retries that end with an error a reader can act on."""

import os
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

MAX_ATTEMPTS = 6
MAX_PAUSE_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60
# S3's default content type. SeaweedFS compresses objects with the type of a text: it then takes them at half the
# speed, and decompresses them for every read.
CONTENT_TYPE = "binary/octet-stream"
# A request with one of these errors, or with any status from 500, may succeed when it is repeated.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
RETRYABLE_CODES = {
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "SlowDown",
    "XAmzContentSHA256Mismatch",
}
# The next step for an error, by S3's error code or botocore's class. A response to HEAD has only a status as its code.
HINTS = {
    "404": "the bucket or the key does not exist: check both names",
    "403": "these credentials do not allow it, or the object does not exist: check both",
    "AccessDenied": "these credentials do not allow it, or the object does not exist: check both",
    "NoSuchBucket": "create the bucket, or check its name",
    "ExpiredToken": "the temporary credentials have expired: get new ones, for example with `aws sso login`",
    "InvalidToken": "the session token does not belong to the keys: log in again, for example with `aws sso login`",
    "TokenRetrievalError": "the login has ended: log in again with `aws sso login`",
    "SSOTokenLoadError": "there is no login: log in with `aws sso login`",
    "UnauthorizedSSOTokenError": "the login has ended: log in again with `aws sso login`",
    "CredentialRetrievalError": "the credentials cannot be read: log in again, or correct the AWS profile",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither",
    "ProfileNotFound": "set AWS_PROFILE to a profile that ~/.aws/config has",
    "InvalidAccessKeyId": "this S3 does not know AWS_ACCESS_KEY_ID: check the key and the endpoint",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID: set both from one key pair",
    "PreconditionFailed": "the object was replaced while it was read: run this again",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role",
}

T = TypeVar("T")


class S3Error(RuntimeError):
    """S3 refused a request or kept failing; the message names the object and the request.

    Attributes:
        code: S3's error code, such as `NoSuchKey`; "" when S3 did not answer.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def client() -> Any:
    """Return the boto3 client for the AWS settings in the environment.

    The client makes each request once; `with_retries` repeats it. botocore's own retries end when a response begins,
    so they miss a body that breaks off, and data that arrives damaged.

    Returns:
        A client for S3. The same client is returned until a variable `AWS_...` changes.
    """
    return _client(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_")))


def with_retries(action: str, request: Callable[[], T]) -> T:
    """Make a request; repeat it after a growing pause when it fails for a reason that may pass.

    Args:
        action: the request in words, with the address of the object; it follows "cannot" in the error message.
        request: makes the request.

    Returns:
        The result of the request.

    Raises:
        S3Error: S3 refuses the request, or it still fails after `MAX_ATTEMPTS` attempts.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    begun = time.monotonic()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return request()
        except (BotoCoreError, ClientError, *_network_errors()) as error:
            code, reason = error_code(error), _reason(error)
            if not _is_retryable(error):
                raise S3Error(f"cannot {action}: {reason}", code) from error
        if attempt < MAX_ATTEMPTS:
            time.sleep(random.uniform(0.5, 1) * min(0.2 * 2**attempt, MAX_PAUSE_SECONDS))
    seconds = time.monotonic() - begun
    raise S3Error(f"cannot {action}: tried {MAX_ATTEMPTS} times in {seconds:.0f} s; the last error: {reason}", code)


def error_code(error: BaseException) -> str:
    """Return S3's code for an error of botocore; "" when S3 did not answer."""
    code: str = _response(error).get("Error", {}).get("Code", "")
    return code


@lru_cache(maxsize=1)
def _client(_settings: frozenset[tuple[str, str]]) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=10,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
        max_pool_connections=32,
    )
    # boto3's default session would keep the credentials from the time of its creation, so this session is a new one.
    made = boto3.Session().client("s3", config=config)
    made.meta.events.register("before-call.s3.UploadPart", _set_content_type)
    return made


def _set_content_type(params: dict[str, Any], **_: Any) -> None:
    """Set the content type of a part: boto3's `upload_part` has no argument for it."""
    params["headers"]["Content-Type"] = CONTENT_TYPE


@lru_cache(maxsize=1)
def _network_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a connection that failed or broke off."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        ResponseParserError,
        HTTPError,
        ConnectionError,
        TimeoutError,
    )


def _response(error: BaseException) -> dict[str, Any]:
    """Return S3's response in an error; {} when S3 did not answer. Some errors of botocore have None as response."""
    return getattr(error, "response", None) or {}


def _is_retryable(error: Exception) -> bool:
    if isinstance(error, _network_errors()):
        return True
    status: int = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status == 429 or error_code(error) in RETRYABLE_CODES


def _reason(error: Exception) -> str:
    """Return the text of an error with the next step, if there is one."""
    name = type(error).__name__
    text = f"{name}: {error}" if isinstance(error, _network_errors()) else str(error)
    hint = HINTS.get(error_code(error) or name)
    return text.replace(" (reached max retries: 0)", "") + (f" ({hint})" if hint else "")
