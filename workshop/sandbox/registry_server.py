"""The process of the registry: `python -m workshop.sandbox.registry_server PORT PROGRAM`.

The program of Docker's registry checks neither the Host nor the Origin header of a request. So the program listens on
a UNIX socket that only this user can open, and this process passes on the requests that `http_guard` accepts.
"""

import asyncio
import os
import sys
import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from workshop.sandbox.http_guard import Refused, check_sender
from workshop.sandbox.processes import HOST

CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: '{images}'}}
  delete: {{enabled: true}}
http: {{net: unix, addr: '{socket}', headers: {{X-Content-Type-Options: [nosniff]}}}}
"""
MOST_CONNECTIONS = 200
HEADERS_WITHIN_SECONDS = 10
PIECE_BYTES = 1 << 18


class Gate:
    """Passes each accepted request on to the registry. Each connection carries one request.

    Args:
        port: the port of loopback that clients use.
        socket: the UNIX socket of the registry.
    """

    def __init__(self, port: int, socket: Path) -> None:
        self._port = port
        self._socket = socket
        # The connections that have not sent their headers; the oldest is the first.
        self._silent: OrderedDict[asyncio.StreamWriter, None] = OrderedDict()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._silent[writer] = None
        if len(self._silent) > MOST_CONNECTIONS:
            self._silent.popitem(last=False)[0].transport.abort()
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                async with asyncio.timeout(HEADERS_WITHIN_SECONDS):
                    head = await _read_head(reader)
                self._silent.pop(writer, None)
                await self._pass_on(checked_head(head, self._port), reader, writer)
            except Refused as refused:
                writer.write(_refusal(refused))
                await writer.drain()
        self._silent.pop(writer, None)
        writer.close()

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_registry, to_registry = await asyncio.open_unix_connection(self._socket)
        except OSError:
            raise Refused(502, "the registry does not answer yet") from None
        to_registry.write(head)
        sending = asyncio.create_task(_copy(reader, to_registry))
        try:
            await _copy(from_registry, writer)
        finally:
            sending.cancel()
            to_registry.close()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    """Read the first line and the headers of a request.

    Raises:
        Refused: the client speaks another protocol. Docker first tries TLS, and tries HTTP after any other answer.
    """
    start = await reader.readexactly(1)
    if not start.isalpha():
        raise Refused(400, "this server speaks HTTP without TLS")
    return start + await reader.readuntil(b"\r\n\r\n")


def checked_head(head: bytes, port: int) -> bytes:
    """Check the head of a request, and return the head that the registry gets.

    The registry ends the connection after its response. So no request passes without a check.

    Args:
        head: the first line and the headers, with the empty line.
        port: the port of the server.

    Raises:
        Refused: the request must not be passed on.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = [line.partition(b":")[::2] for line in lines]
    if any(not name or name != name.strip() or b"\n" in line for (name, _), line in zip(headers, lines, strict=True)):
        raise Refused(400, "the headers are malformed")
    lowered = [(name.lower(), value.strip()) for name, value in headers]
    check_sender(first.partition(b" ")[0].decode("latin-1"), lowered, port)
    kept = [line for (name, _), line in zip(lowered, lines, strict=True) if name != b"connection"]
    return b"\r\n".join([first, *kept, b"Connection: close", b"", b""])


def _refusal(refused: Refused) -> bytes:
    body = f"{refused.message}\n"
    headers = f"Content-Type: text/plain\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body.encode())}"
    return f"HTTP/1.1 {refused.status} Refused\r\n{headers}\r\nConnection: close\r\n\r\n{body}".encode()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()


async def _serve(port: int, program: str) -> int:
    """Run the program until it ends, and return its exit code."""
    socket = Path(tempfile.gettempdir()) / "registry.sock"
    configuration = Path("config.yml")
    images = str(Path("images").resolve()).replace("'", "''")
    configuration.write_text(CONFIGURATION.format(images=images, socket=str(socket).replace("'", "''")))
    # Variables called REGISTRY_... would override the file.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    registry = await asyncio.create_subprocess_exec(program, "serve", str(configuration), env=environment)
    await asyncio.start_server(Gate(port, socket).handle, HOST, port, backlog=128)
    return await registry.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(_serve(int(sys.argv[1]), sys.argv[2])))
