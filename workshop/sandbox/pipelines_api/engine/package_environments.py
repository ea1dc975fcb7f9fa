"""Creates environments for `packages_to_install`: one per set of packages, shared by all tasks that need the set.

On a cluster, a lightweight component installs its packages when its container starts. Here, the same command runs once
in a separate virtual environment. That environment sees the packages of the environment in which tasks run, so pip does
not install them again. Tasks with other packages do not see the environment.
"""

import hashlib
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workshop.sandbox.pipelines_api.engine import logs
from workshop.sandbox.pipelines_api.engine.contract import Job
from workshop.sandbox.pipelines_api.engine.environment import prepend_path
from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError
from workshop.sandbox.pipelines_api.engine.process import Running
from workshop.sandbox.pipelines_api.engine.run_folder import remove

_COMPLETE = "complete"
_OWN_ENVIRONMENT = re.compile(r"""^(python3 -m venv .*|\. "\$tmp/venv/bin/activate")$""", re.MULTILINE)


def split(command: list[str]) -> tuple[str, list[str]]:
    """Split a component's command into the installation of packages and the program.

    Returns:
        The shell script that installs packages ("" if there is none), and the rest of the command.
    """
    if len(command) < 4 or command[:2] != ["sh", "-c"]:
        return "", command
    script = command[2]
    installs = "pip install" in script and script.rstrip().endswith('"$0" "$@"')
    if not installs:
        return "", command
    # `use_venv` adds commands that create an environment. This module removes the commands and creates the
    # environment itself.
    return _OWN_ENVIRONMENT.sub(":", script), command[3:]


class PackageEnvironments:
    """The package environments that all runs share.

    Args:
        job: the run. Its `package_environments` is the folder.
        running: runs the commands that create an environment.
        cancelled: set when the run is cancelled; ends the wait for another run's lock.
    """

    def __init__(self, job: Job, running: Running, cancelled: threading.Event) -> None:
        self._job = job
        self._running = running
        self._cancelled = cancelled

    def provide(self, script: str, environment: Mapping[str, str], scratch: Path, log: Path) -> Path:
        """Return the `bin` folder of the environment for an install script. Create the environment if necessary.

        Args:
            script: the shell script that installs the packages.
            environment: the task's environment variables.
            scratch: the task's folder for temporary files.
            log: the task's log.

        Raises:
            EngineError: the packages cannot be installed.
            Cancelled: the run was cancelled.
        """
        key = hashlib.sha256(f"{script}\0{self._job.python}".encode()).hexdigest()[:32]
        folder = self._job.package_environments / key
        if not (folder / _COMPLETE).exists():
            self._job.package_environments.mkdir(parents=True, exist_ok=True)
            with self._locked(folder):
                if not (folder / _COMPLETE).exists():
                    self._create(folder, script, environment, scratch, log)
        return folder / "bin"

    def _create(self, target: Path, script: str, environment: Mapping[str, str], scratch: Path, log: Path) -> None:
        remove(target)
        start = logs.size(log)
        venv = [sys.executable, "-m", "uv", "venv", "--quiet", "--no-project", "--no-config"]
        exit_code = self._running.process(
            [*venv, "--python", str(self._job.python / "bin" / "python"), str(target)], environment, scratch, log
        )
        if exit_code != 0:
            raise EngineError(f"cannot create an environment for the task's packages: {logs.pip_errors(log, start)}")
        self._link_component_packages(target)
        inside = {**environment, "PATH": prepend_path(target / "bin", environment["PATH"]), "VIRTUAL_ENV": str(target)}
        if self._running.process(["sh", "-c", script, "true"], inside, scratch, log) != 0:
            raise EngineError(f"its packages cannot be installed: {logs.pip_errors(log, start)}")
        (target / _COMPLETE).touch()

    def _link_component_packages(self, target: Path) -> None:
        paths = [str(path) for path in sorted(self._job.python.glob("lib/python*/site-packages"))]
        for packages in target.glob("lib/python*/site-packages"):
            (packages / "component_environment.pth").write_text("\n".join(paths) + "\n")

    @contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        lock = FileLock(f"{target}.lock")
        while True:
            try:
                lock.acquire(timeout=0.3)
                break
            except Timeout:
                if self._cancelled.is_set():
                    raise Cancelled from None
        try:
            yield
        finally:
            lock.release()
