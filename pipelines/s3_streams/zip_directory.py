"""The directory of a zip in S3, read piece by piece, and the names in it.

`zipfile` keeps about a kilobyte for each file, so a zip of 300,000 files would fill the memory of a task. The records
and their fields: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 to 4.3.16 and 4.5.
"""

import fnmatch
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pipelines.s3_streams.file_kinds import kind_of
from pipelines.s3_streams.text_encodings import IMPLAUSIBLE, readings

# Most directories are shorter than this, and one range then holds the whole directory.
TAIL_BYTES = 128 << 10
PIECE_BYTES = 2 << 20
MAX_DIRECTORY_BYTES = 64 << 20
END = struct.Struct("<4s4H2LH")
END_64_LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
RECORD = struct.Struct("<4s6H3L5H2L")
END_MARK, END_64_LOCATOR_MARK, END_64_MARK, RECORD_MARK = b"PK\5\6", b"PK\6\7", b"PK\6\6", b"PK\1\2"
UTF_8_FLAG = 0x800
CREATED_ON_UNIX = 3
# Extra fields: sizes and offset of more than 32 bits, and the name in UTF-8.
ZIP_64_FIELD, UNICODE_PATH_FIELD = 1, 0x7075
IN_ZIP_64 = 0xFFFFFFFF
LEGACY = "cp437"
# Folders and files that macOS adds to a zip.
MACOS_EXTRAS = re.compile(r"(^|/)(__MACOSX/|\._[^/]*$)")
ADVICE = "check the key, or upload the zip again"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the directory.

    Attributes:
        name: the name, with `/` between folders.
        is_name_guessed: whether the zip does not say how the name is encoded, and a guess was made.
        name_readings: readings of the name, if no guess is safe; else "".
        flags: the general purpose flags.
        method: the number of the compression method.
        crc: the CRC-32 of the unpacked file.
        compressed_size: in bytes.
        size: the unpacked size in bytes.
        offset: the position of the local header in the object, in bytes.
        is_link: whether the entry is a symbolic link.
    """

    name: str
    is_name_guessed: bool
    name_readings: str
    flags: int
    method: int
    crc: int
    compressed_size: int
    size: int
    offset: int
    is_link: bool


class Source(Protocol):
    """The bytes of a zip: an object in S3, or a file."""

    @property
    def address(self) -> str:
        """The URI or path, for messages."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to, but not including, `end`."""

    def read_twice(self, start: int, end: int) -> bytes:
        """Return a range that no checksum covers, after two equal reads."""


class ZipDirectory:
    """The directory of a zip.

    Args:
        source: the zip.

    Attributes:
        start: the position of the directory in the object, in bytes.

    Raises:
        ValueError: the object is not a zip, or the zip is not complete.
        S3Error: S3 refuses or fails, or the object was replaced.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tail_start = max(0, source.size - TAIL_BYTES)
        self._tail = source.read_twice(self._tail_start, source.size)
        position = self._find_end()
        disk, size, offset, position = self._end(position)
        if disk:
            raise ValueError(
                f"{source.address} is the last part of a zip in several parts: join the parts with `zip -s 0` and "
                "upload the whole zip"
            )
        self.start, self._size = position - size, size
        # Other data may be before the zip, such as a program that unpacks it. All offsets then count from the zip.
        self._shift = self.start - offset
        if self.start < 0 or self._shift < 0:
            raise self._incomplete("its directory is not where its end says")
        if size > MAX_DIRECTORY_BYTES:
            raise self._incomplete(f"its directory is larger than {MAX_DIRECTORY_BYTES >> 20} MB")

    def entries(self, name_encoding: str = "") -> Iterator[Entry]:
        """Return the entries in the order of the directory.

        Args:
            name_encoding: the encoding of names that the zip does not mark as UTF-8; "" to detect it.

        Raises:
            ValueError: the directory is damaged, or a name is not in this encoding.
            S3Error: S3 refuses or fails, or the object was replaced.
        """
        rest = b""
        for piece in self._pieces():
            block = rest + piece
            position = 0
            while (end := _end_of_record(block, position)) is not None:
                yield self._entry(block, position, name_encoding)
                position = end
            rest = block[position:]
            if len(rest) >= 4 and rest[:4] != RECORD_MARK:
                raise self._incomplete("its directory is damaged")
        if rest:
            raise self._incomplete("its directory is damaged")

    def _find_end(self) -> int:
        """Return the position of the end record within the tail."""
        position = len(self._tail)
        while (position := self._tail.rfind(END_MARK, 0, position)) >= 0:
            if position + END.size <= len(self._tail):
                comment = END.unpack_from(self._tail, position)[-1]
                if position + END.size + comment <= len(self._tail):
                    return position
        start = self._source.read(0, min(self._source.size, 4096))
        if kind := kind_of(start, is_zip_expected=True):
            raise ValueError(f"{self._source.address} is not a complete zip file; it is {kind}")
        raise self._incomplete(f"it has no directory at its end, and begins with {start[:16]!r}")

    def _end(self, position: int) -> tuple[int, int, int, int]:
        """Return number of the disk, size and offset of the directory, and the position where the directory ends."""
        _, disk, _, _, _, size, offset, _ = END.unpack_from(self._tail, position)
        at = self._tail_start + position
        locator = position - END_64_LOCATOR.size
        if locator < 0 or not self._tail.startswith(END_64_LOCATOR_MARK, locator):
            return disk, size, offset, at
        _, disk, end_offset, disks = END_64_LOCATOR.unpack_from(self._tail, locator)
        usual = self._tail_start + locator - END_64.size
        for start in (usual, end_offset):
            if not 0 <= start <= self._source.size - END_64.size:
                continue
            record = self._source.read_twice(start, start + END_64.size)
            if record.startswith(END_64_MARK):
                *_, size, offset = END_64.unpack(record)
                return disk or disks > 1, size, offset, start
        raise self._incomplete("its end is damaged")

    def _pieces(self) -> Iterator[bytes]:
        end = self.start + self._size
        if self.start >= self._tail_start:
            yield self._tail[self.start - self._tail_start : end - self._tail_start]
            return
        for start in range(self.start, end, PIECE_BYTES):
            yield self._source.read_twice(start, min(start + PIECE_BYTES, end))

    def _entry(self, block: bytes, position: int, name_encoding: str) -> Entry:
        fields = RECORD.unpack_from(block, position)
        _, version, _, flags, method, _, _, crc, compressed, size, name_size, extra_size = fields[:12]
        attributes, offset = fields[-2:]
        start = position + RECORD.size
        raw, extra = block[start : start + name_size], block[start + name_size : start + name_size + extra_size]
        if IN_ZIP_64 in (compressed, size, offset):
            size, compressed, offset = self._large(extra, size, compressed, offset)
        offset += self._shift
        if not 0 <= offset < self.start:
            raise self._incomplete(f"a file in it would begin at {offset:,}, which is not before its directory")
        name, is_guessed, unreadable = _name(raw, flags, extra, name_encoding)
        is_link = version >> 8 == CREATED_ON_UNIX and stat.S_ISLNK(attributes >> 16)
        return Entry(name, is_guessed, unreadable, flags, method, crc, compressed, size, offset, is_link)

    def _large(self, extra: bytes, *values: int) -> Iterator[int]:
        """Return size, compressed size and offset; the extra field holds those that need more than 32 bits."""
        field = _extra_field(extra, ZIP_64_FIELD)
        position = 0
        for value in values:
            if value == IN_ZIP_64:
                if len(field) < position + 8:
                    raise self._incomplete("its directory is damaged: a size is missing")
                value = int.from_bytes(field[position : position + 8], "little")
                position += 8
            yield value

    def _incomplete(self, problem: str) -> ValueError:
        return ValueError(f"{self._source.address} is not a complete zip file: {problem}; {ADVICE}")


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


def _end_of_record(block: bytes, position: int) -> int | None:
    """Return the end of the record at a position; None if the block does not hold the whole record."""
    if len(block) - position < RECORD.size or not block.startswith(RECORD_MARK, position):
        return None
    name, extra, comment = struct.unpack_from("<3H", block, position + 28)
    end = position + RECORD.size + int(name) + int(extra) + int(comment)
    return end if end <= len(block) else None


def _name(raw: bytes, flags: int, extra: bytes, encoding: str) -> tuple[str, bool, str]:
    """Return the name, whether its encoding is a guess, and readings of the name if no guess is safe.

    The specification says that a name without the UTF-8 flag is in cp437. But programs on Linux and macOS write UTF-8
    without the flag, and programs on Windows write the code page of their country. `\\` is a separator of folders in
    names whose encoding is known. In other names, it may be half of a letter.
    """
    if path := _unicode_path(raw, extra):
        return path.replace("\\", "/"), False, ""
    if flags & UTF_8_FLAG or not encoding or raw.isascii():
        try:
            return raw.decode("utf-8").replace("\\", "/"), False, ""
        except UnicodeDecodeError:
            if flags & UTF_8_FLAG and not encoding:
                return raw.decode("utf-8", "replace"), False, readings(raw)
    if encoding:
        try:
            return raw.decode(encoding).replace("\\", "/"), False, ""
        except UnicodeDecodeError:
            return raw.decode(LEGACY), False, readings(raw)
    name = raw.decode(LEGACY)
    is_safe = "\\" not in name and not IMPLAUSIBLE.search(name)
    return name, True, "" if is_safe else readings(raw)


def _unicode_path(raw: bytes, extra: bytes) -> str:
    """Return the name of the Unicode Path field; "" if there is none, or if it belongs to another name."""
    field = _extra_field(extra, UNICODE_PATH_FIELD)
    if len(field) < 6 or field[0] != 1 or int.from_bytes(field[1:5], "little") != zlib.crc32(raw):
        return ""
    return field[5:].decode("utf-8", "replace")


def _extra_field(extra: bytes, wanted: int) -> bytes:
    position = 0
    while position + 4 <= len(extra):
        number, size = struct.unpack_from("<2H", extra, position)
        if number == wanted:
            return extra[position + 4 : position + 4 + size]
        position += 4 + size
    return b""
