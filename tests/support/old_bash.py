"""Finds constructs in shell scripts that bash 3.2 does not support. macOS ships bash 3.2 as /bin/bash."""

import re

# What to look for, by the name of the construct. The release notes of bash name the version that brought each:
# https://tiswww.case.edu/php/chet/bash/NEWS
CONSTRUCTS = {
    "associative array or name reference (4.0, 4.3)": r"\b(declare|local|typeset|readonly)\s+-[a-zA-Z]*[Ang]",
    "mapfile or readarray (4.0)": r"(^|[;&|(]|\s)(mapfile|readarray)\s",
    "change of case in ${...} (4.0)": r"\$\{!?\w+(\[[^]]*\])?(,,?|\^\^?|~~?)",
    "&>> (4.0)": r"&>>",
    "|& (4.0)": r"\|&",
    ";& or ;;& (4.0)": r";&",
    "coproc (4.0)": r"(^|[;&|(]|\s)coproc\s",
    "wait -n (4.3)": r"\bwait\s+-[a-z]*[nfp]",
    "negative index or length (4.2, 4.3)": r"\$\{!?\w+(\[-\d+\]|(\[[^]]*\])?:\s*\d+\s*:\s*-\d)",
    "[[ -v or -R (4.2)": r"(\[\[?|\btest)\s+(!\s+)?-[vR]\s",
    "printf of a time (4.2)": r"printf\s.*%(-?\d+)?\([^)]*\)T",
    "printf -v of an array element (4.1)": r"printf\s+-v\s+\S*\[",
    "${name@operator} (4.4)": r"\$\{!?\w+(\[[^]]*\])?@[A-Za-z]\}",
    "escape \\u (4.2)": r"\$'[^']*\\[uU][0-9a-fA-F]",
    "globstar, lastpipe or inherit_errexit (4.0, 4.2, 4.4)": r"shopt\s.*\b(globstar|lastpipe|inherit_errexit)\b",
    "variable of a later bash": r"\$\{?(BASHPID|BASH_ARGV0|EPOCHSECONDS|EPOCHREALTIME|SRANDOM|BASH_XTRACEFD)\b",
    "file descriptor in a variable (4.1)": r"\{\w+\}[<>]",
    "read -i, -N or a fraction of a second (4.0)": r"\bread\s+(-\w+\s+)*-(\w*[iN]|\w*t\s*\d*\.\d)",
    "increment in a brace expansion (4.0)": r"\{\w+\.\.\w+\.\.\w+\}",
    "declare -l, -u or -c (4.0)": r"\b(declare|local|typeset)\s+-[a-zA-Z]*[luc]",
}
# An array that may be empty is unset for `set -u` before bash 4.4; ${array[@]+"${array[@]}"} is safe.
EXPANSION = re.compile(r"\$\{(\w+)\[[@*]\](:[^}]*)?\}")
GUARD = r"\$\{%s\[[@*]\]\+$"
EMPTY_ARRAY = re.compile(r"(?:^|[\s;])(?:local\s+|declare\s+)?(\w+)=\(\)")


def find(script: str) -> list[str]:
    """Return the constructs in a script that bash 3.2 does not support.

    Args:
        script: its text.

    Returns:
        For each finding, `LINE: CONSTRUCT`. Comments are left out.
    """
    may_be_empty = set(EMPTY_ARRAY.findall(_without_comments(script)))
    found = []
    for number, line in enumerate(_without_comments(script).split("\n"), 1):
        found += [f"{number}: {name}" for name, pattern in CONSTRUCTS.items() if re.search(pattern, line)]
        for expansion in EXPANSION.finditer(line):
            before = line[: expansion.start()].removesuffix('"')
            if expansion[1] in may_be_empty and not re.search(GUARD % expansion[1], before):
                found.append(f"{number}: array {expansion[1]}, which may be empty, without a guard (4.4)")
    return found


def _without_comments(script: str) -> str:
    return re.sub(r"^\s*#.*$", "", script, flags=re.MULTILINE)
