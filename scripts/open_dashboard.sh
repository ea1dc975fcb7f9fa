#!/usr/bin/env bash
# Prints the address of the dashboard, and forwards a local port to the dashboard when this is necessary.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/open_dashboard.sh [--port PORT] [--print-only] [--dry-run]

Finds the dashboard in the cluster that kubectl points to, and prints its address. If the dashboard has no public
address, the script forwards a port of this machine to the dashboard until you press Ctrl-C. Other machines cannot use
this port.

  --port PORT    the first port to try (8080); the script uses the next free port
  --print-only   print the address and the command that forwards the port; do not run the command
  --dry-run      print only the command that forwards the port

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

# The whole platform has a gateway; an installation of Pipelines alone has the service of its user interface. A dry
# run that finds no installation assumes the whole platform.
if ws_cluster_has service istio-ingressgateway -n istio-system; then
  service=istio-ingressgateway namespace=istio-system
elif ws_cluster_has service ml-pipeline-ui -n kubeflow; then
  service=ml-pipeline-ui namespace=kubeflow
elif $DRY_RUN; then
  service=istio-ingressgateway namespace=istio-system
else
  ws_fail "the cluster $CONTEXT has no dashboard. Install Kubeflow: scripts/install_kubeflow.sh"
fi

ws_ask_cluster service "$service" -n "$namespace" -o 'jsonpath={.status.loadBalancer.ingress[0].hostname}{.status.loadBalancer.ingress[0].ip}'
if [ -n "$ANSWER" ]; then
  ws_note "this address is public. First change the password (scripts/change_password.sh), and give the load balancer a certificate: without https, a browser does not keep the login."
  ws_report "https://$ANSWER"
  exit 0
fi

# is_taken PORT: returns 0 when a program answers on the port.
is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
first=$port
while is_taken "$port"; do
  port=$((port + 1))
  if [ "$port" -gt 65535 ] || [ $((port - first)) -gt 50 ]; then ws_fail "there is no free port from $first to $((port - 1)). Choose another port with --port."; fi
done
if [ "$port" != "$first" ]; then ws_note "port $first is taken; using port $port"; fi

forward=(kubectl --context "$CONTEXT" port-forward -n "$namespace" "service/$service" "$port:80")
if $DRY_RUN; then
  ws_show_command "${forward[@]}"
  exit 0
fi
ws_print "http://localhost:$port"
if $print_only; then
  ws_note "the address answers while this command runs: $(ws_show_command "${forward[@]}")"
  exit 0
fi
ws_note "forwarding the port; press Ctrl-C to stop"
"${forward[@]}" >/dev/null &
forwarding=$!
trap 'kill "$forwarding" 2>/dev/null || true; wait "$forwarding" 2>/dev/null || true; ws_note "stopped"; exit 0' INT TERM
wait "$forwarding" || ws_fail "the connection to the dashboard broke. Check the cluster with \`kubectl get nodes\`, and run this again."
