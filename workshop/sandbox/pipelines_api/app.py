"""Builds the server from its services."""

import logging
import posixpath
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from workshop.sandbox.pipelines_api import experiments, pipelines, recurring_runs, run_details, runs, services
from workshop.sandbox.pipelines_api.access import Access, Identify, Users
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.contract import Runner
from workshop.sandbox.pipelines_api.errors import ApiError, Code, unreadable
from workshop.sandbox.pipelines_api.guard import Guard
from workshop.sandbox.pipelines_api.limits import Limits
from workshop.sandbox.pipelines_api.tables import Store

PREFIX = "/apis/v2beta1"
OLD_PREFIX = "/apis/v1beta1"  # of this version of the API, the sandbox has only the Healthz service
LOG_PREFIX = "/apis/v1alpha1"  # the prefix of the log endpoint in the real server
OWN_PREFIX = "/apis/sandbox/v1"  # what only the sandbox has
PAGE = Path(__file__).with_name("page.html")
# The page must not load resources from other servers, and other pages must not embed it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(directory: Path, secret: str, sandbox: Path, runner: Runner, users: Users | None = None) -> ASGIApp:
    """Return the server.

    Args:
        directory: the folder of the database and of the run folders.
        secret: the first part of every path.
        sandbox: the sandbox's folder.
        runner: how tasks are executed.
        users: the users of the server; None for a server for one user.
    """
    access = Access(users)
    database = directory / ("pipelines-of-users.sqlite" if users else "pipelines.sqlite")
    store = Store(database)
    if not users:
        with store.writing() as session:
            experiments.default(session)
    dispatcher = Dispatcher(store, database, sandbox, runner, lambda: recurring_runs.fire_due(store, runner=runner))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        _before_sigterm(dispatcher.start_no_more)
        yield
        dispatcher.stop()
        store.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    contract = (
        experiments.router(store, access),
        pipelines.router(store, access),
        runs.router(store, dispatcher, access),
        recurring_runs.router(store, dispatcher, access),
        services.health_router(access.multi_user),
        services.report_router(),
        run_details.artifact_router(store, access),
    )
    for router in contract:
        app.include_router(router, prefix=PREFIX)
    app.include_router(services.health_router(access.multi_user), prefix=OLD_PREFIX)
    app.include_router(run_details.log_router(store, dispatcher), prefix=LOG_PREFIX)
    app.include_router(run_details.router(store, dispatcher, sandbox), prefix=OWN_PREFIX)
    app.get("/")(lambda: FileResponse(PAGE, headers=PAGE_HEADERS))
    _answer_errors(app)
    inner: ASGIApp = Identify(app, users) if users else app
    return Guard(_CleanPath(Limits(inner), f"/{secret}"), secret)


def _before_sigterm(do: Callable[[], None]) -> None:
    """Do something when the process is told to end, before the server begins to end.

    The server takes some time to end, and the sandbox ends the workers at the same time.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread gets signals
    then = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        do()
        if callable(then):
            then(number, frame)

    signal.signal(signal.SIGTERM, handle)


class _CleanPath:
    """An ASGI application that redirects from a path like `//experiments`, as the real server does."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or redirect it."""
        path = scope.get("path", "")
        parts = path.split("/")
        if scope["type"] != "http" or not ({".", ".."} & set(parts) or "" in parts[1:-1]):
            await self._app(scope, receive, send)
            return
        clean = f"/{posixpath.normpath(path).lstrip('/')}" + ("/" if parts[-1] == "" else "")
        query = scope.get("query_string", b"").decode("latin-1")
        target = f"{self._prefix}{quote(clean)}" + (f"?{query}" if query else "")
        await RedirectResponse(target, 301)(scope, receive, send)


def _answer_errors(app: FastAPI) -> None:
    """Give every error the form of the real server's errors."""

    @app.exception_handler(ApiError)
    async def known(_request: Request, error: ApiError) -> JSONResponse:
        answer = JSONResponse(error.body(), error.status)
        if error.code == Code.UNAUTHENTICATED:
            answer.headers["www-authenticate"] = error.message.encode("ascii", "replace").decode()
        return answer

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        return await known(_request, unreadable("; ".join(map(_problem, error.errors()))))

    @app.exception_handler(HTTPException)
    async def not_routed(_request: Request, error: HTTPException) -> JSONResponse:
        code = {404: Code.NOT_FOUND, 405: Code.UNIMPLEMENTED}.get(error.status_code, Code.INVALID_ARGUMENT)
        return await known(_request, ApiError(code, str(error.detail), by_gateway=True))

    @app.exception_handler(OperationalError)
    async def database(_request: Request, error: OperationalError) -> JSONResponse:
        logging.getLogger("uvicorn.error").error("database: %s", error)
        return await known(_request, ApiError(Code.UNAVAILABLE, f"the sandbox's database: {error.orig}"))

    @app.exception_handler(Exception)
    async def unknown(_request: Request, error: Exception) -> JSONResponse:
        return await known(_request, ApiError(Code.INTERNAL, f"Internal Server Error: {type(error).__name__}"))


def _problem(error: dict) -> str:
    where = ".".join(str(part) for part in error["loc"][1:]) or "the request"
    return f"{where}: {error['msg']}"
