#!/usr/bin/env bash
# Creates the cluster on AWS: EKS with nodes, IAM roles for pods, and volumes.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOT'
usage: scripts/create_cluster.sh [--dry-run]

Creates the EKS cluster of deploy/cluster.yaml, waits for its nodes, adds the cluster to the settings of kubectl, and
makes gp3 the default for volumes. This takes about 20 minutes. AWS bills the cluster by the hour, used or not, until
scripts/clean_up.py --yes deletes the cluster. The script keeps existing parts. After an interruption, run it again.

  --dry-run   print the commands to paste; change nothing

  CLUSTER_NAME         the name of the cluster, and of its kubectl context (kubeflow-demo)
  NODE_TYPE            the instance type of the nodes (m6i.xlarge: 4 CPUs, 16 GiB)
  NODE_COUNT           the number of nodes (2). The whole platform needs 4.4 CPUs and 12.3 GiB; your tasks need more.
  NODE_SPOT            true for spot instances, which are cheaper, but AWS may take them back (false)
  AWS_DEFAULT_REGION   the AWS region

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
# shellcheck disable=SC2034  # ws_ask_cluster uses the variable
CONTEXT=$CLUSTER_NAME
DONE=""

print_config() {
  ws_render "$PROJECT/deploy/cluster.yaml" CLUSTER_NAME="$CLUSTER_NAME" AWS_DEFAULT_REGION="$AWS_DEFAULT_REGION" \
    KUBERNETES_VERSION="$KUBERNETES_VERSION" NODE_TYPE="$NODE_TYPE" NODE_COUNT="$NODE_COUNT" NODE_SPOT="$NODE_SPOT"
}

# Estimates the cost of an hour: the control plane, the nodes, and a public IPv4 address for each node.
estimate='
import json, sys
path, kind, count, spot = sys.argv[1:]
prices = json.load(open(path))
cost = {name: item["usd"] for name, item in prices["items"].items()}
node = None if spot == "true" else cost.get(kind)
total = cost["eks_cluster"] + int(count) * (cost["public_ipv4"] + (node or 0))
rest = "" if node else f" and {count} x {kind}, for which deploy/prices.json has no fixed price"
region, day = prices["region"], prices["read_on"]
print(f"about {total:.2f} USD an hour{rest} (prices of {region} on {day}; disks and traffic cost extra)")
'
report_cost() {
  local cost="by the hour"
  if ws_has_tool python3 && [ -f "$PROJECT/deploy/prices.json" ]; then
    cost=$(python3 -c "$estimate" "$PROJECT/deploy/prices.json" "$NODE_TYPE" "$NODE_COUNT" "$NODE_SPOT") ||
      cost="by the hour"
  fi
  ws_note "from now on, AWS bills $cost. To stop: scripts/clean_up.py --yes"
}

# Prints how long EKS supports the version at the standard price. Dates such as 2027-03-27 sort as texts.
report_support() {
  local until=$KUBERNETES_STANDARD_SUPPORT_UNTIL
  if ! grep -qxF "KUBERNETES_VERSION=$KUBERNETES_VERSION" "$PROJECT/versions.env"; then
    ws_note "versions.env does not list how long EKS supports Kubernetes $KUBERNETES_VERSION"
  elif [[ $(date -u +%Y-%m-%d) > $until ]]; then
    ws_note "EKS ended the standard support of Kubernetes $KUBERNETES_VERSION on $until. A newer version of this project pins a newer Kubernetes."
  else
    ws_note "EKS supports Kubernetes $KUBERNETES_VERSION at the standard price until $until. AWS then upgrades the cluster."
  fi
}

# Ends the script if AWS does not let the account start the nodes. A new account may start few CPUs. The codes of the
# quotas, on demand and spot: https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
check_quota() {
  local code=L-1216C47A quota cpus advice
  if [ "$NODE_SPOT" = true ]; then code=L-34B43A08; fi
  if ! [[ $NODE_TYPE =~ ^(a|c|d|h|i|im|is|m|r|t|z)[0-9] ]]; then
    ws_note "the quota for $NODE_TYPE is not checked, because this type does not belong to the standard families"
    return
  fi
  if ! quota=$(aws service-quotas get-service-quota --service-code ec2 --quota-code "$code" --query Quota.Value --output text 2>"$WORK/error") ||
    ! cpus=$(aws ec2 describe-instance-types --instance-types "$NODE_TYPE" --query 'InstanceTypes[0].VCpuInfo.DefaultVCpus' --output text 2>"$WORK/error"); then
    ws_note "the quota of CPUs cannot be read ($(ws_print_aws_error_code)), so it is not checked"
    return
  fi
  if [ "$((NODE_COUNT * cpus))" -le "${quota%.*}" ]; then return; fi
  advice="AWS lets this account run ${quota%.*} CPUs of this kind in $AWS_DEFAULT_REGION, and $NODE_COUNT x $NODE_TYPE need $((NODE_COUNT * cpus)). To ask AWS for more: aws service-quotas request-service-quota-increase --service-code ec2 --quota-code $code --desired-value $((NODE_COUNT * cpus))"
  if $DRY_RUN; then ws_note "$advice"; else ws_fail "$advice"; fi
}

# ---- the cluster

if ws_find_in_aws eks describe-cluster --name "$CLUSTER_NAME" --query '[cluster.status, cluster.version, cluster.tags.project, cluster.endpoint]' --output text; then
  read -r status version tag endpoint <<<"$ANSWER"
  if [ "$tag" != "${PROJECT_TAG##*=}" ]; then
    ws_fail "the cluster $CLUSTER_NAME was not made by this project, and was not changed. Set another CLUSTER_NAME."
  fi
  ws_report "the cluster $CLUSTER_NAME is there already, with Kubernetes $version"
  case "$status" in
    CREATING) ws_run_or_show aws eks wait cluster-active --name "$CLUSTER_NAME" ;;
    DELETING | FAILED) ws_fail "the cluster $CLUSTER_NAME is $status. Delete it with scripts/clean_up.py --yes, and run this again." ;;
  esac
  if [ "$version" != "$KUBERNETES_VERSION" ]; then
    ws_note "the cluster $CLUSTER_NAME runs Kubernetes $version, and KUBERNETES_VERSION is $KUBERNETES_VERSION. Set KUBERNETES_VERSION=$version, or create a new cluster."
  fi
else
  ws_ask_aws cloudformation describe-stacks --query "Stacks[?StackName=='eksctl-$CLUSTER_NAME-cluster'].StackStatus" --output text
  case "$ANSWER" in
    "") ;;
    CREATE_IN_PROGRESS) ws_fail "AWS is still creating the cluster of an earlier run. Run this again in a few minutes." ;;
    *) ws_fail "an earlier run left the stack eksctl-$CLUSTER_NAME-cluster ($ANSWER). Delete it with scripts/clean_up.py --yes, and run this again." ;;
  esac
  check_quota
  report_support
  report_cost
  ws_run_or_show_with_input "$(print_config)" eksctl create cluster -f -
  DONE="cluster"
fi

# ---- the settings of kubectl

# A context of this name may be left from an earlier cluster with another address.
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

# ---- the parts that an interrupted run did not create

# The order is that of eksctl: the OIDC provider and the addons, then the nodes. Nodes do not get ready without the
# network addon. eksctl keeps existing parts.
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
      ws_fail "the node group $NODE_GROUP is $ANSWER. Delete it with: eksctl delete nodegroup --cluster $CLUSTER_NAME --name $NODE_GROUP. Then run this again." ;;
    esac
    if [ "$ANSWER" = CREATING ]; then
      ws_run_or_show aws eks wait nodegroup-active --cluster-name "$CLUSTER_NAME" --nodegroup-name "$NODE_GROUP"
    fi ;;
esac
ws_ask_cluster nodes -o name
if $DRY_RUN || [ -n "$ANSWER" ]; then
  ws_run_or_show kubectl --context "$CLUSTER_NAME" wait --for=condition=Ready nodes --all --timeout=600s
else
  ws_note "the cluster has no nodes. Add nodes: eksctl scale nodegroup --cluster $CLUSTER_NAME --name $NODE_GROUP --nodes $NODE_COUNT"
fi

# Sets ANSWER to the names of the default StorageClasses, one per line.
find_default_storage_classes() {
  ws_ask_cluster storageclasses --no-headers -o 'custom-columns=N:.metadata.name,D:.metadata.annotations.storageclass\.kubernetes\.io/is-default-class'
  ANSWER=$(awk '$2 == "true" { print $1 }' <<<"$ANSWER")
}

# ---- gp3 as the only default for volumes

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
  ws_print "the cluster is complete; nothing was changed"
else
  ws_print "the cluster $CLUSTER_NAME is ready. Next: scripts/install_kubeflow.sh. To stop the costs: scripts/clean_up.py --yes"
fi
