#!/usr/bin/env bash
# Opens a way to the dashboard, and prints its address.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/open_dashboard.sh [--port PORT] [--print-only] [--dry-run]

Finds the dashboard in the cluster that kubectl points to. If it has an address of its own, that is printed. If not, a
port of this machine is forwarded to it, which no other machine can use, until you press Ctrl-C.

  --port PORT    the port of this machine to begin with (8080); if it is taken, the next free one
  --print-only   print the address, and how to forward the port; do not forward it
  --dry-run      print the command that forwards the port

  CLUSTER_NAME   the cluster (kubeflow-demo)

exit status: 0 done, 1 failed, 2 wrong usage, 3 kubectl is missing, or points to no cluster
EOT
}

port=8080 print_only=false
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --print-only) print_only=true; shift ;;
    --port)
      [ $# -ge 2 ] && [[ $2 =~ ^[1-9][0-9]{3,4}$ ]] && [ "$2" -le 65535 ] || ws_reject_usage "--port needs a number from 1000 to 65535"
      port=$2
      shift 2 ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
ws_read_settings
ws_select_cluster

# The whole platform is behind its gateway; Pipelines alone has a page of its own. With nothing there yet, a dry run
# shows the whole platform.
if ws_cluster_has service istio-ingressgateway -n istio-system; then
  service=istio-ingressgateway namespace=istio-system
elif ws_cluster_has service ml-pipeline-ui -n kubeflow; then
  service=ml-pipeline-ui namespace=kubeflow
elif $DRY_RUN; then
  service=istio-ingressgateway namespace=istio-system
else
  ws_fail "there is no dashboard in $CONTEXT. Install it: scripts/install_kubeflow.sh"
fi

ws_ask_cluster service "$service" -n "$namespace" -o 'jsonpath={.status.loadBalancer.ingress[0].hostname}{.status.loadBalancer.ingress[0].ip}'
if [ -n "$ANSWER" ]; then
  ws_note "this address can be reached from outside. Change the password first (scripts/change_password.sh), and give it a certificate: without https, a browser does not keep the login."
  ws_report "https://$ANSWER"
  exit 0
fi

# A port that answers is taken.
is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
first=$port
while is_taken "$port"; do
  port=$((port + 1))
  if [ "$port" -gt 65535 ] || [ $((port - first)) -gt 50 ]; then ws_fail "no free port from $first on; choose another with --port"; fi
done
if [ "$port" != "$first" ]; then ws_note "port $first is taken, so this is port $port"; fi

forward=(kubectl --context "$CONTEXT" port-forward -n "$namespace" "service/$service" "$port:80")
if $DRY_RUN; then
  ws_show_command "${forward[@]}"
  exit 0
fi
ws_print "http://localhost:$port"
if $print_only; then
  ws_note "this address answers as long as this runs: $(ws_show_command "${forward[@]}")"
  exit 0
fi
ws_note "Ctrl-C ends it"
"${forward[@]}" >/dev/null &
forwarding=$!
trap 'kill "$forwarding" 2>/dev/null || true; wait "$forwarding" 2>/dev/null || true; ws_note "closed"; exit 0' INT TERM
wait "$forwarding" || ws_fail "the way to the dashboard broke off; run this again. Does the cluster still run?"
