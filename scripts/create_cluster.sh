#!/usr/bin/env bash
# Creates the cluster on AWS: EKS with nodes, a way for pods to get roles, and volumes.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/create_cluster.sh [--dry-run]

Creates an EKS cluster as deploy/cluster.yaml describes it, waits until its nodes are ready, lets kubectl find it, and
makes gp3 disks the default for volumes. It takes about 20 minutes, and from then on AWS bills it by the hour, used or
not, until scripts/clean_up.py --yes has deleted it. What is there already is left as it is, so running this again
finishes what was interrupted.

  --dry-run   print the commands that change something, ready to be pasted; run none of them

  CLUSTER_NAME         the cluster's name (kubeflow-demo); kubectl knows it by the same name
  NODE_TYPE            the machines (m6i.xlarge: 4 CPUs, 16 GiB)
  NODE_COUNT           how many (2). The whole platform needs 4.4 CPUs and 12.3 GiB, and your tasks come on top.
  NODE_SPOT            true for spot instances: cheaper, and AWS may take them back (false)
  AWS_DEFAULT_REGION   where

exit status: 0 done, 1 failed, 2 wrong usage, 3 a tool or credential is missing
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
ws_require_tool kubectl
ws_require_tool eksctl
ws_identify_account

NODE_GROUP="$CLUSTER_NAME-nodes"
DEFAULT_CLASS=storageclass.kubernetes.io/is-default-class
# shellcheck disable=SC2034  # for ws_ask_cluster
CONTEXT=$CLUSTER_NAME
DONE=""

print_config() {
  ws_render "$PROJECT/deploy/cluster.yaml" CLUSTER_NAME="$CLUSTER_NAME" AWS_DEFAULT_REGION="$AWS_DEFAULT_REGION" \
    KUBERNETES_VERSION="$KUBERNETES_VERSION" NODE_TYPE="$NODE_TYPE" NODE_COUNT="$NODE_COUNT" NODE_SPOT="$NODE_SPOT"
}

# What an hour costs: the control plane, and machines with a public address each.
estimate='
import json, sys
path, kind, count, spot = sys.argv[1:]
prices = json.load(open(path))
cost = {name: item["usd"] for name, item in prices["items"].items()}
node = None if spot == "true" else cost.get(kind)
total = cost["eks_cluster"] + int(count) * (cost["public_ipv4"] + (node or 0))
rest = "" if node else f" and {count} x {kind}, whose price is not fixed or not in deploy/prices.json"
region, day = prices["region"], prices["read_on"]
print(f"about {total:.2f} USD an hour{rest} (prices of {region}, read on {day}; disks and traffic come on top)")
'
report_cost() {
  local cost="by the hour"
  if ws_has_tool python3 && [ -f "$PROJECT/deploy/prices.json" ]; then
    cost=$(python3 -c "$estimate" "$PROJECT/deploy/prices.json" "$NODE_TYPE" "$NODE_COUNT" "$NODE_SPOT") ||
      cost="by the hour"
  fi
  ws_note "from now on, AWS bills $cost, until you run scripts/clean_up.py --yes"
}

# The cluster with everything in it.
if ws_find_in_aws eks describe-cluster --name "$CLUSTER_NAME" --query '[cluster.status, cluster.version, cluster.tags.project, cluster.endpoint]' --output text; then
  read -r status version tag endpoint <<<"$ANSWER"
  if [ "$tag" != "${PROJECT_TAG##*=}" ]; then
    ws_fail "there is a cluster $CLUSTER_NAME that was not made by this project; it is left as it is. Set another CLUSTER_NAME"
  fi
  ws_report "the cluster $CLUSTER_NAME is there already, with Kubernetes $version"
  case "$status" in
    CREATING) ws_run_or_show aws eks wait cluster-active --name "$CLUSTER_NAME" ;;
    DELETING | FAILED) ws_fail "the cluster $CLUSTER_NAME is $status; delete it with scripts/clean_up.py, then run this again" ;;
  esac
  if [ "$version" != "$KUBERNETES_VERSION" ]; then
    ws_note "the cluster $CLUSTER_NAME runs Kubernetes $version, and versions.env says $KUBERNETES_VERSION"
  fi
else
  ws_ask_aws cloudformation describe-stacks --query "Stacks[?StackName=='eksctl-$CLUSTER_NAME-cluster'].StackStatus" --output text
  case "$ANSWER" in
    "") ;;
    CREATE_IN_PROGRESS) ws_fail "an earlier run has begun to make it, and AWS still does; run this again in some minutes" ;;
    *) ws_fail "an earlier run has left its stack eksctl-$CLUSTER_NAME-cluster ($ANSWER): scripts/clean_up.py --yes, then run this again" ;;
  esac
  report_cost
  ws_run_or_show_with_input "$(print_config)" eksctl create cluster -f -
  DONE="cluster"
fi

# kubectl finds it. A context of that name may be left from an earlier cluster, with another address.
kubectl_knows_cluster() {
  ws_has_tool kubectl || return 1
  [ "$(kubectl --context "$CLUSTER_NAME" config view --minify -o 'jsonpath={.clusters[0].cluster.server}' 2>/dev/null)" = "$endpoint" ]
}
if [ "$DONE" = cluster ] || ! kubectl_knows_cluster; then
  ws_run_or_show aws eks update-kubeconfig --name "$CLUSTER_NAME" --region "$AWS_DEFAULT_REGION" --alias "$CLUSTER_NAME"
  DONE="$DONE kubeconfig"
elif [ "$(kubectl config current-context 2>/dev/null)" != "$CLUSTER_NAME" ]; then
  ws_run_or_show kubectl config use-context "$CLUSTER_NAME"
  DONE="$DONE context"
fi

# What an interrupted run has not come to, in the order in which eksctl makes it: the OIDC provider and the addons, then
# the nodes, which are not ready without the addon for the network. What is there, eksctl leaves.
has_addons() {
  ws_cluster_has daemonset aws-node -n kube-system && ws_cluster_has daemonset eks-pod-identity-agent -n kube-system &&
    ws_cluster_has deployment ebs-csi-controller -n kube-system
}
case "$DONE" in
  cluster*) ;;
  *)
    if ! has_addons; then
      ws_run_or_show_with_input "$(print_config)" eksctl utils associate-iam-oidc-provider --approve -f -
      ws_run_or_show_with_input "$(print_config)" eksctl create addon -f -
      DONE="$DONE addons"
    fi
    if ! ws_find_in_aws eks describe-nodegroup --cluster-name "$CLUSTER_NAME" --nodegroup-name "$NODE_GROUP" \
      --query nodegroup.status --output text; then
      report_cost
      ws_run_or_show_with_input "$(print_config)" eksctl create nodegroup -f -
      DONE="$DONE nodes"
    fi
    case "$ANSWER" in *DELETING | *FAILED)
      ws_fail "the nodes $NODE_GROUP are $ANSWER: eksctl delete nodegroup --cluster $CLUSTER_NAME --name $NODE_GROUP, then run this again" ;;
    esac
    if [ "$ANSWER" = CREATING ]; then
      ws_run_or_show aws eks wait nodegroup-active --cluster-name "$CLUSTER_NAME" --nodegroup-name "$NODE_GROUP"
    fi ;;
esac
ws_ask_cluster nodes -o name
if $DRY_RUN || [ -n "$ANSWER" ]; then
  ws_run_or_show kubectl --context "$CLUSTER_NAME" wait --for=condition=Ready nodes --all --timeout=600s
else
  ws_note "there are no nodes; to have some: eksctl scale nodegroup --cluster $CLUSTER_NAME --name $NODE_GROUP --nodes $NODE_COUNT"
fi

# Puts the default StorageClasses into ANSWER, one a line.
find_default_storage_classes() {
  ws_ask_cluster storageclasses --no-headers -o 'custom-columns=N:.metadata.name,D:.metadata.annotations.storageclass\.kubernetes\.io/is-default-class'
  ANSWER=$(awk '$2 == "true" { print $1 }' <<<"$ANSWER")
}

# gp3, and nothing else, is the default for volumes.
find_default_storage_classes
classes=$ANSWER
for class in $classes; do
  if [ "$class" != gp3 ]; then
    ws_run_or_show kubectl --context "$CLUSTER_NAME" annotate --overwrite storageclass "$class" "$DEFAULT_CLASS=false"
    DONE="$DONE default"
  fi
done
case " $(tr '\n' ' ' <<<"$classes")" in
  *" gp3 "*) ;;
  *)
    ws_run_or_show_with_input "$(cat "$PROJECT/deploy/kubeflow/storage-class.yaml")" kubectl --context "$CLUSTER_NAME" apply -f -
    DONE="$DONE storage" ;;
esac

if $DRY_RUN; then exit 0; fi
if [ -z "$DONE" ]; then
  ws_print "it has its nodes and volumes; nothing was changed"
else
  ws_print "the cluster $CLUSTER_NAME is ready. Next: scripts/install_kubeflow.sh. To stop paying: scripts/clean_up.py --yes"
fi
