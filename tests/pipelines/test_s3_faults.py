"""What S3 and the network do wrong: it is tried again, or it ends with an error that names the object."""

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

from pipelines import s3 as s3_module
from pipelines import s3_uploads
from pipelines.components import csv_s3_reader, unzip_func
from pipelines.s3 import S3Error, S3Object
from tests.support.faulty_s3 import Faults, faulty_s3

pytestmark = pytest.mark.slow
BIG = "number,other\n" + "".join(f"{number * 7919 % 1_000_003},{number}\n" for number in range(450_000))
# Longer than S3 takes on a busy machine.
TIMEOUT_SECONDS = 1.2
READS = ["InternalError", "SlowDown", "RequestTimeTooSkewed", "slow", "reset", "truncated"]
WRITES = ["InternalError", "SlowDown", "RequestTimeTooSkewed", "slow", "reset", "damaged request"]


@pytest.fixture
def spoiled(s3, monkeypatch):
    """Send what the components ask of S3 through a proxy that spoils some of it; return what it did."""
    opened = []

    def spoil(kind: str, method: str, part: str, times: int = 2, after: int = 0) -> Faults:
        if kind == "slow":
            monkeypatch.setattr(s3_module, "READ_TIMEOUT_SECONDS", TIMEOUT_SECONDS)
        faults = Faults(kind, method, part, times, after)
        proxy = faulty_s3(os.environ["AWS_ENDPOINT_URL_S3"], faults, slow_seconds=TIMEOUT_SECONDS + 0.3)
        opened.append(proxy)
        os.environ["AWS_ENDPOINT_URL_S3"] = proxy.__enter__()
        return faults

    yield spoil
    for proxy in opened:
        proxy.__exit__(None, None, None)


@pytest.mark.parametrize("fault", [*READS, "damaged answer"])
def test_a_zip_arrives_whole_though_reading_fails_twice(bucket, put_zip, objects, spoiled, fault):
    key = put_zip({"big.csv": BIG, "small.csv": "a\n"})
    # The first read is that of the directory, which has no checksum.
    faults = spoiled(fault, "GET", key, after=fault == "damaged answer")
    unzip_func(bucket, key, "out")
    assert faults.seen == 2
    assert objects("out/") == {"out/big.csv": BIG.encode(), "out/small.csv": b"a\n"}


@pytest.mark.parametrize("part", ["out/big.csv", "out/small.csv"])
@pytest.mark.parametrize("fault", WRITES)
def test_a_zip_arrives_whole_though_writing_fails_twice(bucket, put_zip, objects, unfinished, spoiled, fault, part):
    key = put_zip({"big.csv": BIG, "small.csv": "a\n"})
    faults = spoiled(fault, "PUT", part)
    unzip_func(bucket, key, "out")
    assert faults.seen == 2
    assert objects("out/") == {"out/big.csv": BIG.encode(), "out/small.csv": b"a\n"}
    assert unfinished() == []


@pytest.mark.parametrize("fault", ["InternalError", "SlowDown", "slow", "reset"])
def test_a_zip_arrives_whole_though_beginning_and_finishing_fail(
    bucket, put_zip, objects, unfinished, spoiled, fault, monkeypatch
):
    monkeypatch.setattr(s3_uploads, "QUIET_SECONDS", 0.2)
    key = put_zip({"big.csv": BIG})
    faults = spoiled(fault, "POST", "out/big.csv", 3)
    unzip_func(bucket, key, "out")
    assert faults.seen == 3
    assert objects("out/") == {"out/big.csv": BIG.encode()}
    # Also where the answer to its beginning was lost, and nobody knew of an upload.
    if fault != "slow":
        assert unfinished() == []
        return
    time.sleep(TIMEOUT_SECONDS + 0.3)  # it may still have been on its way; the next run finds it
    unzip_func(bucket, key, "out")
    assert unfinished() == []


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("fault", [*READS, "damaged answer"])
def test_a_table_arrives_whole_though_reading_fails(s3, bucket, spoiled, fault, after):
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=BIG.encode())
    # Its start is read first, to find out what kind of file it is.
    faults = spoiled(fault, "GET", "in/t.csv", 3, after)
    assert csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv")) == 450_000
    assert faults.seen == 3
    assert Path("table.csv").read_bytes() == BIG.encode()


def test_a_directory_that_comes_damaged_is_read_again(bucket, put_zip, objects, spoiled):
    key = put_zip({"a.csv": "a\n", "b.csv": "b\n"})
    faults = spoiled("damaged answer", "GET", key, 1)
    unzip_func(bucket, key, "out")
    assert faults.seen == 1
    assert objects("out/") == {"out/a.csv": b"a\n", "out/b.csv": b"b\n"}


def test_a_table_without_a_crc_is_compared_with_its_etag(s3, bucket, spoiled):
    plain = boto3.Session().client("s3", config=Config(request_checksum_calculation="when_required"))
    plain.put_object(Bucket=bucket, Key="in/t.csv", Body=BIG.encode())
    faults = spoiled("damaged answer", "GET", "in/t.csv", 1, 2)
    assert csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv")) == 450_000
    assert faults.seen == 1
    assert Path("table.csv").read_bytes() == BIG.encode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("fault", [*READS, "damaged answer"])
def test_a_table_that_pandas_reads_arrives_whole_though_reading_fails(s3, bucket, spoiled, fault, encoding):
    text = "number;ö\n" + "".join(f"{number};2\n" for number in range(400_000))
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=text.encode(encoding))
    # Its start is read first, twice.
    faults = spoiled(fault, "GET", "in/t.csv", 1, 2)
    assert csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv")) == 400_000
    assert faults.seen == 1
    assert Path("table.csv").read_text("utf-8") == text.replace(";", ",")


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "is AWS_ACCESS_KEY_ID the one of this S3?"),
    ],
)
def test_keys_that_are_wrong_are_named(bucket, put_zip, variable, why):
    key = put_zip({"a.csv": "x\n"})
    os.environ[variable] = "another"
    with pytest.raises(S3Error, match=rf"cannot read s3://{bucket}/data\.zip: .*{re.escape(why)}"):
        unzip_func(bucket, key, "out")


def test_a_wrong_clock_is_named(bucket, put_zip, monkeypatch):
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
def test_what_does_not_pass_ends_with_an_error_that_names_the_object(
    bucket, put_zip, objects, unfinished, spoiled, fault, method, why
):
    key = put_zip({"big.csv": BIG})
    spoiled(fault, method, "data.zip" if method in ("GET", "HEAD") else "out/big.csv", times=1000)
    with pytest.raises(S3Error, match=why.format(bucket=bucket)):
        unzip_func(bucket, key, "out")
    assert objects("out") == {} and unfinished() == []


def test_a_table_that_keeps_coming_damaged_is_an_error(s3, bucket, spoiled):
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=b"a,b\n" + b"1,2\n" * 100_000)
    spoiled("damaged answer", "GET", "in/t.csv", 1000)
    with pytest.raises((S3Error, ValueError), match=r"in/t\.csv"):
        csv_s3_reader(bucket, "in", "t.csv", Dataset(uri="table.csv"))


def test_a_reader_that_was_given_up_is_cleared_away_without_waiting_for_its_threads(s3, bucket):
    """The garbage collector may close it in a thread that is just starting, which can wait for no other."""
    s3.put_object(Bucket=bucket, Key="large", Body=bytes(12 << 20))
    blocks = S3Object(bucket, "large").blocks([(0, 12 << 20)])
    next(blocks)
    with patch.object(threading.Thread, "join", side_effect=AssertionError("it waited for a thread")):
        blocks.close()
    whole = S3Object(bucket, "large").whole()
    next(whole)
    with patch.object(threading.Thread, "join", side_effect=AssertionError("it waited for a thread")):
        whole.close()
