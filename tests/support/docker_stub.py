"""A server that looks like a Docker Engine to the sandbox."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Engine(http.server.BaseHTTPRequestHandler):
    """Answers the request by which clients find a Docker Engine, and no other."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/_ping" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def engine() -> Iterator[str]:
    """Run the server, and yield its address in the form of DOCKER_HOST."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()
