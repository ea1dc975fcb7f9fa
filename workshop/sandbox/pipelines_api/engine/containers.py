"""Runs tasks in containers, with Docker."""

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
from workshop.sandbox.pipelines_api.engine.regular_files import open_to_append
from workshop.sandbox.pipelines_api.engine.run_folder import RunFolder

RUN_LABEL = "workshop.run"  # marks all containers of a run


def run(
    job: Job,
    running: Running,
    image: str,
    command: tuple[list[str], list[str]],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
) -> int:
    """Run a task's container until it ends, then remove the container.

    Args:
        job: the run. The folder of the run is mounted at the same path.
        running: stops the container when the run is stopped.
        image: the image. The engine pulls an image that does not exist on this machine.
        command: the entry point and its arguments. With an empty entry point, the entry point of the image is used.
        environment: variables in addition to the variables of the image.
        folder: the working folder.
        log: the file that receives the output of the container.

    Returns:
        The exit code of the container.

    Raises:
        EngineError: Docker or the image is not available, or the container cannot be started.
        Cancelled: the run was stopped.
    """
    from requests import RequestException

    client = _client()
    try:
        _pull_if_missing(client, running, image, log)
        container = _create(client, job, image, command, environment, folder)
        try:
            return _await_end(container, running, image, log)
        finally:
            _remove(container)
    except RequestException as error:
        raise EngineError(f"Docker no longer answers: {error}") from error
    finally:
        client.close()


def remove_containers(run_id: str) -> None:
    """Remove the containers of a run after its worker process has ended.

    Args:
        run_id: the run. No process of this run may start containers any more.
    """
    from docker.errors import DockerException
    from requests import RequestException

    # If Docker does not answer, no container runs.
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
        logs.note(log, f"Pulling the image {image}, which is not on this machine yet.")
        _pull(client, running, image)
    except docker.errors.APIError as error:
        raise EngineError(f"the image {image} cannot be used: {error.explanation}") from error


def _pull(client: Any, running: Running, image: str) -> None:
    """Pull an image in a separate thread. Otherwise a stopped run would have to wait for the end of the pull."""
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
        raise EngineError(f"the image {image} is not on this machine and cannot be pulled: {why}") from errors[0]


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
    workspace = RunFolder(job.directory).workspace
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        return client.containers.create(
            image,
            command=arguments,
            # Kubernetes does the same: the command of a component replaces the entry point of the image.
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
        raise EngineError(f"cannot create a container from {image}: {error.explanation}") from error


def _await_end(container: Any, running: Running, image: str, log: Path) -> int:
    import docker.errors

    try:
        container.start()
    except docker.errors.APIError as error:
        raise EngineError(f"cannot start a container from {image}: {error.explanation}") from error
    with running.stoppable(lambda: _kill(container)):
        with open_to_append(log) as output:
            for piece in container.logs(stream=True, follow=True):
                output.write(piece)
                output.flush()
        return int(container.wait()["StatusCode"])


def _kill(container: Any) -> None:
    from docker.errors import APIError
    from requests import RequestException

    with suppress(APIError, RequestException):  # the container has ended, or Docker does not answer
        container.kill()


def _remove(container: Any) -> None:
    from docker.errors import APIError
    from requests import RequestException

    with suppress(APIError, RequestException):  # another process has removed the container
        container.remove(force=True)
