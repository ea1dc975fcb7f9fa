"""Reads a `settings.env` in the two ways that the project has: in Python, and in bash."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from workshop import settings
from workshop.project import ROOT

# For each case, a file and perhaps a variable: writes FILE.values with NAME, a zero byte, the value, a zero byte; what
# was said to FILE.said; and the exit status to FILE.status.
READ = """
PATH_OF_PROJECT=$1
shift
usage() { :; }
. "$PATH_OF_PROJECT/scripts/lib.sh"
while [ $# -gt 0 ]; do
  (
    set -euo pipefail
    export "WORKSHOP_SETTINGS=$1"
    if [ -n "$2" ]; then export "$2"; fi
    ws_read_settings
    for name in $NAMES; do printf '%s\\0%s\\0' "$name" "${!name:-}"; done
  ) >"$1.values" 2>"$1.said"
  echo $? >"$1.status"
  shift 2
done
"""


def read_in_python(file: Path, environment: Mapping[str, str]) -> dict[str, str] | str:
    """Read the settings in this process.

    Returns:
        Every setting by its name, as text; or the message of the error.
    """
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment | {"WORKSHOP_SETTINGS": str(file)})
    try:
        found = settings.read()
    except settings.SettingsError as error:
        return str(error)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in ((name, getattr(found, name.lower())) for name in names())
    }


def read_in_bash(file: Path, environment: Mapping[str, str]) -> dict[str, str] | str:
    """Read the settings with `ws_read_settings` of `scripts/lib.sh`.

    Returns:
        As `read_in_python`.
    """
    [answer] = read_all_in_bash([(file, "")], environment=environment)
    return answer


def read_all_in_bash(
    cases: Sequence[tuple[Path, str]], bash: str = "bash", environment: Mapping[str, str] | None = None
) -> list[dict[str, str] | str]:
    """Read the settings of many cases in one bash, each in its own subshell.

    Args:
        cases: for each a file, whose folder exists, and a variable of the environment, NAME=VALUE, or "".
        bash: the shell.
        environment: the variables of the shell, in addition to PATH.

    Returns:
        For each case, a result like that of `read_in_python`.
    """
    words = [word for file, variable in cases for word in (str(file), variable)]
    subprocess.run(
        [bash, "-c", READ, "bash", str(ROOT), *words],
        env={"PATH": os.environ["PATH"], "NAMES": " ".join(names())} | dict(environment or {}),
        capture_output=True,
        timeout=600,
        check=True,
    )
    return [_answer(file) for file, _ in cases]


def _answer(file: Path) -> dict[str, str] | str:
    said = os.fsdecode(Path(f"{file}.said").read_bytes())
    status = int(Path(f"{file}.status").read_text())
    if status == 2:
        return said.split(": ", 1)[1].rstrip("\n")
    assert status == 0, said
    words = os.fsdecode(Path(f"{file}.values").read_bytes()).split("\0")[:-1]
    return dict(zip(words[::2], words[1::2], strict=True))


def names() -> list[str]:
    """Return the names that `settings.env` may hold."""
    return [setting.name for setting in settings.table().values() if setting.in_file]
