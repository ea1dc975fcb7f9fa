#!/usr/bin/env bash
# Makes .venv with exactly the packages of requirements.txt, and what tasks need. `make` calls this when .venv is missing
# or older than a lock.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: scripts/make_environment.sh [--help]

Makes the virtual environment .venv in the project folder, with uv and the hashed lock requirements.txt, and below
.component the one in which the sandbox runs tasks, with the lock of their image, docker/component/requirements.txt.
Safe to run again: it then installs only what differs.

  PYTHON   the Python to use, 3.11 or newer (default: the first one found on PATH)

exit status: 0 done, 1 failed, 2 wrong usage, 3 no suitable Python
EOF
}

case "${1-}" in
  "") ;;
  -h | --help) usage; exit 0 ;;
  *) printf 'make_environment.sh: unknown argument: %s\n' "$1" >&2; usage >&2; exit 2 ;;
esac
[ $# -le 1 ] || { usage >&2; exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# An environment that happens to be active must not leak into this one.
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH UV_PROJECT_ENVIRONMENT PYTHONDONTWRITEBYTECODE
unset PIP_REQUIRE_VIRTUALENV PIP_USER PIP_TARGET PIP_PREFIX UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON-}" ]; then
    if is_recent "$PYTHON"; then printf '%s\n' "$PYTHON"; return; fi
    printf 'PYTHON is %s, which is not Python 3.11 or newer (it says: %s).\n' "$PYTHON" "$("$PYTHON" --version 2>&1 || true)" >&2
    exit 3
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if is_recent "$candidate"; then printf '%s\n' "$candidate"; return; fi
  done
  printf '%s\n' \
    "Python 3.11 or newer is needed, and none is on PATH (python3 is: $(python3 --version 2>&1 || true))." \
    "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python)," \
    "or name yours: make PYTHON=/path/to/python3 run" >&2
  exit 3
}

python=.venv/bin/python
rm -f .venv/.ready
if ! is_recent "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
  base=$(find_python)
  echo "making .venv with $("$base" --version)"
  "$base" -m venv --clear .venv
fi

# uv comes from the same lock, hash and all; it installs the rest in a fraction of pip's time.
bootstrap=$(mktemp)
trap 'rm -f "$bootstrap"' EXIT
awk '/^uv==/ { wanted = 1 } wanted { print } wanted && !/\\$/ { exit }' requirements.txt >"$bootstrap"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement "$bootstrap"

echo "installing the $(grep -c '^[a-z0-9]' requirements.txt) packages of requirements.txt (about 1 GB on disk; minutes when they are not in the cache yet)"
"$python" -m uv pip sync --python "$python" --quiet --require-hashes requirements.txt
"$python" -m uv pip install --python "$python" --quiet --no-deps --editable .

# Else the first notebooks would compile what they import: pandas alone takes 3 s then, and 0.5 s now. Left out is what
# no lesson imports. The exit status is that of files which packages ship for other versions of Python.
echo "compiling them once, so that every notebook starts fast"
unused='/(tests?|sympy|mpmath|cfnlint|docutils|graphql|pip|setuptools|coverage|third_party)/'
unused+='|/google/(?!protobuf)|/fontTools/(?!misc|agl|__init__)|/pygments/lexers/(?!python|__init__|_mapping)'
unused+='|/moto/(?!core|server|moto_server|moto_api|utilities|backends|settings|iam|sts|eks|ecr|ec2)[a-z]'
"$python" -m compileall -qq -j 0 -x "$unused" .venv/lib || true

# Else the first task would wait for it. It says so itself when there is something to make.
component=$("$python" -m workshop.sandbox.component_environment)

touch .venv/.ready
echo "ready: .venv, and ${component#"$PWD"/} for tasks"
