#!/usr/bin/env bash
# Creates .venv with exactly the packages of requirements.txt, and the environment of tasks. `make` calls this script
# when .venv is missing, is older than a lock, or belongs to another folder or Python.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: scripts/make_environment.sh [--check | --dry-run | --help]

Creates the virtual environment .venv in the project folder, with uv and the hashed lock requirements.txt. Then creates
the environment of tasks in the sandbox below .component, with docker/component/requirements.txt. A second run installs
only the differences.

  --check    create nothing; if .venv is unusable, print the reason and exit with 1
  --dry-run  print the commands to paste in the project folder; change nothing
  PYTHON     the Python to use, 3.11 or newer (default: the first one found on PATH)

exit status: 0 done, 1 failed, 2 wrong usage, 3 no suitable Python
EOF
}

check=false dry_run=false
case "${1-}" in
  "") ;;
  --check) check=true ;;
  --dry-run) dry_run=true ;;
  -h | --help) usage; exit 0 ;;
  *) printf 'make_environment.sh: unknown argument: %s\n' "$1" >&2; usage >&2; exit 2 ;;
esac
[ $# -le 1 ] || { usage >&2; exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Settings of an active environment must not affect the new environment.
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PYTHONSTARTUP UV_PROJECT_ENVIRONMENT PYTHONDONTWRITEBYTECODE
unset PIP_REQUIRE_VIRTUALENV PIP_USER PIP_TARGET PIP_PREFIX UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX BASH_ENV
# Some programs fail when TMPDIR is missing.
[ -d "${TMPDIR:-/tmp}" ] || unset TMPDIR
# Ctrl-C ends the script also during a command whose failure the script ignores.
trap 'exit 130' INT
trap 'exit 143' TERM

python=.venv/bin/python

# run COMMAND...: runs a command, or prints the command in a dry run. run_into does the same with output into a FILE.
run() { if $dry_run; then show "$@"; echo; else "$@"; fi; }
run_into() { if $dry_run; then show "${@:2}"; printf '>%s\n' "$1"; else "${@:2}" >"$1"; fi; }
show() { printf '%q ' "$@"; }

# Prints a message. The standard output of a dry run holds only commands.
say() { if $dry_run; then printf '%s\n' "$*" >&2; else printf '%s\n' "$*"; fi; }

# Prints the folder and the Python that .venv depends on. Scripts in .venv contain the path of the folder.
made_for=("$python" -I -S -c
  'import os, sys; os.write(1, b"%s\n%s\n" % (os.getcwdb(), sys.implementation.cache_tag.encode()))')

# Prints why .venv is unusable. Prints nothing when .venv is usable or does not exist.
why_wrong() {
  local folder
  if [ ! -e .venv ]; then return; fi
  if [ ! -x "$python" ]; then
    echo "the Python of .venv is missing"
  elif [ ! -f .venv/.made-for ]; then
    echo ".venv is incomplete"
  elif [ "$("${made_for[@]}")" != "$(cat .venv/.made-for)" ]; then
    folder=$(head -n 1 .venv/.made-for)
    if [ "$folder" = "$(pwd -P)" ]; then
      echo ".venv was made with another Python ($(tail -n 1 .venv/.made-for))"
    else
      echo "this folder was moved or copied: its .venv was made for $folder"
    fi
  fi
}

if $check; then
  wrong=$(why_wrong)
  if [ -n "$wrong" ]; then printf '%s\n' "$wrong"; exit 1; fi
  exit 0
fi

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON-}" ]; then
    if is_recent "$PYTHON"; then printf '%s\n' "$PYTHON"; return; fi
    printf 'PYTHON is "%s" (%s); it must be Python 3.11 or newer. Set PYTHON to another one.\n' "$PYTHON" \
      "$("$PYTHON" --version 2>&1 || true)" >&2
    exit 3
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if is_recent "$candidate"; then printf '%s\n' "$candidate"; return; fi
  done
  printf '%s\n' \
    "There is no Python 3.11 or newer on PATH (python3 is: $(python3 --version 2>&1 || true))." \
    "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python)," \
    "or run: make PYTHON=/path/to/python3 run" >&2
  exit 3
}

# Only one process at a time sets up this folder; a second one waits. The child processes inherit the lock. The kernel
# releases the lock when the last of these processes ends, also after a kill.
if ! $dry_run && [ -z "${MAKE_ENVIRONMENT_HOLDS_LOCK-}" ]; then
  base=$(find_python)
  exec "$base" -I -S -c '
import fcntl, os, sys
lock = os.open("requirements.txt", os.O_RDONLY)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    waited = ""
except BlockingIOError:
    print("another process is setting up this folder; waiting for its end", file=sys.stderr, flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waited = "1"
os.set_inheritable(lock, True)
os.environ.update(MAKE_ENVIRONMENT_HOLDS_LOCK="1", MAKE_ENVIRONMENT_WAITED=waited)
os.execvp("bash", ["bash", "scripts/make_environment.sh"])
'
fi

wrong=$(why_wrong)
if [ -n "${MAKE_ENVIRONMENT_WAITED-}" ] && [ -z "$wrong" ] && [ -e .venv/.ready ]; then exit 0; fi
if [ -n "$wrong" ] && [ "$wrong" != ".venv is incomplete" ]; then say "$wrong; creating .venv again"; fi
run rm -f .venv/.ready
if [ -n "$wrong" ] || ! is_recent "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
  base=$(find_python)
  say "creating .venv with $("$base" --version)"
  run rm -rf .venv
  run "$base" -m venv .venv
  run_into .venv/.made-for "${made_for[@]}"
fi

# Runs a command that downloads packages. A failure ends the script with advice.
download() {
  run "$@" && return
  printf '%s\n' "The installation of packages failed; the reason is above. If the package index did not answer, check the network," \
    "PIP_INDEX_URL, UV_DEFAULT_INDEX and HTTPS_PROXY${HTTPS_PROXY:+ (it is $HTTPS_PROXY)}. Then run the command again." >&2
  exit 1
}

# pip installs only uv, from the same lock with its hash. uv installs all other packages much faster than pip.
run_into .venv/uv.txt awk '/^uv==/ { wanted = 1 } wanted { print } wanted && !/\\$/ { exit }' requirements.txt
download "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement .venv/uv.txt

say "installing the $(grep -c '^[a-z0-9]' requirements.txt) packages of requirements.txt (about 1 GB on disk; minutes if they are not cached)"
download "$python" -m uv pip sync --python "$python" --quiet --require-hashes requirements.txt
download "$python" -m uv pip install --python "$python" --quiet --no-deps --editable .

# Compile the packages now, so that the first notebook starts fast: the import of pandas takes 3 s without bytecode,
# and 0.5 s with bytecode. Skip packages that no lesson imports. Ignore the exit status: some packages have files
# for other Pythons.
say "compiling the packages, so that notebooks start fast"
unused='/(tests?|sympy|mpmath|cfnlint|docutils|graphql|pip|setuptools|coverage|third_party)/'
unused+='|/google/(?!protobuf)|/fontTools/(?!misc|agl|__init__)|/pygments/lexers/(?!python|__init__|_mapping)'
unused+='|/moto/(?!core|server|moto_server|moto_api|utilities|backends|settings|iam|sts|eks|ecr|ec2)[a-z]'
compile=("$python" -m compileall -qq -j 0 -x "$unused" .venv/lib)
if $dry_run; then show "${compile[@]}"; echo "|| true"; else "${compile[@]}" || true; fi

# Create the environment of tasks now, so that the first task does not wait.
component=$(run "$python" -m workshop.sandbox.component_environment)
if $dry_run; then printf '%s\ntouch .venv/.ready\n' "$component"; exit; fi

touch .venv/.ready
echo "ready: .venv, and ${component#"$PWD"/} for tasks"
