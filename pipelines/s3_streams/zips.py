"""A zip in S3: only its directory and the wanted files are fetched.

Everything that the directory shows is checked before a file is unpacked: encryption, names, sizes and ratios.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from pipelines.s3_streams.addresses import check_bucket, check_key, hidden_folder
from pipelines.s3_streams.objects import find_object
from pipelines.s3_streams.text_encodings import checked_encoding
from pipelines.s3_streams.zip_data import INFLATERS, LOCAL_HEADER_BYTES, CompressedData, inflated
from pipelines.s3_streams.zip_directory import LEGACY, Entry, ZipDirectory, clean_name, matches

GB = 1_000_000_000
# Below this size a high ratio does no harm, and a small table of one repeated value has a high ratio.
RATIO_CHECK_BYTES = 100_000_000
# The limit of most file systems. Some object stores keep each object in a file of that name.
MAX_NAME_BYTES = 255
# About 300 bytes of memory belong to each wanted file.
MAX_FILES = 300_000
NAMES_SHOWN = 5
# Flags of an entry: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.4.4
ENCRYPTED_FLAGS, PATCH_FLAG = 0x41, 0x20
RENAME = "rename them and make the zip again"


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
        offset: the position of its header in the zip, in bytes.
        compressed_size: the size of its compressed data, in bytes.
    """

    name: str
    size: int
    crc: int
    method: int
    offset: int
    compressed_size: int
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
            for piece in inflated(self._data.read(self), self.method):
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
        check_bucket(bucket)
        check_key(key, bucket, "zip_key")
        self.source = find_object(bucket, key)
        self.address = self.source.address
        self._directory = ZipDirectory(self.source)

    def members(
        self, pattern: str = "*", max_gb: float = 100, max_ratio: float = 200, name_encoding: str = ""
    ) -> list[Member]:
        """Return the wanted files in the order of their position in the zip, after all checks.

        Args:
            pattern: a shell pattern for the wanted names, in upper or lower case. A pattern with a `/` is for the whole
                path, any other for the last part. Folders and the files that macOS adds never match.
            max_gb: the largest total size of the unpacked files, in GB.
            max_ratio: the largest ratio of their total unpacked size to their total compressed size.
            name_encoding: the encoding of names that the zip does not mark as UTF-8; "" to detect it.

        Raises:
            ValueError: no file matches, or a matching file cannot or must not be unpacked.
        """
        if not (max_gb > 0 and max_ratio > 0):  # NaN fails this test, too
            raise ValueError(f"max_gb is {max_gb:g} and max_ratio is {max_ratio:g}; both must be more than 0")
        members = self._select(pattern, checked_encoding(name_encoding, "name_encoding"))
        self._refuse_duplicates(members)
        self._refuse_overlapping(members)
        self._refuse_bomb(members, max_gb, max_ratio)
        return members

    def _select(self, pattern: str, name_encoding: str) -> list[Member]:
        members: list[Member] = []
        offsets, problems, seen = array("Q"), _Problems(), _Seen()
        data = CompressedData(self.source, members, self._directory.start)
        for entry in self._directory.entries(name_encoding):
            offsets.append(entry.offset)
            seen.add(entry.name)
            if not matches(entry.name, pattern):
                continue
            problems.add(entry)
            name = clean_name(entry.name)
            place = (entry.offset, entry.compressed_size)
            members.append(Member(name, entry.size, entry.crc, entry.method, *place, self.address, data))
            if len(members) > MAX_FILES:
                raise ValueError(
                    f"{self.address} holds more than {MAX_FILES:,} files that match: set a narrower pattern"
                )
        if not members:
            raise ValueError(f"{self.address} {_no_match(pattern, seen)}")
        for what, found, count, advice in problems.found():
            self._refuse(what, found, count, advice)
        if problems.guessed:
            print(
                f"{self.address} does not say how its names are encoded: {LEGACY} is a guess, which gives "
                f"{problems.guessed}; if it is wrong, set name_encoding"
            )
        members.sort(key=lambda member: member.offset)
        data.offsets = array("Q", sorted(offsets))
        return members

    def _refuse_duplicates(self, members: list[Member]) -> None:
        if len({_normal(member.name) for member in members}) == len(members):
            return
        names = Counter(member.name for member in members)
        duplicates = [name for name, count in names.items() if count > 1]
        self._refuse("duplicate names", duplicates, len(duplicates), RENAME)
        forms = Counter(map(_normal, names))
        same = [name for name in names if forms[_normal(name)] > 1]
        self._refuse("names that differ only in how accents are written (Unicode normal form)", same, len(same), RENAME)

    def _refuse_overlapping(self, members: list[Member]) -> None:
        overlapping = [
            after.name
            for before, after in pairwise(members)
            if before.offset + LOCAL_HEADER_BYTES + before.compressed_size > after.offset
        ]
        advice = "no zip program writes such a zip, so do not trust it"
        self._refuse("files that overlap", overlapping, len(overlapping), advice)

    def _refuse_bomb(self, members: list[Member], max_gb: float, max_ratio: float) -> None:
        size, compressed = sum(each.size for each in members), sum(each.compressed_size for each in members)
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

    def _refuse(self, what: str, names: list[str], count: int, advice: str) -> None:
        if names:
            more = f" and {count - NAMES_SHOWN} more" if count > NAMES_SHOWN else ""
            raise ValueError(f"{self.address} holds {what}: {_shown(names)}{more}; {advice}")


class _Seen:
    """What a message needs of all names: the first ones, and the first name of a zip in the zip.

    Attributes:
        first: the first names.
        inner_zip: the name of a zip in the zip; "" if there is none.
        is_workbook: whether the zip is an Excel workbook.
    """

    def __init__(self) -> None:
        self.first: list[str] = []
        self.inner_zip = ""
        self.is_workbook = False

    def add(self, name: str) -> None:
        if len(self.first) < NAMES_SHOWN:
            self.first.append(name)
        if not self.inner_zip and name[-4:].lower() == ".zip":
            self.inner_zip = name
        self.is_workbook |= name == "xl/workbook.xml"


class _Problems:
    """The files that cannot or must not be unpacked, by the problem: the first names, and how many there are.

    Attributes:
        guessed: the first names whose encoding is a guess.
    """

    def __init__(self) -> None:
        self.guessed: list[str] = []
        self._names: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        """Look for every problem of a file."""
        for what, (is_problem, _) in PROBLEMS.items():
            if is_problem(entry):
                self._counts[what] += 1
                if self._counts[what] <= NAMES_SHOWN:
                    self._names.setdefault(what, []).append(_described(what, entry))
        if entry.is_name_guessed and len(self.guessed) < NAMES_SHOWN:
            self.guessed.append(entry.name)

    def found(self) -> Iterator[tuple[str, list[str], int, str]]:
        """Return each problem with its names, their number, and the advice, in the order of `PROBLEMS`."""
        for what, (_, advice) in PROBLEMS.items():
            if what in self._names:
                yield what, self._names[what], self._counts[what], advice


def _described(what: str, entry: Entry) -> str:
    if what == UNSUPPORTED:
        return f"{entry.name} (method {entry.method})"
    if what == UNREADABLE:
        return entry.name_readings
    return entry.name


def _no_match(pattern: str, seen: _Seen) -> str:
    wanted = "CSV file" if pattern.lower() == "*.csv" else f"file that matches {pattern}"
    advice = f"; unpack the inner zip first: {_short(seen.inner_zip)!r}" if seen.inner_zip else ""
    if seen.is_workbook:
        advice = "; it is an Excel workbook (.xlsx): save its table as CSV and upload that file"
    return f"holds no {wanted}; its first names are {_shown(seen.first)}{advice}"


def _shown(names: list[str]) -> list[str]:
    return [_short(name) for name in names[:NAMES_SHOWN]]


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"


def _normal(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _has_control_character(name: str) -> bool:
    if name.isascii():
        return not name.isprintable()
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) is not None


def _has_long_part(name: str) -> bool:
    return len(name.encode()) > MAX_NAME_BYTES and any(
        len(part.encode()) > MAX_NAME_BYTES for part in clean_name(name).split("/")
    )


UNSUPPORTED = "files with an unsupported compression"
UNREADABLE = "names in an unknown encoding, which read"
# The test for each problem, and the advice.
PROBLEMS: dict[str, tuple[Callable[[Entry], object], str]] = {
    "encrypted files": (lambda entry: entry.flags & ENCRYPTED_FLAGS, "make the zip again without a password"),
    "symbolic links": (lambda entry: entry.is_link, "make the zip again with the files themselves"),
    UNSUPPORTED: (lambda entry: entry.method not in INFLATERS, "make the zip again with deflate"),
    "patches of other files": (lambda entry: entry.flags & PATCH_FLAG, "make the zip again with the files themselves"),
    UNREADABLE: (lambda entry: entry.name_readings, "set name_encoding to the encoding that reads well"),
    "names with control characters": (lambda entry: _has_control_character(entry.name), RENAME),
    "names that lead outside the output prefix": (lambda entry: _leads_outside(entry.name), RENAME),
    "files without a name": (lambda entry: not clean_name(entry.name), RENAME),
    f"names with more than {MAX_NAME_BYTES} bytes between two slashes": (
        lambda entry: _has_long_part(entry.name),
        RENAME,
    ),
    "names in folders that SeaweedFS does not list (.uploads, *.versions)": (
        lambda entry: hidden_folder(clean_name(entry.name)),
        RENAME,
    ),
}
