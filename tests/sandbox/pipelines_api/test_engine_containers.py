"""Tasks in containers, against a stand-in for Docker that runs their commands as processes.

What a real engine adds (images, mounts, users) is tested where one runs: `test_engine_kinds.py`, mark `docker`.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

import docker.errors
import every_kind
import pytest
from every_kind import IN_CONTAINERS
from kfp import dsl


class FakeContainer:
    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.killed = self.removed = False

    def logs(self, stream: bool, follow: bool):
        yield from self.process.stdout

    def wait(self) -> dict:
        return {"StatusCode": self.process.wait()}

    def kill(self) -> None:
        self.killed = True
        self.process.kill()

    def remove(self, force: bool) -> None:
        self.removed = True


class FakeDocker:
    """As much of `docker.DockerClient` as the engine uses."""

    def __init__(self) -> None:
        self.images = self.containers = self
        self.local: set[str] = set()
        self.pulled: list[str] = []
        self.started: list[dict] = []
        self.ran: list[FakeContainer] = []

    def get(self, image: str) -> None:
        if image not in self.local:
            raise docker.errors.ImageNotFound(image)

    def pull(self, image: str) -> None:
        if image.startswith("nowhere"):
            raise docker.errors.APIError("500", explanation="no such host")
        self.pulled.append(image)

    def run(self, image: str, command: list[str], entrypoint: list[str], **options) -> FakeContainer:
        self.started.append(options | {"image": image})
        process = subprocess.Popen(
            [*entrypoint, *command],
            env={"PATH": os.environ["PATH"]} | options["environment"],
            cwd=options["working_dir"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.ran.append(FakeContainer(process))
        return self.ran[-1]

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch) -> FakeDocker:
    fake = FakeDocker()
    monkeypatch.setattr(docker, "from_env", lambda: fake)
    return fake


@dsl.container_component
def ends_with(code: int):
    return dsl.ContainerSpec(image="own/image:1", command=["sh", "-c", 'echo going; exit "$0"'], args=[code])


@dsl.pipeline
def ends_with_code(code: int):
    ends_with(code=code)


@dsl.container_component
def sleeps():
    return dsl.ContainerSpec(image="own/image:1", command=["sleep"], args=["60"])


@dsl.pipeline
def sleeps_long():
    sleeps()


@dsl.container_component
def from_nowhere():
    return dsl.ContainerSpec(image="nowhere/image", command=["true"])


@dsl.pipeline
def needs_a_missing_image():
    from_nowhere()


def test_the_placeholders_of_a_container_component_are_filled_in(bench, engine):
    kind = IN_CONTAINERS["containers"]
    # The lightweight component after it finds its Python on the PATH.
    os.environ["PATH"] = f"{bench.python}/bin:{os.environ['PATH']}"
    ran = bench.run(kind.pipeline, kind.arguments, runner="docker")
    assert ran.outcome.state == "SUCCEEDED", ran.outcome.error
    assert ran.outputs == kind.expected
    data = ran.tasks["in-container"].outputs["artifacts"]["data"][0]
    stored = bench.s3().get_object(Bucket="mlpipeline", Key=data["uri"].removeprefix("minio://mlpipeline/"))
    assert stored["Body"].read() == b"<hello> x2"


def test_a_container_is_started_as_the_task_needs_it(bench, engine):
    ran = bench.run(ends_with_code, {"code": 0}, runner="docker")
    (options,) = engine.started
    task = ran.tasks["ends-with"]
    assert options["name"] == f"workshop-{task.task_id}"
    assert options["image"] == "own/image:1" and engine.pulled == ["own/image:1"]
    assert options["network_mode"] == "host" and options["detach"] and "auto_remove" not in options
    assert options["user"] == f"{os.getuid()}:{os.getgid()}"
    assert options["volumes"][str(ran.job.directory)] == {"bind": str(ran.job.directory), "mode": "rw"}
    assert "PATH" not in options["environment"]
    assert options["environment"]["AWS_ENDPOINT_URL_S3"] == bench.environment["AWS_ENDPOINT_URL_S3"]
    assert Path(options["working_dir"]).is_relative_to(ran.job.directory)
    assert engine.ran[0].removed


def test_a_container_that_fails_tells_its_real_exit_code(bench, engine):
    ran = bench.run(ends_with_code, {"code": 3}, runner="docker")
    assert (ran.outcome.state, ran.tasks["ends-with"].exit_code) == ("FAILED", 3)
    assert ran.tasks["ends-with"].error == "going (exit code 3)"
    assert ran.log("ends-with").startswith("going\n")
    assert engine.ran[0].removed


def test_cancelling_kills_and_removes_the_container(bench, engine):
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    begun = time.monotonic()
    ran = bench.execute(bench.job(sleeps_long, runner="docker"), cancelled=cancelled)
    assert time.monotonic() - begun < 3.5
    assert (ran.outcome.state, ran.tasks["sleeps"].state) == ("CANCELED", "CANCELED")
    assert engine.ran[0].killed and engine.ran[0].removed


def test_an_image_that_is_here_is_not_pulled(bench, engine):
    engine.local.add("own/image:1")
    bench.run(ends_with_code, {"code": 0}, runner="docker")
    assert engine.pulled == []


def test_an_image_that_cannot_be_pulled_is_named(bench, engine):
    ran = bench.run(needs_a_missing_image, runner="docker")
    assert "the image nowhere/image is not here and cannot be pulled: no such host" in ran.outcome.error


def test_without_docker_the_error_says_what_to_do(bench, monkeypatch):
    def unreachable():
        raise docker.errors.DockerException("no socket")

    monkeypatch.setattr(docker, "from_env", unreachable)
    ran = bench.run(every_kind.only_if, runner="docker")
    assert "cannot reach Docker: no socket" in ran.outcome.error
