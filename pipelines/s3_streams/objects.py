"""Objects in S3 that are read piece by piece, and the keys below a prefix."""

import base64
import hashlib
import re
import threading
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from pipelines.s3_streams.client import S3Error, client, error_code, with_retries

BLOCK = 2 << 20
BLOCKS_AHEAD = 4


class S3Object:
    """An object in S3. All reads return the same version: a read after the object was replaced is an error.

    Args:
        bucket: the bucket.
        key: the key of the object.

    Attributes:
        address: the URI of the object, for messages.
        size: in bytes.
        crc32: the CRC-32 of the whole object in base64, if S3 stores one; else None.
        md5: the MD5 of the object in hexadecimal, if S3 stores one and no CRC-32; else None.
        requests: the number of ranges read so far.
        transferred: the number of bytes in these ranges.

    Raises:
        S3Error: the object does not exist, or S3 refuses or fails.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket, self.key, self.address = bucket, key, f"s3://{bucket}/{key}"
        self.requests = self.transferred = 0
        self._lock = threading.Lock()
        head = with_retries(f"read {self.address}", self._head)
        self.size: int = head["ContentLength"]
        self._etag = head["ETag"]
        self.crc32 = _whole_crc32(head)
        self.md5 = None if self.crc32 else _md5(head)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to, but not including, `end`.

        Raises:
            S3Error: S3 refuses or fails, or the object was replaced.
        """
        if start >= end:
            return b""
        found = with_retries(f"read bytes {start:,} to {end:,} of {self.address}", lambda: self._read_once(start, end))
        self._count(len(found))
        return found

    def read_twice(self, start: int, end: int) -> bytes:
        """Read a range twice; return it only if both reads agree. Use this method for bytes without a checksum.

        Raises:
            S3Error: S3 refuses or fails, or the reads keep differing.
        """

        def read_both() -> bytes:
            first, second = self.read(start, end), self.read(start, end)
            if first != second:
                raise ConnectionError("two reads of these bytes differ")
            return first

        return with_retries(f"read bytes {start:,} to {end:,} of {self.address}", read_both)

    def read_spans(self, spans: Iterable[Sequence[int]]) -> Iterator[tuple[int, bytes]]:
        """Return the bytes of spans in blocks; threads fetch the next blocks ahead of their use.

        Args:
            spans: pairs of start and end, in bytes.

        Returns:
            Pairs of the start of a block and its bytes.

        Raises:
            S3Error: S3 refuses or fails, or the object was replaced.
        """
        pieces = ((at, min(at + BLOCK, end)) for start, end in spans for at in range(start, end, BLOCK))
        ahead: deque[tuple[int, Future[bytes]]] = deque()
        pool = ThreadPoolExecutor(BLOCKS_AHEAD, thread_name_prefix="read")
        try:
            for piece in pieces:
                ahead.append((piece[0], pool.submit(self.read, *piece)))
                if len(ahead) == BLOCKS_AHEAD:
                    start, block = ahead.popleft()
                    yield start, block.result()
            for start, block in ahead:
                yield start, block.result()
        finally:
            _shut_down(pool)

    def stream(self) -> Iterator[bytes]:
        """Return the whole object in blocks; a thread fetches the next blocks ahead of their use.

        One GET request serves all blocks: a server that stores the object compressed then decompresses it once.

        Raises:
            ConnectionError: after the last block, if the CRC-32 or MD5 is not the one that S3 stores.
            S3Error: S3 refuses or fails, or the object was replaced.
        """
        from isal import isal_zlib

        crc, md5 = 0, hashlib.md5(usedforsecurity=False)
        for block in _prefetched(self._blocks()):
            crc = isal_zlib.crc32(block, crc)
            if self.md5:
                md5.update(block)
            yield block
        if self.crc32 not in (None, base64.b64encode(crc.to_bytes(4, "big")).decode()):
            raise ConnectionError("the CRC-32 of the received bytes is not the one that S3 stores")
        if self.md5 not in (None, md5.hexdigest()):
            raise ConnectionError("the MD5 of the received bytes is not the one that S3 stores")

    def get(self, start: int, end: int) -> Any:
        """Return the body of a GET response for a range; S3 refuses the request if the object was replaced.

        Raises:
            ValueError: the range is not within the object: S3 would return the whole object.
        """
        if not 0 <= start < end <= self.size:
            raise ValueError(f"there are no bytes {start:,} to {end:,} in {self.address}, which has {self.size:,}")
        return client().get_object(
            Bucket=self.bucket, Key=self.key, Range=f"bytes={start}-{end - 1}", IfMatch=self._etag
        )["Body"]

    def _blocks(self) -> Iterator[bytes]:
        download = _Download(self)
        while download.position < self.size:
            yield with_retries(f"read {self.address} from byte {download.position:,} on", download.next_block)

    def _head(self) -> dict[str, Any]:
        """Return the metadata of the object. A response to HEAD has no body, so a GET asks why S3 refuses."""
        from botocore.exceptions import ClientError

        try:
            head: dict[str, Any] = client().head_object(Bucket=self.bucket, Key=self.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in ("400", "403"):
                client().get_object(Bucket=self.bucket, Key=self.key, Range="bytes=0-0")["Body"].close()
            raise
        return head

    def _read_once(self, start: int, end: int) -> bytes:
        body = self.get(start, end)
        found = _exactly(body.read(end - start), end - start)
        body.close()
        return found

    def _count(self, size: int) -> None:
        with self._lock:
            self.requests += 1
            self.transferred += size


class _Download:
    """A download of a whole object. When a response breaks off, the next call requests the rest.

    Attributes:
        position: the number of bytes received so far.
    """

    def __init__(self, source: S3Object) -> None:
        self.position = 0
        self._source = source
        self._body: Any = None

    def next_block(self) -> bytes:
        body, self._body = self._body, None  # a body that fails is not read again
        if body is None:
            body = self._source.get(self.position, self._source.size)
        size = min(BLOCK, self._source.size - self.position)
        block = _exactly(body.read(size), size)
        self._body = body
        self.position += size
        return block


def find_object(bucket: str, key: str) -> S3Object:
    """Return the object with a key, or with the same key in another Unicode normal form.

    macOS writes an accented letter as two characters, other systems write it as one. A key that differs in this way
    looks the same.

    Raises:
        S3Error: the object does not exist, or S3 refuses or fails.
    """
    try:
        return S3Object(bucket, key)
    except S3Error as error:
        if error.code not in ("404", "NoSuchKey"):
            raise
        for form in ("NFC", "NFD"):
            other = unicodedata.normalize(form, key)
            if other == key:
                continue
            with suppress(S3Error):
                found = S3Object(bucket, other)
                print(f"s3://{bucket}/{key} is read from a key that writes its accents in another Unicode normal form")
                return found
        raise


def list_keys(bucket: str, prefix: str) -> Iterator[str]:
    """Return the keys of all objects below a prefix.

    Raises:
        S3Error: S3 refuses or fails.
    """
    token: dict[str, str] = {}
    while True:
        page = with_retries(
            f"list s3://{bucket}/{prefix}",
            partial(client().list_objects_v2, Bucket=bucket, Prefix=prefix, **token),
        )
        yield from (item["Key"] for item in page.get("Contents", []))
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _exactly(found: bytes, size: int) -> bytes:
    if len(found) != size:
        raise ConnectionError(f"received {len(found):,} bytes instead of {size:,}")
    return found


def _prefetched(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Return blocks; a thread fetches the next blocks ahead of their use."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="read")
    try:
        ahead = deque(pool.submit(next, blocks, None) for _ in range(BLOCKS_AHEAD))
        while (block := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(next, blocks, None))
            yield block
    finally:
        _shut_down(pool)


def _shut_down(pool: ThreadPoolExecutor) -> None:
    """Tell the threads of a pool to end, and do not wait for them.

    The garbage collector closes a generator that is not read to its end, and it may run in any thread. If it runs in a
    thread that is just starting, this thread holds the lock that waiting for a thread needs, and would wait for ever.
    """
    pool.shutdown(wait=False, cancel_futures=True)


def _whole_crc32(head: dict[str, Any]) -> str | None:
    """Return the CRC-32 of the whole object; None if S3 stores none, or one made from the CRCs of parts ("...-3")."""
    crc32: str | None = head.get("ChecksumCRC32")
    return crc32 if crc32 and "-" not in crc32 else None


def _md5(head: dict[str, Any]) -> str | None:
    """Return the MD5 in an object's ETag; None for an object uploaded in parts or encrypted with a KMS or customer key.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    etag: str = head["ETag"].strip('"')
    is_plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
    return etag if is_plain and re.fullmatch("[0-9a-f]{32}", etag) else None
