#!/usr/bin/env bash
# Shows which of the tools are here, in which version, what is needed, and who AWS takes you for.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TOOLS="aws kubectl eksctl kustomize docker kind"

usage() {
  cat <<'EOF'
usage: scripts/check_tools.sh [--dry-run] [TOOL...]

Looks for the command-line tools that the scripts call (aws kubectl eksctl kustomize docker kind, or only those named)
and shows the version found, the version needed, and how to get what is missing. With aws among them, it also shows
which identity AWS sees. Nothing is changed; --dry-run is taken for the sake of the other scripts.

  aws        everything on AWS              kubectl    everything on Kubernetes
  eksctl     the cluster on AWS             kustomize  the whole Kubeflow platform
  docker     images                         kind       the cluster on a laptop

exit status: 0 all there, 2 wrong usage, 3 something is missing or too old, or AWS takes no credentials from here
EOF
}

wanted=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    -*) wrong "unknown option: $1" ;;
    *)
      case " $TOOLS " in *" $1 "*) ;; *) wrong "unknown tool: $1; known are: $TOOLS" ;; esac
      wanted="$wanted $1"
      shift ;;
  esac
done
read_settings

# The first thing in a tool's answer that looks like a version.
version_of() {
  local said
  case "$1" in
    aws | docker) said=$("$1" --version 2>&1) ;;
    kubectl) said=$(kubectl version --client 2>&1) ;;
    eksctl | kustomize) said=$("$1" version 2>&1) ;;
    kind) said=$(kind version -q 2>&1 || kind version 2>&1) ;;
  esac || true
  sed -nE 's/^[^0-9]*([0-9]+\.[0-9]+(\.[0-9]+)?).*$/\1/p' <<<"$said" | head -1
}

# kubectl may be one minor version older or newer than the cluster: https://kubernetes.io/releases/version-skew-policy/
minor=${KUBERNETES_VERSION#*.}
needed_by() {
  case "$1" in
    aws) case "$2" in 1.*) say "$AWS_CLI_1_VERSION" ;; *) say "$AWS_CLI_VERSION" ;; esac ;;
    kubectl) say "${KUBERNETES_VERSION%%.*}.$((minor - 1))" ;;
    eksctl) say "$EKSCTL_VERSION" ;;
    kustomize) say "$KUSTOMIZE_VERSION" ;;
    docker) say "$DOCKER_VERSION" ;;
    kind) say "$KIND_VERSION" ;;
  esac
}

missing=0
line() { printf '%-10s %-10s %-10s %s\n' "$@"; }
line tool found needed ""
for tool in ${wanted:-$TOOLS}; do
  if ! has "$tool"; then
    line "$tool" - "$(needed_by "$tool" "")" "missing. $(how_to_get "$tool")"
    missing=$((missing + 1))
    continue
  fi
  version=$(version_of "$tool")
  needed=$(needed_by "$tool" "$version")
  if [ -z "$version" ]; then
    line "$tool" "?" "$needed" "it does not say its version"
  elif ! at_least "$version" "$needed"; then
    line "$tool" "$version" "$needed" "too old. $(how_to_get "$tool")"
    missing=$((missing + 1))
  elif [ "$tool" = kubectl ] && ! at_least "${KUBERNETES_VERSION%%.*}.$((minor + 1))" "${version%.*}"; then
    line "$tool" "$version" "$needed" "too new for Kubernetes $KUBERNETES_VERSION: kubectl may be one minor version ahead"
    missing=$((missing + 1))
  else
    line "$tool" "$version" "$needed" ok
  fi
done

case " ${wanted:-$TOOLS} " in
  *" aws "*)
    if has aws; then
      who_am_i
      ask sts get-caller-identity --query Arn --output text
      say "AWS: you are $ANSWER, account $ACCOUNT, region $AWS_DEFAULT_REGION"
    fi ;;
esac
if [ "$missing" -gt 0 ]; then lacks "$missing of these tools are missing or do not fit"; fi
