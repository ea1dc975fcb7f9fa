"""Fixtures for all tests: a clean environment, sandboxes, buckets, and a small zip like the Olist dataset."""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import boto3
import botocore.session
import pytest

from workshop.project import ROOT
from workshop.sandbox import Sandbox, apply

pytest_plugins = ("tests.support.tiers", "tests.support.shared", "tests.support.progress")

# As in workshop/cli.py, skip an import that takes 2 s and that no test needs.
sys.modules.setdefault("rfc3987_syntax", None)

# Tests make hundreds of S3 clients, and each new one would parse the same description of S3 again, for 0.1 s.
botocore.session.create_loader = cache(botocore.session.create_loader)

FOREIGN = (
    "AWS_",
    "KF_",
    "WORKSHOP_",
    "PIP_TARGET",
    "PYTHONPATH",
    "REGISTRY",
    "COMPONENT_IMAGE",
    "NB_PREFIX",
    "KUBERNETES_",
)
# The nine files of the Olist dataset, by the names that Kaggle gives them.
OLIST = (
    "olist_customers_dataset",
    "olist_geolocation_dataset",
    "olist_order_items_dataset",
    "olist_order_payments_dataset",
    "olist_order_reviews_dataset",
    "olist_orders_dataset",
    "olist_products_dataset",
    "olist_sellers_dataset",
    "product_category_name_translation",
)


def pytest_configure(config):
    """Hold the usual ports of the servers while tests run, so that no two tests want the same port."""
    if not hasattr(config, "workerinput"):
        config.held_ports = []
        for port in (8333, 5005, 8889, 5000):
            with contextlib.suppress(OSError):
                config.held_ports.append(socket.create_server(("127.0.0.1", port)))


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    """Hide the settings of this machine from every test, and undo the settings that the test makes."""
    before = dict(os.environ)
    path, executable = list(sys.path), sys.executable
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            del os.environ[name]
    os.environ["WORKSHOP_SANDBOX_DIR"] = str(tmp_path / "sandbox")
    os.environ["WORKSHOP_SETTINGS"] = str(tmp_path / "no-settings.env")
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)
    sys.path[:] = path
    sys.executable = executable  # connect() changes it where its path has a space


@pytest.fixture
def sandbox(clean_environment):
    """The test's own sandbox, not started; deleted after the test."""
    own = Sandbox()
    yield own
    own.reset()


@pytest.fixture(scope="session")
def shared_sandbox(request, tmp_path_factory):
    """A running sandbox for tests that do not disturb each other."""
    from tests.support.shared import worker_sandbox  # pytest must load this plugin first, to rewrite its assertions

    with worker_sandbox(request.config, tmp_path_factory.mktemp("shared") / "sandbox") as sandbox:
        yield sandbox


@pytest.fixture
def borrowing_sandbox(clean_environment, shared_sandbox):
    """A sandbox with the test's own Pipelines API, not started; S3 and the AWS account are the shared ones."""
    from tests.support.shared import borrow

    own = borrow(Path(os.environ["WORKSHOP_SANDBOX_DIR"]), shared_sandbox)
    yield own
    own.reset()


@pytest.fixture
def s3(shared_sandbox):
    """A boto3 client for the shared sandbox; the environment of this process points there, too."""
    apply(shared_sandbox.environment())
    os.environ["WORKSHOP_SANDBOX_DIR"] = str(shared_sandbox.directory)
    boto3.setup_default_session()
    return boto3.client("s3")


@pytest.fixture
def bucket(s3, unique):
    """The test's own empty bucket."""
    s3.create_bucket(Bucket=unique)
    return unique


@pytest.fixture
def unique(request) -> str:
    """A name that no other test uses on a shared sandbox; the same in every session."""
    digest = hashlib.sha256(request.node.nodeid.encode()).hexdigest()
    return f"test-{int(digest, 16) % 10**12:012}"


@pytest.fixture
def olist_zip(tmp_path):
    """A zip shaped like the Olist dataset: nine small CSV files."""
    path = tmp_path / "brazilian-ecommerce.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(OLIST):
            rows = "".join(f"{row:04x},city {row % 3},{row * 1.5 + number}\n" for row in range(25 + number))
            archive.writestr(f"{name}.csv", f"{name}_id,city,value\n{rows}")
    return path


@pytest.fixture
def workshop_command():
    """Call the `workshop` command as a reader does, in another process."""

    def call(*arguments: str, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "workshop", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)

    return call


@pytest.fixture
def project_copy(tmp_path) -> Path:
    """A copy of the project as a clone holds it, with uncommitted changes, in a folder with an unusual name."""
    target = tmp_path / "erste Übung"
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source := ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(source.read_bytes())
            (target / name).chmod(source.stat().st_mode)
    return target


@pytest.fixture
def tiny_wheel(tmp_path) -> Path:
    """A wheel of a package that no index has; pip installs it without a network."""
    wheel = tmp_path / "tinypackage-1.0-py3-none-any.whl"
    info = "tinypackage-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinypackage.py", "VALUE = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel
