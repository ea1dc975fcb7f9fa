"""Measures `make test` of another revision and of the working tree: `python -m benchmarks.test_time [REVISION]`.

Both run one after the other on this machine. The environments are made first and do not count. The command prints both
times and their ratio, and writes nothing. The command exits with 1 if a test fails, because the times of failed
tests cannot be compared.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import BenchmarkError
from workshop.project import ROOT

DEFAULT_REVISION = "cbbd6da"
# An active environment must not replace the environment of each folder.
ENVIRONMENT_VARIABLES = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL")


@dataclass(frozen=True)
class TestRun:
    """One run of `make test`.

    Attributes:
        seconds: the time of the run.
        status: the exit status of make.
        summary: the last line of the output; pytest counts its tests there.
    """

    seconds: float
    status: int
    summary: str


def main() -> None:
    """Measure both and print the result."""
    revision, *more = [*sys.argv[1:], DEFAULT_REVISION]
    if len(more) > 1 or revision.startswith("-"):
        sys.exit("usage: python -m benchmarks.test_time [REVISION]")
    try:
        before, after = measure(ROOT, revision)
    except BenchmarkError as error:
        sys.exit(str(error))
    print(report(revision, before, after))
    sys.exit(bool(before.status or after.status))


def measure(project: Path, revision: str) -> tuple[TestRun, TestRun]:
    """Run the tests of a revision, then those of the working tree.

    Args:
        project: the folder of the working tree.
        revision: any name of a commit that git knows.

    Returns:
        The run of the revision and the run of the working tree.

    Raises:
        BenchmarkError: git does not know the revision, or an environment cannot be made.
    """
    with checkout(project, revision) as folder:
        for one in (folder, project):
            _run("make", ".venv/.ready", cwd=one)
        return run_tests(folder), run_tests(project)


@contextmanager
def checkout(project: Path, revision: str) -> Iterator[Path]:
    """Check out a revision into a temporary folder; delete the folder at the end.

    Raises:
        BenchmarkError: git does not know the revision.
    """
    with tempfile.TemporaryDirectory(prefix="test-time-", ignore_cleanup_errors=True) as parent:
        folder = Path(parent).resolve() / "project"
        _run("git", "worktree", "add", "--quiet", "--detach", str(folder), revision, cwd=project)
        try:
            yield folder
        finally:
            _run("git", "worktree", "remove", "--force", str(folder), cwd=project)


def run_tests(folder: Path) -> TestRun:
    """Run `make test` in a folder."""
    begun = time.perf_counter()
    done = _call("make", "test", cwd=folder)
    lines = done.stdout.strip().splitlines() or ["no output"]
    return TestRun(time.perf_counter() - begun, done.returncode, lines[-1])


def report(revision: str, before: TestRun, after: TestRun) -> str:
    """Return the lines to print."""
    named = {revision: before, "working tree": after}
    lines = [f"{name}: {run.seconds:.1f} s, exit status {run.status}: {run.summary}" for name, run in named.items()]
    return "\n".join([*lines, f"working tree / {revision}: {after.seconds / before.seconds:.2f}"])


def _run(*command: str, cwd: Path) -> None:
    done = _call(*command, cwd=cwd)
    if done.returncode:
        raise BenchmarkError(f"`{' '.join(command)}` failed in {cwd}:\n{done.stdout[-2000:]}")


def _call(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output, with both streams in `stdout`."""
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT_VARIABLES}
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


if __name__ == "__main__":
    main()
