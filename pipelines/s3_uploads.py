"""Uploads to S3, many at once, of files that come piece by piece and whose CRC-32 is known before.

An object appears under its name when all of it is there and its CRC-32 was found to be right: by the process that
sends it, and by S3, to which the same number is sent along.
"""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from pipelines.s3 import KIND, S3Error, attempt, client

PART = 5 << 20
MOST_PARTS = 10_000
WORKERS = 8
# How many bytes are held in memory, being sent or about to be; a small object counts as more than it has.
HELD, COUNTED_AS = 24 << 20, 256 << 10
TRIES = 3
# An upload to which nothing was added for so long was left by a run that has ended. One that another run is sending
# grows in the meantime.
QUIET_SECONDS = 10.0
LONGEST_KEY = 1024


class Source(Protocol):
    """What is uploaded: `pieces` returns its bytes from the start at each call, and raises ValueError at the end if
    they are not those of `size` and `crc`."""

    name: str
    size: int
    crc: int
    pieces: Callable[[], Iterator[bytes]]


class Uploads:
    """Uploads below a prefix; to be used in a `with`, at whose end all are done.

    What was uploaded before an error stays. Uploads that have begun are aborted.

    Args:
        bucket: the bucket.
        prefix: the prefix, without slashes around it; "" for the bucket itself.

    Attributes:
        sent: how many bytes of objects are in S3.

    Raises:
        S3Error: S3 refuses or fails; at any later call, or at the end of the `with`.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.sent = 0
        self._bucket, self._prefix = bucket, f"{prefix}/".lstrip("/")
        self._workers = _Workers()
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}
        self._lost: list[Source] = []
        self._keys: set[str] = set()
        self._left: dict[tuple[str, str], Any] = {}
        self._may_have_left = False
        self._noticed = 0.0

    def expect(self, sources: list[Any], source_key: str = "") -> None:
        """Say what will be uploaded, before the first of it.

        Args:
            sources: all of it.
            source_key: the key from which it comes, which must not be overwritten.

        Raises:
            ValueError: S3 would not take a key, or one would lie elsewhere.
        """
        if {".", ".."} & set(self._prefix.split("/")):
            raise ValueError(f"output_prefix {self._prefix!r} must not have . or .. between its slashes")
        keys = {self._key(source) for source in sources}
        if too_long := [key for key in keys if len(key.encode()) > LONGEST_KEY]:
            raise ValueError(
                f"S3 takes keys of {LONGEST_KEY} bytes, and this one would be longer: {too_long[0][:100]}..."
            )
        if source_key in keys:
            raise ValueError(f"s3://{self._bucket}/{source_key} would overwrite itself; choose another output_prefix")
        self._keys, self._left = keys, self._unfinished(keys)
        self._noticed = time.monotonic()

    def add(self, source: Source) -> None:
        """Upload a file. Returns when all of it was read; it may not be in S3 before the end of the `with`.

        Raises:
            ValueError: from `source.pieces`, each time it was tried.
        """
        for tried in range(1, TRIES + 1):
            try:
                return self._send(source)
            except ValueError:  # it may have been damaged on its way here, so it is read again
                if tried == TRIES:
                    raise

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._workers.end()
            for upload, key in list(self._open.items()):
                self._abort(key, upload)

    def _finish(self) -> None:
        self._workers.await_all()
        for _ in range(TRIES):
            lost, self._lost = self._lost, []
            for source in lost:
                self.add(source)
            self._workers.await_all()
        if self._lost:
            raise S3Error(f"s3://{self._bucket}/{self._key(self._lost[0])}: somebody aborts its upload again and again")
        if self._may_have_left:
            self._left |= self._unfinished(self._keys)
            self._noticed = time.monotonic()
        self._abort_left()

    def _key(self, source: Source) -> str:
        return self._prefix + source.name

    def _send(self, source: Source) -> None:
        parts = _parts(source.pieces(), max(PART, -(-source.size // MOST_PARTS)))
        first = next(parts)
        if len(first) == source.size:
            self._workers.submit(len(first), lambda: self._put(source, first))
        else:
            self._send_parts(source, first, parts)

    def _put(self, source: Source, content: bytes) -> None:
        key = self._key(source)
        checksum = _checksum(source.crc)
        self._ask("write", "put_object", key, Body=content, ContentType=KIND, ChecksumCRC32=checksum)
        self._count(source)

    def _send_parts(self, source: Source, first: bytes, others: Iterator[bytes]) -> None:
        upload = self._begin(source)
        try:
            number, part = 1, first
            for following in others:
                self._workers.submit(len(part), partial(self._put_part, upload, number, part))
                number, part = number + 1, following
        except ValueError:
            self._abort(self._key(source), upload.id)
            raise
        # The last part goes only now: with the end of the pieces came the check of the whole.
        upload.count = number
        self._workers.submit(len(part), partial(self._put_part, upload, number, part))

    def _begin(self, source: Source) -> "_Upload":
        key = self._key(source)
        kind = {"ContentType": KIND, "ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        tries = 0

        def begin() -> dict:
            nonlocal tries
            tries += 1
            return client().create_multipart_upload(Bucket=self._bucket, Key=key, **kind)

        upload = _Upload(source, attempt(f"begin to write s3://{self._bucket}/{key}", begin)["UploadId"])
        self._may_have_left |= tries > 1  # S3 may have begun one of which no answer came
        self._open[upload.id] = key
        return upload

    def _put_part(self, upload: "_Upload", number: int, part: bytes) -> None:
        """Send a part; whichever comes last completes the upload."""
        from isal import isal_zlib

        if upload.id not in self._open:
            return  # aborted meanwhile
        checksum = {"ChecksumCRC32": _checksum(isal_zlib.crc32(part))}
        place = {"UploadId": upload.id, "PartNumber": number}
        try:
            answer = self._ask(
                f"write part {number} of", "upload_part", self._key(upload.source), Body=part, **place, **checksum
            )
            if upload.is_last({"PartNumber": number, "ETag": answer["ETag"]} | checksum):
                self._complete(upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            self._lose(upload)

    def _complete(self, upload: "_Upload") -> None:
        parts = sorted(upload.parts, key=lambda part: part["PartNumber"])
        checksum = {"ChecksumCRC32": _checksum(upload.source.crc), "ChecksumType": "FULL_OBJECT"}
        whole = {"UploadId": upload.id, "MultipartUpload": {"Parts": parts}} | checksum
        self._ask("finish writing", "complete_multipart_upload", self._key(upload.source), **whole)
        self._open.pop(upload.id, None)
        self._count(upload.source)

    def _lose(self, upload: "_Upload") -> None:
        """Note that somebody else has aborted an upload, so that it is made again."""
        with self._lock:
            if self._open.pop(upload.id, None):
                self._lost.append(upload.source)

    def _count(self, source: Source) -> None:
        with self._lock:
            self.sent += source.size

    def _abort(self, key: str, upload: str) -> None:
        self._open.pop(upload, None)
        try:
            self._ask("abort an upload of", "abort_multipart_upload", key, UploadId=upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                print(f"left behind: {error}")

    def _abort_left(self) -> None:
        """Abort what an interrupted run has left of these uploads, and leave alone what another run is sending."""
        if self._left:
            time.sleep(max(0.0, self._noticed + QUIET_SECONDS - time.monotonic()))
            now = self._unfinished({key for key, _ in self._left})
            for (key, upload), parts in self._left.items():
                if now.get((key, upload)) == parts:
                    self._abort(key, upload)

    def _unfinished(self, keys: set[str]) -> dict[tuple[str, str], Any]:
        """Return the multipart uploads to these keys that are not finished, with the parts that each has so far."""
        try:
            return {
                (key, upload): self._pages(
                    "list_parts", "Parts", ("PartNumber", "LastModified"), Key=key, UploadId=upload
                )
                for key, upload in self._pages(
                    "list_multipart_uploads", "Uploads", ("Key", "UploadId"), Prefix=self._prefix
                )
                if key in keys
            }
        except S3Error as error:
            # NoSuchUpload: one of them was finished between the two questions. Whoever did that lives.
            if error.code not in ("AccessDenied", "NotImplemented", "NoSuchUpload"):
                raise
            print(f"what an interrupted run may have left is not looked for: {error}")
            return {}

    def _pages(self, method: str, field: str, wanted: tuple[str, ...], **arguments: Any) -> list[tuple]:
        def ask() -> list[tuple]:
            pages = client().get_paginator(method).paginate(Bucket=self._bucket, **arguments)
            return [tuple(item[name] for name in wanted) for page in pages for item in page.get(field, [])]

        return attempt(f"look for unfinished uploads below s3://{self._bucket}/{self._prefix}", ask)

    def _ask(self, what: str, method: str, key: str, **arguments: Any) -> dict:
        request = partial(getattr(client(), method), Bucket=self._bucket, Key=key, **arguments)
        return attempt(f"{what} s3://{self._bucket}/{key}", request)


class _Upload:
    """An upload in parts that has begun."""

    def __init__(self, source: Source, upload_id: str) -> None:
        self.source, self.id = source, upload_id
        self.count: int | None = None
        self.parts: list[dict] = []
        self._lock = threading.Lock()

    def is_last(self, part: dict) -> bool:
        """Note that a part is there, and tell whether it was the last one to come."""
        with self._lock:
            self.parts.append(part)
            return len(self.parts) == self.count


class _Workers:
    """Threads, with a bound on the bytes that wait for them. The first error ends all work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="upload")
        self._changed = threading.Condition()
        self._held = 0
        self._error: BaseException | None = None

    def submit(self, size: int, work: Callable[[], None]) -> None:
        """Have something done that holds so many bytes, when there is room for it."""
        size = max(size, COUNTED_AS)
        self._wait(lambda: self._held == 0 or self._held + size <= HELD)
        with self._changed:
            self._held += size
        self._pool.submit(self._do, size, work)

    def await_all(self) -> None:
        """Wait until everything is done."""
        self._wait(lambda: self._held == 0)

    def end(self) -> None:
        """Begin nothing more, and wait for what has begun."""
        self._error = self._error or S3Error("given up")
        self._pool.shutdown(cancel_futures=True)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or condition())
        if self._error is not None:
            raise self._error

    def _do(self, size: int, work: Callable[[], None]) -> None:
        try:
            if self._error is None:
                work()
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


def _parts(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Join pieces to parts of one size; the last may be smaller, and is made when the pieces have come to their end."""
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        while length + len(piece) > size:
            room = size - length
            yield b"".join([*held, piece[:room]])
            held, length, piece = [], 0, piece[room:]
        held.append(piece)
        length += len(piece)
    yield b"".join(held)


def _checksum(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
