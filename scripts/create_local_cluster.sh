#!/usr/bin/env bash
# Creates a cluster in Docker on this machine, and installs Kubeflow Pipelines.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/create_local_cluster.sh [--dry-run]

Creates a Kubernetes cluster with kind, in a Docker container on this machine, and installs Kubeflow Pipelines in the
cluster. This takes about ten minutes, mostly downloads, and costs nothing. The script keeps existing parts.

  --dry-run   print the commands to paste; change nothing

  CLUSTER_NAME   the name of the cluster (kubeflow-demo), in lower case; its kubectl context is kind-NAME

exit status: 0 done, 1 failed, 2 wrong usage, 3 a tool or Docker is missing, an inotify limit is too low, or the
             processor does not fit
EOT
}

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
ws_read_settings
case "$CLUSTER_NAME" in *[A-Z]*) ws_reject_usage "CLUSTER_NAME is \"$CLUSTER_NAME\"; a name for kind must be in lower case" ;; esac
if [ "$(uname) $(uname -m)" = "Darwin arm64" ]; then
  advice="this Mac has an ARM processor, and the images of Kubeflow Pipelines $KUBEFLOW_PIPELINES_VERSION are for Intel processors only (https://github.com/kubeflow/pipelines/issues/10308). Use the sandbox, or a cluster on AWS: scripts/create_cluster.sh"
  if $DRY_RUN; then ws_note "$advice"; else ws_report_missing "$advice"; fi
fi
ws_require_tool docker
ws_require_tool kind
ws_require_tool kubectl
if ws_has_tool docker && ! docker info >"$WORK/docker" 2>&1; then
  if ! $DRY_RUN; then ws_report_missing "Docker does not answer: $(tail -1 "$WORK/docker"). Start Docker, and run this again."; fi
  ws_note "Docker does not answer; $ASSUMPTION"
fi

# All pods share the inotify limits of this machine, and Kubeflow exceeds Linux's defaults:
# https://kind.sigs.k8s.io/docs/user/known-issues/
too_low=""
check_limit() {
  local now
  now=$(sysctl -n "$1" 2>/dev/null || true)
  if [ -n "$now" ] && [ "$now" -lt "$2" ]; then too_low="$too_low sudo sysctl $1=$2;"; fi
}
if [ "$(uname)" = Linux ]; then
  PATH="$PATH:/usr/sbin:/sbin"
  check_limit fs.inotify.max_user_instances 2280
  check_limit fs.inotify.max_user_watches 1255360
fi
if [ -n "$too_low" ]; then
  advice="the inotify limits of this machine are too low, and pods would fail with unclear errors. Raise the limits until the next boot:${too_low%;}"
  if $DRY_RUN; then ws_note "$advice"; else ws_report_missing "$advice"; fi
fi

# ---- the cluster

# The cluster is a Docker container, so it stops and starts together with Docker.
clusters=""
if ws_has_tool kind; then clusters=$(kind get clusters 2>/dev/null || true); fi
if grep -qxF "$CLUSTER_NAME" <<<"$clusters"; then
  ws_report "the cluster kind-$CLUSTER_NAME is there already"
  if [ "$(kubectl config current-context 2>/dev/null || true)" != "kind-$CLUSTER_NAME" ]; then
    ws_run_or_show kind export kubeconfig --name "$CLUSTER_NAME"
  fi
else
  ws_run_or_show_with_input "$(ws_render "$PROJECT/deploy/kind/cluster.yaml" KIND_NODE_IMAGE="$KIND_NODE_IMAGE")" kind create cluster --name "$CLUSTER_NAME" --config - --wait 5m
fi

# ---- Kubeflow Pipelines

if $DRY_RUN; then
  bash "$PROJECT/scripts/install_kubeflow.sh" --platform pipelines --local --dry-run
else
  bash "$PROJECT/scripts/install_kubeflow.sh" --platform pipelines --local
fi
