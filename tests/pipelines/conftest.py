"""Fixtures for the tests of the components: zips in S3, and the objects below a prefix."""

import zipfile

import pytest

from pipelines.s3_streams import client
from tests.support.zips import zipped


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shorten the pauses between the attempts of a request."""
    monkeypatch.setattr(client, "MAX_PAUSE_SECONDS", 0.02)


@pytest.fixture
def put_zip(s3, bucket):
    """Return a function that puts a zip of files into S3 and returns its key."""

    def put(files: dict[str, str | bytes], key="data.zip", method=zipfile.ZIP_DEFLATED) -> str:
        s3.put_object(Bucket=bucket, Key=key, Body=zipped(files, method))
        return key

    return put


@pytest.fixture
def objects(s3, bucket):
    """Return a function that returns the content of all objects below a prefix, by key."""

    def read(prefix: str) -> dict[str, bytes]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    return read


@pytest.fixture
def unfinished(s3, bucket):
    """Return a function that returns the keys of the unfinished multipart uploads."""

    def look() -> list[str]:
        return [item["Key"] for item in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    return look
