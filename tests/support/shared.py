"""A pytest plugin: a folder that the workers of one session share, and the sandbox in it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from workshop.sandbox import Sandbox
from workshop.sandbox.aws_account import AwsAccount
from workshop.sandbox.object_store import ObjectStore

FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder, or use the folder of the process that started this worker."""
    worker = getattr(config, "workerinput", None)
    config.stash[FOLDER] = Path(worker["shared"] if worker else tempfile.mkdtemp(prefix="workshop-tests-"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker which folder it is."""
    node.workerinput["shared"] = str(node.config.stash[FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the shared sandbox when every worker has ended, and delete the folder."""
    if not hasattr(config, "workerinput"):
        folder = config.stash[FOLDER]
        Sandbox(folder / "sandbox").reset()
        shutil.rmtree(folder)


@contextmanager
def worker_sandbox(config: pytest.Config, folder: Path) -> Iterator[Sandbox]:
    """Give this worker a running sandbox.

    All workers use the S3 and the AWS account of the first worker. Each worker has its own Pipelines API.

    Args:
        config: pytest's configuration.
        folder: the folder for the sandbox of this worker, unless the worker is the first one.
    """
    of_the_first = Sandbox(config.stash[FOLDER] / "sandbox")
    with first_one(config.stash[FOLDER], "sandbox-is-up") as first:
        if first:
            of_the_first.up()
    if first:  # the sandbox runs until all workers have ended
        yield of_the_first
        return
    own = borrow(folder, of_the_first)
    own.up()
    yield own
    own.reset()


@contextmanager
def first_one(folder: Path, name: str) -> Iterator[bool]:
    """Let one worker at a time pass. Yield True for the first worker.

    Args:
        folder: the folder that the workers share.
        name: a name for the work that one worker does.

    Yields:
        True until the body of one worker has ended without an error.
    """
    done = folder / f"{name}.done"
    with FileLock(folder / f"{name}.lock"):
        yield not done.exists()
        done.touch()


def borrow(directory: Path, owner: Sandbox) -> Sandbox:
    """Return a sandbox that has its own Pipelines API, and uses the S3 and the AWS account of another sandbox.

    To start a Pipelines API takes a third of the time that a whole sandbox takes. `up()` starts it; `down()` and
    `reset()` stop it and leave the other servers to their owner. A test must not end the borrowed servers.

    Args:
        directory: the folder of the new sandbox; it must not exist.
        owner: a sandbox that is up; its servers must run as long as the new sandbox is used.
    """
    own = Sandbox(directory)
    own_bucket = own.bucket  # makes the folder with identity.json
    (directory / "run").mkdir()
    kept = directory / "identity.json"
    identity = json.loads(kept.read_text())
    lent = json.loads((owner.directory / "identity.json").read_text())
    keys = ("access_key", "secret_key", "encryption_key")
    kept.write_text(json.dumps(identity | {name: lent[name] for name in keys} | {"bucket": own_bucket}))
    for server in (ObjectStore, AwsAccount):
        record = Path("run", f"{server.name}.json")
        (directory / record).write_text((owner.directory / record).read_text())
    return own
