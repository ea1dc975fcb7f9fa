"""Checks every request before a service handles it.

A client that can create a run can execute code. The guard therefore refuses:

- requests without the secret first part of the path;
- requests with another Host header, against DNS rebinding;
- requests from other web pages, by their Origin and Sec-Fetch-Site headers;
- JSON without the content type of JSON, because the form of a web page cannot set that content type;
- bodies that are larger than any pipeline.
"""

import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from workshop.sandbox.http_guard import Refused, check_sender, read_body, replay_body, with_safe_headers
from workshop.sandbox.pipelines_api.errors import ApiError, Code
from workshop.sandbox.pipelines_api.package import MAX_BYTES

MAX_BODY = MAX_BYTES + (1 << 20)  # a file, and the overhead of multipart
OPEN_PATH = "/healthz"  # this path needs no secret; it only shows that the server is up
TOO_LARGE = (
    f"the request has more than {MAX_BODY:,} bytes; a compiled pipeline has at most {MAX_BYTES:,}. "
    "Upload the YAML file that `kfp dsl compile` writes; put data into S3."
)
OLD_ADDRESS = (
    "this address of the sandbox's Pipelines API is old or incomplete. Run the cell with connect() again; in a shell, "
    'run: eval "$(.venv/bin/workshop sandbox env)"'
)


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
        send = with_safe_headers(send)
        try:
            await self._pass_on(scope, receive, send)
        except Refused as refused:
            code = Code.PERMISSION_DENIED if refused.status == 403 else Code.INVALID_ARGUMENT  # 400, as for any upload
            error = ApiError(code, refused.message)
            await JSONResponse(error.body(), error.status)(scope, receive, send)
        except ApiError as error:
            await JSONResponse(error.body(), error.status)(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_sender(scope["method"], scope["headers"], scope["server"][1])
        if scope["path"] == OPEN_PATH:
            await JSONResponse({})(scope, receive, send)
            return
        inside = self._inside(scope)
        _check_type(Request(scope))
        body = await read_body(receive, MAX_BODY, TOO_LARGE)
        await self._app(inside, replay_body(body, receive), send)

    def _inside(self, scope: Scope) -> Scope:
        head, tail = scope["path"][: len(self._prefix)], scope["path"][len(self._prefix) :]
        if not secrets.compare_digest(head.encode(), self._prefix.encode()) or not tail.startswith("/"):
            raise ApiError(Code.NOT_FOUND, OLD_ADDRESS)
        return {**scope, "path": tail, "raw_path": tail.encode(), "root_path": ""}


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
