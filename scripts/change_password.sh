#!/usr/bin/env bash
# Changes the password of user@example.com, with which everybody could log in to a new Kubeflow.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/change_password.sh [--stdin] [--dry-run]

Asks for a new password twice, and makes it the one of user@example.com in the cluster that kubectl points to. Kubeflow
keeps only its bcrypt hash. Neither is ever shown, written into a file of this machine, or put on a command line. The
login service restarts; who is logged in stays so until the session ends. Each run makes a new hash, also of the
same password.

  --stdin     read the password from standard input, one line, instead of asking
  --dry-run   print the commands; the one that takes the password asks for it when it is pasted

  CLUSTER_NAME   the cluster (kubeflow-demo)

exit status: 0 done, 1 failed, 2 wrong usage, 3 kubectl or the Python package bcrypt is missing, or no cluster
EOT
}

from=terminal
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --stdin) from=stdin; shift ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
ws_read_settings
ws_select_cluster

python=""
for candidate in python3 "$PROJECT/.venv/bin/python"; do
  if ws_has_tool "$candidate" && "$candidate" -c 'import bcrypt' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  if ! $DRY_RUN; then ws_report_missing "the Python package bcrypt is missing. Linux and macOS: make .venv/.ready, or pip install bcrypt"; fi
  python=python3
fi
case "$python" in /*) python=.venv/bin/python; cd "$PROJECT" ;; esac

if ! ws_cluster_has secret dex-passwords -n auth && ! ws_cluster_has deployment dex -n auth && ! $DRY_RUN; then
  ws_fail "there is no login in $CONTEXT: it belongs to the whole platform, scripts/install_kubeflow.sh --platform full"
fi

# Takes the password, and gives the hash to the command in its arguments: it passes through no variable of the shell,
# which `bash -x` would show. Dex takes any bcrypt; $2y$ is how Kubeflow's manifests write it:
# https://github.com/kubeflow/community-distribution/blob/master/README.md
# shellcheck disable=SC2016  # the dollars are those of the hash
hash_into='
import base64, getpass, json, subprocess, sys
source, *command = sys.argv[1:]
try:
    password = sys.stdin.readline().rstrip("\r\n") if source == "stdin" else getpass.getpass("new password: ")
    if source != "stdin" and getpass.getpass("the same again: ") != password:
        sys.exit("the two are not the same; nothing was changed")
except (EOFError, KeyboardInterrupt):
    sys.exit("\nno password was given; nothing was changed")
if len(password) < 12:
    sys.exit("the password needs 12 characters at least; nothing was changed")
if len(password.encode()) > 72:
    sys.exit("bcrypt takes 72 bytes at most; nothing was changed")
import bcrypt
hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(12)).replace(b"$2b$", b"$2y$", 1)
secret = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "dex-passwords", "namespace": "auth"},
    "data": {"DEX_USER_PASSWORD": base64.b64encode(hashed).decode()},
}
sys.exit(subprocess.run(command, input=json.dumps(secret), text=True, stdout=subprocess.DEVNULL).returncode)
'
# Applied by the server, because a plain apply would write the hash into an annotation as well.
set_password=("$python" -c "$hash_into" "$from" kubectl --context "$CONTEXT" apply --server-side --force-conflicts -f -)
if $DRY_RUN; then ws_show_command "${set_password[@]}"; else "${set_password[@]}" || ws_fail "the password is as it was"; fi
ws_run_or_show kubectl --context "$CONTEXT" rollout restart deployment dex -n auth
ws_run_or_show kubectl --context "$CONTEXT" rollout status deployment dex -n auth --timeout=180s
if ! $DRY_RUN; then ws_print "the password of user@example.com is changed. Who is logged in stays so until the session ends."; fi
