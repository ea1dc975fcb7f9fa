"""Retries of requests, with the errors that botocore raises. No server is needed."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ResponseStreamingError

from pipelines.s3_streams import S3Error
from pipelines.s3_streams.client import MAX_ATTEMPTS, with_retries

BROKEN_BODY = ResponseStreamingError(error="Connection broken")
NO_SERVER = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")


def client_error(code: str, status: int) -> ClientError:
    response = {"Error": {"Code": code, "Message": "text"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


def failing(error: Exception, times: int):
    """Return a request that fails a number of times and then returns the number of calls."""
    calls = []

    def request() -> int:
        calls.append(error)
        if len(calls) <= times:
            raise error
        return len(calls)

    request.calls = calls
    return request


@pytest.mark.parametrize(
    "error", [BROKEN_BODY, NO_SERVER, TimeoutError(), client_error("InternalError", 500), client_error("SlowDown", 503)]
)
def test_a_request_that_fails_for_a_passing_reason_is_repeated(error):
    assert with_retries("read s3://b/k", failing(error, 2)) == 3


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BROKEN_BODY, "", r"tried 6 times in \d+ s; the last error: ResponseStreamingError: .*Connection broken"),
        (NO_SERVER, "", r"tried 6 times in \d+ s; the last error: EndpointConnectionError: .*127\.0\.0\.1:1"),
        (client_error("SlowDown", 503), "SlowDown", r"tried 6 times in \d+ s; the last error: .*SlowDown"),
    ],
)
def test_a_lasting_fault_ends_with_the_number_of_attempts_and_the_last_error(error, code, message):
    request = failing(error, 1000)
    with pytest.raises(S3Error, match=rf"^cannot read s3://b/k: {message}") as caught:
        with_retries("read s3://b/k", request)
    assert len(request.calls) == MAX_ATTEMPTS and caught.value.code == code


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (client_error("404", 404), "404", "the bucket or the key does not exist: check both names"),
        (client_error("AccessDenied", 403), "AccessDenied", "these credentials do not allow it"),
        (client_error("NoSuchBucket", 404), "NoSuchBucket", "create the bucket, or check its name"),
        (NoCredentialsError(), "", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role"),
    ],
)
def test_a_refused_request_is_not_repeated_and_the_error_has_the_next_step(error, code, hint):
    request = failing(error, 1000)
    with pytest.raises(S3Error, match=rf"^cannot read s3://b/k: .*{hint}") as caught:
        with_retries("read s3://b/k", request)
    assert len(request.calls) == 1 and caught.value.code == code


def test_any_other_error_passes_through_unchanged():
    with pytest.raises(ValueError, match="not a table"):
        with_retries("read s3://b/k", failing(ValueError("not a table"), 1))
