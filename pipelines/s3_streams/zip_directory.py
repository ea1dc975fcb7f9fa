"""The directory of a zip in S3, and the names in it. `zipfile` reads the directory, in its older and newer forms."""

import fnmatch
import io
import re
import stat
import struct
import zipfile
from contextlib import suppress

from pipelines.s3_streams.objects import S3Object

# Most directories are shorter than this, and one range then holds the whole directory.
TAIL_BYTES = 128 << 10
MAX_DIRECTORY_BYTES = 64 << 20
UTF_8_FLAG = 0x800
CREATED_ON_UNIX = 3
# Folders and files that macOS adds to a zip.
MACOS_EXTRAS = re.compile(r"(^|/)(__MACOSX/|\._[^/]*$)")


def read_directory(source: S3Object) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries of a zip's directory, and the position of the directory in bytes.

    Raises:
        ValueError: the object is not a zip, or the zip is not complete.
        S3Error: S3 refuses or fails, or the object was replaced.
    """
    try:
        with zipfile.ZipFile(_DirectoryFile(source)) as archive:
            return archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError, struct.error) as error:
        raise ValueError(
            f"{source.address} is not a complete zip file: {error}; check the key, or upload the zip again"
        ) from error


def entry_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of an entry, with `/` between folders.

    The specification of zip says that a name without the UTF-8 flag is in cp437, and `zipfile` decodes it so. But zip
    programs on Linux and macOS write UTF-8 without the flag, and other text is rarely valid UTF-8 by accident.
    """
    name: str = entry.orig_filename
    if not entry.flag_bits & UTF_8_FLAG:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def clean_name(name: str) -> str:
    """Return a name without empty parts and parts that are `.`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def matches(name: str, pattern: str) -> bool:
    """Return True if a name is that of a file and matches a shell pattern, in upper or lower case.

    A pattern with a `/` is for the whole path, any other for the last part. Files that macOS adds never match.
    """
    compared = name if "/" in pattern else name.rpartition("/")[2]
    is_wanted = fnmatch.fnmatchcase(compared.lower(), pattern.lower()) and not name.endswith("/")
    return is_wanted and not MACOS_EXTRAS.search(name)


def is_link(entry: zipfile.ZipInfo) -> bool:
    """Return True if an entry is a symbolic link."""
    return entry.create_system == CREATED_ON_UNIX and stat.S_ISLNK(entry.external_attr >> 16)


class _DirectoryFile(io.RawIOBase):
    """The object as a file for `zipfile`. No checksum covers a directory, so every range is read twice."""

    def __init__(self, source: S3Object) -> None:
        self._source, self._position = source, 0
        self._tail_start = max(0, source.size - TAIL_BYTES)
        self._tail = source.read_twice(self._tail_start, source.size)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence] + offset
        if position < 0:
            raise OSError("a position before the start of the file")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        end = self._source.size if size < 0 else min(self._position + size, self._source.size)
        start, self._position = self._position, max(self._position, end)
        if start >= self._tail_start:
            return self._tail[start - self._tail_start : max(0, end - self._tail_start)]
        if end - start > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory is larger than {MAX_DIRECTORY_BYTES >> 20} MB")
        return self._source.read_twice(start, end)
