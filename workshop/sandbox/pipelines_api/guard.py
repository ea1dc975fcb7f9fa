"""Checks every request before a service handles it.

A client that can create a run can execute code. The guard therefore refuses:

- requests without the secret first part of the path;
- requests with another Host header, against DNS rebinding;
- requests from other web pages, by their Origin and Sec-Fetch-Site headers;
- JSON without the content type of JSON, because the form of a web page cannot set that content type;
- bodies that are larger than any pipeline.
"""

import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workshop.sandbox.pipelines_api.errors import ApiError, Code
from workshop.sandbox.pipelines_api.package import MAX_BYTES

HOSTS = ("127.0.0.1", "localhost")
MAX_BODY = MAX_BYTES + (1 << 20)  # a file, and the overhead of multipart
# The guard reads a body that is too large until its end, up to this size. Otherwise the client would not see the
# response.
MAX_READ = 1 << 30
OPEN_PATH = "/healthz"  # this path needs no secret; it only shows that the server is up


class Guard:
    """The outermost ASGI application of the server.

    Args:
        app: the application that handles accepted requests.
        secret: the first part of every path.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._prefix = f"/{secret}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            _check_origin(request, scope["server"][1])
            if scope["path"] == OPEN_PATH:
                await JSONResponse({})(scope, receive, send)
                return
            inside = self._inside(scope)
            _check_type(request)
            body = await _read(receive)
        except ApiError as error:
            await JSONResponse(error.body(), error.status)(scope, receive, send)
            return
        await self._app(inside, _replay(body, receive), send)

    def _inside(self, scope: Scope) -> Scope:
        head, tail = scope["path"][: len(self._prefix)], scope["path"][len(self._prefix) :]
        if not secrets.compare_digest(head.encode(), self._prefix.encode()) or not tail.startswith("/"):
            raise ApiError(Code.NOT_FOUND, "Not Found. `workshop sandbox env` prints the whole address.")
        return {**scope, "path": tail, "raw_path": tail.encode(), "root_path": ""}


def _check_origin(request: Request, port: int) -> None:
    allowed = {f"{host}:{port}" for host in HOSTS}
    if request.headers.get("host", "") not in allowed:
        raise ApiError(Code.PERMISSION_DENIED, f"the Host header must be one of {sorted(allowed)}")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc not in allowed:
        raise ApiError(Code.PERMISSION_DENIED, "requests from other web pages are refused (Origin header)")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_followed_link(request):
        raise ApiError(Code.PERMISSION_DENIED, "requests from other web pages are refused (Sec-Fetch-Site header)")


def _is_followed_link(request: Request) -> bool:
    """Return whether the user has followed a link. Other pages cannot read the response of such a request."""
    mode, destination = (request.headers.get(f"sec-fetch-{name}") for name in ("mode", "dest"))
    return request.method == "GET" and (mode, destination) == ("navigate", "document")


def _check_type(request: Request) -> None:
    if request.method not in ("POST", "PUT", "PATCH"):
        return
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if given in ("application/json", "multipart/form-data") or (not has_body and not given):
        return
    raise ApiError(
        Code.INVALID_ARGUMENT, f"the Content-Type is {given!r}; JSON must come as application/json", status=415
    )


async def _read(receive: Receive) -> bytes:
    """Read a body. Keep at most `MAX_BODY` bytes of the body."""
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY:
            chunks.append(chunk)
        elif size > MAX_READ:
            break
        more = message.get("more_body", False)
    if size > MAX_BODY:
        raise ApiError(
            Code.INVALID_ARGUMENT,
            f"the request has more than {MAX_BODY:,} bytes; a compiled pipeline has at most {MAX_BYTES:,}. "
            "Upload the YAML file that `kfp dsl compile` writes; put data into S3.",
        )
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that yields the body first."""
    was_sent = False

    async def next_message() -> Message:
        nonlocal was_sent
        if was_sent:
            return await receive()
        was_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
