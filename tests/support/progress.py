"""A pytest plugin: one line of progress instead of dots, and the skipped tests by their reason at the end."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_UPDATES = 0.5


class Progress:
    """Shows how many tests are done, the seconds so far, and the running test that began first.

    On a terminal one line is updated; elsewhere a line is printed every ten seconds.

    Args:
        config: pytest's configuration, with its terminal.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._reporter = config.pluginmanager.getplugin("terminalreporter")
        self._on_terminal = sys.stdout.isatty()
        self._begun = time.monotonic()
        self._total = 0
        self._done: set[str] = set()
        self._running: dict[str, float] = {}
        self._failed = 0
        self._shown = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show_until_the_end, daemon=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._total = max(self._total, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._total = len(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        self._thread.start()
        try:
            return (yield)
        finally:
            self._ended.set()
            self._thread.join()
            self._erase()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        with self._lock:
            self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        with self._lock:
            self._running.pop(nodeid, None)
            self._done.add(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name a failure at once; the traceback follows at the end."""
        if report.failed:
            self._failed += 1
            self._print(f"FAILED {report.nodeid}" + (f" ({report.when})" if report.when != "call" else ""))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count passed, failed and skipped as pytest does, without a letter for each."""
        if report.passed:
            return ("passed" if report.when == "call" else ""), "", ""
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        return None if hasattr(report, "wasxfail") else ("skipped", "", "SKIPPED")

    def line(self) -> str:
        """Return the line as it is now."""
        now = time.monotonic()
        with self._lock:
            done, running = len(self._done), dict(self._running)
        text = f"{done} of {self._total} tests, {now - self._begun:.0f} s"
        if self._failed:
            text += f", {self._failed} failed"
        if running:
            name, begun = min(running.items(), key=lambda item: item[1])
            text += f"; running for {now - begun:.0f} s: {name}"
        return text

    def _show_until_the_end(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_UPDATES if self._on_terminal else SECONDS_BETWEEN_LINES):
            if self._total:
                self._show(self.line())

    def _show(self, line: str) -> None:
        if not self._on_terminal:
            self._print(line)
            return
        terminal = self._reporter._tw
        line = line[: terminal.fullwidth - 1]
        terminal.write("\r" + line.ljust(self._shown), flush=True)
        self._shown = len(line)

    def _print(self, line: str) -> None:
        self._erase()
        self._reporter._tw.line(line)
        self._reporter._tw.flush()

    def _erase(self) -> None:
        if self._shown:
            self._reporter._tw.write("\r" + " " * self._shown + "\r", flush=True)
            self._shown = 0


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Show progress in the process that has the terminal, unless every test is to be named."""
    if not hasattr(config, "workerinput") and config.getoption("verbose") <= 0 and not config.option.collectonly:
        config.pluginmanager.register(Progress(config), "workshop-progress")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of skipped tests for each reason."""
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.section("skipped", sep="-")
        for reason, count in skipped.most_common():
            terminalreporter.write_line(f"{count:4} x {reason}")


def _reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
