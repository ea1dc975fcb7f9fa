"""Parallel uploads to S3 of files that arrive piece by piece and whose size and CRC-32 are known beforehand.

An object appears in S3 only when it is complete and its CRC-32 is right. This process compares the CRC-32 while it
reads the file, and S3 compares the CRC-32 that comes with the upload.
"""

import base64
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from pipelines.s3_streams.addresses import check_bucket, check_key, hidden_folder
from pipelines.s3_streams.bounded_pool import BoundedPool
from pipelines.s3_streams.client import CONTENT_TYPE, S3Error, client, with_retries
from pipelines.s3_streams.unfinished import UnfinishedUploads, abort_upload

# The smallest part, but for the last, and the largest number of parts.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PART_BYTES = 5 << 20
MAX_PARTS = 10_000
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
MAX_KEY_BYTES = 1024
MAX_TRIES = 3


class File(Protocol):
    """A file to upload."""

    @property
    def name(self) -> str:
        """The name below the prefix."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def crc(self) -> int:
        """The CRC-32 of the content."""

    def pieces(self) -> Iterator[bytes]:
        """Return the content from the start at each call; raise ValueError at the end if size or CRC-32 differ."""


class Uploads:
    """Uploads of files below a prefix. Use it in a `with` statement: at its end, all uploads are complete.

    An error keeps the objects that are complete, and aborts the uploads that have begun.

    Args:
        bucket: the bucket.
        prefix: the prefix without slashes around it; "" for the bucket itself.

    Attributes:
        sent: the total size of the complete objects, in bytes.

    Raises:
        ValueError: the bucket or the prefix is an address.
        S3Error: S3 refuses or fails. A later call, or the end of the `with` statement, may raise this error.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        check_bucket(bucket)
        check_key(prefix, bucket, "output_prefix")
        self.sent = 0
        self._bucket, self._prefix = bucket, f"{prefix}/".lstrip("/")
        self._pool = BoundedPool()
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}  # the keys of the uploads that this object has begun, by upload id
        self._aborted: list[File] = []  # files whose upload another process has aborted
        self._names: set[str] = set()
        self._unfinished = UnfinishedUploads(bucket, self._prefix)
        self._response_lost = False

    def prepare(self, files: Sequence[File], source_key: str = "") -> None:
        """Check the keys of all files, and note the uploads that an earlier run left. Call this before `add`.

        Args:
            files: all files that will be added.
            source_key: the key of the object that the files come from. No file may overwrite this object.

        Raises:
            ValueError: S3 would not take a key, or a key is not below the prefix or is `source_key`.
            S3Error: S3 fails.
        """
        if {".", ".."} & set(self._prefix.split("/")):
            raise ValueError(f"output_prefix {self._prefix!r} must not have . or .. between its slashes")
        if folder := hidden_folder(self._prefix):
            raise ValueError(
                f"output_prefix {self._prefix!r} has the folder {folder!r}, and SeaweedFS does not list what is in "
                "such a folder; choose another output_prefix"
            )
        for file in files:
            if len(self._key(file).encode()) > MAX_KEY_BYTES:
                raise ValueError(
                    f"an S3 key has at most {MAX_KEY_BYTES} bytes; this key would be longer: "
                    f"{self._key(file)[:100]}...; choose a shorter output_prefix, or shorten the name in the zip"
                )
        self._names = {file.name for file in files}
        if self._is_own(source_key):
            raise ValueError(
                f"s3://{self._bucket}/{source_key} would be overwritten by a file that it holds; choose another "
                "output_prefix"
            )
        self._unfinished.note(self._is_own)

    def add(self, file: File) -> None:
        """Upload a file. Returns when the file was read; the end of the `with` statement waits for the upload.

        Raises:
            ValueError: `file.pieces` raised a ValueError at each of `MAX_TRIES` tries.
            S3Error: S3 refuses or fails.
        """
        for number in range(1, MAX_TRIES + 1):
            try:
                return self._send(file)
            except ValueError:  # the data may have been damaged on its way here, so the file is read again
                if number == MAX_TRIES:
                    raise

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._pool.close()
            for upload_id, key in list(self._open.items()):
                self._abort(key, upload_id)

    def _finish(self) -> None:
        self._pool.join()
        for _ in range(MAX_TRIES):
            aborted, self._aborted = self._aborted, []
            for file in aborted:
                self.add(file)
            self._pool.join()
        if self._aborted:
            address = f"s3://{self._bucket}/{self._key(self._aborted[0])}"
            raise S3Error(f"another process keeps aborting the upload of {address}; let one run at a time write there")
        if self._response_lost:
            self._unfinished.note(self._is_own)
        self._unfinished.abort_idle()

    def _is_own(self, key: str) -> bool:
        """Return True if a key is that of a file which will be added."""
        return key.startswith(self._prefix) and key[len(self._prefix) :] in self._names

    def _key(self, file: File) -> str:
        return self._prefix + file.name

    def _send(self, file: File) -> None:
        parts = _parts(file.pieces(), max(PART_BYTES, -(-file.size // MAX_PARTS)))
        first = next(parts)
        if len(first) == file.size:
            self._pool.submit(len(first), lambda: self._put(file, first))
        else:
            self._send_parts(file, first, parts)

    def _put(self, file: File, content: bytes) -> None:
        checksum = _base64(file.crc)
        self._request(
            "write", "put_object", self._key(file), Body=content, ContentType=CONTENT_TYPE, ChecksumCRC32=checksum
        )
        self._count(file)

    def _send_parts(self, file: File, first: bytes, others: Iterator[bytes]) -> None:
        upload = self._begin(file)
        try:
            number, part = 1, first
            for following in others:
                self._pool.submit(len(part), partial(self._put_part, upload, number, part))
                number, part = number + 1, following
        except ValueError:
            self._abort(self._key(file), upload.id)
            raise
        # The last part is sent here, because the last piece completes the check of the whole file.
        upload.count = number
        self._pool.submit(len(part), partial(self._put_part, upload, number, part))

    def _begin(self, file: File) -> "_Upload":
        key = self._key(file)
        options = {"ContentType": CONTENT_TYPE, "ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        requests = 0

        def begin() -> str:
            nonlocal requests
            requests += 1
            upload_id: str = client().create_multipart_upload(Bucket=self._bucket, Key=key, **options)["UploadId"]
            return upload_id

        upload = _Upload(file, with_retries(f"begin to write s3://{self._bucket}/{key}", begin))
        self._response_lost |= requests > 1  # an upload may exist although its response was lost
        self._open[upload.id] = key
        return upload

    def _put_part(self, upload: "_Upload", number: int, part: bytes) -> None:
        """Send a part. The thread that sends the last missing part completes the upload."""
        from isal import isal_zlib

        if upload.id not in self._open:
            return  # another process has aborted the upload
        checksum = {"ChecksumCRC32": _base64(isal_zlib.crc32(part))}
        place = {"UploadId": upload.id, "PartNumber": number}
        key = self._key(upload.file)
        try:
            response = self._request(f"write part {number} of", "upload_part", key, Body=part, **place, **checksum)
            if upload.add_part({"PartNumber": number, "ETag": response["ETag"]} | checksum):
                self._complete(upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            self._repeat_later(upload)

    def _complete(self, upload: "_Upload") -> None:
        parts = sorted(upload.parts, key=lambda part: part["PartNumber"])
        checksum = {"ChecksumCRC32": _base64(upload.file.crc), "ChecksumType": "FULL_OBJECT"}
        whole = {"UploadId": upload.id, "MultipartUpload": {"Parts": parts}} | checksum
        self._request("finish writing", "complete_multipart_upload", self._key(upload.file), **whole)
        self._open.pop(upload.id, None)
        self._count(upload.file)

    def _repeat_later(self, upload: "_Upload") -> None:
        """Note that another process has aborted an upload; `_finish` repeats it."""
        with self._lock:
            if self._open.pop(upload.id, None):
                self._aborted.append(upload.file)

    def _count(self, file: File) -> None:
        with self._lock:
            self.sent += file.size

    def _abort(self, key: str, upload_id: str) -> None:
        self._open.pop(upload_id, None)
        abort_upload(self._bucket, key, upload_id)

    def _request(self, action: str, method: str, key: str, **arguments: Any) -> dict[str, Any]:
        request = partial(getattr(client(), method), Bucket=self._bucket, Key=key, **arguments)
        response: dict[str, Any] = with_retries(f"{action} s3://{self._bucket}/{key}", request)
        return response


class _Upload:
    """A multipart upload that has begun.

    Attributes:
        file: the file.
        id: S3's id of the upload.
        count: the number of parts; None until the file was read to its end.
        parts: the parts that are in S3, as `complete_multipart_upload` wants them.
    """

    def __init__(self, file: File, upload_id: str) -> None:
        self.file, self.id = file, upload_id
        self.count: int | None = None
        self.parts: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add_part(self, part: dict[str, Any]) -> bool:
        """Note that a part is in S3; return True if no part is missing now."""
        with self._lock:
            self.parts.append(part)
            return len(self.parts) == self.count


def _parts(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Join pieces to parts of `size` bytes. The last part may be smaller; it comes when the pieces have ended."""
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


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
