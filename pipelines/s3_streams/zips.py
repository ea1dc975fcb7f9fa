"""A zip in S3: only its directory and the wanted files are fetched.

Everything that the directory shows is checked before a file is unpacked: encryption, names, sizes and ratios.
"""

import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from pipelines.s3_streams.objects import S3Object
from pipelines.s3_streams.zip_data import INFLATERS, LOCAL_HEADER_BYTES, CompressedData, Span, inflated
from pipelines.s3_streams.zip_directory import clean_name, entry_name, is_link, matches, read_directory

GB = 1_000_000_000
# Below this size a high ratio does no harm, and a small table of one repeated value has a high ratio.
RATIO_CHECK_BYTES = 100_000_000
# The limit of most file systems. Some object stores keep each object in a file of that name.
MAX_NAME_BYTES = 255
NAMES_SHOWN = 5
# Flags of an entry: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.4.4
ENCRYPTED_FLAGS, PATCH_FLAG = 0x41, 0x20

Entries = list[tuple[str, zipfile.ZipInfo]]


class DamagedMember(ValueError):
    """The data of a file is not the data that the zip's directory describes."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a zip.

    Attributes:
        name: the name, with `/` between folders.
        size: the unpacked size in bytes.
        crc: the CRC-32 of the unpacked file, from the zip's directory.
        method: the number of the compression method.
        span: the place of the file in the zip.
    """

    name: str
    size: int
    crc: int
    method: int
    span: Span
    _address: str = field(repr=False)
    _data: CompressedData = field(repr=False, compare=False)

    def pieces(self) -> Iterator[bytes]:
        """Unpack the file: return its bytes piece by piece, from the start at each call.

        Raises:
            DamagedMember: at the end, if the number of bytes or their CRC-32 is not that of the directory.
            S3Error: S3 refuses or fails, or the zip was replaced.
        """
        from isal import isal_zlib

        size = crc = 0
        try:
            for piece in inflated(self._data.read(self.span), self.method):
                size, crc = size + len(piece), isal_zlib.crc32(piece, crc)
                if size > self.size:
                    break
                yield piece
        except EOFError as error:
            raise self._damaged(f"cannot be unpacked ({error})") from error
        if size != self.size:
            raise self._damaged(f"holds {'more' if size > self.size else 'less'} than its {self.size:,} bytes")
        if crc != self.crc:
            raise self._damaged(f"has the CRC-32 {crc:08x} instead of {self.crc:08x}")

    def _damaged(self, problem: str) -> DamagedMember:
        return DamagedMember(f"{self.name} in {self._address} is damaged: it {problem}; upload the zip again")


class S3Zip:
    """A zip in S3.

    Args:
        bucket: the bucket.
        key: the key of the zip.

    Attributes:
        address: the URI of the zip, for messages.
        source: the object; it counts the bytes that were read.

    Raises:
        ValueError: the object is not a zip, or the zip is not complete.
        S3Error: the object does not exist, or S3 refuses or fails.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.source = S3Object(bucket, key)
        self.address = self.source.address
        self._entries, self._directory_start = read_directory(self.source)

    def members(self, pattern: str = "*", max_gb: float = 100, max_ratio: float = 200) -> list[Member]:
        """Return the wanted files in the order of their position in the zip, after all checks.

        Args:
            pattern: a shell pattern for the wanted names, in upper or lower case. A pattern with a `/` is for the whole
                path, any other for the last part. Folders and the files that macOS adds never match.
            max_gb: the largest total size of the unpacked files, in GB.
            max_ratio: the largest ratio of their total unpacked size to their total compressed size.

        Raises:
            ValueError: no file matches, or a matching file cannot or must not be unpacked.
        """
        if not (max_gb > 0 and max_ratio > 0):  # NaN fails this test, too
            raise ValueError(f"max_gb is {max_gb:g} and max_ratio is {max_ratio:g}; both must be more than 0")
        entries = self._select(pattern)
        self._refuse_unreadable(entries)
        self._refuse_unsafe_names([name for name, _ in entries])
        self._refuse_overlapping(entries)
        self._refuse_bomb([entry for _, entry in entries], max_gb, max_ratio)
        return self._members(entries)

    def _select(self, pattern: str) -> Entries:
        named = [(entry_name(entry), entry) for entry in self._entries]
        selected = [(name, entry) for name, entry in named if matches(name, pattern)]
        if not selected:
            raise ValueError(f"{self.address} {_no_match(pattern, [name for name, _ in named])}")
        return sorted(selected, key=lambda pair: pair[1].header_offset)

    def _refuse_unreadable(self, entries: Entries) -> None:
        encrypted = [name for name, entry in entries if entry.flag_bits & ENCRYPTED_FLAGS]
        self._refuse("encrypted files", encrypted, "make the zip again without a password")
        links = [name for name, entry in entries if is_link(entry)]
        self._refuse("symbolic links", links, "make the zip again with the files themselves")
        unknown = [(name, entry.compress_type) for name, entry in entries if entry.compress_type not in INFLATERS]
        named = [f"{name} (method {method})" for name, method in unknown]
        self._refuse("files with an unsupported compression", named, "make the zip again with deflate")
        patches = [name for name, entry in entries if entry.flag_bits & PATCH_FLAG]
        self._refuse("patches of other files", patches, "make the zip again with the files themselves")

    def _refuse_unsafe_names(self, names: list[str]) -> None:
        rename = "rename them and make the zip again"
        self._refuse("names with control characters", filter(_has_control_character, names), rename)
        self._refuse("names that lead outside the output prefix", filter(_leads_outside, names), rename)
        clean = [clean_name(name) for name in names]
        self._refuse("files without a name", [name for name in clean if not name], rename)
        self._refuse("duplicate names", _duplicates(clean), rename)
        limit = f"names with more than {MAX_NAME_BYTES} bytes between two slashes"
        self._refuse(limit, filter(_has_long_part, clean), rename)

    def _refuse_overlapping(self, entries: Entries) -> None:
        overlapping = [
            name
            for (_, before), (name, after) in pairwise(entries)
            if before.header_offset + LOCAL_HEADER_BYTES + before.compress_size > after.header_offset
        ]
        self._refuse("files that overlap", overlapping, "no zip program writes such a zip, so do not trust it")

    def _refuse_bomb(self, entries: list[zipfile.ZipInfo], max_gb: float, max_ratio: float) -> None:
        size, compressed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
        if size > max_gb * GB:
            raise ValueError(
                f"{self.address} would unpack to {size / GB:,.1f} GB, but max_gb is {max_gb:g}; it may be a zip bomb: "
                "if you trust it, set a higher max_gb"
            )
        if size > RATIO_CHECK_BYTES and size > max_ratio * compressed:
            raise ValueError(
                f"{self.address} would unpack to {size / max(compressed, 1):,.0f} times its size, but max_ratio is "
                f"{max_ratio:g}; it may be a zip bomb: if you trust it, set a higher max_ratio"
            )

    def _refuse(self, what: str, names: Iterable[str], advice: str) -> None:
        if refused := list(names):
            more = f" and {len(refused) - NAMES_SHOWN} more" if len(refused) > NAMES_SHOWN else ""
            raise ValueError(f"{self.address} holds {what}: {_shown(refused)}{more}; {advice}")

    def _members(self, entries: Entries) -> list[Member]:
        data = CompressedData(self.source, [_span(entry) for _, entry in entries], self._ends())
        return [
            Member(clean_name(name), entry.file_size, entry.CRC, entry.compress_type, _span(entry), self.address, data)
            for name, entry in entries
        ]

    def _ends(self) -> dict[int, int]:
        """Return the position at which the next entry begins, by the position of each entry."""
        offsets = sorted(entry.header_offset for entry in self._entries)
        return dict(zip(offsets, [*offsets[1:], self._directory_start], strict=True))


def _span(entry: zipfile.ZipInfo) -> Span:
    return Span(entry.header_offset, entry.compress_size)


def _no_match(pattern: str, names: list[str]) -> str:
    wanted = "CSV file" if pattern.lower() == "*.csv" else f"file that matches {pattern}"
    inner = [name for name in names if name.lower().endswith(".zip")]
    advice = f"; unpack the inner zip first: {_short(inner[0])!r}" if inner else ""
    return f"holds no {wanted}; its first names are {_shown(names)}{advice}"


def _shown(names: list[str]) -> list[str]:
    return [_short(name) for name in names[:NAMES_SHOWN]]


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"


def _has_control_character(name: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) is not None


def _duplicates(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _has_long_part(name: str) -> bool:
    return any(len(part.encode()) > MAX_NAME_BYTES for part in name.split("/"))
