"""What a request must be before any service sees it.

Whoever can create a run can run code. So the server answers only below a path that nobody can guess, only to requests
that name it as their host (a web page that has rebound its own name to 127.0.0.1 does not), and none from other web
pages. JSON must say that it is JSON, which a page's form cannot, and no body may be larger than any pipeline.
"""

import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workshop.sandbox.pipelines_api.errors import ApiError, Code
from workshop.sandbox.pipelines_api.package import LARGEST_BYTES

HOSTS = ("127.0.0.1", "localhost")
LARGEST_BODY = LARGEST_BYTES + (1 << 20)  # a file with what multipart adds to it
# A body that is too large is read to its end, so that whoever sends it sees the answer; up to here.
LONGEST_READ = 1 << 30
OPEN_PATH = "/healthz"  # tells that the server is up, and nothing else


class Guard:
    """The outermost part of the server.

    Args:
        app: what answers requests that may pass.
        secret: the first part of every path.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._prefix = f"/{secret}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
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
        await self._app(inside, _once(body, receive), send)

    def _inside(self, scope: Scope) -> Scope:
        head, tail = scope["path"][: len(self._prefix)], scope["path"][len(self._prefix) :]
        if not secrets.compare_digest(head.encode(), self._prefix.encode()) or not tail.startswith("/"):
            raise ApiError(Code.NOT_FOUND, "Not Found. `workshop sandbox env` prints the whole address.")
        return scope | {"path": tail, "raw_path": tail.encode(), "root_path": ""}


def _check_origin(request: Request, port: int) -> None:
    allowed = {f"{host}:{port}" for host in HOSTS}
    if request.headers.get("host", "") not in allowed:
        raise ApiError(Code.PERMISSION_DENIED, f"the Host header must be one of {sorted(allowed)}")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc not in allowed:
        raise ApiError(Code.PERMISSION_DENIED, "requests of other web pages are not answered (Origin header)")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_followed_link(request):
        raise ApiError(Code.PERMISSION_DENIED, "requests of other web pages are not answered (Sec-Fetch-Site header)")


def _is_followed_link(request: Request) -> bool:
    """Tell whether somebody has followed a link, from a notebook perhaps: no page can read what is then shown."""
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
    """Read a body, but keep no more than may be."""
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        piece = message.get("body", b"")
        size += len(piece)
        if size <= LARGEST_BODY:
            pieces.append(piece)
        elif size > LONGEST_READ:
            break
        more = message.get("more_body", False)
    if size > LARGEST_BODY:
        raise ApiError(
            Code.INVALID_ARGUMENT,
            f"the request has more than {LARGEST_BODY:,} bytes; a compiled pipeline has {LARGEST_BYTES:,} at most. "
            "Upload the YAML file that `kfp dsl compile` writes; data belongs into S3.",
        )
    return b"".join(pieces)


def _once(body: bytes, receive: Receive) -> Receive:
    """Give the body to the application, as if it came now."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
