"""Runs an ASGI application on loopback, with a limit on the number of connections.

Without a limit, a client that opens connections and sends nothing uses up all file descriptors of the
process. The server then answers nobody.
"""

import asyncio
import logging
import resource
from collections import OrderedDict
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from workshop.sandbox.processes import HOST

MOST_CONNECTIONS = 500
HEADERS_WITHIN_SECONDS = 10
# The event loop accepts this many connections at a time, and then closes those above the limit.
BACKLOG = 128


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol for one connection, with a limit on all connections of the process.

    A connection above the limit closes the connection that has been quiet for the longest time. A connection whose
    request is being answered stays open. A connection is also closed when the headers of a request take too long.
    """

    # The open connections; the connection that has been quiet for the longest time is the first.
    _by_activity: ClassVar["OrderedDict[BoundedProtocol, None]"] = OrderedDict()
    _waiting: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # A warning for each malformed request would let any client fill the disk.
        self.logger = logging.getLogger("uvicorn.error.connections")
        self.logger.setLevel(logging.ERROR)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._by_activity[self] = None
        self._await_headers()
        if len(self._by_activity) > connection_limit():
            quiet = next((one for one in self._by_activity if not one._is_answering()), self)
            quiet._abort()

    def data_received(self, data: bytes) -> None:
        if self in self._by_activity:
            self._by_activity.move_to_end(self)
        super().data_received(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        """Tell whether the whole request has arrived, and its response is not complete."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _has_headers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_headers(self) -> None:
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(HEADERS_WITHIN_SECONDS, self._close_without_headers)

    def _close_without_headers(self) -> None:
        if not self._has_headers():
            self._abort()

    def _abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        self._by_activity.pop(self, None)
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None


def connection_limit() -> int:
    """Return how many connections this process may have open: half of its files at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(1, files // 2))


def serve(app: Any, port: int, **options: Any) -> None:
    """Serve until the process is asked to stop.

    Args:
        app: the ASGI application.
        port: a port of loopback.
        options: further options of `uvicorn.run`.
    """
    fixed: dict[str, Any] = {"host": HOST, "port": port, "http": BoundedProtocol, "ws": "none", "backlog": BACKLOG}
    quiet: dict[str, Any] = {"access_log": False, "log_level": "warning", "server_header": False}
    uvicorn.run(app, **fixed, **quiet, **options)
