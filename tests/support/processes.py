"""Finds and kills the processes of a sandbox."""

import os
import signal

import psutil

from tests.support.api import await_that
from workshop.sandbox.pipelines_api.dispatcher import RUN_MARK


def server_pid(sandbox) -> int:
    return next(record.pid for server, record, _ in sandbox.status() if server.name == "pipelines-api")


def worker_pids(sandbox) -> list[int]:
    """Return the PIDs of the server's fork server and workers, without those of tasks."""
    children = psutil.Process(server_pid(sandbox)).children(recursive=True)
    return [child.pid for child in children if RUN_MARK not in environment(child)]


def environment(process) -> dict:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def processes_of_runs(runs) -> list[psutil.Process]:
    wanted = set(runs)
    return [process for process in psutil.process_iter() if environment(process).get(RUN_MARK) in wanted]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    await_that(lambda: not is_alive(pid), f"{pid} lives on")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
