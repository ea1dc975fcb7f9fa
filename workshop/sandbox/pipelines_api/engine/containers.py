"""Runs tasks in the containers that they name, with Docker."""

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from workshop.sandbox import docker_engine
from workshop.sandbox.pipelines_api.engine import logs
from workshop.sandbox.pipelines_api.engine.contract import Job
from workshop.sandbox.pipelines_api.engine.environment import TASK_MARK
from workshop.sandbox.pipelines_api.engine.errors import EngineError
from workshop.sandbox.pipelines_api.engine.process import Running

RUN_LABEL = "workshop.run"  # by this a run's containers are found again


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
    from requests import RequestException

    client = _client()
    try:
        _pull_if_missing(client, running, image, log)
        container = _create(client, job, image, command, environment, folder)
        try:
            return _to_its_end(container, running, image, log)
        finally:
            _remove(container)
    except RequestException as error:
        raise EngineError(f"Docker does not answer any more: {error}") from error
    finally:
        client.close()


def remove_left(run_id: str) -> None:
    """Remove what a run has left in Docker when its worker could not.

    Args:
        run_id: the run; nothing of it may be starting containers any more.
    """
    from docker.errors import DockerException
    from requests import RequestException

    # Where Docker does not answer, nothing runs in it.
    with suppress(EngineError, DockerException, RequestException):
        client = _client()
        try:
            for container in client.containers.list(all=True, sparse=True, filters={"label": f"{RUN_LABEL}={run_id}"}):
                _remove(container)
        finally:
            client.close()


def _client() -> Any:
    try:
        return docker_engine.connect()
    except docker_engine.NoDockerEngine as error:
        raise EngineError(f"{error}, or run tasks as processes: workshop sandbox up --runner subprocess") from error


def _pull_if_missing(client: Any, running: Running, image: str, log: Path) -> None:
    import docker.errors

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        logs.note(log, f"Pulling the image {image}, which is not here yet.")
        _pull(client, running, image)
    except docker.errors.APIError as error:
        raise EngineError(f"the image {image} cannot be used: {error.explanation}") from error


def _pull(client: Any, running: Running, image: str) -> None:
    """Pull an image in a thread of its own: there is no other way to stop waiting for it."""
    from docker.errors import APIError
    from requests import RequestException

    ended = threading.Event()
    errors: list[Exception] = []

    def pull() -> None:
        try:
            client.images.pull(image)
        except (APIError, RequestException) as error:
            errors.append(error)
        finally:
            ended.set()

    with running.stoppable(ended.set):
        threading.Thread(target=pull, daemon=True).start()
        ended.wait()
    if errors:
        why = getattr(errors[0], "explanation", None) or errors[0]
        raise EngineError(f"the image {image} is not here and cannot be pulled: {why}") from errors[0]


def _create(
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
        return client.containers.create(
            image,
            command=arguments,
            # As on Kubernetes: a component's command replaces the image's entry point.
            **({"entrypoint": entrypoint} if entrypoint else {}),
            name=f"workshop-{environment[TASK_MARK]}",
            labels={RUN_LABEL: job.run_id},
            environment=dict(environment),
            volumes={
                str(job.directory): {"bind": str(job.directory), "mode": "rw"},
                str(workspace): {"bind": WORKSPACE_MOUNT_PATH, "mode": "rw"},
            },
            working_dir=str(folder),
            network_mode="host",
            user=f"{os.getuid()}:{os.getgid()}",
        )
    except docker.errors.APIError as error:
        raise EngineError(f"cannot make a container of {image}: {error.explanation}") from error


def _to_its_end(container: Any, running: Running, image: str, log: Path) -> int:
    import docker.errors

    try:
        container.start()
    except docker.errors.APIError as error:
        raise EngineError(f"cannot start a container of {image}: {error.explanation}") from error
    with running.stoppable(lambda: _kill(container)):
        with log.open("ab") as output:
            for piece in container.logs(stream=True, follow=True):
                output.write(piece)
                output.flush()
        return container.wait()["StatusCode"]


def _kill(container: Any) -> None:
    from docker.errors import APIError
    from requests import RequestException

    with suppress(APIError, RequestException):  # it has ended, or Docker has
        container.kill()


def _remove(container: Any) -> None:
    from docker.errors import APIError
    from requests import RequestException

    with suppress(APIError, RequestException):  # somebody else has removed it
        container.remove(force=True)
