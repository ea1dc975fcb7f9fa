#!/usr/bin/env bash
# Deletes what the other scripts have made, and makes sure that nothing is left that is billed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/clean_up.sh [--yes] [--bucket NAME] [--local] [--dry-run]

Shows what the other scripts have made on AWS, with what each costs per month, and changes nothing. With --yes, it
deletes all that, asks AWS again, and fails if anything billed is left. After an interruption, run it again.

Deleted are: pod identity associations, the cluster CLUSTER_NAME with its nodes, its disks, load balancers, logs and
CloudFormation stacks, the repositories COMPONENT_REPOSITORY and COMPONENT_REPOSITORY-notebook with their images, the
bucket WORKSHOP_BUCKET with all that is in it, and the roles. DATA IN THE BUCKET AND ON THE DISKS IS GONE AFTERWARDS.

Only what is the project's is touched. A cluster, a repository and a bucket must carry the tag
project=first-kubeflow-pipeline, which the scripts put there; load balancers must carry the cluster's name, and disks
that or, attached to nothing, the tag. A bucket without the tag, such as one that you had before, or that a lesson made,
is deleted only when you name it.

  --yes           do it
  --bucket NAME   also delete the bucket WORKSHOP_BUCKET when it has no tag; NAME is its name once more
  --local         instead of all this, delete the cluster CLUSTER_NAME on this machine, which kind made
  --dry-run       print the commands that change something, ready to be pasted; run none of them

settings: CLUSTER_NAME (kubeflow-demo), COMPONENT_REPOSITORY (python-components), WORKSHOP_BUCKET, AWS_DEFAULT_REGION

exit status: 0 done, or shown; 1 failed, or something billed is left; 2 wrong usage; 3 a tool or credentials are missing
EOF
}

yes=false local=false named=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --yes) yes=true; shift ;;
    --local) local=true; shift ;;
    --bucket) [ -n "${2:-}" ] || wrong "--bucket needs the bucket's name"; named=$2; shift 2 ;;
    *) wrong "unknown argument: $1" ;;
  esac
done
read_settings
if [ -n "$named" ] && [ "$named" != "$WORKSHOP_BUCKET" ]; then
  wrong "--bucket names $named, and WORKSHOP_BUCKET is ${WORKSHOP_BUCKET:-empty}: they must be the same"
fi
OURS=${PROJECT_TAG##*=}

# ---- the cluster on this machine

if $local; then
  need kind
  clusters=""
  if has kind; then clusters=$(kind get clusters 2>/dev/null || true); fi
  if has kind && ! grep -qxF "$CLUSTER_NAME" <<<"$clusters"; then
    tell "there is no cluster $CLUSTER_NAME on this machine; nothing to do"
  elif $yes || $DRY_RUN; then
    change kind delete cluster --name "$CLUSTER_NAME"
  else
    say "the cluster $CLUSTER_NAME on this machine, with all that is in it. It costs nothing but memory."
    say "nothing was changed; to delete it: scripts/clean_up.sh --local --yes"
  fi
  exit 0
fi

need python3
who_am_i

# ---- what is there

# What was found, one a line: kind, name, what is needed to delete it, and whether it is billed, separated by tabs.
FOUND=$WORK/found
# The same for the reader: what, how much of it, and what it costs.
SHOWN=$WORK/shown
PRICES=$WORK/prices
python3 -c '
import json, sys
for name, item in json.load(open(sys.argv[1]))["items"].items():
    print(name, "-" if item["usd"] is None else item["usd"] * (730 if item["per"] == "hour" else 1))
' "$PROJECT/deploy/prices.json" >"$PRICES"

# item KIND NAME HOW PRICE QUANTITY WHAT: notes something found. PRICE is a name in deploy/prices.json, or "free".
item() {
  local bill=billed
  if [ "$4" = free ]; then bill=free; fi
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$bill" >>"$FOUND"
  awk -v price="$4" -v quantity="$5" -v what="$6" '
    $1 == price { known = $2 }
    END {
      if (price == "free") cost = "0.00"
      else if (known == "" || known == "-") cost = "?"
      else cost = known * quantity < 0.005 ? "<0.01" : sprintf("%.2f", known * quantity)
      printf "%10s  %s\n", cost, what
    }' "$PRICES" >>"$SHOWN"
}

gigabytes() { awk -v bytes="$1" 'BEGIN { printf "%.3f", bytes / 1e9 }'; }

look_around() {
  local part parts="repository bucket" searches="" status=0
  : >"$FOUND"
  : >"$SHOWN"
  if find_cluster; then parts="stacks volumes network logs $parts roles"; fi
  # AWS takes a moment for each answer, so everything is looked for at once.
  for part in $parts; do
    search "$part" &
    searches="$searches $!"
  done
  for part in $searches; do wait "$part" || status=$?; done
  if [ "$status" != 0 ]; then exit "$status"; fi
  for part in $parts; do
    cat "$WORK/search/$part/found" >>"$FOUND"
    cat "$WORK/search/$part/shown" >>"$SHOWN"
  done
}

# Looks for one part, with a folder of its own for what it finds.
search() {
  local WORK=$WORK/search/$1
  local FOUND=$WORK/found SHOWN=$WORK/shown
  mkdir -p "$WORK"
  : >"$FOUND"
  : >"$SHOWN"
  "find_$1"
}

# False when there is a cluster of that name that is not the project's: then all that carries its name stays.
find_cluster() {
  local query="cluster.[tags.project || '-', contains(keys(tags || \`{}\`), 'alpha.eksctl.io/cluster-name')]"
  found eks describe-cluster --name "$CLUSTER_NAME" --query "$query" --output text || return 0
  local tag eksctl
  read -r tag eksctl <<<"$ANSWER"
  if [ "$tag" != "$OURS" ]; then
    note "the cluster $CLUSTER_NAME does not carry the tag project=$OURS; it is left alone, with its disks, logs and roles"
    return 1
  fi
  find_associations
  find_node_groups "$eksctl"
  item cluster "$CLUSTER_NAME" "$eksctl" eks_cluster 1 "EKS cluster $CLUSTER_NAME"
}

# What grant_s3_access.sh has made. Others, such as that of the driver that deletes disks, go with the cluster.
# An EKS without pod identity, as in the sandbox, has no such call, and says so with a bare 404.
find_associations() {
  local association account
  found eks list-pod-identity-associations --cluster-name "$CLUSTER_NAME" \
    --namespace "$KUBEFLOW_NAMESPACE" --service-account "$SERVICE_ACCOUNT" \
    --query "associations[].[associationId, serviceAccount]" --output text || return 0
  while read -r association account; do
    if [ -n "$association" ] && [ "$association" != None ]; then
      item association "$association" "" free 0 "  pod identity association of $account"
    fi
  done <<<"$ANSWER"
}

find_node_groups() {
  local group groups nodes type spot
  ask eks list-nodegroups --cluster-name "$CLUSTER_NAME" --query "nodegroups[]" --output text
  groups=$ANSWER
  for group in $groups; do
    ask eks describe-nodegroup --cluster-name "$CLUSTER_NAME" --nodegroup-name "$group" \
      --query "nodegroup.[scalingConfig.desiredSize, instanceTypes[0], capacityType]" --output text
    read -r nodes type spot <<<"$ANSWER"
    if [ "$spot" = SPOT ]; then type=spot; fi
    item nodegroup "$group" "$1" "$type" "$nodes" "  node group $group: $nodes x $(cut -f2 <<<"$ANSWER")"
  done
}

# What eksctl makes it makes as CloudFormation stacks; after an interruption these may be all that is left of a cluster.
find_stacks() {
  local stack stacks
  ask cloudformation describe-stacks --output text \
    --query "Stacks[?Tags[?Key=='alpha.eksctl.io/cluster-name' && Value=='$CLUSTER_NAME']].StackName"
  # The cluster's own stack holds the network of the others, so it goes last.
  stacks=$(tr '[:space:]' '\n' <<<"$ANSWER" | sed '/^$/d' | awk '/-cluster$/ { last = last $0 "\n"; next } { print } END { printf "%s", last }')
  for stack in $stacks; do item stack "$stack" "" free 0 "CloudFormation stack $stack"; done
}

# Disks that carry the cluster's name; and those that carry only the project's tag, which deploy/kubeflow/storage-class.yaml
# gives them, once they are attached to nothing.
find_volumes() {
  local id size type state
  local cluster="Tags[?Key=='kubernetes.io/cluster/$CLUSTER_NAME']"
  local project="Tags[?Key=='project' && Value=='$OURS'] && State=='available' && !(Tags[?starts_with(Key, 'kubernetes.io/cluster/')])"
  ask ec2 describe-volumes --filters "Name=tag-key,Values=kubernetes.io/cluster/$CLUSTER_NAME,project" \
    --query "Volumes[?$cluster || ($project)].[VolumeId, Size, VolumeType, State]" --output text
  while read -r id size type state; do
    if [ -n "$id" ]; then item volume "$id" "$state" "$type" "$size" "disk $id: $size GB"; fi
  done <<<"$ANSWER"
}

find_network() {
  local id state name
  ask ec2 describe-nat-gateways --query "NatGateways[].[NatGatewayId, State]" --output text \
    --filter "Name=tag:alpha.eksctl.io/cluster-name,Values=$CLUSTER_NAME" Name=state,Values=pending,available
  while read -r id state; do
    if [ -n "$id" ]; then item nat "$id" "$state" nat_gateway 1 "NAT gateway $id"; fi
  done <<<"$ANSWER"
  ask ec2 describe-addresses --query "Addresses[].[AllocationId]" --output text \
    --filters "Name=tag:alpha.eksctl.io/cluster-name,Values=$CLUSTER_NAME"
  for id in $ANSWER; do item address "$id" "" public_ipv4 1 "public address $id"; done
  find_load_balancers
}

# Those that Kubernetes has made for its services; their tags have to be asked for one by one.
find_load_balancers() {
  local name
  ask elbv2 describe-load-balancers --query "LoadBalancers[].LoadBalancerArn" --output text
  for name in $ANSWER; do
    ask elbv2 describe-tags --resource-arns "$name" --query "TagDescriptions[].Tags[].[join('=', [Key, Value])]" --output text
    if cluster_tags; then
      item balancer "$name" v2 load_balancer 1 "load balancer $(cut -d/ -f2-3 <<<"$name")"
    fi
  done
  ask elb describe-load-balancers --query "LoadBalancerDescriptions[].LoadBalancerName" --output text
  for name in $ANSWER; do
    ask elb describe-tags --load-balancer-names "$name" --query "TagDescriptions[].Tags[].[join('=', [Key, Value || ''])]" --output text
    if cluster_tags; then item balancer "$name" classic classic_load_balancer 1 "load balancer $name"; fi
  done
}

cluster_tags() {
  grep -qE "^(kubernetes\.io/cluster/$CLUSTER_NAME=.*|elbv2\.k8s\.aws/cluster=$CLUSTER_NAME)$" <<<"$ANSWER"
}

find_logs() {
  local name bytes
  ask logs describe-log-groups --log-group-name-prefix "/aws/eks/$CLUSTER_NAME/" \
    --query "logGroups[].[logGroupName, storedBytes]" --output text
  while read -r name bytes; do
    if [ -n "$name" ]; then item logs "$name" "" cloudwatch_logs "$(gigabytes "${bytes:-0}")" "logs $name"; fi
  done <<<"$ANSWER"
}

find_repository() {
  local name arn bytes
  for name in "$COMPONENT_REPOSITORY" "$COMPONENT_REPOSITORY-notebook"; do
    found ecr describe-repositories --repository-names "$name" --query "repositories[0].repositoryArn" --output text || continue
    arn=$ANSWER
    ask ecr list-tags-for-resource --resource-arn "$arn" --query "tags[?Key=='project'].Value" --output text
    if [ "$ANSWER" != "$OURS" ]; then
      note "the repository $name does not carry the tag project=$OURS; it is left alone"
      continue
    fi
    ask ecr describe-images --repository-name "$name" --query "imageDetails[].[imageSizeInBytes]" --output text
    bytes=$(awk '{ sum += $1 } END { printf "%.0f", sum }' <<<"$ANSWER")
    item repository "$name" "" ecr "$(gigabytes "$bytes")" "ECR repository $name: $(gigabytes "$bytes") GB of images"
  done
}

find_bucket() {
  if [ -z "$WORKSHOP_BUCKET" ]; then return; fi
  local bytes tag=""
  if aws s3api get-bucket-tagging --bucket "$WORKSHOP_BUCKET" --query "TagSet[?Key=='project'].Value" --output text \
    >"$WORK/answer" 2>"$WORK/error"; then
    tag=$(cat "$WORK/answer")
  else
    case "$(aws_error_code)" in
      NoSuchBucket | 404) return ;;
      NoSuchTagSet | NotImplemented | MethodNotAllowed | 501 | 405) ;; # there is a bucket, without tags
      *) aws_failed ;;
    esac
  fi
  if [ "$tag" != "$OURS" ] && [ -z "$named" ]; then
    note "the bucket $WORKSHOP_BUCKET does not carry the tag project=$OURS; it is left alone. To delete it too, with all that is in it: --bucket $WORKSHOP_BUCKET"
    return
  fi
  ask s3api list-object-versions --bucket "$WORKSHOP_BUCKET" --query "Versions[].[Size]" --output text
  bytes=$(awk '{ sum += $1 } END { printf "%.0f", sum }' <<<"$ANSWER")
  item bucket "$WORKSHOP_BUCKET" "" s3 "$(gigabytes "$bytes")" "bucket $WORKSHOP_BUCKET: $(gigabytes "$bytes") GB"
}

# Roles cost nothing. Those of a cluster by eksctl go with its stacks.
find_roles() {
  local role roles provider providers
  ask iam list-roles --output text \
    --query "Roles[?contains(['$CLUSTER_NAME-s3', '$CLUSTER_NAME-node', '$CLUSTER_NAME-cluster'], RoleName)].[RoleName]"
  roles=$ANSWER
  for role in $roles; do
    # grant_s3_access.sh and lesson 03 make that one; the lesson without a tag.
    if [ "$role" != "$CLUSTER_NAME-s3" ]; then
      ask iam list-role-tags --role-name "$role" --query "Tags[?Key=='project'].Value" --output text
      if [ "$ANSWER" != "$OURS" ]; then continue; fi
    fi
    item role "$role" "" free 0 "IAM role $role"
  done
  ask iam list-open-id-connect-providers --query "OpenIDConnectProviderList[].[Arn]" --output text
  # IAM is the same in every region, and a cluster of this name may be in another one.
  providers=$(grep -E "/oidc\.eks\.$AWS_DEFAULT_REGION\." <<<"$ANSWER" || true)
  for provider in $providers; do
    ask iam list-open-id-connect-provider-tags --open-id-connect-provider-arn "$provider" \
      --query "Tags[?(Key=='project' && Value=='$OURS') || (Key=='alpha.eksctl.io/cluster-name' && Value=='$CLUSTER_NAME')].Key" --output text
    if [ -n "$ANSWER" ]; then item provider "$provider" "" free 0 "OIDC provider ${provider##*/}"; fi
  done
}

show_list() {
  say "USD/month"
  cat "$SHOWN"
  awk '{ if ($1 == "?") more = " and more: ? is a price that changes, or that deploy/prices.json does not have"; sum += $1 }
    END { printf "%10.2f  in all%s\n", sum, more }' "$SHOWN"
  python3 -c '
import json, sys
prices = json.load(open(sys.argv[1]))
print("prices: {region}, read on {read_on}; traffic, requests and public addresses of nodes come on top".format(**prices))
' "$PROJECT/deploy/prices.json"
}

# ---- deleting it

each() { awk -F '\t' -v kind="$1" '$1 == kind { print $2 "\t" $3 }' "$FOUND" >"$WORK/each"; }

gone() { $DRY_RUN || say "deleted $*"; }

# drop aws ARGUMENTS...: deletes something. What has gone meanwhile, with the cluster perhaps, is no failure.
drop() {
  if $DRY_RUN; then change "$@"; return; fi
  if ! "$@" </dev/null >"$WORK/answer" 2>"$WORK/error"; then
    case "$(aws_error_code)" in *NotFound* | NoSuch* | 404) return ;; esac
    aws_failed
  fi
}

delete_all() {
  local name how
  each association
  while IFS=$'\t' read -r name how; do
    drop aws eks delete-pod-identity-association --cluster-name "$CLUSTER_NAME" --association-id "$name"
    gone "the pod identity association $name"
  done <"$WORK/each"
  delete_cluster
  look_for_volumes_again
  delete_balancers
  free_network
  delete_stacks
  delete_leftovers
  each repository
  while IFS=$'\t' read -r name how; do
    drop aws ecr delete-repository --repository-name "$name" --force
    gone "the repository $name"
  done <"$WORK/each"
  each bucket
  while IFS=$'\t' read -r name how; do delete_bucket "$name"; done <"$WORK/each"
  delete_roles
}

delete_cluster() {
  local name how
  each cluster
  IFS=$'\t' read -r name how <"$WORK/each" || return 0
  if [ "$how" = True ]; then
    need eksctl
    # Without waiting for pods that may not be evicted: nothing is to survive here.
    delete_with_eksctl "$name"
    gone "the cluster $name"
    return
  fi
  each nodegroup
  while IFS=$'\t' read -r name how; do
    drop aws eks delete-nodegroup --cluster-name "$CLUSTER_NAME" --nodegroup-name "$name"
    $DRY_RUN || say "deleting the node group $name; this takes some minutes"
    drop aws eks wait nodegroup-deleted --cluster-name "$CLUSTER_NAME" --nodegroup-name "$name"
    gone "the node group $name"
  done <"$WORK/each"
  drop aws eks delete-cluster --name "$CLUSTER_NAME"
  drop aws eks wait cluster-deleted --name "$CLUSTER_NAME"
  gone "the cluster $CLUSTER_NAME"
}

# eksctl may end with the cluster gone and its network still there: what holds it is deleted later on.
delete_with_eksctl() {
  local eksctl=(eksctl delete cluster --name "$1" --region "$AWS_DEFAULT_REGION" --wait --disable-nodegroup-eviction)
  if $DRY_RUN; then show "${eksctl[@]}"; return; fi
  if "${eksctl[@]}"; then return; fi
  if found eks describe-cluster --name "$1"; then fail "eksctl has not deleted the cluster $1: see above"; fi
  note "eksctl has left something; going on without it"
}

# Those of the nodes are attached to nothing now.
look_for_volumes_again() {
  each cluster
  if $DRY_RUN || [ ! -s "$WORK/each" ]; then return; fi
  awk -F '\t' '$1 != "volume"' "$FOUND" >"$WORK/others"
  mv "$WORK/others" "$FOUND"
  find_volumes
}

# Those that eksctl has not deleted by now.
delete_stacks() {
  local name how
  each stack
  while IFS=$'\t' read -r name how; do
    drop aws cloudformation delete-stack --stack-name "$name"
    if $DRY_RUN; then
      show aws cloudformation wait stack-delete-complete --stack-name "$name"
    elif ! aws cloudformation wait stack-delete-complete --stack-name "$name" </dev/null 2>"$WORK/error"; then
      note "the stack $name is still there: $(tail -1 "$WORK/error")"
      continue
    fi
    gone "the stack $name"
  done <"$WORK/each"
}

# What keeps a stack from deleting its network: interfaces of pods, and security groups of services, which nobody uses.
# https://github.com/eksctl-io/eksctl/issues/7589
free_network() {
  local id ids
  each stack
  if $DRY_RUN || [ ! -s "$WORK/each" ]; then return; fi
  ask ec2 describe-network-interfaces --query "NetworkInterfaces[].[NetworkInterfaceId]" --output text \
    --filters "Name=tag:cluster.k8s.amazonaws.com/name,Values=$CLUSTER_NAME" Name=status,Values=available
  ids=$ANSWER
  for id in $ids; do drop aws ec2 delete-network-interface --network-interface-id "$id"; done
  ask ec2 describe-security-groups --query "SecurityGroups[].[GroupId]" --output text \
    --filters "Name=tag-key,Values=kubernetes.io/cluster/$CLUSTER_NAME" "Name=group-name,Values=k8s-*"
  # One that is still in use goes at the next try, or keeps its stack, which is then named.
  for id in $ANSWER; do aws ec2 delete-security-group --group-id "$id" </dev/null >/dev/null 2>&1 || true; done
}

# What the cluster made by itself, and does not take along.
delete_balancers() {
  local name how
  each balancer
  while IFS=$'\t' read -r name how; do
    if [ "$how" = v2 ]; then
      drop aws elbv2 delete-load-balancer --load-balancer-arn "$name"
    else
      drop aws elb delete-load-balancer --load-balancer-name "$name"
    fi
    gone "the load balancer $name"
  done <"$WORK/each"
}

delete_leftovers() {
  local name how
  each nat
  while IFS=$'\t' read -r name how; do
    drop aws ec2 delete-nat-gateway --nat-gateway-id "$name"
    drop aws ec2 wait nat-gateway-deleted --nat-gateway-ids "$name"
    gone "the NAT gateway $name"
  done <"$WORK/each"
  each address
  while IFS=$'\t' read -r name how; do
    drop aws ec2 release-address --allocation-id "$name"
    gone "the address $name"
  done <"$WORK/each"
  each volume
  while IFS=$'\t' read -r name how; do
    if [ "$how" != available ]; then drop aws ec2 wait volume-available --volume-ids "$name"; fi
    drop aws ec2 delete-volume --volume-id "$name"
    gone "the disk $name"
  done <"$WORK/each"
  each logs
  while IFS=$'\t' read -r name how; do
    drop aws logs delete-log-group --log-group-name "$name"
    gone "the logs $name"
  done <"$WORK/each"
}

# S3 deletes only empty buckets: all versions of all objects, and unfinished uploads, go first.
delete_bucket() {
  local bucket=$1 batch key upload versioning
  ask s3api get-bucket-versioning --bucket "$bucket" --query Status --output text
  versioning=$ANSWER
  ask s3api list-object-versions --bucket "$bucket" --output json \
    --query "[Versions || \`[]\`, DeleteMarkers || \`[]\`][].{Key: Key, VersionId: VersionId}"
  mv "$WORK/answer" "$WORK/versions"
  # Batches that fit on a command line, and that S3 takes: it takes 1,000 at a time.
  python3 -c '
import json, sys
batch = []
def flush():
    if batch:
        print(json.dumps({"Objects": batch, "Quiet": True}))
        batch.clear()
for item in json.load(open(sys.argv[1])) or []:
    # Without versions, "null" is no name; with them, it must be named, or the bucket only notes a deletion.
    if item["VersionId"] is None or item["VersionId"] == "null" and sys.argv[2] in ("", "None"):
        del item["VersionId"]
    batch.append(item)
    if len(batch) == 1000 or len(json.dumps(batch)) > 90_000:
        flush()
flush()
' "$WORK/versions" "$versioning" >"$WORK/batches"
  while IFS= read -r batch; do
    change aws s3api delete-objects --bucket "$bucket" --delete "$batch" </dev/null
    if grep -q '"Errors"' "$WORK/answer" 2>/dev/null; then fail "some objects of $bucket were not deleted: $(head -c 500 "$WORK/answer")"; fi
  done <"$WORK/batches"
  ask s3api list-multipart-uploads --bucket "$bucket" --query "Uploads[].[UploadId, Key]" --output text
  while IFS=$'\t' read -r upload key; do
    case "$upload" in "" | None) continue ;; esac
    drop aws s3api abort-multipart-upload --bucket "$bucket" --key "$key" --upload-id "$upload"
  done <<<"$ANSWER"
  drop aws s3api delete-bucket --bucket "$bucket"
  gone "the bucket $bucket"
}

delete_roles() {
  local name how
  each role
  cp "$WORK/each" "$WORK/roles"
  while IFS=$'\t' read -r name how; do delete_role "$name"; done <"$WORK/roles"
  each provider
  while IFS=$'\t' read -r name how; do
    drop aws iam delete-open-id-connect-provider --open-id-connect-provider-arn "$name"
    gone "the OIDC provider ${name##*/}"
  done <"$WORK/each"
}

delete_role() {
  local policy policies
  # eksctl may have deleted it meanwhile.
  found iam list-attached-role-policies --role-name "$1" --query "AttachedPolicies[].[PolicyArn]" --output text || return 0
  policies=$ANSWER
  for policy in $policies; do drop aws iam detach-role-policy --role-name "$1" --policy-arn "$policy"; done
  ask iam list-role-policies --role-name "$1" --query "PolicyNames[]" --output text
  policies=$ANSWER
  for policy in $policies; do drop aws iam delete-role-policy --role-name "$1" --policy-name "$policy"; done
  drop aws iam delete-role --role-name "$1"
  gone "the role $1"
}

look_around
if [ ! -s "$FOUND" ]; then
  tell "nothing of this project is left in account $ACCOUNT, region $AWS_DEFAULT_REGION; nothing to do"
  exit 0
fi
if $DRY_RUN; then
  delete_all
  exit 0
fi
show_list
if ! $yes; then
  say "nothing was changed; to delete all this: scripts/clean_up.sh --yes${named:+ --bucket $named}"
  exit 0
fi
# Found out before anything is deleted.
each cluster
if grep -q True "$WORK/each"; then need eksctl; fi
delete_all
look_around
if [ -s "$FOUND" ]; then
  note "this is left:"
  cut -f1,2 "$FOUND" >&2
  if cut -f4 "$FOUND" | grep -qx billed; then fail "AWS still bills some of it. Run this again in a few minutes"; fi
fi
say "AWS was asked again: nothing that is billed is left in account $ACCOUNT, region $AWS_DEFAULT_REGION"
