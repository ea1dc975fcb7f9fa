"""Checks on requests that every server of the sandbox needs.

A web page can send requests to loopback. So a server refuses requests with another Host header, which a DNS name that
resolves to loopback would have, and requests from other web pages, by their Origin and Sec-Fetch-Site headers.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost")
# A body that is too large is read until its end, up to this size. Otherwise the client would not see the response.
MOST_BYTES_READ = 1 << 30
# A browser does not guess another content type than the server names.
SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"),)

Headers = Iterable[tuple[bytes, bytes]]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Refused(Exception):
    """A request that a server does not handle.

    Args:
        status: the HTTP status of the response.
        message: what is wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_sender(method: str, headers: Headers, port: int) -> None:
    """Check that a request does not come from another web page.

    Args:
        method: the method of the request.
        headers: the names in lower case, and the values, of all headers.
        port: the port of the server.

    Raises:
        Refused: the request must not be handled.
    """
    allowed = {f"{host}:{port}" for host in HOSTS}
    values = _Values(headers)
    if values.of("host") not in [[name] for name in allowed]:
        raise Refused(403, f"the Host header must be one of {sorted(allowed)}")
    if any(_netloc(origin) not in allowed for origin in values.of("origin")):
        raise Refused(403, "requests from other web pages are refused (Origin header)")
    if set(values.of("sec-fetch-site")) - {"none", "same-origin"} and not _is_followed_link(method, values):
        raise Refused(403, "requests from other web pages are refused (Sec-Fetch-Site header)")


class _Values:
    def __init__(self, headers: Headers) -> None:
        self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]

    def of(self, name: str) -> list[str]:
        return [value for key, value in self._headers if key == name]


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_followed_link(method: str, values: _Values) -> bool:
    """Return whether the user has followed a link. Other pages cannot read the response of such a request."""
    return (
        method == "GET" and values.of("sec-fetch-mode") == ["navigate"] and values.of("sec-fetch-dest") == ["document"]
    )


async def read_body(receive: Receive, largest: int, too_large: str) -> bytes:
    """Read a body, and keep at most `largest` bytes of the body.

    Args:
        receive: the receive function of ASGI.
        largest: the size of the largest body that is accepted.
        too_large: the message of the error for a larger body.

    Raises:
        Refused: the body is larger.
    """
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= largest:
            chunks.append(chunk)
        elif size > MOST_BYTES_READ:
            break
        more = message.get("more_body", False)
    if size > largest:
        raise Refused(413, too_large)
    return b"".join(chunks)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that yields the body first.

    Args:
        body: the body that was read.
        receive: the receive function that the body was read from.
    """
    was_sent = False

    async def next_message() -> Any:
        nonlocal was_sent
        if was_sent:
            return await receive()
        was_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


def with_safe_headers(send: Send) -> Send:
    """Return a send function that adds `SAFE_HEADERS` to every response."""

    async def send_safe(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *SAFE_HEADERS]}
        await send(message)

    return send_safe
