"""`kill -9` at any moment, and two runs at once: every object in S3 is complete, and no unfinished upload stays."""

import multiprocessing
import os
import random
import time

import pytest

from pipelines.components import unzip_func
from pipelines.s3_streams import unfinished as unfinished_module
from pipelines.s3_streams.uploads import Uploads

SEED = 20261124
IDLE_SECONDS = 0.3
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
    """A fork server that has imported the packages already, so that its processes start fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.components", "pipelines.s3_streams", "boto3", "isal"])
    return context


@pytest.fixture
def start(bucket, put_zip, processes):
    """Return a function that starts `unzip_func` in its own process."""
    put_zip(FILES)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

    def start_one():
        process = processes.Process(target=unzip_here, args=(environment, bucket))
        process.start()
        return process

    return start_one


def unzip_here(environment: dict, bucket: str) -> None:
    os.environ.update(environment)
    unfinished_module.IDLE_SECONDS = IDLE_SECONDS
    unzip_func(bucket, "data.zip", "out", max_ratio=2000)


def run_to_end(start) -> None:
    process = start()
    process.join(120)
    assert process.exitcode == 0


@pytest.mark.parametrize(
    "kills", [2, pytest.param(15, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.exhaustive)]
)
def test_a_run_after_a_kill_at_any_moment_leaves_the_same_objects_as_an_undisturbed_run(
    s3, bucket, start, objects, unfinished, kills
):
    run_to_end(start)  # the fork server imports the packages
    begun = time.monotonic()
    run_to_end(start)
    whole = time.monotonic() - begun
    unfinished_count = visible = 0
    for _ in range(kills):
        for key in EXPECTED:
            s3.delete_object(Bucket=bucket, Key=key)
        process = start()
        time.sleep(CHANCE.uniform(0, whole))
        process.kill()
        process.join()
        found = objects("out/")
        assert found.items() <= EXPECTED.items()
        unfinished_count, visible = unfinished_count + len(unfinished()), visible + len(found)
        run_to_end(start)
        assert objects("out/") == EXPECTED
        assert unfinished() == []
    if kills == 50:  # with fewer kills, it can happen that none comes during an upload
        assert unfinished_count and visible, "no kill came while something was being sent"


@pytest.mark.slow
def test_two_runs_at_once_to_the_same_prefix_leave_complete_objects(start, objects, unfinished):
    for pause in (0, 0.1, 0.3):
        both = [start()]
        time.sleep(pause)
        both.append(start())
        for process in both:
            process.join(120)
        assert [process.exitcode for process in both] == [0, 0]
        assert objects("out/") == EXPECTED
        assert unfinished() == []


def test_the_uploads_of_another_live_run_are_not_aborted(s3, bucket, put_zip, objects, unfinished, monkeypatch):
    monkeypatch.setattr(unfinished_module, "IDLE_SECONDS", 0.5)
    put_zip({"a.csv": "x\n", "b.csv": "y\n"})
    # The first upload gets a part, the second gets none, and this run does not write the key of the third.
    growing, *_ = (
        s3.create_multipart_upload(Bucket=bucket, Key=f"out/{name}")["UploadId"] for name in ("a.csv", "b.csv", "c.csv")
    )
    real = Uploads._finish

    def finish_after_a_part(self):
        s3.upload_part(Bucket=bucket, Key="out/a.csv", UploadId=growing, PartNumber=1, Body=b"z")
        real(self)

    monkeypatch.setattr(Uploads, "_finish", finish_after_a_part)
    unzip_func(bucket, "data.zip", "out")
    assert sorted(unfinished()) == ["out/a.csv", "out/c.csv"]
