#!/usr/bin/env bash
# Changes the password of user@example.com. The first password of Kubeflow is public.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/change_password.sh [--stdin] [--dry-run]

Asks for a new password twice, and sets the password of user@example.com in the cluster that kubectl points to. Kubeflow
stores only the bcrypt hash of the password. The script never shows the password or the hash, writes them into no file
on this machine, and puts them on no command line. The login service restarts; existing sessions remain until they end.
Each run changes the hash, also with the same password.

  --stdin     read the password from standard input (one line); do not ask
  --dry-run   print the commands to paste; change nothing. The pasted command asks for the password.

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
  if ! $DRY_RUN; then ws_report_missing "the Python package bcrypt is missing. Install it on Linux and macOS: make .venv/.ready, or pip install bcrypt"; fi
  python=python3
fi
case "$python" in /*) python=.venv/bin/python; cd "$PROJECT" ;; esac

if ! ws_cluster_has secret dex-passwords -n auth && ! ws_cluster_has deployment dex -n auth && ! $DRY_RUN; then
  ws_fail "the cluster $CONTEXT has no login service. Only the whole platform has one: scripts/install_kubeflow.sh --platform full"
fi

# Reads the password, and pipes a Secret with the hash to the command in its arguments. No shell variable holds the
# password or the hash, because `bash -x` would show the values of variables. Dex accepts every bcrypt prefix;
# Kubeflow writes $2y$:
# https://github.com/kubeflow/community-distribution/blob/master/README.md
# shellcheck disable=SC2016  # the dollar signs belong to the prefix of the hash
hash_into='
import base64, getpass, json, subprocess, sys
source, *command = sys.argv[1:]
try:
    password = sys.stdin.readline().rstrip("\r\n") if source == "stdin" else getpass.getpass("new password: ")
    if source != "stdin" and getpass.getpass("repeat the new password: ") != password:
        sys.exit("the two passwords differ; nothing was changed. Run this again.")
except (EOFError, KeyboardInterrupt):
    sys.exit("\nthere was no password; nothing was changed")
if len(password) < 12:
    sys.exit("the password is too short: it needs at least 12 characters; nothing was changed")
if len(password.encode()) > 72:
    sys.exit("the password is too long: bcrypt accepts at most 72 bytes; nothing was changed")
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
# Server-side, because a client-side apply would also write the hash into an annotation.
set_password=("$python" -c "$hash_into" "$from" kubectl --context "$CONTEXT" apply --server-side --force-conflicts -f -)
if $DRY_RUN; then ws_show_command "${set_password[@]}"; else "${set_password[@]}" || ws_fail "the password was not changed"; fi
ws_run_or_show kubectl --context "$CONTEXT" rollout restart deployment dex -n auth
ws_run_or_show kubectl --context "$CONTEXT" rollout status deployment dex -n auth --timeout=180s
if ! $DRY_RUN; then ws_print "the password of user@example.com is changed. Existing sessions remain until they end."; fi
