"""The environment in which the sandbox runs the tasks of a pipeline: the component image's packages, and no others.

A component that imports a package which its image lacks must fail on this machine too. So tasks do not run in the
environment of the notebooks. The first call makes the environment of the tasks from
`docker/component/requirements.txt`. A later call makes a new environment when that file or the Python has changed.
The environment links to the package `pipelines`, which the image holds too, so that tasks
import its current code.
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
# This file is written last, so a folder without it is incomplete. The file names the Python and platform that the
# folder is for.
READY = ".ready"
# Another process may download every package over a slow line.
MADE_WITHIN_SECONDS = 1800
# A notebook's settings for its own pip, uv and Python would send packages elsewhere. uv's variables about the source
# and the download of packages stay.
INSTALLER_PREFIXES = ("PIP_", "PYTHON", "UV_", "VIRTUAL_ENV", "CONDA_PREFIX")
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

    If the environment exists, the call takes less than a millisecond.

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
    """Return the name of the folder: each lock, Python and platform has its own folder."""
    python = (platform.python_version(), sysconfig.get_platform(), str(PIPELINES))
    parts = (REQUIREMENTS.read_bytes(), *(part.encode() for part in python))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _kind() -> str:
    """Return the values that two environments must share, so that one can replace the other. The lock and the patch
    may differ."""
    return f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor} {sysconfig.get_platform()}"


def _is_made(folder: Path) -> bool:
    """Tell whether an environment is complete and its Python still exists."""
    return (folder / READY).exists() and (folder / "bin" / "python3").exists()


@contextmanager
def _locked() -> Iterator[int]:
    """Hold the lock on all environments: two notebooks that start at once must not write into one folder.

    Returns:
        The lock's descriptor, which the children inherit. A uv whose parent was killed goes on writing, so it must
        hold the lock until it ends. `filelock` closes its descriptor in children.
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
    """Make an environment in its final folder, because its scripts hold its path; delete the environments that it
    replaces."""
    print(
        "making .component, in which the sandbox runs tasks (0.5 GB on disk; a minute or more when its packages are "
        "not in the cache yet)",
        file=sys.stderr,
        flush=True,
    )
    _delete(folder)
    python = folder / "bin" / "python3"
    # uv takes the Python from which .venv was made, so the new environment does not depend on .venv.
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
    """Run the uv of this environment.

    Raises:
        SandboxError: uv failed; the message holds the end of its output.
    """
    done = _run(lock, LOCATION, sys.executable, "-m", "uv", *arguments, "--quiet")
    if done.returncode != 0:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise _failed(f"`uv {' '.join(arguments[:2])}` says:\n{end or f'nothing, with exit status {done.returncode}'}")


def _environment() -> dict[str, str]:
    """Return this process's environment variables without those that would change what uv and Python do."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(INSTALLER_PREFIXES) or name.startswith(FETCHING_PREFIXES)
    }


def _compile(lock: int, folder: Path) -> None:
    """Compile the packages once: each task is a new process, and would import pandas in 3 s instead of 0.5 s.

    The exit status is ignored: some packages hold files for other versions of Python, and tasks run without
    compiled files too. The path is relative, so that a project below a folder named `tests` is compiled.
    """
    _run(lock, folder, str(folder / "bin" / "python3"), "-m", "compileall", "-qq", "-j", "0", "-x", "/tests?/", "lib")


def _run(lock: int, cwd: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command that holds the lock, and return its result; `stdout` holds the output of both streams."""
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
    """Delete incomplete environments and environments of earlier locks; environments for other Pythons stay."""
    for folder in LOCATION.iterdir():
        ready = folder / READY
        if folder.is_dir() and folder != made and (not ready.exists() or ready.read_text() == _kind()):
            with suppress(OSError):  # the rest only takes space; the next call of this function deletes it
                _delete(folder)


def _delete(folder: Path) -> None:
    """Delete an environment, its mark first: after an interruption the rest must not look complete."""
    (folder / READY).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _failed(why: str) -> SandboxError:
    return SandboxError(
        f"the environment in which tasks run could not be made: {why}\n"
        f"It needs the packages of {REQUIREMENTS}, a folder {LOCATION} that can be written, 0.5 GB of free space, "
        "and a package index (look at HTTPS_PROXY and UV_DEFAULT_INDEX). Then try again:\n"
        f"{sys.executable} -m workshop.sandbox.component_environment"
    )


if __name__ == "__main__":
    main()
