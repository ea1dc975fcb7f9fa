"""Opens and checks files that a task may have replaced: by a pipe, a device, a socket, or a link to another place.

To open a pipe without a writer blocks for ever, and some devices have no end. So a file is checked before it is read.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from workshop.sandbox.pipelines_api.engine.errors import EngineError

MAX_OUTPUT_BYTES = 10 << 20  # the file of one output parameter, or the file with all outputs of a task
MAX_ARTIFACT_BYTES = 10 << 30  # all files of one artifact
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def check(path: Path, folder: Path, limit: int) -> bool:
    """Check that a file can be read, and return whether the file exists.

    Args:
        path: the file.
        folder: the folder of the run. A link in this folder must lead to a file in this folder.
        limit: the largest size in bytes.

    Raises:
        EngineError: the file is not a regular file, is too large, or is a link out of the folder.
    """
    if (found := _status(path, folder)) is None:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise EngineError(
            f"{path.name} is {_KINDS.get(stat.S_IFMT(found.st_mode), 'not a file')}; write a regular file"
        )
    if found.st_size > limit:
        raise too_large(path, found.st_size, limit)
    return True


def files_of(path: Path, folder: Path) -> Iterator[Path]:
    """Yield the files of an artifact: the file itself, or all files below a folder. Links to folders are left out.

    Args:
        path: the file or folder.
        folder: the folder of the run, as in `check`.

    Raises:
        EngineError: `check` refuses one of the files, or the files are too large together.
    """
    total = 0
    for file in _below(path, folder):
        if not check(file, folder, MAX_ARTIFACT_BYTES):
            continue
        total += file.stat().st_size
        if total > MAX_ARTIFACT_BYTES:
            raise too_large(path, total, MAX_ARTIFACT_BYTES)
        yield file


def open_to_read(path: Path) -> BinaryIO | None:
    """Open a regular file to read it. Return None if there is no such file, or if it is a link or no regular file."""
    try:
        return _regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb")
    except OSError:
        return None


def open_to_append(path: Path) -> BinaryIO:
    """Open a regular file to add to it. Whatever else has its name is deleted.

    Raises:
        OSError: the file cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        return _regular(os.open(path, flags, 0o600), "ab")
    except OSError:
        if path.is_dir() or not (path.is_symlink() or path.exists()) or (path.is_file() and not path.is_symlink()):
            raise
    path.unlink()
    return _regular(os.open(path, flags | os.O_EXCL, 0o600), "ab")


def too_large(path: Path, size: int, limit: int) -> EngineError:
    """Return the error for a file that is too large.

    Args:
        path: the file.
        size: its size in bytes.
        limit: the largest allowed size in bytes.
    """
    return EngineError(
        f"{path.name} has {size:,} bytes; the limit is {limit:,} bytes. Write large data to S3, and pass its address on"
    )


def _status(path: Path, folder: Path) -> os.stat_result | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:  # for example a link to itself
        raise EngineError(f"{path.name} cannot be read: {error.strerror}") from None
    if path.is_relative_to(folder) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise EngineError(f"{path.name} is a link out of the folder of the run; write a regular file")
    return found


def _below(path: Path, folder: Path) -> Iterator[Path]:
    if (found := _status(path, folder)) is None or not stat.S_ISDIR(found.st_mode):
        yield path
        return
    for parent, _, names in os.walk(path):
        yield from (Path(parent, name) for name in names)


def _regular(descriptor: int, mode: str) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("this is not a regular file")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, mode)  # type: ignore[return-value]
