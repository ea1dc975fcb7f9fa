"""Measures the sandbox's Pipelines API, on a fresh sandbox: `make bench`.

How long requests take with few and many runs in the database, what a task costs that does nothing, and how soon the
server answers again after a `kill -9`. Prints tables, and writes them with a picture to `benchmarks/results`. It fails
when something does not work, never because something is slow.
"""

import sys
import time

from rich.console import Console

from benchmarks import answers, report, startup
from benchmarks.server import BenchmarkError, Server, fresh_server
from workshop.errors import WorkshopError

KILLS = 5


def main() -> None:
    """Measure, print and write everything."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    begun = time.monotonic()

    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {what}", markup=False)

    machine = report.machine()  # before anything here makes it busy
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
    """Return the seconds from a kill of the server to its next answer, each time."""
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
