"""Runs every test in the longest tier and writes the figures to `docs/checked.md`: `make check-all`."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from tests.support.sampling import SEED_VARIABLE, choose_seed, seed
from workshop.project import ROOT

PAGE = ROOT / "docs" / "checked.md"
# The images are built one after the other, so their tests run in one process.
PARTS = {
    "everything but the images": ["--ignore=tests/docker"],
    "images": ["-n", "0", "--images", "tests/docker"],
}
HEAD = """\
# When everything was last checked

`make check-all` runs every test, with whole lists instead of samples, and writes this page. A test that cannot run on
the machine is skipped; the run names the reason.

"""


@dataclass(frozen=True)
class Checked:
    """The figures of one part.

    Attributes:
        part: its name.
        passed: how many tests passed.
        failed: how many tests failed, those included whose set-up failed.
        skipped: how many tests were skipped.
        seconds: wall-clock time.
        status: the exit status of pytest.
    """

    part: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    status: int


def main() -> int:
    """Run all parts, print a table and write it; return 1 if a part failed."""
    choose_seed()
    results = [check(part, arguments) for part, arguments in PARTS.items()]
    page = HEAD + describe(results, _git("rev-parse", "--short=12", "HEAD"), bool(_git("status", "--porcelain")))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
    print(page)
    return int(any(result.status or result.failed for result in results))


def check(part: str, arguments: list[str]) -> Checked:
    """Run one part with pytest, in this terminal."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        begun = time.monotonic()
        command = [sys.executable, "-m", "pytest", "--tier", "all", f"--junit-xml={report}", *arguments]
        status = subprocess.run(command, cwd=ROOT).returncode
        seconds = time.monotonic() - begun
        suites = ElementTree.parse(report).getroot() if report.exists() else []
        tests, failures, errors, skipped = (
            sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
        )
    failed = failures + errors
    return Checked(part, tests - failed - skipped, failed, skipped, seconds, status)


def describe(results: list[Checked], commit: str, changed: bool) -> str:
    """Return the date, the commit and a table, in Markdown."""
    rows = [
        f"| {result.part} | {result.passed} | {result.failed} | {result.skipped} | {result.seconds:.0f} |"
        for result in results
    ]
    state = f"commit {commit}" + (" with uncommitted changes" if changed else "")
    when = f"{datetime.now(UTC):%Y-%m-%d}, {state}, Python {sys.version.split()[0]}, {SEED_VARIABLE}={seed()}"
    return "\n".join(
        [f"Last run: {when}.", "", "| part | passed | failed | skipped | seconds |", "|---|---|---|---|---|", *rows, ""]
    )


def _git(*words: str) -> str:
    command = ["git", "-c", "safe.directory=*", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
