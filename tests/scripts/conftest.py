"""Fixtures for the tests of the scripts: a shell, and an AWS account."""

import shutil

import pytest

from tests.support.shell import Shell
from workshop.sandbox import Sandbox


@pytest.fixture
def shell(clean_environment, tmp_path) -> Shell:
    """A shell for scripts, without tools on PATH, settings or an account."""
    folder = tmp_path / "shell"
    folder.mkdir()
    return Shell(folder)


@pytest.fixture
def account(shared_sandbox, shell) -> Sandbox:
    """The emulated AWS account that tests share, with a real S3; `shell` has the AWS CLI and the endpoints.

    A test names everything that it makes there after itself (`unique`).
    """
    return _give_account(shell, shared_sandbox)


@pytest.fixture
def own_account(sandbox, shell) -> Sandbox:
    """Like `account`, but for one test alone, which reads everything in the account. Starts in seconds."""
    sandbox.up()
    return _give_account(shell, sandbox)


def _give_account(shell: Shell, sandbox: Sandbox) -> Sandbox:
    shell.provide_aws()
    shell.environment |= {name: value or "" for name, value in sandbox.environment().items()}
    shell.environment["WORKSHOP_SANDBOX_DIR"] = str(sandbox.directory)
    return sandbox


@pytest.fixture(params=["awk", "original-awk", "mawk", "gawk", "busybox"])
def each_awk(request, shell) -> None:
    """Use each awk of this machine as the `awk` of the scripts. original-awk is BWK awk, which macOS and BSD have."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed; to run it on Debian: apt-get install {request.param}")
    awk = shell.programs / "awk"
    awk.unlink(missing_ok=True)
    awk.write_text(f'#!/bin/sh\nexec {program} {"awk" if request.param == "busybox" else ""} "$@"\n')
    awk.chmod(0o755)
