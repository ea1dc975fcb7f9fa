"""A proxy on loopback before a real S3 server. The proxy injects faults into some requests and responses."""

import http.client
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

ERRORS = {"InternalError": 500, "SlowDown": 503, "RequestTimeTooSkewed": 403, "AccessDenied": 403}


@dataclass
class Faults:
    """The faults to inject, and the number of faults so far.

    Attributes:
        kind: a code of `ERRORS`, or "slow", "reset", "truncated", "damaged answer", "damaged request".
        method: the HTTP method of the requests that get a fault.
        part: a part of their path or query.
        times: the number of faults. All later requests pass.
        after: the number of such requests that pass before the first fault.
        seen: the number of faults injected so far.
    """

    kind: str
    method: str
    part: str
    times: int
    after: int = 0
    seen: int = 0
    lock: Lock = field(default_factory=Lock)

    def fault_for(self, method: str, path: str) -> str:
        """Return the kind of fault for a request; "" if the request passes."""
        with self.lock:
            if method != self.method or self.part not in path or self.seen >= self.times:
                return ""
            if self.after:
                self.after -= 1
                return ""
            self.seen += 1
            return self.kind


@contextmanager
def faulty_s3(endpoint: str, faults: Faults, slow_seconds: float) -> Iterator[str]:
    """Start a proxy before an endpoint, and return the address of the proxy.

    Args:
        endpoint: the address of the real S3.
        faults: the faults to inject.
        slow_seconds: the delay of a "slow" response, in seconds.
    """
    upstream = urlsplit(endpoint)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            fault = faults.fault_for(self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault in ERRORS:
                text = f"<Error><Code>{fault}</Code><Message>injected</Message></Error>".encode()
                self.answer(ERRORS[fault], [("Content-Type", "application/xml")], text)
                return
            if fault == "slow":
                time.sleep(slow_seconds)
            if fault == "damaged request":
                body = _damaged(body, faults.seen)
            connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            got = connection.getresponse()
            content, headers = got.read(), got.getheaders()
            connection.close()
            if fault in ("reset", "truncated"):
                self.break_off(got.status, headers, content, reset=fault == "reset")
            else:
                self.answer(
                    got.status, headers, _damaged(content, faults.seen) if fault == "damaged answer" else content
                )

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

        def answer(self, status: int, headers: list, content: bytes) -> None:
            self.head(status, headers, len(content))
            if self.command != "HEAD":
                self.wfile.write(content)

        def break_off(self, status: int, headers: list, content: bytes, reset: bool) -> None:
            if content:
                self.head(status, headers, len(content))
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def head(self, status: int, headers: list, length: int) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            given = {name.lower(): value for name, value in headers}
            self.send_header(
                "Content-Length", given.get("content-length", "0") if self.command == "HEAD" else str(length)
            )
            self.end_headers()

        def finish(self) -> None:
            with suppress(OSError, ValueError):  # the connection was closed on purpose
                super().finish()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        handle_error: Callable = lambda *_: None

    with Server(("127.0.0.1", 0), Proxy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _damaged(content: bytes, number: int) -> bytes:
    """Change one byte, at another position for each number."""
    middle = min(len(content) // 2 + number, len(content) - 1)
    return content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :] if content else content
