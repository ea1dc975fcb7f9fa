#!/usr/bin/env bash
# Shows the versions of the tools, the versions needed, and your AWS identity.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TOOLS="aws kubectl eksctl kustomize docker kind"

usage() {
  cat <<'EOF'
usage: scripts/check_tools.sh [--dry-run] [TOOL...]

Looks for the command-line tools that the scripts call. For each tool, shows the version found, the version needed, and
how to install a missing tool. For aws, also shows your AWS identity. TOOL limits the check to the named tools. The
script changes nothing; it accepts --dry-run like the other scripts.

  aws        everything on AWS              kubectl    everything on Kubernetes
  eksctl     the cluster on AWS             kustomize  the whole Kubeflow platform
  docker     images                         kind       the cluster on a laptop

exit status: 0 all tools fit, 2 wrong usage, 3 a tool is missing or does not fit, or AWS credentials are missing
EOF
}

wanted=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    -*) ws_reject_usage "unknown option: $1" ;;
    *)
      case " $TOOLS " in *" $1 "*) ;; *) ws_reject_usage "unknown tool: $1; it must be one of: $TOOLS" ;; esac
      wanted="$wanted $1"
      shift ;;
  esac
done
ws_read_settings

# is_at_least VERSION NEEDED: compares two versions number by number. Returns 1 when VERSION is older.
is_at_least() {
  local IFS=. i
  # shellcheck disable=SC2206
  local have=($1) want=($2)
  for i in 0 1 2; do
    if ((10#${have[i]:-0} != 10#${want[i]:-0})); then ((10#${have[i]:-0} > 10#${want[i]:-0})); return; fi
  done
}

# Prints the first version number in the output of a tool.
print_version() {
  local output
  case "$1" in
    aws | docker) output=$("$1" --version 2>&1) ;;
    kubectl) output=$(kubectl version --client 2>&1) ;;
    eksctl | kustomize) output=$("$1" version 2>&1) ;;
    kind) output=$(kind version -q 2>&1 || kind version 2>&1) ;;
  esac || true
  sed -nE 's/^[^0-9]*([0-9]+\.[0-9]+(\.[0-9]+)?).*$/\1/p' <<<"$output" | head -1
}

# kubectl may be one minor version older or newer than the cluster: https://kubernetes.io/releases/version-skew-policy/
minor=${KUBERNETES_VERSION#*.}
print_needed_version() {
  case "$1" in
    aws) case "$2" in 1.*) ws_print "$AWS_CLI_1_VERSION" ;; *) ws_print "$AWS_CLI_VERSION" ;; esac ;;
    kubectl) ws_print "${KUBERNETES_VERSION%%.*}.$((minor - 1))" ;;
    eksctl) ws_print "$EKSCTL_VERSION" ;;
    kustomize) ws_print "$KUSTOMIZE_VERSION" ;;
    docker) ws_print "$DOCKER_VERSION" ;;
    kind) ws_print "$KIND_VERSION" ;;
  esac
}

missing=0
print_row() { printf '%-10s %-10s %-10s %s\n' "$@"; }
print_row tool found needed ""
for tool in ${wanted:-$TOOLS}; do
  if ! ws_has_tool "$tool"; then
    print_row "$tool" - "$(print_needed_version "$tool" "")" "missing. $(ws_print_install_advice "$tool")"
    missing=$((missing + 1))
    continue
  fi
  version=$(print_version "$tool")
  needed=$(print_needed_version "$tool" "$version")
  if [ -z "$version" ]; then
    print_row "$tool" "?" "$needed" "the tool does not print its version"
  elif ! is_at_least "$version" "$needed"; then
    print_row "$tool" "$version" "$needed" "too old. $(ws_print_install_advice "$tool")"
    missing=$((missing + 1))
  elif [ "$tool" = kubectl ] && ! is_at_least "${KUBERNETES_VERSION%%.*}.$((minor + 1))" "${version%.*}"; then
    print_row "$tool" "$version" "$needed" "too new for Kubernetes $KUBERNETES_VERSION: kubectl may be at most one minor version newer"
    missing=$((missing + 1))
  else
    print_row "$tool" "$version" "$needed" ok
  fi
done

case " ${wanted:-$TOOLS} " in
  *" aws "*)
    if ws_has_tool aws; then
      ws_identify_account
      ws_ask_aws sts get-caller-identity --query Arn --output text
      ws_print "AWS: you are $ANSWER, account $ACCOUNT, region $AWS_DEFAULT_REGION"
    fi ;;
esac
if [ "$missing" -gt 0 ]; then ws_report_missing "$missing of these tools are missing or have the wrong version. Install the versions in the column needed."; fi
