"""A pool of threads that bounds the bytes in memory: those being sent, and those that wait to be sent."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipelines.s3_streams.client import S3Error

THREADS = 8
MAX_BYTES = 24 << 20
# A task counts as at least this many bytes, which bounds the number of waiting tasks.
MIN_TASK_BYTES = 256 << 10


class BoundedPool:
    """Runs tasks in threads. After the first error no task begins, and every later call raises that error."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._changed = threading.Condition()
        self._held = 0
        self._error: BaseException | None = None

    def submit(self, size: int, task: Callable[[], None]) -> None:
        """Wait until there is room for the bytes of a task, then let a thread run it.

        Args:
            size: the number of bytes that the task holds.
            task: the work.

        Raises:
            BaseException: the first error of an earlier task.
        """
        size = max(size, MIN_TASK_BYTES)
        self._wait(lambda: self._held == 0 or self._held + size <= MAX_BYTES)
        with self._changed:
            self._held += size
        self._pool.submit(self._run, size, task)

    def join(self) -> None:
        """Wait until all tasks have ended.

        Raises:
            BaseException: the first error of a task.
        """
        self._wait(lambda: self._held == 0)

    def close(self) -> None:
        """Begin no further task, and wait for the running ones."""
        self._error = self._error or S3Error("the uploads were stopped")
        self._pool.shutdown(cancel_futures=True)

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or condition())
        if self._error is not None:
            raise self._error

    def _run(self, size: int, task: Callable[[], None]) -> None:
        try:
            if self._error is None:
                task()
        except BaseException as error:
            self._error = self._error or error
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()
