"""Opens the lessons in JupyterLab."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from jupyter_core import paths

from workshop.clean_environment import for_lessons
from workshop.errors import WorkshopError
from workshop.project import BUILD, NOTEBOOKS


def open_lessons(arguments: list[str]) -> NoReturn:
    """Replace this process by JupyterLab, with the lessons in it.

    Args:
        arguments: further arguments for JupyterLab.

    Raises:
        WorkshopError: JupyterLab could not write one of its folders.
    """
    for folder in (paths.jupyter_config_dir(), paths.jupyter_data_dir(), paths.jupyter_runtime_dir()):
        _check_writable(Path(folder))
    # JupyterLab refuses to run as root without this flag.
    as_root = ["--allow-root"] if os.geteuid() == 0 else []
    # Only this user can open the sockets of kernels. On TCP, other users of the machine could connect.
    private = "--KernelManager.transport=ipc"
    command = [sys.executable, "-P", "-m", "jupyterlab", str(NOTEBOOKS), private, *as_root, *arguments]
    os.execve(sys.executable, command, for_lessons(os.environ, BUILD / "ipython"))


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        reason = "permission denied"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if not writable:
        raise WorkshopError(
            f"JupyterLab cannot write its folder {folder}: {reason}. Give it a home folder that you may write to: "
            "HOME=/some/folder make lab"
        )
