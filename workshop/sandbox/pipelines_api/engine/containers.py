"""Runs tasks in the containers that they name, with Docker."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from workshop.sandbox.pipelines_api.engine.contract import Job
from workshop.sandbox.pipelines_api.engine.environment import TASK_MARK
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.process import Running


def run(
    job: Job,
    running: Running,
    image: str,
    command: tuple[list[str], list[str]],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
) -> int:
    """Run a task's container to its end, and remove it.

    Args:
        job: the run; its folder is mounted where it lies.
        running: stops the container when the run is stopped.
        image: its image, pulled when it is not there.
        command: what is executed, and its arguments; where the first is empty, what the image says.
        environment: what it finds in its environment besides what the image sets.
        folder: where it starts.
        log: file to which its output is added as it comes.

    Returns:
        Its exit code.

    Raises:
        EngineError: there is no Docker, no such image, or it cannot be started.
        Cancelled: the run was stopped.
    """
    import docker.errors

    client = _client()
    try:
        _pull_if_missing(client, image)
        container = _start(client, job, image, command, environment, folder)
        try:
            with running.stoppable(lambda: _kill(container)):
                with log.open("ab") as output:
                    for piece in container.logs(stream=True, follow=True):
                        output.write(piece)
                        output.flush()
                return container.wait()["StatusCode"]
        finally:
            with suppress(docker.errors.APIError):
                container.remove(force=True)
    finally:
        client.close()


def _client() -> Any:
    import docker.errors

    try:
        return docker.from_env()
    except docker.errors.DockerException as error:
        raise EngineError(f"cannot reach Docker: {error}. Start it, or run without WORKSHOP_RUNNER=docker") from error


def _pull_if_missing(client: Any, image: str) -> None:
    import docker.errors

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            # Without a tag, `pull` would fetch every tag that there is.
            client.images.pull(image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest")
        except docker.errors.APIError as error:
            raise EngineError(f"the image {image} is not here and cannot be pulled: {error.explanation}") from error


def _start(
    client: Any,
    job: Job,
    image: str,
    command: tuple[list[str], list[str]],
    environment: Mapping[str, str],
    folder: Path,
) -> Any:
    import docker.errors

    entrypoint, arguments = command
    workspace = job.directory / "workspace"
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        return client.containers.run(
            image,
            command=arguments,
            # As on Kubernetes: a component's command replaces the image's entry point.
            **({"entrypoint": entrypoint} if entrypoint else {}),
            name=f"workshop-{environment[TASK_MARK]}",
            environment=dict(environment),
            volumes={
                str(job.directory): {"bind": str(job.directory), "mode": "rw"},
                str(workspace): {"bind": WORKSPACE_MOUNT_PATH, "mode": "rw"},
            },
            working_dir=str(folder),
            network_mode="host",
            user=f"{os.getuid()}:{os.getgid()}",
            detach=True,
        )
    except docker.errors.APIError as error:
        raise EngineError(f"cannot start a container of {image}: {error.explanation}") from error


def _kill(container: Any) -> None:
    import docker.errors

    with suppress(docker.errors.APIError):
        container.kill()
