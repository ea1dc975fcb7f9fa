"""Calls scripts as a user types them, with a separate PATH and stand-ins for programs."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import aws_zygote
from workshop.project import ROOT

# What any system has. The tools of the scripts are left out, also when this machine has them.
SYSTEM_PROGRAMS = str.split(
    "awk base64 basename bash cat chmod cp curl cut date dirname env find grep git head id ln ls mkdir mktemp "
    "mv od openssl ps python3 rm sed sha256sum sh sleep sort tail tar tee touch tr true uname uniq wc xargs"
)


class Shell:
    """Calls scripts with a separate PATH that holds only chosen programs.

    Attributes:
        programs: the folder that PATH consists of.
        environment: the variables of each call.
    """

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        self._calls = folder / "calls.jsonl"
        self._answers = folder / "answers"
        self._answers.mkdir()
        self.provide("python3", Path(sys._base_executable))  # python3 on PATH may be a script that needs other programs
        for name in SYSTEM_PROGRAMS:
            self.provide(name)
        self.environment = os.environ | {"PATH": str(self.programs), "HOME": str(folder)}

    def provide(self, name: str, source: Path | None = None) -> None:
        """Put a program that this machine has on PATH."""
        found = source or next((Path(d, name) for d in os.get_exec_path() if Path(d, name).exists()), None)
        if found and not (self.programs / name).exists():
            (self.programs / name).symlink_to(found)

    def provide_aws(self) -> None:
        """Put the real AWS CLI on PATH, without its start-up."""
        self.provide("aws", aws_zygote.program())

    def stand_in(self, name: str, *answers: tuple[str, str] | tuple[str, str, int]) -> None:
        """Put a recorder on PATH under the name of a program.

        Args:
            name: the name of the program.
            answers: for each a regular expression, which is searched in the words of a call joined by spaces; what the
                program then prints; and its exit status (0 if left out). The first that fits is taken; a call that
                none fits prints nothing and succeeds.
        """
        (self._answers / f"{name}.json").write_text(json.dumps([[*answer, 0][:3] for answer in answers]))
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(
            f"#!{sys._base_executable} -IS\n"  # the path of the environment's own Python may hold a space
            "import json, re, select, sys\n"
            f"name, answers, calls = {name!r}, {str(self._answers / (name + '.json'))!r}, {str(self._calls)!r}\n"
            # Read standard input. A terminal, or a pipe that nobody writes to, is left alone.
            "ready = select.select([sys.stdin], [], [], 0.2)[0] and not sys.stdin.isatty()\n"
            "given = sys.stdin.read() if ready else ''\n"
            "with open(calls, 'a') as file:\n"
            "    file.write(json.dumps([name, sys.argv[1:], given]) + '\\n')\n"
            "for pattern, printed, status in json.load(open(answers)):\n"
            "    if re.search(pattern, ' '.join(sys.argv[1:])):\n"
            "        (sys.stderr if status else sys.stdout).write(printed)\n"
            "        sys.exit(status)\n"
        )
        program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """Every call of a stand-in so far, as a command line that could be pasted."""
        return [shlex.join([name, *words]) for name, words, _ in self._records()]

    @property
    def inputs(self) -> list[str]:
        """The standard input of each call."""
        return [given for _, _, given in self._records()]

    def record(self, name: str, *words: str, given: str = "") -> None:
        """Add a call to the record, for a stand-in that is no program."""
        with self._calls.open("a") as file:
            file.write(json.dumps([name, words, given]) + "\n")

    def forget_calls(self) -> None:
        """Delete the recorded calls."""
        self._calls.unlink(missing_ok=True)

    def run(self, script: str, *arguments: str, trace: bool = False, **variables: str) -> subprocess.CompletedProcess:
        """Call a script.

        Args:
            script: its name in `scripts/`. A Python script is called by its own first line.
            arguments: the arguments, as a user types them.
            trace: call it with `bash -x`.
            variables: environment variables of this call. A variable with the value "" is taken away.
        """
        path = str(ROOT / "scripts" / script)
        bash = [] if script.endswith(".py") else ["bash", *(["-x"] if trace else [])]
        return self._run([*bash, path, *arguments], variables)

    def paste(self, printed: str, **variables: str) -> subprocess.CompletedProcess:
        """Run the commands that a dry run has printed, as if a user pasted them into a shell."""
        return self._run(["bash", "-ec", printed], variables)

    def _run(self, command: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in (self.environment | variables).items() if value}
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )

    def _records(self) -> list:
        return [json.loads(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []
