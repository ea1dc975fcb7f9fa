#!/usr/bin/env bash
# Installs Kubeflow in the cluster: the whole platform, or only Kubeflow Pipelines.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/install_kubeflow.sh [--platform full|pipelines] [--local] [--s3-artifacts] [--notebook IMAGE] [--dry-run]

Installs Kubeflow in the cluster that kubectl points to, and waits until Kubeflow runs: 10 to 30 minutes. The script
keeps a complete installation of this version. After an interruption, run it again. Until an installation is complete,
each run also resets the password of user@example.com to the public one.

  --platform full        install everything: dashboard, login, notebook servers, Pipelines (default). The nodes need
                         4.4 CPUs and 12.3 GiB.
  --platform pipelines   install only Kubeflow Pipelines, without login
  --local                use the cluster of create_local_cluster.sh
  --s3-artifacts         store the artifacts of KUBEFLOW_NAMESPACE in WORKSHOP_BUCKET. The tasks need access to the
                         bucket: run grant_s3_access.sh.
  --notebook IMAGE       create a notebook server from an image that push_image.sh has pushed: NAME@sha256:...
  --dry-run              print the commands to paste in the project folder; change nothing

  CLUSTER_NAME           the cluster (kubeflow-demo)
  KUBEFLOW_NAMESPACE     your namespace (kubeflow-user-example-com). With --platform pipelines: always kubeflow.
  WORKSHOP_BUCKET, AWS_DEFAULT_REGION   the bucket of artifacts and its region, for --s3-artifacts

exit status: 0 done, 1 failed, 2 wrong usage, 3 a tool or credential is missing, or kubectl points to no cluster
EOT
}

platform=full local=false s3_artifacts=false image=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --local) local=true; shift ;;
    --s3-artifacts) s3_artifacts=true; shift ;;
    --platform | --notebook)
      [ $# -ge 2 ] && [ -n "$2" ] || ws_reject_usage "$1 needs a value"
      if [ "$1" = --platform ]; then platform=$2; else image=$2; fi
      shift 2 ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
case "$platform" in full | pipelines) ;; *) ws_reject_usage "--platform is \"$platform\"; it must be full or pipelines" ;; esac
if [ "$platform" = pipelines ] && [ -n "$image" ]; then
  ws_reject_usage "--notebook needs --platform full, because only the whole platform has notebook servers"
fi
if [ -n "$image" ] && ! [[ $image =~ ^[a-z0-9][A-Za-z0-9.:/_-]*@sha256:[0-9a-f]{64}$ ]]; then
  ws_reject_usage "--notebook is \"$image\"; it must be NAME@sha256:..., the last line of push_image.sh"
fi
ws_read_settings
# Without the platform, users have no namespaces.
if [ "$platform" = pipelines ]; then KUBEFLOW_NAMESPACE=kubeflow; fi
KUBEFLOW_NAMESPACE=${KUBEFLOW_NAMESPACE:-kubeflow-user-example-com} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default-editor}
if $s3_artifacts; then
  ws_require_setting WORKSHOP_BUCKET "the bucket of artifacts"
  ws_require_setting AWS_DEFAULT_REGION "the region of the bucket"
fi
ws_require_tool git
if [ "$platform" = full ]; then ws_require_tool kustomize; fi
if $local; then ws_select_cluster "kind-$CLUSTER_NAME"; else ws_select_cluster; fi
# The printed commands use paths relative to the project folder.
cd "$PROJECT"

INSTALLED=first-kubeflow-pipeline/installed
if [ "$platform" = full ]; then RELEASE="full-$KUBEFLOW_VERSION"; else RELEASE="pipelines-$KUBEFLOW_PIPELINES_VERSION"; fi
DISTRIBUTION=build/community-distribution-$KUBEFLOW_VERSION
OVERLAY=build/pipelines-$KUBEFLOW_PIPELINES_VERSION
KUBECTL=(kubectl --context "$CONTEXT")
DONE=false

# Runs a command until it succeeds, at most 30 times. A dry run prints the loop without the limit.
retry() {
  if $DRY_RUN; then ws_print "until $(ws_show_command "$@"); do sleep 20; done"; return; fi
  local try=0
  while [ $((try += 1)) -le 30 ]; do
    if "$@"; then return; fi
    ws_note "some objects need others that are not ready yet; next try in 20 seconds ($try of 30)"
    sleep 20
  done
  ws_fail "this command failed 30 times: $(ws_show_command "$@")"
}

# Sets ANSWER to the names of the default StorageClasses, one per line.
find_default_storage_classes() {
  ws_ask_cluster storageclasses --no-headers -o 'custom-columns=N:.metadata.name,D:.metadata.annotations.storageclass\.kubernetes\.io/is-default-class'
  ANSWER=$(awk '$2 == "true" { print $1 }' <<<"$ANSWER")
}

check_volumes() {
  find_default_storage_classes
  if [ -n "$ANSWER" ] || $DRY_RUN; then return; fi
  ws_fail "the cluster has no default StorageClass, which Kubeflow's databases need for their disks. Create one: scripts/create_cluster.sh"
}

# kubectl prints allocatable CPUs as 3920m or 4, and memory as 15087292Ki, in Mi or Gi, or in bytes.
# shellcheck disable=SC2016  # the dollar signs belong to awk
enough='
{
  cpu += ($1 ~ /m$/) ? $1 + 0 : $1 * 1000
  memory += $2 * (($2 ~ /Ki$/) ? 1 : ($2 ~ /Mi$/) ? 1024 : ($2 ~ /Gi$/) ? 1048576 : 1 / 1024)
}
END { printf "%.1f CPUs and %.1f GiB\n", cpu / 1000, memory / 1048576; exit !(cpu >= 4400 && memory >= 12.3 * 1048576) }
'
check_nodes() {
  local sum
  ws_ask_cluster nodes --no-headers -o 'custom-columns=C:.status.allocatable.cpu,M:.status.allocatable.memory'
  if [ -z "$ANSWER" ] && $DRY_RUN; then return; fi
  if ! sum=$(awk "$enough" <<<"$ANSWER"); then
    ws_fail "the nodes have $sum, and the whole platform needs 4.4 CPUs and 12.3 GiB. Add nodes, use larger nodes, or use --platform pipelines."
  fi
  ws_report "the nodes have $sum"
}

install_full() {
  if ! [ -f "$DISTRIBUTION/example/kustomization.yaml" ]; then
    if [ -e "$DISTRIBUTION" ]; then ws_run_or_show rm -rf "$DISTRIBUTION"; fi
    ws_run_or_show git clone --quiet --depth 1 --branch "release-$KUBEFLOW_VERSION" \
      https://github.com/kubeflow/community-distribution "$DISTRIBUTION"
  fi
  ws_run_or_show kustomize build "$DISTRIBUTION/example" -o "$DISTRIBUTION.yaml"
  # The first tries fail: the manifests define new kinds, and also hold objects of these kinds.
  retry "${KUBECTL[@]}" apply --server-side --force-conflicts -f "$DISTRIBUTION.yaml"
  ws_run_or_show "${KUBECTL[@]}" wait --for=condition=Available deployments --all --all-namespaces --timeout=1800s
  ws_run_or_show "${KUBECTL[@]}" wait --for=create "namespace/$KUBEFLOW_NAMESPACE" --timeout=300s
}

install_pipelines() {
  # The default timeout of kubectl, 27 seconds, is too short for this large repository.
  local manifests=github.com/kubeflow/pipelines/manifests/kustomize
  ws_run_or_show "${KUBECTL[@]}" apply -k "$manifests/cluster-scoped-resources?ref=$KUBEFLOW_PIPELINES_VERSION&timeout=600s"
  ws_run_or_show "${KUBECTL[@]}" wait --for=condition=established --timeout=60s crd/applications.app.k8s.io
  ws_write_or_show "$OVERLAY/kustomization.yaml" \
    "$(ws_render deploy/kubeflow/pipelines/kustomization.yaml KUBEFLOW_PIPELINES_VERSION="$KUBEFLOW_PIPELINES_VERSION")"
  ws_run_or_show "${KUBECTL[@]}" apply -k "$OVERLAY"
  ws_run_or_show "${KUBECTL[@]}" wait --for=condition=Available deployments --all -n kubeflow --timeout=1800s
}

# ---- Kubeflow

# The annotation of the namespace kubeflow names the installation that is complete.
ws_ask_cluster namespace kubeflow -o "jsonpath={.metadata.annotations.$INSTALLED}"
installed=$ANSWER
case "$installed" in
  "$RELEASE") ws_report "Kubeflow ($RELEASE) is installed already" ;;
  "" | "${platform}"-*)
    check_volumes
    if [ "$platform" = full ]; then check_nodes; fi
    if [ -n "$installed" ]; then ws_note "this replaces $installed with $RELEASE"; fi
    "install_$platform"
    ws_run_or_show "${KUBECTL[@]}" annotate --overwrite namespace kubeflow "$INSTALLED=$RELEASE"
    DONE=true ;;
  *) ws_fail "the cluster has $installed, and $RELEASE cannot replace it. Create a new cluster, or use --platform ${installed%%-*}." ;;
esac

# ---- the objects of notebook servers and tasks

if [ "$platform" = full ] && ! ws_cluster_has poddefault access-ml-pipeline -n "$KUBEFLOW_NAMESPACE"; then
  ws_run_or_show_with_input "$(ws_render deploy/kubeflow/pod-default-pipelines.yaml KUBEFLOW_NAMESPACE="$KUBEFLOW_NAMESPACE")" \
    "${KUBECTL[@]}" apply -f -
  DONE=true
fi
if $s3_artifacts; then
  ws_ask_cluster configmap kfp-launcher -n "$KUBEFLOW_NAMESPACE" -o 'jsonpath={.data.defaultPipelineRoot}'
  if [ "$ANSWER" != "s3://$WORKSHOP_BUCKET/artifacts" ]; then
    launcher=$(ws_render deploy/kubeflow/kfp-launcher.yaml KUBEFLOW_NAMESPACE="$KUBEFLOW_NAMESPACE" \
      WORKSHOP_BUCKET="$WORKSHOP_BUCKET" AWS_DEFAULT_REGION="$AWS_DEFAULT_REGION")
    ws_run_or_show_with_input "$launcher" "${KUBECTL[@]}" apply --server-side --force-conflicts -f -
    DONE=true
  fi
fi
if [ -n "$image" ]; then
  ws_ask_cluster notebook lessons -n "$KUBEFLOW_NAMESPACE" -o 'jsonpath={.spec.template.spec.containers[0].image}'
  if [ "$ANSWER" != "$image" ]; then
    notebook=$(ws_render deploy/kubeflow/notebook.yaml KUBEFLOW_NAMESPACE="$KUBEFLOW_NAMESPACE" \
      SERVICE_ACCOUNT="$SERVICE_ACCOUNT" NOTEBOOK_IMAGE="$image")
    ws_run_or_show_with_input "$notebook" "${KUBECTL[@]}" apply -f -
    DONE=true
  fi
fi

if $DRY_RUN; then exit 0; fi
if ! $DONE; then ws_print "nothing was changed"; exit 0; fi
ws_print "Kubeflow is installed. To open the dashboard: scripts/open_dashboard.sh"
if [ "$platform" = full ]; then
  ws_print "The login is user@example.com with the password 12341234. This password is public. Change it: scripts/change_password.sh"
fi
