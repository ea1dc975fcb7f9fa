"""The commands `workshop sandbox ...`, run as a reader runs them."""

import os
import subprocess

import pytest

from workshop.project import PROGRAMS
from workshop.sandbox.registry import what_is_missing


@pytest.mark.slow
def test_a_shell_that_evaluates_env_reaches_the_sandbox_with_the_aws_command_line(shared_sandbox):
    os.environ["WORKSHOP_SANDBOX_DIR"] = str(shared_sandbox.directory)
    script = """set -e
        eval "$(python -m workshop sandbox env)"
        aws s3 mb s3://from-a-shell; aws s3 ls; aws sts get-caller-identity"""
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "AWS_PROFILE": "production"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "from-a-shell" in done.stdout and "123456789012" in done.stdout


def test_status_shows_each_part_up_and_down(sandbox, workshop_command):
    parts = ["object-store", "aws-account", "pipelines-api", *([] if what_is_missing() else ["registry"])]
    assert workshop_command("sandbox", "status").stdout.count(" down ") == 4
    up = workshop_command("sandbox", "up").stdout
    assert up.count(" up ") == len(parts) and "http://127.0.0.1:" in up and "Amazon S3" in up
    logs = workshop_command("sandbox", "logs", "-n", "5").stdout
    assert "==> object-store <==" in logs and "==> aws-account <==" in logs
    assert workshop_command("sandbox", "down").stdout == f"stopped: {', '.join(parts)}\n"
    assert workshop_command("sandbox", "down").stdout == "nothing was running\n"


def test_env_of_a_sandbox_that_is_down_says_how_to_start_it(sandbox, workshop_command):
    done = workshop_command("sandbox", "env")
    assert done.returncode == 1
    assert "workshop sandbox up" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_reset_asks_and_deletes_only_when_told(borrowing_sandbox, workshop_command):
    sandbox = borrowing_sandbox
    workshop_command("sandbox", "up")
    assert workshop_command("sandbox", "reset", input="n\n").returncode == 1
    assert sandbox.directory.exists()
    assert workshop_command("sandbox", "reset", "--yes").returncode == 0
    assert not sandbox.directory.exists()


@pytest.mark.slow
def test_wrong_usage_exits_with_2(workshop_command):
    assert workshop_command("sandbox", "sideways").returncode == 2
    assert workshop_command("run", "--parameter", "no-equals-sign").returncode == 2
