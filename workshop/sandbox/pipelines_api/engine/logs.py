"""Finds in a task's log why the task failed, and adds lines to logs."""

import re
from pathlib import Path

from workshop.sandbox.pipelines_api.engine.regular_files import open_to_append, open_to_read

_TAIL_BYTES = 200_000
_TRACEBACK = "Traceback (most recent call last):"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXPLAINED = {
    126: "the program is not executable",
    127: "a program was not found",
    137: "it was killed, often because memory ran out",
    143: "it was asked to end",
}


def reason(log: Path, start: int, exit_code: int) -> str:
    """Return the reason why a process failed: the exception that Python printed last, or else the last line of its
    output.

    Args:
        log: the log that contains its output.
        start: the position in bytes at which its output begins.
        exit_code: its exit code; negative if a signal ended it.
    """
    code = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
    if explained := _EXPLAINED.get(exit_code if exit_code >= 0 else 128 - exit_code):
        code += f": {explained}"
    lines = _own(tail(log, start))
    said = _exception(lines) or next((line for line in reversed(lines) if line.strip()), "")
    return f"{said.strip()} ({code})" if said.strip() else f"it ended with {code} and printed nothing"


def pip_errors(log: Path, start: int) -> str:
    """Return the last lines of pip that begin with `ERROR:`, or else the last line of the log."""
    lines = tail(log, start)
    if exception := _exception(lines):
        return exception
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return " ".join(errors[-3:]) or next(
        (line.strip() for line in reversed(lines) if line.strip()), "pip printed nothing"
    )


def tail(log: Path, start: int) -> list[str]:
    """Return the lines of a log after a position in bytes, without colour codes. Of a long log, return its end."""
    file = open_to_read(log)
    if file is None:
        return []
    with file:
        size = file.seek(0, 2)
        file.seek(max(start, size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    return _COLOUR.sub("", text).splitlines()


def size(log: Path) -> int:
    """Return the size of a log in bytes; 0 if the log does not exist."""
    return log.stat().st_size if log.exists() else 0


def note(log: Path, line: str) -> None:
    """Add a line to a log."""
    with open_to_append(log) as file:
        file.write(line.rstrip().encode(errors="replace") + b"\n")


def _own(lines: list[str]) -> list[str]:
    """Return the lines of the task's own code, without the inputs that kfp prints first."""
    if any("Got executor_input:" in line for line in lines) and "}" in lines:
        lines = lines[lines.index("}") + 1 :]
    return [line for line in lines if not line.startswith("[KFP Executor ")]


def _exception(lines: list[str]) -> str:
    """Return the exception line of the last traceback, such as `ValueError: no`; "" if there is no traceback."""
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if not starts:
        return ""
    return next((line for line in lines[starts[-1] + 1 :] if line.strip() and not line[0].isspace()), "")
