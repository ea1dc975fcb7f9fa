"""S3 for components: a client, retries that end with a message, and an object that is read piece by piece."""

import base64
import hashlib
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

ATTEMPTS = 6
LONGEST_PAUSE_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60
BLOCK = 2 << 20
# What S3 itself calls an object of which nothing is said. SeaweedFS packs what it takes for text, at half the speed,
# and has to unpack it for each read.
KIND = "binary/octet-stream"
BLOCKS_AHEAD = 4
# What S3 says of a request that may succeed when it is made again, besides every status from 500.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
PASSING = {
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "SlowDown",
    "XAmzContentSHA256Mismatch",
}


class S3Error(RuntimeError):
    """S3 does not do what it was asked; the message names the object and what was tried.

    Attributes:
        code: what S3 calls it, such as `NoSuchKey`; "" when there was no answer.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def client() -> Any:
    """Return the client for what the environment says. It makes every request once: `attempt` makes it again."""
    return _client(frozenset(item for item in os.environ.items() if item[0].startswith("AWS_")))


@lru_cache(maxsize=1)
def _client(_: frozenset) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=10,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"total_max_attempts": 1},
        max_pool_connections=32,
    )
    # A session of its own: the default one keeps the credentials that it was made with.
    made = boto3.Session().client("s3", config=config)
    made.meta.events.register("before-call.s3.UploadPart", _call_it_bytes)
    return made


def _call_it_bytes(params: dict, **_: Any) -> None:
    """Say of a part what `put_object` can say of an object: boto3 has no argument for it."""
    params["headers"]["Content-Type"] = KIND


def attempt(what: str, request: Callable[[], Any]) -> Any:
    """Make a request, and make it again after a growing pause when it fails for a reason that may pass.

    Args:
        what: the request in words, with the object's address; for the message.
        request: makes it.

    Returns:
        What the request returns.

    Raises:
        S3Error: S3 refuses, or still fails after `ATTEMPTS` attempts.
    """
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    on_the_way = (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        ResponseParserError,
        HTTPError,
        ConnectionError,
        TimeoutError,
    )

    begun = time.monotonic()
    for number in range(1, ATTEMPTS + 1):
        try:
            return request()
        except exceptions.ClientError as error:
            code, why = _code(error), str(error).replace(" (reached max retries: 0)", "")
            if not _may_pass(error):
                raise S3Error(f"cannot {what}: {why}{_hint(code)}", code) from error
        except on_the_way as error:
            code, why = "", f"{type(error).__name__}: {error}"
        except exceptions.BotoCoreError as error:
            raise S3Error(f"cannot {what}: {error}") from error
        if number < ATTEMPTS:
            time.sleep(random.uniform(0.5, 1) * min(0.2 * 2**number, LONGEST_PAUSE_SECONDS))
    took = time.monotonic() - begun
    raise S3Error(f"cannot {what}: tried {ATTEMPTS} times in {took:.0f} s; the last time: {why}{_hint(code)}", code)


class S3Object:
    """An object that is read in ranges. It is one version throughout: a read after it was replaced is an error.

    Args:
        bucket: its bucket.
        key: its key.

    Attributes:
        address: for messages.
        size: in bytes.
        checksum: the CRC-32 of the whole object, where S3 keeps one; else None.
        md5: its MD5, where S3 keeps one and no CRC-32; else None.
        requests: how many ranges were read.
        transferred: how many bytes came with them.

    Raises:
        S3Error: it is not there, or S3 refuses.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket, self.key, self.address = bucket, key, f"s3://{bucket}/{key}"
        self.requests = self.transferred = 0
        self._lock = threading.Lock()
        head = attempt(f"read {self.address}", self._head)
        self.size: int = head["ContentLength"]
        self._version = head["ETag"]
        self.checksum = head.get("ChecksumCRC32") if "-" not in head.get("ChecksumCRC32", "-") else None
        self.md5 = None if self.checksum else _md5(head)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to, not including, `end`."""
        if start >= end:
            return b""
        found = attempt(f"read bytes {start:,} to {end:,} of {self.address}", lambda: self._read_once(start, end))
        self._count(len(found))
        return found

    def read_twice(self, start: int, end: int) -> bytes:
        """Return bytes that came the same two times: for those of which no checksum tells whether they are right."""

        def both() -> bytes:
            first, second = self.read(start, end), self.read(start, end)
            if first != second:
                raise ConnectionError("they came differently the second time")
            return first

        return attempt(f"read bytes {start:,} to {end:,} of {self.address}", both)

    def blocks(self, spans: Iterable[Sequence[int]]) -> Iterator[tuple[int, bytes]]:
        """Return the bytes of spans, one block after another; the next few are fetched meanwhile.

        Args:
            spans: pairs of start and end.

        Returns:
            Where each block starts, and its bytes.
        """
        pieces = ((at, min(at + BLOCK, end)) for start, end in spans for at in range(start, end, BLOCK))
        ahead: deque[tuple[int, Future]] = deque()
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
            _let_end(pool)

    def whole(self) -> Iterator[bytes]:
        """Return all bytes, block after block; the next few are fetched meanwhile.

        They come in the answer to one request, because a server that keeps the object packed unpacks it once then.

        Raises:
            ConnectionError: at the end, when they have another CRC-32 or MD5 than S3 keeps.
        """
        from isal import isal_zlib

        crc, md5 = 0, hashlib.md5(usedforsecurity=False)
        for block in _ahead(self._in_one_answer()):
            crc = isal_zlib.crc32(block, crc)
            if self.md5:
                md5.update(block)
            yield block
        if self.checksum not in (None, base64.b64encode(crc.to_bytes(4, "big")).decode()):
            raise ConnectionError("what came has another CRC-32 than S3 keeps for it")
        if self.md5 not in (None, md5.hexdigest()):
            raise ConnectionError("what came has another MD5 than S3 keeps for it")

    def _in_one_answer(self) -> Iterator[bytes]:
        """Return all bytes; where an answer breaks off, the rest is asked for."""
        position, body = 0, None

        def read_on() -> bytes:
            nonlocal body
            answered, body = body, None
            answered = answered or self._get(position, self.size)
            wanted = min(BLOCK, self.size - position)
            found = answered.read(wanted)
            if len(found) != wanted:
                raise ConnectionError(f"{len(found):,} bytes came instead of {wanted:,}")
            body = answered
            return found

        while position < self.size:
            block = attempt(f"read {self.address} from byte {position:,} on", read_on)
            position += len(block)
            yield block

    def _head(self) -> dict:
        """Ask for what S3 says of the object. The answer to HEAD has no words: why it is refused, GET tells."""
        from botocore.exceptions import ClientError

        try:
            return client().head_object(Bucket=self.bucket, Key=self.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if _code(error) in ("400", "403"):
                client().get_object(Bucket=self.bucket, Key=self.key, Range="bytes=0-0")["Body"].close()
            raise

    def _count(self, size: int) -> None:
        with self._lock:
            self.requests += 1
            self.transferred += size

    def _get(self, start: int, end: int) -> Any:
        return client().get_object(
            Bucket=self.bucket, Key=self.key, Range=f"bytes={start}-{end - 1}", IfMatch=self._version
        )["Body"]

    def _read_once(self, start: int, end: int) -> bytes:
        found = self._get(start, end).read()
        if len(found) != end - start:
            raise ConnectionError(f"{len(found):,} bytes came instead of {end - start:,}")
        return found


def keys_below(bucket: str, prefix: str) -> Iterator[str]:
    """Return the keys of all objects below a prefix.

    Raises:
        S3Error: S3 refuses.
    """
    more: dict[str, str] = {}
    while True:
        page = attempt(
            f"list s3://{bucket}/{prefix}",
            lambda more=more: client().list_objects_v2(Bucket=bucket, Prefix=prefix, **more),
        )
        yield from (item["Key"] for item in page.get("Contents", []))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Return blocks, of which a thread fetches the next few meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="read")
    try:
        ahead = deque(pool.submit(next, blocks, None) for _ in range(BLOCKS_AHEAD))
        while (block := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(next, blocks, None))
            yield block
    finally:
        _let_end(pool)


def _let_end(pool: ThreadPoolExecutor) -> None:
    """Let a pool's threads end, without waiting for them.

    A generator that nobody reads to its end is closed by the garbage collector, in whatever thread that happens to run:
    also in one that is just starting and holds the lock that waiting for a thread needs. That would wait for ever.
    """
    pool.shutdown(wait=False, cancel_futures=True)


def _md5(head: dict) -> str | None:
    """Return the MD5 that an object's ETag is, unless it came in parts or is encrypted with a key of one's own.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    etag = head["ETag"].strip('"')
    plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
    return etag if plain and re.fullmatch("[0-9a-f]{32}", etag) else None


def _code(error: Any) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _may_pass(error: Any) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status == 429 or _code(error) in PASSING


def _hint(code: str) -> str:
    """Say what S3 does not: an answer to a HEAD request is only a number."""
    hints = {
        "404": "there is no such object or bucket",
        "403": "the credentials do not allow it, or it is not there",
        "AccessDenied": "the credentials do not allow it, or it is not there",
        "ExpiredToken": "the credentials were good for some time only: get new ones",
        "InvalidAccessKeyId": "is AWS_ACCESS_KEY_ID the one of this S3?",
        "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
        "PreconditionFailed": "it was replaced while it was read; run this again",
        "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    }
    return f" ({hints[code]})" if code in hints else ""
