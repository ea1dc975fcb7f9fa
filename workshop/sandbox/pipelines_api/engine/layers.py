"""Environments for `packages_to_install`: made once for a set of packages, and shared by all tasks that want it.

A lightweight component that names packages installs them when its container starts. Here, the same command runs once
in a virtual environment of its own, a *layer* over the one in which tasks run: what that holds already is seen by pip
and not installed again, and what a task installs reaches no other task.
"""

import hashlib
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workshop.sandbox.pipelines_api.engine import logs
from workshop.sandbox.pipelines_api.engine.artifacts import remove
from workshop.sandbox.pipelines_api.engine.contract import Job
from workshop.sandbox.pipelines_api.engine.environment import with_first
from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError
from workshop.sandbox.pipelines_api.engine.process import Running

_COMPLETE = "complete"
_OWN_ENVIRONMENT = re.compile(r"""^(python3 -m venv .*|\. "\$tmp/venv/bin/activate")$""", re.MULTILINE)


def split(command: list[str]) -> tuple[str, list[str]]:
    """Part a component's command into what installs packages and what runs then.

    Returns:
        The shell script that installs, "" when there is none, and the rest of the command.
    """
    if len(command) < 4 or command[:2] != ["sh", "-c"]:
        return "", command
    script = command[2]
    installs = "pip install" in script and script.rstrip().endswith('"$0" "$@"')
    if not installs:
        return "", command
    # What `use_venv` adds: an environment of its own, as the layer is one already.
    return _OWN_ENVIRONMENT.sub(":", script), command[3:]


class Layers:
    """The layers that runs share.

    Args:
        job: the run; its `layers` is the folder.
        running: runs what makes a layer.
        cancelled: set when waiting is to be broken off.
    """

    def __init__(self, job: Job, running: Running, cancelled: threading.Event) -> None:
        self._job = job
        self._running = running
        self._cancelled = cancelled

    def provide(self, script: str, environment: Mapping[str, str], scratch: Path, log: Path) -> Path:
        """Return the `bin` folder of the layer for an install script, made when it is not there.

        Args:
            script: what installs the packages.
            environment: that of the task.
            scratch: the task's folder for temporary files.
            log: the task's log.

        Raises:
            EngineError: the packages cannot be installed.
            Cancelled: the run was cancelled meanwhile.
        """
        key = hashlib.sha256(f"{script}\0{self._job.python}".encode()).hexdigest()[:32]
        layer = self._job.layers / key
        if not (layer / _COMPLETE).exists():
            self._job.layers.mkdir(parents=True, exist_ok=True)
            with self._locked(layer):
                if not (layer / _COMPLETE).exists():
                    self._make(layer, script, environment, scratch, log)
        return layer / "bin"

    def _make(self, layer: Path, script: str, environment: Mapping[str, str], scratch: Path, log: Path) -> None:
        remove(layer)
        start = log.stat().st_size if log.exists() else 0
        venv = [sys.executable, "-m", "uv", "venv", "--quiet", "--no-project", "--no-config"]
        made = self._running.process(
            [*venv, "--python", str(self._job.python / "bin" / "python"), str(layer)], environment, scratch, log
        )
        if made != 0:
            raise EngineError(f"cannot make an environment for the task's packages: {logs.pip_errors(log, start)}")
        self._show_what_the_image_holds(layer)
        inside = {**environment, "PATH": with_first(layer / "bin", environment["PATH"]), "VIRTUAL_ENV": str(layer)}
        if self._running.process(["sh", "-c", script, "true"], inside, scratch, log) != 0:
            raise EngineError(f"its packages cannot be installed: {logs.pip_errors(log, start)}")
        (layer / _COMPLETE).touch()

    def _show_what_the_image_holds(self, layer: Path) -> None:
        below = [str(path) for path in sorted(self._job.python.glob("lib/python*/site-packages"))]
        for packages in layer.glob("lib/python*/site-packages"):
            (packages / "component_environment.pth").write_text("\n".join(below) + "\n")

    @contextmanager
    def _locked(self, layer: Path):
        lock = FileLock(f"{layer}.lock")
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
