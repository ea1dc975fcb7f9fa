"""A zip in S3, of which only the directory and the wanted members are fetched.

The directory at the end of the zip is read by `zipfile`, which knows the older and newer forms of it. Members are
inflated by `isal`, three times as fast as by the `zlib` of Python, as they come.
"""

import bz2
import fnmatch
import io
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pipelines.s3 import S3Object

PIECE = 1 << 20
# How much compressed data is inflated at a time; it can become a thousand times as much, which comes in pieces.
BITE = 256 << 10
TAIL = 128 << 10
LARGEST_DIRECTORY = 64 << 20
# Between two members that are wanted, fewer bytes than this are fetched along: cheaper than another request.
GAP = 256 << 10
GB = 1_000_000_000
# Below this a high ratio does no harm, and a table of one repeated value has one.
HARMLESS = 100_000_000
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html; and what file systems, on which other
# object stores keep their objects, take for one name.
LONGEST_KEY, LONGEST_NAME = 1024, 255
HEADER = 30
LONGEST_HEADER = HEADER + 2 * 0xFFFF
NOISE = re.compile(r"(^|/)(__MACOSX/|\._[^/]*$)")


class WrongMember(ValueError):
    """What a member holds is not what the zip's directory says."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the zip.

    Attributes:
        name: its name, with `/` between folders.
        size: in bytes, unpacked.
        crc: the CRC-32 of what it holds, by the zip's directory.
        packed: its size in the zip, in bytes.
        offset: where it begins there.
        method: how it is compressed.
        pieces: call it to unpack the member; it returns its bytes piece by piece, and raises `WrongMember` at the end
            if they are others than the directory says.
    """

    name: str
    size: int
    crc: int
    packed: int
    offset: int
    method: int
    pieces: Callable[[], Iterator[bytes]] = field(compare=False)


class S3Zip:
    """A zip in S3.

    Args:
        bucket: its bucket.
        key: its key.

    Attributes:
        address: for messages.
        source: the object; it counts what was read.

    Raises:
        ValueError: it is no zip, or not a whole one.
        S3Error: it is not there, or S3 fails.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.source = S3Object(bucket, key)
        self.address = self.source.address
        self._directory, self._end = _directory(self.source)
        self._reader: _Reader | None = None

    def members(self, pattern: str = "*", max_gb: float = 100, max_ratio: float = 200) -> list[Member]:
        """Return the wanted members in the order in which they lie in the zip, after everything was looked at.

        Args:
            pattern: which names are wanted, as in a shell; upper and lower case are the same. Folders, and the files
                that macOS adds, are never wanted.
            max_gb: how much they may hold together, unpacked, in GB.
            max_ratio: how many times larger than packed they may be together.

        Raises:
            ValueError: there are none, or they cannot be unpacked as they are.
        """
        if not (max_gb > 0 and max_ratio > 0):  # which is so for what is no number, too
            raise ValueError(f"max_gb is {max_gb:g} and max_ratio {max_ratio:g}; both must be more than 0")
        named = [(_name(info), info) for info in self._directory]
        wanted = [(name, info) for name, info in named if _matches(name, pattern) and not name.endswith("/")]
        if not wanted:
            raise ValueError(f"{self.address} {_nothing(pattern, [name for name, _ in named])}")
        self._refuse("are encrypted; zip again without a password", [n for n, info in wanted if info.flag_bits & 0x41])
        self._refuse("are links to other files", [name for name, info in wanted if _is_link(info)])
        self._refuse("hold control characters", [name for name, _ in wanted if _has_control(name)])
        self._refuse("lead out of the prefix", [name for name, _ in wanted if _leads_out(name)])
        unknown = [f"{n} (method {i.compress_type})" for n, i in wanted if i.compress_type not in _INFLATERS]
        self._refuse("are compressed in a way that is not known here; zip again with deflate", unknown)
        self._refuse("are patches", [name for name, info in wanted if info.flag_bits & 0x20])
        found = sorted((self._member(name, info) for name, info in wanted), key=lambda member: member.offset)
        self._refuse("name no file", [name for name, _ in wanted if not _clean(name)])
        self._refuse("are there twice", _twice([member.name for member in found]))
        self._refuse(f"are longer than {LONGEST_NAME} bytes between two /", _too_long(found))
        self._refuse("lie over one another: this is no honest zip", _overlapping(found))
        self._refuse_a_bomb(found, max_gb, max_ratio)
        self._reader = _Reader(self.source, found, self._ends())
        return found

    def _member(self, name: str, info: zipfile.ZipInfo) -> Member:
        def pieces() -> Iterator[bytes]:
            return self._unpacked(member)

        member = Member(
            _clean(name), info.file_size, info.CRC, info.compress_size, info.header_offset, info.compress_type, pieces
        )
        return member

    def _ends(self) -> dict[int, int]:
        offsets = sorted(info.header_offset for info in self._directory)
        return dict(zip(offsets, [*offsets[1:], self._end], strict=True))

    def _refuse(self, why: str, names: list[str]) -> None:
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"{self.address} has names that {why}: {[_short(name) for name in names[:5]]}{more}")

    def _refuse_a_bomb(self, members: list[Member], max_gb: float, max_ratio: float) -> None:
        total, packed = sum(member.size for member in members), sum(member.packed for member in members)
        if total > max_gb * GB:
            raise ValueError(
                f"{self.address} would become {total / GB:,.1f} GB, and max_gb is {max_gb:g}: is it a zip bomb? "
                "If not, allow more"
            )
        if total > HARMLESS and total > max_ratio * packed:
            raise ValueError(
                f"{self.address} would become {total / max(packed, 1):,.0f} times as large as it is, and max_ratio is "
                f"{max_ratio:g}: is it a zip bomb? If not, allow more"
            )

    def _unpacked(self, member: Member) -> Iterator[bytes]:
        """Return what a member holds, and compare it with the directory."""
        from isal import isal_zlib

        size = crc = 0
        try:
            for piece in _INFLATERS[member.method](self._reader.packed(member)):
                size, crc = size + len(piece), isal_zlib.crc32(piece, crc)
                if size > member.size:
                    break
                yield piece
        except (isal_zlib.error, zlib.error, OSError, EOFError) as error:
            raise self._wrong(member, f"cannot be unpacked ({error})") from error
        if size != member.size:
            raise self._wrong(
                member, f"holds {'more' if size > member.size else 'less'} than its {member.size:,} bytes"
            )
        if crc != member.crc:
            raise self._wrong(member, f"has the CRC {crc:08x} instead of {member.crc:08x}")

    def _wrong(self, member: Member, why: str) -> WrongMember:
        return WrongMember(f"{member.name} in {self.address} is damaged: it {why}")


def _directory(source: S3Object) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries of the zip's directory, and where it begins."""
    try:
        with zipfile.ZipFile(_Seekable(source)) as archive:
            return archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError, struct.error) as error:
        raise ValueError(f"{source.address} is not a whole zip file: {error}") from error


class _Seekable(io.RawIOBase):
    """The object as a file that `zipfile` can read its directory from: one range for most, each read twice."""

    def __init__(self, source: S3Object) -> None:
        self._source, self._position = source, 0
        self._tail_start = max(0, source.size - TAIL)
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
            raise OSError("before the start of the file")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        end = self._source.size if size < 0 else min(self._position + size, self._source.size)
        start, self._position = self._position, max(self._position, end)
        if start >= self._tail_start:
            return self._tail[start - self._tail_start : max(0, end - self._tail_start)]
        if end - start > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory is larger than {LARGEST_DIRECTORY >> 20} MB")
        return self._source.read_twice(start, end)


class _Reader:
    """Reads the compressed data of members one after another, ahead of those who need it.

    Args:
        source: the zip.
        members: those that will be read, in the order in which they lie in it.
        ends: where what follows a member begins, by the member's offset.
    """

    def __init__(self, source: S3Object, members: list[Member], ends: dict[int, int]) -> None:
        self._source, self._members, self._ends = source, members, ends
        self._blocks: Iterator[tuple[int, bytes]] = iter(())
        self._block, self._position = memoryview(b""), source.size + 1

    def packed(self, member: Member) -> Iterator[memoryview]:
        """Return the compressed data of a member, bite by bite."""
        self._go_to(member.offset)
        header = b"".join(self._take(HEADER))
        if header[:4] != b"PK\3\4":
            raise EOFError("it is not where the directory says")
        for _ in self._take(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")):
            pass
        yield from self._take(member.packed)

    def _go_to(self, position: int) -> None:
        if position < self._position:
            self._blocks = self._source.blocks(self._spans([m for m in self._members if m.offset >= position]))
            self._block, self._position = memoryview(b""), position
        while position >= self._position + len(self._block) and self._fetch():
            pass
        self._block = self._block[position - self._position :]
        self._position = position

    def _spans(self, members: list[Member]) -> list[list[int]]:
        """Return from where to where to read, with small gaps between members read along."""
        spans: list[list[int]] = []
        for member in members:
            end = min(self._ends[member.offset], member.offset + LONGEST_HEADER + member.packed)
            if spans and member.offset - spans[-1][1] <= GAP:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([member.offset, end])
        return spans

    def _take(self, count: int) -> Iterator[memoryview]:
        """Return the next bytes, in bites."""
        while count > 0:
            if not self._block and not self._fetch():
                raise EOFError("the zip ends too early")
            bite = self._block[: min(count, BITE)]
            self._block = self._block[len(bite) :]
            self._position += len(bite)
            count -= len(bite)
            yield bite

    def _fetch(self) -> bool:
        """Make the next block the current one, and tell whether there was one."""
        start, block = next(self._blocks, (self._position, b""))
        self._block, self._position = memoryview(block), start
        return bool(block)


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name, with `/` between folders.

    Where the zip does not say that a name is UTF-8, `zipfile` takes it for cp437, as zip's specification has it; but
    zips of Linux and macOS hold UTF-8 without saying so, and hardly any other text reads as UTF-8 by accident.
    """
    name = info.orig_filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _matches(name: str, pattern: str) -> bool:
    # With a folder in it, a pattern is for the whole path; else for the name alone.
    whole = name if "/" in pattern else name.rpartition("/")[2]
    return fnmatch.fnmatchcase(whole.lower(), pattern.lower()) and not NOISE.search(name)


def _nothing(pattern: str, names: list[str]) -> str:
    kind = "CSV file" if pattern.lower() == "*.csv" else f"file that {pattern} fits"
    inner = [name for name in names if name.lower().endswith(".zip")]
    advice = f"; unpack {_short(inner[0])!r}, a zip in it, first" if inner else ""
    return f"holds no {kind}; the first names in it are {[_short(name) for name in names[:5]]}{advice}"


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _is_link(info: zipfile.ZipInfo) -> bool:
    return info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16)


def _has_control(name: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _leads_out(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) is not None


def _twice(names: list[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]


def _too_long(members: list[Member]) -> list[str]:
    return [m.name for m in members if any(len(part.encode()) > LONGEST_NAME for part in m.name.split("/"))]


def _overlapping(members: list[Member]) -> list[str]:
    return [after.name for before, after in pairwise(members) if before.offset + HEADER + before.packed > after.offset]


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"


def _stored(bites: Iterator[memoryview]) -> Iterator[bytes]:
    for bite in bites:
        yield bytes(bite)


def _deflated(bites: Iterator[memoryview]) -> Iterator[bytes]:
    from isal import isal_zlib

    stream = isal_zlib.decompressobj(-15)
    for bite in bites:
        left: Any = bite
        while left and not stream.eof:
            yield stream.decompress(left, PIECE)
            left = stream.unconsumed_tail
    while not stream.eof and (piece := stream.decompress(b"", PIECE)):
        yield piece
    if not stream.eof:
        raise EOFError("the compressed data ends too early")


def _bzipped(bites: Iterator[memoryview]) -> Iterator[bytes]:
    stream = bz2.BZ2Decompressor()
    for bite in bites:
        left: Any = bite
        while not stream.eof:
            piece = stream.decompress(left, PIECE)
            yield piece
            left = b""
            if stream.needs_input or not piece:
                break
    if not stream.eof:
        raise EOFError("the compressed data ends too early")


_INFLATERS = {zipfile.ZIP_STORED: _stored, zipfile.ZIP_DEFLATED: _deflated, zipfile.ZIP_BZIP2: _bzipped}
