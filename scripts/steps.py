"""Steps of a script: each can be run here, or shown as a command that does the same when it is pasted.

One list of steps serves the run and the dry run, so both do the same.
"""

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

# Exit statuses, the same in every script of this folder.
FAILED, WRONG_USAGE, MISSING = 1, 2, 3


class ScriptError(Exception):
    """Ends a script with a message and an exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Step:
    """One change.

    Attributes:
        command: words of the command that makes the same change in a shell.
        run: makes the change; raises when it fails. A returned text is a problem that does not end the script: it is
            shown in place of `after`.
        before: text to show before the change, or "".
        after: text to show after it, or "".
    """

    command: tuple[str, ...]
    run: Callable[[], str | None]
    before: str = ""
    after: str = ""


def show(steps: Iterable[Step]) -> None:
    """Print the command of each step, ready to be pasted."""
    for step in steps:
        say(shlex.join(step.command))


def run(steps: Iterable[Step]) -> None:
    """Run each step, and print its result."""
    for step in steps:
        if step.before:
            say(step.before)
        problem = step.run()
        if problem:
            note(problem)
        elif step.after:
            say(step.after)


def say(text: str) -> None:
    """Print a result."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print a message beside the results, on standard error."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def call(main: Callable[[], None]) -> None:
    """Run a script's main function and end with its exit status."""
    try:
        main()
    except ScriptError as error:
        note(str(error))
        sys.exit(error.status)
    except KeyboardInterrupt:
        note("interrupted; run it again to continue")
        sys.exit(130)
