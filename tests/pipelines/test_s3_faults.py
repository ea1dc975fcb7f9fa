"""Faults of S3 and the network: a request is repeated, or it ends with an error that names the object."""

import os
import re
import threading
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import boto3
import botocore.auth
import pytest
from botocore.config import Config
from kfp.dsl import Dataset

from pipelines.components import csv_s3_reader, unzip_func
from pipelines.s3_streams import S3Error, client
from pipelines.s3_streams import unfinished as unfinished_module
from pipelines.s3_streams.objects import S3Object
from tests.support.faulty_s3 import Faults, faulty_s3

pytestmark = pytest.mark.slow
BIG = "number,other\n" + "".join(f"{number * 7919 % 1_000_003},{number}\n" for number in range(450_000))
# Longer than S3 needs on a busy machine.
TIMEOUT_SECONDS = 1.2
READS = ["InternalError", "SlowDown", "RequestTimeTooSkewed", "slow", "reset", "truncated"]
WRITES = ["InternalError", "SlowDown", "RequestTimeTooSkewed", "slow", "reset", "damaged request"]


@pytest.fixture
def inject(s3, monkeypatch):
    """Return a function that puts a proxy before S3, which injects faults; it returns the faults."""
    opened = []

    def start(kind: str, method: str, part: str, times: int = 2, after: int = 0) -> Faults:
        if kind == "slow":
            monkeypatch.setattr(client, "READ_TIMEOUT_SECONDS", TIMEOUT_SECONDS)
        faults = Faults(kind, method, part, times, after)
        proxy = faulty_s3(os.environ["AWS_ENDPOINT_URL_S3"], faults, slow_seconds=TIMEOUT_SECONDS + 0.3)
        opened.append(proxy)
        os.environ["AWS_ENDPOINT_URL_S3"] = proxy.__enter__()
        return faults

    yield start
    for proxy in opened:
        proxy.__exit__(None, None, None)


@pytest.mark.parametrize("fault", [*READS, "damaged answer"])
def test_a_zip_arrives_complete_when_reading_fails_twice(bucket, put_zip, objects, inject, fault):
    key = put_zip({"big.csv": BIG, "small.csv": "a\n"})
    # The first read is that of the zip's directory, which has no checksum.
    faults = inject(fault, "GET", key, after=fault == "damaged answer")
    unzip_func(bucket, key, "out")
    assert faults.seen == 2
    assert objects("out/") == {"out/big.csv": BIG.encode(), "out/small.csv": b"a\n"}


@pytest.mark.parametrize("part", ["out/big.csv", "out/small.csv"])
@pytest.mark.parametrize("fault", WRITES)
def test_a_zip_arrives_complete_when_writing_fails_twice(bucket, put_zip, objects, unfinished, inject, fault, part):
    key = put_zip({"big.csv": BIG, "small.csv": "a\n"})
    faults = inject(fault, "PUT", part)
    unzip_func(bucket, key, "out")
    assert faults.seen == 2
    assert objects("out/") == {"out/big.csv": BIG.encode(), "out/small.csv": b"a\n"}
    assert unfinished() == []


@pytest.mark.parametrize("fault", ["InternalError", "SlowDown", "slow", "reset"])
def test_a_zip_arrives_complete_when_beginning_and_finishing_an_upload_fail(
    bucket, put_zip, objects, unfinished, inject, fault, monkeypatch
):
    monkeypatch.setattr(unfinished_module, "IDLE_SECONDS", 0.2)
    key = put_zip({"big.csv": BIG})
    faults = inject(fault, "POST", "out/big.csv", 3)
    unzip_func(bucket, key, "out")
    assert faults.seen == 3
    assert objects("out/") == {"out/big.csv": BIG.encode()}
    # Nor is there an unfinished upload whose id was lost with the response.
    if fault != "slow":
        assert unfinished() == []
        return
    time.sleep(TIMEOUT_SECONDS + 0.3)  # the delayed request may begin an upload only now; the next run finds it
    unzip_func(bucket, key, "out")
    assert unfinished() == []


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("fault", [*READS, "damaged answer"])
def test_a_table_arrives_complete_when_reading_fails(s3, bucket, inject, fault, after):
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=BIG.encode())
    # The first two reads are those of the sample.
    faults = inject(fault, "GET", "in/t.csv", 3, after)
    assert csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv")) == 450_000
    assert faults.seen == 3
    assert Path("table.csv").read_bytes() == BIG.encode()


def test_a_zip_directory_that_arrives_damaged_is_read_again(bucket, put_zip, objects, inject):
    key = put_zip({"a.csv": "a\n", "b.csv": "b\n"})
    faults = inject("damaged answer", "GET", key, 1)
    unzip_func(bucket, key, "out")
    assert faults.seen == 1
    assert objects("out/") == {"out/a.csv": b"a\n", "out/b.csv": b"b\n"}


def test_a_table_without_a_crc_is_compared_with_its_etag(s3, bucket, inject):
    plain = boto3.Session().client("s3", config=Config(request_checksum_calculation="when_required"))
    plain.put_object(Bucket=bucket, Key="in/t.csv", Body=BIG.encode())
    faults = inject("damaged answer", "GET", "in/t.csv", 1, 2)
    assert csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv")) == 450_000
    assert faults.seen == 1
    assert Path("table.csv").read_bytes() == BIG.encode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("fault", [*READS, "damaged answer"])
def test_a_table_for_pandas_arrives_complete_when_reading_fails(s3, bucket, inject, fault, encoding):
    text = "number;ö\n" + "".join(f"{number};2\n" for number in range(400_000))
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=text.encode(encoding))
    # The first two reads are those of the sample.
    faults = inject(fault, "GET", "in/t.csv", 1, 2)
    assert csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv")) == 400_000
    assert faults.seen == 1
    assert Path("table.csv").read_text("utf-8") == text.replace(";", ",")


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "this S3 does not know AWS_ACCESS_KEY_ID"),
    ],
)
def test_the_error_for_wrong_keys_names_the_key(bucket, put_zip, variable, why):
    key = put_zip({"a.csv": "x\n"})
    os.environ[variable] = "another"
    with pytest.raises(S3Error, match=rf"cannot read s3://{bucket}/data\.zip: .*{re.escape(why)}"):
        unzip_func(bucket, key, "out")


def test_the_error_for_a_wrong_clock_names_the_clock(bucket, put_zip, monkeypatch):
    key = put_zip({"a.csv": "x\n"})
    real = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: real() + timedelta(hours=2))
    with pytest.raises(S3Error, match=rf"s3://{bucket}/data\.zip: .*\(the clock of this machine is wrong: set it\)"):
        unzip_func(bucket, key, "out")


@pytest.mark.parametrize(
    ("fault", "method", "why"),
    [
        ("SlowDown", "GET", r"cannot read bytes .* of s3://{bucket}/data\.zip: tried 6 times in \d+ s; .*SlowDown"),
        ("truncated", "GET", r"cannot read bytes .* of s3://{bucket}/data\.zip: tried 6 times"),
        ("slow", "HEAD", r"cannot read s3://{bucket}/data\.zip: tried 6 times in \d+ s; .*ReadTimeoutError"),
        ("RequestTimeTooSkewed", "GET", r"data\.zip: tried 6 times .* \(the clock of this machine is wrong: set it\)"),
        ("AccessDenied", "GET", r"cannot read bytes .* of s3://{bucket}/data\.zip: .*AccessDenied"),
        ("InternalError", "PUT", r"cannot write (part \d of )?s3://{bucket}/out/big\.csv: tried 6 times"),
        ("damaged request", "PUT", r"cannot write (part \d of )?s3://{bucket}/out/big\.csv: tried 6 times"),
        ("AccessDenied", "PUT", r"cannot write (part \d of )?s3://{bucket}/out/big\.csv: .*AccessDenied"),
        ("InternalError", "POST", r"cannot begin to write s3://{bucket}/out/big\.csv: tried 6 times"),
    ],
)
def test_a_lasting_fault_ends_with_an_error_that_names_the_object(
    bucket, put_zip, objects, unfinished, inject, fault, method, why
):
    key = put_zip({"big.csv": BIG})
    inject(fault, method, "data.zip" if method in ("GET", "HEAD") else "out/big.csv", times=1000)
    with pytest.raises(S3Error, match=why.format(bucket=bucket)):
        unzip_func(bucket, key, "out")
    assert objects("out") == {} and unfinished() == []


def test_a_table_that_always_arrives_damaged_is_an_error(s3, bucket, inject):
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=b"a,b\n" + b"1,2\n" * 100_000)
    inject("damaged answer", "GET", "in/t.csv", 1000)
    with pytest.raises((S3Error, ValueError), match=r"in/t\.csv"):
        csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv"))


def test_a_reader_that_is_closed_early_does_not_wait_for_its_threads(s3, bucket):
    """The garbage collector may close the reader in a thread that is just starting, which cannot wait for another."""
    s3.put_object(Bucket=bucket, Key="large", Body=bytes(12 << 20))
    blocks = S3Object(bucket, "large").read_spans([(0, 12 << 20)])
    next(blocks)
    with patch.object(threading.Thread, "join", side_effect=AssertionError("the reader waited for a thread")):
        blocks.close()
    stream = S3Object(bucket, "large").stream()
    next(stream)
    with patch.object(threading.Thread, "join", side_effect=AssertionError("the reader waited for a thread")):
        stream.close()
