"""The shell scripts use only constructs of bash 3.2, the bash of macOS."""

import pytest

from tests.support import old_bash
from workshop.project import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
NEWER = {
    "declare -A map": "associative array",
    "local -n other=$1": "name reference",
    "mapfile -t lines <file": "mapfile",
    "ls | readarray lines": "readarray",
    'echo "${name,,}"': "change of case",
    'echo "${name^}"': "change of case",
    "make &>>log": "&>>",
    "make |& tee log": "|&",
    "a) one ;;&": ";;&",
    "coproc cat": "coproc",
    "wait -n": "wait -n",
    'echo "${text:0:-1}"': "negative",
    'echo "${list[-1]}"': "negative",
    "if [[ -v name ]]; then": "[[ -v",
    "test -v name": "[[ -v",
    "printf '%(%F)T' -1": "printf of a time",
    "printf -v 'list[0]' %s x": "array element",
    'echo "${name@Q}"': "operator",
    "echo $'\\u00e9'": "escape",
    "shopt -s globstar": "globstar",
    "echo $EPOCHSECONDS": "later bash",
    "exec {file}>log": "file descriptor",
    "read -t 0.5 line": "fraction",
    "read -r -N 1 key": "read -i, -N",
    "for i in {1..9..2}; do": "increment",
    "declare -l lower": "declare -l",
    'list=()\ncall "${list[@]}"': "array list",
    'list=()\ncall "${list[@]:1}"': "array list",
}
OLDER = [
    'echo "${name:-x}" "${name%.*}" "${text:0:2}"',
    "declare -a list; local -r fixed=1; read -r line; wait $pid; printf -v name %s x",
    'list=()\ncall ${list[@]+"${list[@]}"}',
    'list=(one)\ncall "${list[@]}"',
    "# mapfile -t lines",
    "case $1 in a) one ;; esac; make >log 2>&1 & wait",
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_uses_nothing_newer_than_bash_3_2(script):
    assert old_bash.find(script.read_text()) == []


@pytest.mark.parametrize("line", NEWER)
def test_each_newer_construct_is_found(line):
    assert any(NEWER[line] in found for found in old_bash.find(line)), old_bash.find(line)


def test_every_rule_is_tested():
    found = {finding.split(": ", 1)[1] for line in NEWER for finding in old_bash.find(line)}
    assert set(old_bash.CONSTRUCTS) <= found


@pytest.mark.parametrize("line", OLDER)
def test_constructs_of_bash_3_2_are_accepted(line):
    assert old_bash.find(line) == []
