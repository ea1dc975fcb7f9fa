"""The real AWS CLI without its start-up: a server that has imported awscli answers each call from a forked process.

The program `aws` needs most of a second to start, nearly all of it for imports, and the tests of the scripts call it
hundreds of times. Tests put a small client on PATH instead. The client passes its words, environment, folder and open
files to the server. The server forks, and the forked process runs the file of the real program with them.
"""

import array
import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

from workshop.project import PROGRAMS

REAL_PROGRAM = PROGRAMS / "aws"
STARTS_WITHIN_SECONDS = 120
_LENGTH_BYTES = 8

# The client imports as little as it can, because its start takes most of the time of a call. The client's first
# line names the Python on which the environment is based. The path of the environment may hold a space, and a first
# line must not.
_CLIENT = """#!{python} -IS
import array, json, os, socket, sys
umask = os.umask(0)
os.umask(umask)
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
call = json.dumps([sys.argv, dict(os.environ), os.getcwd(), umask]).encode()
files = array.array("i", [0, 1, 2])
connection.sendmsg([len(call).to_bytes({length}, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
connection.sendall(call)
status = connection.recv(1)
if not status:
    sys.exit("aws: the server of the tests ended before it answered")
os._exit(status[0])
"""


@cache
def program() -> Path:
    """Start the server of this process, and return the program that calls it."""
    folder = Path(tempfile.mkdtemp(prefix="workshop-aws-"))  # a short path: a socket's has at most 107 bytes
    address = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, str(address)], stdin=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    atexit.register(_end, server, folder)
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while not address.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server of the AWS CLI does not start; look why: python -m {__name__} SOCKET")
        time.sleep(0.02)
    client = folder / "aws"
    client.write_text(_CLIENT.format(python=sys._base_executable, address=str(address), length=_LENGTH_BYTES))
    client.chmod(0o755)
    return client


def _end(server: subprocess.Popen, folder: Path) -> None:
    server.stdin.close()
    server.wait()
    shutil.rmtree(folder)


def serve(address: str) -> None:
    """Answer calls until standard input ends, which it also does when the process that started this one is killed."""
    # What every call imports; the program itself imports the handlers later.
    import awscli.clidriver
    import awscli.handlers  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # calls that have ended leave no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        Path(f"{address}.new").rename(address)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> NoReturn:
    """Run one call in this forked process, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 255
    try:
        words, environment, folder, umask = _receive(connection)
        threading.Thread(target=_end_with_client, args=(connection,), daemon=True).start()
        os.chdir(folder)
        os.umask(umask)
        os.environ.clear()
        os.environ.update(environment)
        importlib.reload(sys.modules["awscli"])  # the import of awscli adds an environment variable
        sys.argv = words
        sys.stdin = open(0)  # noqa: SIM115
        sys.stdout = open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
        status = _run_real_program()
    except Exception:
        traceback.print_exc()  # os._exit prints no traceback
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        with contextlib.suppress(OSError):
            connection.sendall(bytes([status % 256]))
        os._exit(status % 256)


def _run_real_program() -> int:
    try:
        runpy.run_path(str(REAL_PROGRAM), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _receive(connection: socket.socket) -> list:
    """Use the files of the client as this process's own, and return the other data that the client has sent."""
    files = array.array("i")
    length, messages, _, _ = connection.recvmsg(_LENGTH_BYTES, socket.CMSG_SPACE(3 * files.itemsize))
    for level, kind, data in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    size, received = int.from_bytes(length, "big"), bytearray()
    while len(received) < size:
        received += connection.recv(size - len(received))
    return json.loads(received)


def _end_with_client(connection: socket.socket) -> None:
    """End this process when its client has been killed."""
    connection.recv(1)
    os._exit(255)


if __name__ == "__main__":
    serve(sys.argv[1])
