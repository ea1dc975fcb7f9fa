"""Writes the sandbox's small files."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the whole text or nothing, even when this process is killed.

    Args:
        path: the file; its folder is made when missing.
        text: what the file holds afterwards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)  # noqa: PTH105
