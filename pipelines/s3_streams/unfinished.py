"""Multipart uploads that an interrupted run left unfinished. S3 stores and bills their parts until they are aborted."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from pipelines.s3_streams.client import S3Error, client, with_retries

# If an upload gets no new part for this many seconds, its run has ended. A live run would add parts.
IDLE_SECONDS = 10.0
# The S3 refuses or lacks the listing, or a live run finished an upload between two requests.
CANNOT_LIST_CODES = ("AccessDenied", "NotImplemented", "NoSuchUpload")


class UnfinishedUploads:
    """The unfinished multipart uploads to some keys.

    Args:
        bucket: the bucket.
        prefix: the prefix of the keys.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._found: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        self._listed_at = 0.0

    def note(self, is_wanted: Callable[[str], bool]) -> None:
        """List the unfinished uploads to some keys, for `abort_idle`.

        Args:
            is_wanted: tells whether a key is one of them.

        Raises:
            S3Error: S3 fails. If S3 does not allow the listing, a message is printed instead.
        """
        self._found |= self._list(is_wanted)
        self._listed_at = time.monotonic()

    def abort_idle(self) -> None:
        """Abort the noted uploads that got no part for `IDLE_SECONDS`. Another run is still sending the other uploads.

        Raises:
            S3Error: S3 fails.
        """
        if not self._found:
            return
        time.sleep(max(0.0, self._listed_at + IDLE_SECONDS - time.monotonic()))
        current = self._list({key for key, _ in self._found}.__contains__)
        for (key, upload_id), parts in self._found.items():
            if current.get((key, upload_id)) == parts:
                abort_upload(self._bucket, key, upload_id)

    def _list(self, is_wanted: Callable[[str], bool]) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
        """Return the parts of each unfinished upload, by its key and id."""
        try:
            uploads = self._pages("list_multipart_uploads", "Uploads", ("Key", "UploadId"), Prefix=self._prefix)
            return {(key, upload_id): self._parts(key, upload_id) for key, upload_id in uploads if is_wanted(key)}
        except S3Error as error:
            if error.code not in CANNOT_LIST_CODES:
                raise
            print(f"not looking for unfinished uploads of earlier runs: {error}")
            return {}

    def _parts(self, key: str, upload_id: str) -> list[tuple[Any, ...]]:
        return self._pages("list_parts", "Parts", ("PartNumber", "LastModified"), Key=key, UploadId=upload_id)

    def _pages(self, method: str, field: str, wanted: Iterable[str], **arguments: Any) -> list[tuple[Any, ...]]:
        def request() -> list[tuple[Any, ...]]:
            pages = client().get_paginator(method).paginate(Bucket=self._bucket, **arguments)
            return [tuple(item[name] for name in wanted) for page in pages for item in page.get(field, [])]

        return with_retries(f"look for unfinished uploads below s3://{self._bucket}/{self._prefix}", request)


def abort_upload(bucket: str, key: str, upload_id: str) -> None:
    """Abort a multipart upload; print a message if S3 refuses."""
    try:
        with_retries(
            f"abort an upload of s3://{bucket}/{key}",
            lambda: client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id),
        )
    except S3Error as error:
        if error.code != "NoSuchUpload":
            print(f"an unfinished upload stays in S3: {error}")
