#!/usr/bin/env bash
# Checks whether the cluster's nodes may pull images from ECR.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/check_node_access.sh [--fix] [--dry-run]

Lists the cluster's node groups, the IAM role of each node group, and the policies of each role. Reports each role that
may not pull images from ECR. The script looks for AWS's own policies AmazonEC2ContainerRegistryPullOnly, -ReadOnly,
-PowerUser and -FullAccess, and does not read your own policies.

  --fix       attach the missing policy: AmazonEC2ContainerRegistryPullOnly
  --dry-run   print the commands to paste; change nothing

settings: CLUSTER_NAME (kubeflow-demo), AWS_DEFAULT_REGION

exit status: 0 all roles may pull, 1 a role may not, or failed, 2 wrong usage, 3 the AWS CLI or credentials are missing
EOF
}

fix=false
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --fix) fix=true; shift ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
ws_read_settings
ws_identify_account

# Prints the policy to attach: PullOnly, or ReadOnly where the AWS partition does not have PullOnly.
smallest_policy() {
  local policy
  for policy in PullOnly ReadOnly; do
    policy=$partition:iam::aws:policy/AmazonEC2ContainerRegistry$policy
    if ws_find_in_aws iam get-policy --policy-arn "$policy"; then break; fi
  done
  ws_print "$policy"
}

ws_find_in_aws eks describe-cluster --name "$CLUSTER_NAME" --query cluster.arn --output text ||
  ws_fail "there is no cluster $CLUSTER_NAME in $AWS_DEFAULT_REGION. Create it with scripts/create_cluster.sh, or set CLUSTER_NAME."
partition=$(cut -d: -f1-2 <<<"$ANSWER")
ws_report "cluster $CLUSTER_NAME"
ws_ask_aws eks list-nodegroups --cluster-name "$CLUSTER_NAME" --query "nodegroups[]" --output text
groups=$ANSWER
[ -n "$groups" ] || ws_fail "the cluster $CLUSTER_NAME has no managed node group. Check the roles of its nodes in the IAM console."

checked=" " missing=""
for group in $groups; do
  ws_ask_aws eks describe-nodegroup --cluster-name "$CLUSTER_NAME" --nodegroup-name "$group" --query nodegroup.nodeRole --output text
  role=${ANSWER##*/}
  ws_report "  node group $group"
  ws_report "    role $role"
  case "$checked" in *" $role "*) continue ;; esac
  checked="$checked$role "
  ws_ask_aws iam list-attached-role-policies --role-name "$role" --query "AttachedPolicies[].PolicyArn" --output text
  may=""
  for policy in $ANSWER; do
    case "$policy" in
      arn:*:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly | arn:*:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly | \
        arn:*:iam::aws:policy/AmazonEC2ContainerRegistryPowerUser | arn:*:iam::aws:policy/AmazonEC2ContainerRegistryFullAccess)
        may=true
        ws_report "      policy ${policy##*/}: may pull from ECR" ;;
      *) ws_report "      policy ${policy##*/}" ;;
    esac
  done
  if [ -z "$may" ]; then
    ws_report "      no policy of this role allows pulling from ECR"
    missing="$missing $role"
  fi
done

if [ -z "$missing" ]; then
  ws_report "all nodes may pull from ECR; nothing to do"
  exit 0
fi
if ! $fix; then ws_fail "these roles may not pull from ECR:$missing. Attach the policy: scripts/check_node_access.sh --fix"; fi
policy=$(smallest_policy)
for role in $missing; do
  ws_run_or_show aws iam attach-role-policy --role-name "$role" --policy-arn "$policy"
  if ! $DRY_RUN; then ws_print "attached ${policy##*/} to $role"; fi
done
