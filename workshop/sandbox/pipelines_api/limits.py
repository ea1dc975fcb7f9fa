"""Refuses JSON bodies with more values than any request needs, before the server builds the values."""

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workshop.sandbox.pipelines_api.documents import json_nodes
from workshop.sandbox.pipelines_api.errors import invalid

MAX_VALUES = 600_000  # the arguments of a run may be a list of about 1 MB, which has up to 500,000 numbers
SMALL_BYTES = 100_000  # a smaller body cannot have that many values


class Limits:
    """An ASGI application that refuses JSON with too many values, and passes other requests on.

    Args:
        app: the application that handles accepted requests. Its body must come as one message, as `Guard` sends it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or not _is_large_json(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        message = await receive()
        if await run_in_threadpool(json_nodes, message.get("body", b"")) > MAX_VALUES:
            error = invalid(f"the request has more than {MAX_VALUES:,} values; put data into S3 and pass its address")
            await JSONResponse(error.body(), error.status)(scope, receive, send)
            return
        pending = [message]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)


def _is_large_json(headers: Headers) -> bool:
    length = headers.get("content-length", "")
    is_small = length.isdecimal() and int(length) < SMALL_BYTES
    return headers.get("content-type", "").startswith("application/json") and not is_small
