"""`kill -9` at any moment, and two runs at once: what is in S3 is whole, and nothing else is left there."""

import multiprocessing
import os
import random
import time

import pytest

from pipelines import s3_uploads
from pipelines.components import unzip_func

SEED = 20261124
QUIET_SECONDS = 0.3
CHANCE = random.Random(SEED)
FILES = {
    "a.csv": b"small\n1\n",
    "big.csv": CHANCE.randbytes(11_000_000),
    **{f"many/{number}.csv": f"x\n{number}\n".encode() for number in range(30)},
    "other.csv": b"0123456789\n" * 1_100_000,
    "z.csv": b"last\n",
}
EXPECTED = {f"out/{name}": content for name, content in FILES.items()}


@pytest.fixture(scope="module")
def processes():
    """Processes that start at once, because everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pipelines.components", "pipelines.s3_uploads", "pipelines.s3_zip", "boto3", "isal"]
    )
    return context


@pytest.fixture
def start(bucket, put_zip, processes):
    """Start a run in a process of its own."""
    put_zip(FILES)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

    def start_one():
        process = processes.Process(target=unzip_here, args=(environment, bucket))
        process.start()
        return process

    return start_one


def unzip_here(environment: dict, bucket: str) -> None:
    os.environ.update(environment)
    s3_uploads.QUIET_SECONDS = QUIET_SECONDS
    unzip_func(bucket, "data.zip", "out", max_ratio=2000)


def run_to_its_end(start) -> None:
    process = start()
    process.join(120)
    assert process.exitcode == 0


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_at_any_moment_and_is_run_again_ends_as_if_it_had_not_been(
    s3, bucket, start, objects, unfinished, kills
):
    run_to_its_end(start)  # the fork server imports
    begun = time.monotonic()
    run_to_its_end(start)
    whole = time.monotonic() - begun
    left_behind = visible = 0
    for _ in range(kills):
        for key in EXPECTED:
            s3.delete_object(Bucket=bucket, Key=key)
        process = start()
        time.sleep(CHANCE.uniform(0, whole))
        process.kill()
        process.join()
        found = objects("out/")
        assert found.items() <= EXPECTED.items()
        left_behind, visible = left_behind + len(unfinished()), visible + len(found)
        run_to_its_end(start)
        assert objects("out/") == EXPECTED
        assert unfinished() == []
    if kills == 50:  # of few, it may be that none comes at such a moment
        assert left_behind and visible, "no kill came while something was being sent"


def test_runs_at_the_same_time_to_the_same_prefix_end_whole(start, objects, unfinished):
    for pause in (0, 0.1, 0.3):
        both = [start()]
        time.sleep(pause)
        both.append(start())
        for process in both:
            process.join(120)
        assert [process.exitcode for process in both] == [0, 0]
        assert objects("out/") == EXPECTED
        assert unfinished() == []


def test_what_another_run_is_sending_is_left_alone(s3, bucket, put_zip, objects, unfinished, monkeypatch):
    monkeypatch.setattr(s3_uploads, "QUIET_SECONDS", 0.5)
    put_zip({"a.csv": "x\n", "b.csv": "y\n"})
    # The first grows meanwhile, the second does not, and the third is for a key that this run does not write.
    growing, *_ = (
        s3.create_multipart_upload(Bucket=bucket, Key=f"out/{name}")["UploadId"] for name in ("a.csv", "b.csv", "c.csv")
    )
    real = s3_uploads.Uploads._finish

    def finish_after_it_has_grown(self):
        s3.upload_part(Bucket=bucket, Key="out/a.csv", UploadId=growing, PartNumber=1, Body=b"z")
        real(self)

    monkeypatch.setattr(s3_uploads.Uploads, "_finish", finish_after_it_has_grown)
    unzip_func(bucket, "data.zip", "out")
    assert sorted(unfinished()) == ["out/a.csv", "out/c.csv"]
