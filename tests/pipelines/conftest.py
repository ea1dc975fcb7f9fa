"""What the tests of components share: zips in S3, and what is below a prefix."""

import zipfile

import pytest

from pipelines import s3 as s3_module
from tests.support.zips import zipped


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Do not wait long before a request is made again."""
    monkeypatch.setattr(s3_module, "LONGEST_PAUSE_SECONDS", 0.02)


@pytest.fixture
def put_zip(s3, bucket):
    """Make a zip of files and put it into S3; return its key."""

    def put(files: dict[str, str | bytes], key="data.zip", method=zipfile.ZIP_DEFLATED) -> str:
        s3.put_object(Bucket=bucket, Key=key, Body=zipped(files, method))
        return key

    return put


@pytest.fixture
def objects(s3, bucket):
    """Return what is below a prefix, by key."""

    def read(prefix: str) -> dict[str, bytes]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    return read


@pytest.fixture
def unfinished(s3, bucket):
    """Return the keys of multipart uploads that have begun and not ended."""

    def look() -> list[str]:
        return [item["Key"] for item in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    return look
