"""Signs and checks requests with AWS's Signature Version 4 (https://docs.aws.amazon.com/IAM/latest/UserGuide/
reference_sigv-create-signed-request.html). botocore computes the signatures."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[\w-]+)/(?P<service>[\w-]+)/aws4_request,"
    r"\s*SignedHeaders=(?P<headers>[\w;.-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
# A request must sign these headers. So a signature is valid for one server and one moment.
_ALWAYS_SIGNED = {"host", "x-amz-date"}


class WrongSignature(Exception):
    """A request without a signature by the expected keys."""


@dataclass(frozen=True)
class Scope:
    """The part of a signature that names the service.

    Attributes:
        region: such as us-east-1.
        service: the name under which the client signs, such as eks.
    """

    region: str
    service: str


def scope_of(authorization: str) -> Scope:
    """Return the scope that an Authorization header names. The signature is not checked.

    Raises:
        WrongSignature: the header has another form.
    """
    found = _AUTHORIZATION.fullmatch(authorization)
    if not found:
        raise WrongSignature("the request has no signature of AWS's version 4")
    return Scope(found["region"], found["service"])


def check(keys: Credentials, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
    """Check the signature of a request. The time of the signature does not matter.

    Args:
        keys: the keys that must have signed.
        method: the method of the request.
        url: the URL with the path and the query as they were sent.
        headers: value by name in lower case.
        body: the body of the request.

    Raises:
        WrongSignature: the signature is missing, is of other keys, or is of another request.
    """
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if not found:
        raise WrongSignature("the request has no signature of AWS's version 4")
    if not hmac.compare_digest(found["key"].encode(), keys.access_key.encode()):
        raise WrongSignature("the sandbox does not know the access key")
    signed = set(found["headers"].split(";"))
    date = headers.get("x-amz-date", "")
    digest = hashlib.sha256(body).hexdigest()
    if not signed >= _ALWAYS_SIGNED or not signed <= set(headers) or not date.startswith(found["day"]):
        raise WrongSignature("the signature leaves out a header, or signs a header that is missing")
    if headers.get("x-amz-content-sha256", digest) != digest:
        raise WrongSignature("the signature is of another body")
    request = AWSRequest(method, url, headers=dict(headers), data=body)
    request.context["timestamp"] = date
    signer = _AsTheClientSigned(keys, found["service"], found["region"], signed)
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    if not hmac.compare_digest(found["signature"], expected):
        raise WrongSignature("the signature is not by the secret key of the sandbox, or is of another request")


def signed_headers(keys: Credentials, scope: Scope, method: str, url: str) -> dict[str, str]:
    """Return the headers of a signed request without a body."""
    request = AWSRequest(method, url)
    SigV4Auth(keys, scope.service, scope.region).add_auth(request)
    return dict(request.headers.items())


class _AsTheClientSigned(SigV4Auth):
    """botocore's signature over the headers that the client has signed."""

    def __init__(self, keys: Credentials, service: str, region: str, signed: set[str]) -> None:
        super().__init__(keys, service, region)
        self._signed = signed

    def headers_to_sign(self, request: Any) -> HTTPHeaders:
        chosen = HTTPHeaders()
        for name, value in request.headers.items():
            if name.lower() in self._signed:
                chosen[name.lower()] = value
        return chosen
