"""Builds the server from its services."""

import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse
from starlette.types import ASGIApp

from workshop.sandbox.pipelines_api import experiments, pipelines, recurring_runs, run_details, runs, services
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.contract import Runner
from workshop.sandbox.pipelines_api.errors import ApiError, Code
from workshop.sandbox.pipelines_api.guard import Guard
from workshop.sandbox.pipelines_api.limits import Limits
from workshop.sandbox.pipelines_api.tables import Store

PREFIX = "/apis/v2beta1"
LOG_PREFIX = "/apis/v1alpha1"  # the prefix of the log endpoint in the real server
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


def make_app(directory: Path, secret: str, sandbox: Path, runner: Runner) -> ASGIApp:
    """Return the server.

    Args:
        directory: the folder of the database and of the run folders.
        secret: the first part of every path.
        sandbox: the sandbox's folder.
        runner: how tasks are executed.
    """
    database = directory / "pipelines.sqlite"
    store = Store(database)
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
    details = run_details.router(store, dispatcher, sandbox)
    contract = (
        experiments.router(store),
        pipelines.router(store),
        runs.router(store, dispatcher),
        recurring_runs.router(store, dispatcher),
        services.router(),
    )
    for router in (*contract, details):
        app.include_router(router, prefix=PREFIX)
    app.include_router(_only_logs(details), prefix=LOG_PREFIX)
    app.get("/")(lambda: FileResponse(PAGE, headers=PAGE_HEADERS))
    _answer_errors(app)
    return Guard(Limits(app), secret)


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


def _only_logs(details: APIRouter) -> APIRouter:
    logs = APIRouter()
    logs.routes.extend(route for route in details.routes if isinstance(route, APIRoute) and route.path.endswith("/log"))
    return logs


def _answer_errors(app: FastAPI) -> None:
    """Give every error the form `{error, code, message, details}`."""

    @app.exception_handler(ApiError)
    async def known(_request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        return await known(_request, ApiError(Code.INVALID_ARGUMENT, "; ".join(map(_problem, error.errors()))))

    @app.exception_handler(HTTPException)
    async def not_routed(_request: Request, error: HTTPException) -> JSONResponse:
        code = {404: Code.NOT_FOUND, 405: Code.UNIMPLEMENTED}.get(error.status_code, Code.INVALID_ARGUMENT)
        return await known(_request, ApiError(code, str(error.detail), error.status_code))

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
