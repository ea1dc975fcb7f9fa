"""Measures the sandbox's Pipelines API, on a fresh sandbox: `make bench`.

The benchmark measures the time of requests with few and many runs in the database, the time of a task that does
nothing, and the time until the server answers after a `kill -9`. The benchmark prints tables, and writes them with
a picture to `benchmarks/results`. The benchmark fails only when a measured program does not work.
"""

import sys
import time

from rich.console import Console

from benchmarks import answers, report, startup
from benchmarks.server import BenchmarkError, Server, fresh_server
from workshop.errors import WorkshopError

KILLS = 5


def main() -> None:
    """Measure the API and write the report."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    begun = time.monotonic()

    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {what}", markup=False)

    machine = report.machine()  # the benchmark adds load later
    try:
        tell("starting a sandbox")
        with fresh_server() as server:
            latencies = answers.measure(server, tell)
            started = startup.measure(server, tell)
            recoveries = _recoveries(server, tell)
    except (BenchmarkError, WorkshopError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sections = [report.of_answers(latencies), *report.of_start_up(started), report.of_recovery(recoveries)]
    report.show(console, sections)
    report.write(machine, sections, latencies)
    tell(f"done; written to {report.RESULTS.relative_to(report.ROOT)}")


def _recoveries(server: Server, tell) -> list[float]:
    """Return the seconds from each kill of the server to its next response."""
    seconds = []
    for number in range(KILLS):
        tell(f"kill -9 of the server, {number + 1} of {KILLS}")
        begun = time.perf_counter()
        server.kill()
        server.start()
        server.call("GET", "/runs?page_size=1")
        seconds.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main()
