"""Tasks in containers. A fake Docker client runs their commands as processes.

The tests with the mark `docker` use a real Docker engine. These tests build their own image and need no registry.
"""

import json
import os
import subprocess
import threading
import time
import uuid
from pathlib import Path

import docker.client
import docker.errors
import psutil
import pytest
from filelock import FileLock
from kfp import dsl
from requests import ConnectionError

from tests.support import base_image, every_kind
from tests.support.api import Api, await_that
from tests.support.engine_bench import Memory, Ran
from tests.support.every_kind import IN_CONTAINERS
from tests.support.processes import kill, server_pid, worker_pids
from workshop.sandbox import docker_engine
from workshop.sandbox.pipelines_api.engine import containers

IMAGE = base_image.WITH_KFP


class FakeContainer:
    def __init__(self, command: list[str], options: dict) -> None:
        self.command, self.options = command, options
        self.killed = self.removed = False

    def start(self) -> None:
        if self.command[0] == "no-such-program":
            raise docker.errors.APIError("400", explanation="executable file not found")
        self.process = subprocess.Popen(
            self.command,
            env={"PATH": os.environ["PATH"]} | self.options["environment"],
            cwd=self.options["working_dir"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

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
    """The part of `docker.DockerClient` that the engine uses."""

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
        if image.startswith("slow"):
            time.sleep(20)
        if image.startswith("nowhere"):
            raise docker.errors.APIError("500", explanation="no such host")
        self.pulled.append(image)

    def create(self, image: str, command: list[str], entrypoint: list[str], **options) -> FakeContainer:
        self.started.append(options | {"image": image})
        self.ran.append(FakeContainer([*entrypoint, *command], options))
        return self.ran[-1]

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch) -> FakeDocker:
    fake = FakeDocker()
    monkeypatch.setattr(docker, "from_env", lambda **_: fake)
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


@dsl.container_component
def from_afar():
    return dsl.ContainerSpec(image="slow/image", command=["true"])


@dsl.pipeline
def needs_a_slow_image():
    from_afar()


@dsl.container_component
def without_program():
    return dsl.ContainerSpec(image="own/image:1", command=["no-such-program"])


@dsl.pipeline
def needs_a_missing_program():
    without_program()


@dsl.pipeline
def needs_a_missing_image():
    from_nowhere()


def test_the_placeholders_of_a_container_component_are_replaced(bench, engine):
    kind = IN_CONTAINERS["containers"]
    # The lightweight component that runs next finds its Python on the PATH.
    os.environ["PATH"] = f"{bench.python}/bin:{os.environ['PATH']}"
    ran = bench.run(kind.pipeline, kind.arguments, runner="docker")
    assert ran.outcome.state == "SUCCEEDED", ran.outcome.error
    assert ran.outputs == kind.expected
    data = ran.tasks["in-container"].outputs["artifacts"]["data"][0]
    stored = bench.s3().get_object(Bucket="mlpipeline", Key=data["uri"].removeprefix("minio://mlpipeline/"))
    assert stored["Body"].read() == b"<hello> x2"


def test_a_container_gets_the_settings_of_its_task(bench, engine):
    ran = bench.run(ends_with_code, {"code": 0}, runner="docker")
    (options,) = engine.started
    task = ran.tasks["ends-with"]
    assert options["name"] == f"workshop-{task.task_id}"
    assert options["image"] == "own/image:1" and engine.pulled == ["own/image:1"]
    assert options["network_mode"] == "host" and "auto_remove" not in options
    assert options["labels"] == {containers.RUN_LABEL: ran.job.run_id}
    assert options["user"] == f"{os.getuid()}:{os.getgid()}"
    assert options["volumes"][str(ran.job.directory)] == {"bind": str(ran.job.directory), "mode": "rw"}
    assert "PATH" not in options["environment"]
    assert options["environment"]["AWS_ENDPOINT_URL_S3"] == bench.environment["AWS_ENDPOINT_URL_S3"]
    assert Path(options["working_dir"]).is_relative_to(ran.job.directory)
    assert engine.ran[0].removed


def test_a_failed_container_gives_its_exit_code(bench, engine):
    ran = bench.run(ends_with_code, {"code": 3}, runner="docker")
    assert (ran.outcome.state, ran.tasks["ends-with"].exit_code) == ("FAILED", 3)
    assert ran.tasks["ends-with"].error == "going (exit code 3)"
    assert ran.log("ends-with").startswith("Pulling the image own/image:1, which is not on this machine yet.\ngoing\n")
    assert engine.ran[0].removed


def test_cancelling_kills_and_removes_the_container(bench, engine):
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    begun = time.monotonic()
    ran = bench.execute(bench.job(sleeps_long, runner="docker"), cancelled=cancelled)
    assert time.monotonic() - begun < 3.5
    assert (ran.outcome.state, ran.tasks["sleeps"].state) == ("CANCELED", "CANCELED")
    assert engine.ran[0].killed and engine.ran[0].removed


def test_cancelling_does_not_wait_for_an_image(bench, engine):
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    begun = time.monotonic()
    ran = bench.execute(bench.job(needs_a_slow_image, runner="docker"), cancelled=cancelled)
    assert time.monotonic() - begun < 3.5
    assert ran.tasks["from-afar"].state == "CANCELED" and engine.ran == []


def test_a_container_that_cannot_be_started_is_removed(bench, engine):
    ran = bench.run(needs_a_missing_program, runner="docker")
    assert "cannot start a container from own/image:1: executable file not found" in ran.outcome.error
    assert engine.ran[0].removed


def test_the_error_says_that_docker_has_ended(bench, engine, monkeypatch):
    def lost(self):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(FakeContainer, "wait", lost)
    ran = bench.run(ends_with_code, {"code": 0}, runner="docker")
    assert "Docker no longer answers: reset by peer" in ran.outcome.error


def test_an_existing_image_is_not_pulled(bench, engine):
    engine.local.add("own/image:1")
    bench.run(ends_with_code, {"code": 0}, runner="docker")
    assert engine.pulled == []


def test_an_image_that_cannot_be_pulled_is_named(bench, engine):
    ran = bench.run(needs_a_missing_image, runner="docker")
    assert "the image nowhere/image is not on this machine and cannot be pulled: no such host" in ran.outcome.error


def test_without_docker_the_error_says_what_to_do(bench, monkeypatch):
    def unreachable(**_):
        raise docker.errors.DockerException("no socket")

    monkeypatch.setattr(docker, "from_env", unreachable)
    ran = bench.run(every_kind.only_if, runner="docker")
    assert "no Docker Engine answers at unix:///var/run/docker.sock (no socket)" in ran.outcome.error


def test_removing_containers_does_not_need_docker(monkeypatch):
    def unreachable(**_):
        raise docker.errors.DockerException("no socket")

    monkeypatch.setattr(docker, "from_env", unreachable)
    containers.remove_containers("any")


# The following tests need a real Docker engine.


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> docker.DockerClient:
    """A client of the Docker engine on this machine. The image for tasks is available."""
    try:
        client = docker_engine.connect()
    except docker_engine.NoDockerEngine as error:
        pytest.skip(f"{error}; to run it: start Docker")
    # All processes of a test run share the parent folder.
    with FileLock(tmp_path_factory.getbasetemp().parent / "image.lock"):
        try:
            base_image.ensure(client)
        except base_image.CannotMakeImage as error:
            pytest.skip(str(error))
    yield client
    client.close()


@pytest.fixture
def run_for_real(real, bench):
    """Run a pipeline in containers. No container may be left."""

    def run(pipeline, arguments: dict | None = None, images: tuple[str, ...] = (), **options) -> Ran:
        job = bench.job(pipeline, arguments, runner="docker")
        text = json.dumps(job.spec)
        for image in images:
            text = text.replace(f'"{image}"', f'"{IMAGE}"')
        ran = bench.execute(bench.job(pipeline, arguments, runner="docker", spec=json.loads(text)), **options)
        assert containers_of(real, ran.job.run_id) == []
        return ran

    return run


def containers_of(client: docker.DockerClient, run: str) -> list:
    return client.containers.list(all=True, sparse=True, filters={"label": f"{containers.RUN_LABEL}={run}"})


@dsl.container_component
def make(word: str, size: int, written: dsl.OutputPath(str), data: dsl.Output[dsl.Dataset]):
    return dsl.ContainerSpec(
        image=IMAGE,
        command=["sh", "-c", 'mkdir -p "$(dirname "$2")"; echo "$3"; printf %s "$0 $1" | tee "$2" > "$4"'],
        args=[word, size, written, data.uri, data.path],
    )


@dsl.container_component
def take(data: dsl.Input[dsl.Dataset], copied: dsl.OutputPath(str)):
    return dsl.ContainerSpec(image=IMAGE, command=["cp", data.path, copied])


@dsl.component(base_image=IMAGE)
def look(data: dsl.Input[dsl.Dataset], copied: str, page: dsl.Output[dsl.HTML]) -> str:
    import getpass
    import pathlib
    import sys

    pathlib.Path(page.path).write_text("<p>seen")
    where = "in a container" if pathlib.Path("/.dockerenv").exists() else sys.executable
    return f"{pathlib.Path(data.path).read_text()}, {copied}, {where}, {bool(getpass.getuser())}"


@dsl.pipeline
def of_both_kinds(word: str = "loaf") -> str:
    made = make(word=word, size=2)
    taken = take(data=made.outputs["data"])
    return look(data=made.outputs["data"], copied=taken.outputs["copied"]).outputs["Output"]


@dsl.container_component
def shell(script: str):
    return dsl.ContainerSpec(image=IMAGE, command=["sh", "-c"], args=[script])


@dsl.pipeline
def scripted(script: str):
    shell(script=script).set_caching_options(False)


@dsl.container_component
def from_a_closed_port():
    return dsl.ContainerSpec(image="localhost:1/nowhere:1", command=["true"])


@dsl.pipeline
def needs_an_image_from_a_closed_port():
    from_a_closed_port()


@dsl.container_component
def program_that_is_not_there():
    return dsl.ContainerSpec(image=IMAGE, command=["no-such-program"])


@dsl.pipeline
def runs_a_program_that_is_not_there():
    program_that_is_not_there()


@pytest.mark.docker
@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_pipelines_in_real_containers_have_the_expected_outputs(run_for_real, name):
    kind = IN_CONTAINERS[name]
    ran = run_for_real(kind.pipeline, kind.arguments, images=("alpine:3", every_kind.OPTIONS["base_image"]))
    assert (ran.outcome.state, ran.outcome.error) == ("SUCCEEDED", "")
    assert ran.outputs == kind.expected


@pytest.mark.docker
def test_containers_and_python_components_exchange_outputs(run_for_real):
    ran = run_for_real(of_both_kinds)
    assert (ran.outcome.state, ran.outcome.error) == ("SUCCEEDED", "")
    assert ran.outputs == {"Output": "loaf 2, loaf 2, in a container, True"}
    folder = ran.job.directory / "tasks" / ran.tasks["make"].task_id / "outputs"
    assert ran.log("make") == f"{folder}/data\n"
    assert {path.lstat().st_uid for path in ran.job.directory.rglob("*")} == {os.getuid()}


@pytest.mark.docker
def test_a_failed_real_container_gives_its_exit_code_and_its_last_line(run_for_real):
    ran = run_for_real(scripted, {"script": "echo going; sleep 0.5; echo no flour >&2; exit 7"})
    task = ran.tasks["shell"]
    assert (ran.outcome.state, task.exit_code, task.error) == ("FAILED", 7, "no flour (exit code 7)")
    assert ran.log("shell") == "going\nno flour\n"


@pytest.mark.docker
def test_an_unavailable_image_is_named(run_for_real):
    ran = run_for_real(needs_an_image_from_a_closed_port)
    assert "the image localhost:1/nowhere:1 is not on this machine and cannot be pulled" in ran.outcome.error


@pytest.mark.docker
def test_a_missing_program_is_named_and_its_container_is_removed(run_for_real):
    ran = run_for_real(runs_a_program_that_is_not_there)
    assert f"cannot start a container from {IMAGE}" in ran.outcome.error and "no-such-program" in ran.outcome.error


@pytest.mark.docker
def test_a_log_can_be_read_while_the_container_runs_and_cancelling_removes_it(run_for_real, bench):
    memory, cancelled, ran = Memory(), threading.Event(), []
    # A shell ignores SIGTERM if it is the first process of a container.
    arguments = {"script": "echo begun; sleep 60; sleep 60"}
    run = threading.Thread(
        target=lambda: ran.append(run_for_real(scripted, arguments, memory=memory, cancelled=cancelled))
    )
    run.start()
    try:
        task = memory.await_state("shell", "RUNNING")
        log = await_that(lambda: next(bench.folder.glob(f"runs/*/{task.log}"), None), "there is no log")
        await_that(lambda: log.read_text() == "begun\n", "the log does not come")
    finally:
        cancelled.set()
    begun = time.monotonic()
    run.join(10)
    assert time.monotonic() - begun < 3
    assert ran and ran[0].tasks["shell"].state == "CANCELED"


@pytest.mark.docker
def test_the_containers_of_one_run_can_be_removed(real):
    killed, other = str(uuid.uuid4()), str(uuid.uuid4())
    for run in (killed, other):
        options = {"labels": {containers.RUN_LABEL: run}, "network_mode": "host"}
        real.containers.run(IMAGE, ["sleep", "60"], detach=True, **options)
    containers.remove_containers(killed)
    left = [len(containers_of(real, run)) for run in (killed, other)]
    containers.remove_containers(other)
    assert left == [0, 1]


@pytest.mark.docker
def test_the_sandbox_runs_and_terminates_containers(real, sandbox, compiled):
    sandbox.up(runner="docker")
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    good = api.run(compiled(of_both_kinds))["run_id"]
    long = api.run(compiled(scripted), {"script": "echo begun; sleep 60"})["run_id"]
    ended = api.await_state(good)
    assert ended["state"] == "SUCCEEDED", ended
    await_that(lambda: "shell" in api.tasks(long) and api.log(long, "shell") == "begun\n", "the container does not run")
    assert len(containers_of(real, long)) == 1
    api.call("POST", f"/runs/{long}:terminate")
    assert api.await_state(long)["state"] == "FAILED"
    assert containers_of(real, long) == containers_of(real, good) == []


@pytest.mark.docker
def test_the_container_of_a_killed_worker_is_removed(real, sandbox, compiled):
    sandbox.up(runner="docker")
    api = Api(sandbox.environment()["KF_PIPELINES_ENDPOINT"])
    run = api.run(compiled(scripted), {"script": "sleep 60"})["run_id"]
    await_that(lambda: containers_of(real, run), "the container does not run")
    fork_servers = {child.pid for child in psutil.Process(server_pid(sandbox)).children()}
    for pid in set(worker_pids(sandbox)) - fork_servers:
        kill(pid)
    assert api.await_state(run)["state"] == "FAILED"
    assert containers_of(real, run) == []
