"""Reads from a task's log why it failed."""

import re
from pathlib import Path

_TAIL_BYTES = 200_000
_TRACEBACK = "Traceback (most recent call last):"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXPLAINED = {
    126: "the program may not be executed",
    127: "a program was not found",
    137: "it was killed, often because memory ran out",
    143: "it was told to end",
}


def reason(log: Path, start: int, exit_code: int) -> str:
    """Say why a process failed: the exception that Python printed last, or else its last line.

    Args:
        log: its log.
        start: where in the log its output begins.
        exit_code: how it ended.
    """
    code = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
    if explained := _EXPLAINED.get(exit_code if exit_code >= 0 else 128 - exit_code):
        code += f": {explained}"
    lines = _own(tail(log, start))
    said = _exception(lines) or next((line for line in reversed(lines) if line.strip()), "")
    return f"{said.strip()} ({code})" if said.strip() else f"it ended with {code} and said nothing"


def pip_errors(log: Path, start: int) -> str:
    """Return what pip says in its lines that begin with `ERROR:`, or else the last line of the log."""
    lines = tail(log, start)
    if exception := _exception(lines):
        return exception
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return " ".join(errors[-3:]) or next((line.strip() for line in reversed(lines) if line.strip()), "pip says nothing")


def tail(log: Path, start: int) -> list[str]:
    """Return the lines of a log from a position on, the last ones if there are many."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return _COLOUR.sub("", text).splitlines()


def note(log: Path, line: str) -> None:
    """Add a line of the engine's own to a log."""
    with log.open("a") as file:
        file.write(line.rstrip() + "\n")


def _own(lines: list[str]) -> list[str]:
    """Return the lines that come from the task's code, not from kfp, which begins by printing the task's inputs."""
    if any("Got executor_input:" in line for line in lines) and "}" in lines:
        lines = lines[lines.index("}") + 1 :]
    return [line for line in lines if not line.startswith("[KFP Executor ")]


def _exception(lines: list[str]) -> str:
    """Return the first line after the last traceback's indented ones, such as `ValueError: no`."""
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if not starts:
        return ""
    return next((line for line in lines[starts[-1] + 1 :] if line.strip() and not line[0].isspace()), "")
