"""Writes the sandbox's small files, makes its temporary folders, and looks at the space on its disk."""

import os
import shutil
import tempfile
from pathlib import Path

from workshop.sandbox.errors import SandboxError

# The path of a UNIX socket has at most 103 bytes on macOS and 107 on Linux (unix(7)). Python's fork server puts
# `/pymp-12345678/listener-12345678` below its temporary folder.
LONGEST_PARENT_BYTES = 50
# A disk with less free space than this counts as full.
FULL_MB = 5


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the whole text or nothing, even when this process is killed.

    Args:
        path: the file; its folder is made when missing.
        text: the new content of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)  # noqa: PTH105


def make_temporary_folder(parent: str = "") -> Path:
    """Make a private temporary folder whose path is short enough for UNIX sockets.

    Args:
        parent: the folder in which to make it; TMPDIR by default. /tmp takes its place when its path is too long. A
            TMPDIR that does not exist is ignored, as in Python.

    Raises:
        SandboxError: no temporary folder can be made.
    """
    try:
        parent = parent or tempfile.gettempdir()
        if len(os.fsencode(parent)) > LONGEST_PARENT_BYTES:
            parent = "/tmp"
        return Path(tempfile.mkdtemp(prefix="workshop-", dir=parent))
    except OSError as error:
        raise SandboxError(
            f"no temporary folder can be made: {error.strerror or error}. Set TMPDIR to a folder that you may write "
            f"to, whose path has at most {LONGEST_PARENT_BYTES} characters"
        ) from None


def free_mb(directory: Path) -> int:
    """Return how many MB (2**20 bytes) are free on the disk of a folder."""
    return shutil.disk_usage(directory).free // 2**20


def full_disk(directory: Path) -> str:
    """Return a sentence that names a full disk and says what to do; "" when the disk is not full.

    Args:
        directory: a folder on the disk.
    """
    try:
        free = free_mb(directory)
    except OSError:
        return ""
    if free >= FULL_MB:
        return ""
    return (
        f"The disk of {directory} is full ({free} MB are free). Make room there, or set WORKSHOP_SANDBOX_DIR to a "
        "folder on another disk."
    )
