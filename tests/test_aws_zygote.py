"""The AWS CLI that the tests of the scripts call answers as the real program does."""

import os
import subprocess

import psutil
import pytest

from tests.support import aws_zygote
from tests.support.api import await_that

CALLS = [
    ("sts", "get-caller-identity", "--output", "text"),
    pytest.param(("--version",), marks=pytest.mark.slow),
    pytest.param(("s3api", "head-bucket", "--bucket", "no-such-bucket"), marks=pytest.mark.slow),
    pytest.param(("s3", "cp", "-", "s3://BUCKET/key"), marks=pytest.mark.slow),
    pytest.param(("s3", "mb"), marks=pytest.mark.slow),
    pytest.param(("ec2", "describe-volumes", "--filters", "Name=x"), marks=pytest.mark.slow),
    pytest.param(("no-such-service",), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("words", CALLS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.slow
def test_a_call_prints_and_returns_what_the_real_program_does(bucket, words):
    words = [word.replace("BUCKET", bucket) for word in words]
    real, ours = (
        subprocess.run([program, *words], input="sent", capture_output=True, text=True)
        for program in (aws_zygote.REAL_PROGRAM, aws_zygote.program())
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (real.returncode, real.stdout, real.stderr)


@pytest.mark.slow
def test_a_call_gets_the_environment_the_folder_and_the_files_of_its_client(s3, bucket, tmp_path):
    (tmp_path / "file").write_text("content")
    subprocess.run([aws_zygote.program(), "s3", "cp", "file", f"s3://{bucket}/key"], cwd=tmp_path, check=True)
    command = [aws_zygote.program(), "s3", "cp", f"s3://{bucket}/key", "-"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"content"
    without = {name: value for name, value in os.environ.items() if not name.startswith("AWS_ACCESS_KEY")}
    refused = subprocess.run(command, env=without, capture_output=True, text=True)
    assert refused.returncode and "credentials" in refused.stderr


def test_a_call_ends_when_its_client_is_killed(s3, bucket):
    before = set(psutil.Process().children(recursive=True))
    client = subprocess.Popen([aws_zygote.program(), "s3", "cp", "-", f"s3://{bucket}/key"], stdin=subprocess.PIPE)

    def begun() -> list[psutil.Process]:
        new = set(psutil.Process().children(recursive=True)) - before
        return [process for process in new if process.pid != client.pid]

    await_that(begun, "the call does not begin")
    client.kill()
    client.wait()
    await_that(lambda: not begun(), "the call goes on without its client")
    client.stdin.close()
