"""The environment in which the sandbox runs the tasks of a pipeline: what the component image holds, and nothing else.

A component that imports something which its image lacks must fail on this machine too, so tasks do not run in the
environment of the notebooks. This one is made from `docker/component/requirements.txt`, at the first call, and made
anew when that file or the Python has changed. The package `pipelines`, which the image holds as well, is linked into
it, so that tasks import it as it is now.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from workshop.project import ROOT
from workshop.sandbox.errors import SandboxError

REQUIREMENTS = ROOT / "docker" / "component" / "requirements.txt"
PIPELINES = ROOT / "pipelines"
LOCATION = ROOT / ".component"
# Written last: a folder without it is half made. It holds which Python and platform the folder is for.
READY = ".ready"
# Another process may be fetching every package over a slow line.
MADE_WITHIN_SECONDS = 1800
# What a notebook has set for its own pip, uv and Python would send packages elsewhere. Of uv's variables, those stay
# that say where packages come from and how they are fetched.
FOREIGN_PREFIXES = ("PIP_", "PYTHON", "UV_", "VIRTUAL_ENV", "CONDA_PREFIX")
FETCHING_PREFIXES = (
    "UV_CACHE",
    "UV_CONCURRENT",
    "UV_CONFIG_FILE",
    "UV_CREDENTIALS",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX",
    "UV_FIND_LINKS",
    "UV_HTTP",
    "UV_INDEX",
    "UV_INSECURE_HOST",
    "UV_KEYRING",
    "UV_LINK_MODE",
    "UV_NATIVE_TLS",
    "UV_NO_CACHE",
    "UV_NO_INDEX",
    "UV_OFFLINE",
    "UV_REQUEST",
    "UV_SYSTEM_CERTS",
)


def ensure() -> Path:
    """Make the environment of the tasks if it is missing; safe to call from several processes at once.

    A call that finds it made takes less than a millisecond.

    Returns:
        The folder of a virtual environment; its Python is `bin/python3` there.

    Raises:
        SandboxError: a package cannot be fetched, or the project folder cannot be written.
    """
    try:
        folder = LOCATION / _fingerprint()
        if not _is_made(folder):
            with _locked() as lock:
                if not _is_made(folder):
                    _make(folder, lock)
    except OSError as error:
        raise _failed(str(error)) from None
    return folder


def main() -> None:
    """Make the environment and print its folder."""
    try:
        print(ensure())
    except SandboxError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _fingerprint() -> str:
    """Return the name of the folder: another one for each lock, Python and platform."""
    python = (platform.python_version(), sysconfig.get_platform(), str(PIPELINES))
    parts = (REQUIREMENTS.read_bytes(), *(part.encode() for part in python))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _kind() -> str:
    """Return what an environment must share with another one to take its place; a new lock or patch changes nothing."""
    return f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor} {sysconfig.get_platform()}"


def _is_made(folder: Path) -> bool:
    """Tell whether an environment is complete and the Python that it was made with is still there."""
    return (folder / READY).exists() and (folder / "bin" / "python3").exists()


@contextmanager
def _locked() -> Iterator[int]:
    """Hold the lock on all environments: two notebooks that start at once must not write into one folder.

    Returns:
        The lock's descriptor, for the children to inherit. A uv whose parent was killed goes on writing, and holds the
        lock until it ends; this is what `filelock`, which closes its descriptor for children, would not do.
    """
    LOCATION.mkdir(exist_ok=True)
    deadline = time.monotonic() + MADE_WITHIN_SECONDS
    with open(LOCATION / ".lock", "w") as lock:
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise _failed(f"another process has held {lock.name} for {MADE_WITHIN_SECONDS} s; end it")
            time.sleep(0.1)
        yield lock.fileno()


def _try_lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(folder: Path, lock: int) -> None:
    """Make an environment where it stays, because its scripts hold its path, and delete those that it replaces."""
    print(
        "making .component, in which the sandbox runs tasks (0.5 GB on disk; a minute or more when its packages are "
        "not in the cache yet)",
        file=sys.stderr,
        flush=True,
    )
    _delete(folder)
    python = folder / "bin" / "python3"
    # uv takes the Python that this one was made from, so that the environment does not depend on .venv.
    _uv(lock, "venv", "--no-project", "--python", sys.executable, str(folder))
    _uv(lock, "pip", "sync", "--require-hashes", "--python", str(python), str(REQUIREMENTS))
    _link_pipelines(folder)
    _compile(lock, folder)
    (folder / READY).write_text(_kind())
    _delete_replaced(folder)


def _link_pipelines(folder: Path) -> None:
    for packages in folder.glob("lib/python*/site-packages"):
        (packages / PIPELINES.name).symlink_to(PIPELINES, target_is_directory=True)


def _uv(lock: int, *arguments: str) -> None:
    """Run uv, which is a package of the environment that we run in.

    Raises:
        SandboxError: uv failed; the message holds the end of what it said.
    """
    done = _run(lock, LOCATION, sys.executable, "-m", "uv", *arguments, "--quiet")
    if done.returncode != 0:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise _failed(f"`uv {' '.join(arguments[:2])}` says:\n{end or f'nothing, with exit status {done.returncode}'}")


def _environment() -> dict[str, str]:
    """Return this process's environment variables without those that lead uv and Python astray."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN_PREFIXES) or name.startswith(FETCHING_PREFIXES)
    }


def _compile(lock: int, folder: Path) -> None:
    """Compile the packages once: tasks are new processes, and would import pandas in seconds instead of half of one.

    No exit status counts: a package may hold files for other versions of Python, and tasks run without this too.
    The path is a relative one, so that a project below a folder named `tests` is compiled.
    """
    _run(lock, folder, str(folder / "bin" / "python3"), "-m", "compileall", "-qq", "-j", "0", "-x", "/tests?/", "lib")


def _run(lock: int, cwd: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command that holds the lock, and return what it said, on both streams, as `stdout`."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=_environment(),
        pass_fds=[lock],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _delete_replaced(made: Path) -> None:
    """Delete half-made environments, and those of earlier locks; one for another Python is still in use there."""
    for folder in LOCATION.iterdir():
        ready = folder / READY
        if folder.is_dir() and folder != made and (not ready.exists() or ready.read_text() == _kind()):
            with suppress(OSError):  # it only takes up space; the next environment deletes it
                _delete(folder)


def _delete(folder: Path) -> None:
    """Delete an environment, the mark first: what an interruption leaves of it must not look made."""
    (folder / READY).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _failed(why: str) -> SandboxError:
    return SandboxError(
        f"the environment in which tasks run could not be made: {why}\n"
        f"It holds the packages of {REQUIREMENTS} and lies in {LOCATION}. Look whether that folder can be written and "
        "has 0.5 GB left, and whether this machine reaches its package index. Then try again:\n"
        f"{sys.executable} -m workshop.sandbox.component_environment"
    )


if __name__ == "__main__":
    main()
