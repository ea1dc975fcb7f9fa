"""Measures what an attack costs the server: memory and processor time."""

import threading
from contextlib import suppress
from types import TracebackType

import psutil

from tests.support.api import Api

SAMPLE_SECONDS = 0.01


def server_process(api: Api) -> psutil.Process:
    """Return the process that listens at the address of an API."""
    port = int(api.endpoint.split(":")[2].split("/")[0])
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if {str(port), "workshop.sandbox.pipelines_api"} <= set(process.cmdline()):
                return process
    raise AssertionError(f"no server listens on port {port}")


class Peak:
    """Measures a process inside of a `with` block.

    Args:
        process: the process.

    Attributes:
        growth_mb: by how many MB (2**20 bytes) the resident memory grew at most.
        processor_seconds: the processor time.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.growth_mb = 0.0
        self.processor_seconds = 0.0

    def __enter__(self) -> "Peak":
        self._first = self._process.memory_info().rss
        self._begun = self._seconds()
        self._thread.start()
        return self

    def __exit__(self, _: type | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self.processor_seconds = self._seconds() - self._begun

    def __repr__(self) -> str:
        return f"{self.growth_mb:.0f} MB, {self.processor_seconds:.1f} s"

    def _seconds(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            grown = (self._process.memory_info().rss - self._first) / 2**20
            self.growth_mb = max(self.growth_mb, grown)
