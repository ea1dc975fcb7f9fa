#!/usr/bin/env bash
# Gives the pods of one service account access to one bucket.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/grant_s3_access.sh [--method pod-identity|irsa|secret] [--dry-run]

Lets tasks and notebook servers read and write the bucket WORKSHOP_BUCKET. With a role, they can use no other bucket.
Running pods keep their old access until you restart them. The script finds out from the cluster where tasks run: as
pipeline-runner in kubeflow with Pipelines alone, as default-editor in your namespace with the whole platform.

  --method pod-identity   use an IAM role and the EKS Pod Identity agent (default). There is no key that could leak.
  --method irsa           use the same role in the older way: the cluster's OIDC provider and an annotation
  --method secret         use keys, for an object store without IAM roles. The script puts AWS_ACCESS_KEY_ID and
                          AWS_SECRET_ACCESS_KEY of the environment into the Secret s3-access, and the address of S3
                          into the ConfigMap s3-access. The ConfigMap kfp-launcher sends artifacts to the bucket. The
                          PodDefault s3-access offers the keys to notebook servers. Every pod of the namespace that
                          asks for these objects gets the keys. kubectl reads the keys from standard input.
  --dry-run               print the commands to paste; change nothing

settings: WORKSHOP_BUCKET, CLUSTER_NAME (kubeflow-demo), KUBEFLOW_NAMESPACE and SERVICE_ACCOUNT (found from the cluster),
          AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 (for secret; default: Amazon S3), S3_ENDPOINT_FOR_PODS (for secret;
          default: the object store of Pipelines if AWS_ENDPOINT_URL_S3 is an address of this machine)

exit status: 0 done, 1 failed, 2 wrong usage, 3 a tool or credentials are missing
EOF
}

method=pod-identity
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --method)
      case "${2:-}" in pod-identity | irsa | secret) method=$2 ;; *) ws_reject_usage "--method is \"${2:-}\"; it must be pod-identity, irsa or secret" ;; esac
      shift 2 ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
ws_read_settings
role=$CLUSTER_NAME-s3

# ---- keys in a Secret

fill_in='
import os, re, sys
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    if not re.fullmatch(r"[A-Za-z0-9/+=_.-]+", os.environ.get(name, "")):
        sys.exit(f"{name} is not set, or has characters that no key has")
print(os.path.expandvars(sys.argv[1]))
'
# Exits with 1 when the keys on standard input, in base64, differ from the keys of the environment.
compare='
import base64, os, sys
there = sys.stdin.read().split()
keys = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
sys.exit([base64.b64decode(value).decode() for value in there] != keys)
'
cluster_has_keys() {
  kubectl --context "$CONTEXT" get secret s3-access -n "$KUBEFLOW_NAMESPACE" --ignore-not-found \
    -o 'jsonpath={.data.access-key} {.data.secret-key}' 2>/dev/null | python3 -c "$compare"
}

# find_pod_endpoint: sets POD_ENDPOINT to the address of S3 as pods see it. A forwarded port of this machine leads to
# the object store that comes with Pipelines.
find_pod_endpoint() {
  POD_ENDPOINT=${S3_ENDPOINT_FOR_PODS:-${AWS_ENDPOINT_URL_S3:-https://s3.$region.amazonaws.com}}
  case "$POD_ENDPOINT" in
    http://localhost[:/]* | http://127.0.0.1[:/]* | http://\[::1\]*) ;;
    *) return ;;
  esac
  if ! ws_cluster_has service seaweedfs -n kubeflow && ! $DRY_RUN; then
    ws_fail "pods cannot reach $POD_ENDPOINT, which is an address of this machine. Set S3_ENDPOINT_FOR_PODS to the address of the same S3 for pods."
  fi
  POD_ENDPOINT=http://seaweedfs.kubeflow:9000
}

# apply_keys: creates or replaces the Secret s3-access. Python fills in the two keys: no variable of this script and no
# command line holds the keys.
apply_keys() {
  local manifest
  # shellcheck disable=SC2016  # Python expands the names; in a dry run, the user's shell does
  manifest='apiVersion: v1
kind: Secret
metadata: {name: s3-access, namespace: '$KUBEFLOW_NAMESPACE'}
stringData:
  access-key: "$AWS_ACCESS_KEY_ID"
  secret-key: "$AWS_SECRET_ACCESS_KEY"'
  if $DRY_RUN; then
    printf '%s <<EOF\n%s\nEOF\n' "$apply" "$manifest"
  else
    # shellcheck disable=SC2086  # the variable holds several words
    python3 -c "$fill_in" "$manifest" | $apply || ws_fail "kubectl could not create the Secret s3-access in $KUBEFLOW_NAMESPACE"
  fi
  ws_report_change "put the keys into the Secret s3-access"
}

# apply_if_other IS WANTED MANIFEST CHANGE: applies a manifest unless the cluster has the wanted values already.
apply_if_other() {
  if [ "$1" = "$2" ]; then return; fi
  # shellcheck disable=SC2086  # the variable holds several words
  ws_run_or_show_with_input "$3" $apply
  ws_report_change "$4"
}

grant_by_secret() {
  ws_require_tool python3
  ws_select_cluster
  ws_find_namespace
  if ! python3 -c "$fill_in" "" >/dev/null 2>"$WORK/error"; then
    ws_report_missing "$(cat "$WORK/error"). Export the keys of the object store: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
  fi
  if [ "${AWS_SESSION_TOKEN:+set}" = set ]; then
    ws_fail "the keys in the environment have a session token, so they expire within hours. Use a role (--method pod-identity), or export keys without a session token."
  fi
  # Server-side, because a client-side apply would also write the keys into an annotation.
  local apply="kubectl --context $CONTEXT apply --server-side --force-conflicts -f -"
  local region=${AWS_DEFAULT_REGION:-us-east-1} disable_ssl=false place launcher pod_default root wanted
  find_pod_endpoint
  case "$POD_ENDPOINT" in http:*) disable_ssl=true ;; esac
  if ! cluster_has_keys; then apply_keys; fi
  place=$(ws_render "$PROJECT/deploy/kubeflow/s3-access.yaml" KUBEFLOW_NAMESPACE="$KUBEFLOW_NAMESPACE" \
    POD_ENDPOINT="$POD_ENDPOINT" AWS_DEFAULT_REGION="$region")
  launcher=$(ws_render "$PROJECT/deploy/kubeflow/kfp-launcher-keys.yaml" KUBEFLOW_NAMESPACE="$KUBEFLOW_NAMESPACE" \
    POD_ENDPOINT="$POD_ENDPOINT" AWS_DEFAULT_REGION="$region" WORKSHOP_BUCKET="$WORKSHOP_BUCKET" DISABLE_SSL="$disable_ssl")
  pod_default=$(ws_render "$PROJECT/deploy/kubeflow/pod-default-s3.yaml" KUBEFLOW_NAMESPACE="$KUBEFLOW_NAMESPACE" \
    POD_ENDPOINT="$POD_ENDPOINT" AWS_DEFAULT_REGION="$region")

  ws_ask_cluster configmap s3-access -n "$KUBEFLOW_NAMESPACE" -o 'jsonpath={.data.endpoint} {.data.region}'
  apply_if_other "$ANSWER" "$POD_ENDPOINT $region" "$place" "tasks find S3 at $POD_ENDPOINT, by the ConfigMap s3-access"

  wanted=$(printf 's3://%s/artifacts\n' "$WORKSHOP_BUCKET" && sed -n 's/^    //p' <<<"$launcher") # the text in providers
  ws_ask_cluster configmap kfp-launcher -n "$KUBEFLOW_NAMESPACE" -o 'jsonpath={.data.defaultPipelineRoot}{"\n"}{.data.providers}'
  root=$(head -1 <<<"$ANSWER")
  if [ -n "$root" ] && [ "$root" != "s3://$WORKSHOP_BUCKET/artifacts" ]; then
    ws_note "the artifacts of new runs go to s3://$WORKSHOP_BUCKET/artifacts; before, they went to $root"
  fi
  apply_if_other "$ANSWER" "$wanted" "$launcher" "tasks store their artifacts in s3://$WORKSHOP_BUCKET, by the ConfigMap kfp-launcher"

  # Only the whole platform has notebook servers.
  if ! $DRY_RUN && ! ws_cluster_has customresourcedefinition poddefaults.kubeflow.org; then return; fi
  ws_ask_cluster poddefault s3-access -n "$KUBEFLOW_NAMESPACE" -o "jsonpath={.spec.env[2].value} {.spec.env[3].value}"
  apply_if_other "$ANSWER" "$POD_ENDPOINT $region" "$pod_default" \
    "created the PodDefault s3-access: choose \"S3 access\" when you create a notebook server"
}

# ---- a role

# set_role TRUST: creates or corrects the role. TRUST is the trust policy of the role. The role may use one bucket only.
set_role() {
  local trust=$1 policy
  policy=$(ws_render_json "$PROJECT/deploy/iam/s3-one-bucket.json" "BUCKET=$WORKSHOP_BUCKET")
  if ws_find_in_aws iam get-role --role-name "$role" --query Role.AssumeRolePolicyDocument --output json; then
    if ! ws_is_same_json "$ANSWER" "$trust"; then
      ws_run_or_show aws iam update-assume-role-policy --role-name "$role" --policy-document "$trust"
      ws_report_change "the role $role now trusts $method"
    fi
  else
    ws_run_or_show aws iam create-role --role-name "$role" --assume-role-policy-document "$trust" --tags "$PROJECT_TAG"
    ws_report_change "created the role $role"
  fi
  ANSWER=""
  if ws_find_in_aws iam get-role-policy --role-name "$role" --policy-name one-bucket --query PolicyDocument --output json &&
    ws_is_same_json "$ANSWER" "$policy"; then return; fi
  ws_run_or_show aws iam put-role-policy --role-name "$role" --policy-name one-bucket --policy-document "$policy"
  ws_report_change "the role $role may now use the bucket $WORKSHOP_BUCKET, and no other bucket"
}

# Runs a command of the AWS CLI until AWS accepts the new role. A new role takes seconds to reach all of AWS.
retry_until_role_is_known() {
  local try
  if $DRY_RUN; then ws_run_or_show "$@"; return; fi
  for try in 1 2 3 4 5 6; do
    if "$@" >"$WORK/answer" 2>"$WORK/error"; then return; fi
    case "$(ws_print_aws_error_code)" in InvalidParameter*) ;; *) break ;; esac
    ws_note "AWS does not accept the new role yet; next try in 5 seconds ($try of 6)"
    sleep 5
  done
  ws_fail_with_aws_error
}

grant_by_pod_identity() {
  local trust association
  trust=$(ws_render_json "$PROJECT/deploy/iam/trust-pod-identity.json")
  if ! ws_find_in_aws eks list-pod-identity-associations --cluster-name "$CLUSTER_NAME"; then
    set_role "$trust"
    # The cluster exists, so a real EKS cannot answer NotFound here. Only an emulated one without Pod Identity does.
    ws_report "skipped: this AWS account has no EKS Pod Identity, so no service account gets the role $role; to run it: use an EKS cluster"
    exit 0
  fi
  if [ -z "$KUBEFLOW_NAMESPACE" ] || [ -z "$SERVICE_ACCOUNT" ]; then
    ws_select_cluster
    ws_find_namespace
  fi
  set_role "$trust"
  ws_ask_aws eks list-pod-identity-associations --cluster-name "$CLUSTER_NAME" --namespace "$KUBEFLOW_NAMESPACE" \
    --service-account "$SERVICE_ACCOUNT" --query "associations[0].associationId" --output text
  association=$ANSWER
  if ! ws_find_in_aws eks describe-addon --cluster-name "$CLUSTER_NAME" --addon-name eks-pod-identity-agent; then
    # Without the agent, pods get no credentials, and AWS reports no error.
    ws_run_or_show aws eks create-addon --cluster-name "$CLUSTER_NAME" --addon-name eks-pod-identity-agent
    ws_report_change "added eks-pod-identity-agent to $CLUSTER_NAME"
  fi
  case "$association" in
    None | "")
      retry_until_role_is_known aws eks create-pod-identity-association --cluster-name "$CLUSTER_NAME" --namespace "$KUBEFLOW_NAMESPACE" \
        --service-account "$SERVICE_ACCOUNT" --role-arn "$role_arn"
      ws_report_change "pods of $KUBEFLOW_NAMESPACE/$SERVICE_ACCOUNT now use the role $role"
      return ;;
  esac
  ws_ask_aws eks describe-pod-identity-association --cluster-name "$CLUSTER_NAME" --association-id "$association" \
    --query association.roleArn --output text
  if [ "$ANSWER" != "$role_arn" ]; then
    local before=${ANSWER##*/}
    retry_until_role_is_known aws eks update-pod-identity-association --cluster-name "$CLUSTER_NAME" --association-id "$association" \
      --role-arn "$role_arn"
    ws_report_change "pods of $KUBEFLOW_NAMESPACE/$SERVICE_ACCOUNT now use the role $role (before: $before)"
  fi
}

grant_by_irsa() {
  ws_select_cluster
  ws_find_namespace
  ws_ask_aws eks describe-cluster --name "$CLUSTER_NAME" --query cluster.identity.oidc.issuer --output text
  local issuer=${ANSWER#https://}
  case "$issuer" in None | "") ws_fail "the cluster $CLUSTER_NAME has no OIDC issuer. Use --method pod-identity." ;; esac
  if ! ws_find_in_aws iam get-open-id-connect-provider \
    --open-id-connect-provider-arn "arn:aws:iam::$ACCOUNT:oidc-provider/$issuer"; then
    ws_run_or_show aws iam create-open-id-connect-provider --url "https://$issuer" --client-id-list sts.amazonaws.com \
      --tags "$PROJECT_TAG"
    ws_report_change "added the cluster's OIDC provider to IAM"
  fi
  # EKS gives pods Pod Identity instead of IRSA when a service account has both, see pkg/handler/handler.go in
  # https://github.com/aws/amazon-eks-pod-identity-webhook
  if ws_find_in_aws eks list-pod-identity-associations --cluster-name "$CLUSTER_NAME" --namespace "$KUBEFLOW_NAMESPACE" \
    --service-account "$SERVICE_ACCOUNT" --query "associations[0].associationId" --output text; then
    case "$ANSWER" in
      None | "") ;;
      *)
        ws_run_or_show aws eks delete-pod-identity-association --cluster-name "$CLUSTER_NAME" --association-id "$ANSWER"
        ws_report_change "removed the pod identity association of $SERVICE_ACCOUNT, which pods would use before the role of IRSA" ;;
    esac
  fi
  set_role "$(ws_render_json "$PROJECT/deploy/iam/trust-irsa.json" "ACCOUNT=$ACCOUNT" "ISSUER=$issuer" \
    "NAMESPACE=$KUBEFLOW_NAMESPACE" "SERVICE_ACCOUNT=$SERVICE_ACCOUNT")"
  ws_ask_cluster serviceaccount "$SERVICE_ACCOUNT" -n "$KUBEFLOW_NAMESPACE" \
    -o 'jsonpath={.metadata.annotations.eks\.amazonaws\.com/role-arn}'
  if [ "$ANSWER" != "$role_arn" ]; then
    ws_run_or_show kubectl --context "$CONTEXT" annotate --overwrite serviceaccount "$SERVICE_ACCOUNT" \
      -n "$KUBEFLOW_NAMESPACE" "eks.amazonaws.com/role-arn=$role_arn"
    ws_report_change "pods of $KUBEFLOW_NAMESPACE/$SERVICE_ACCOUNT now use the role $role"
  fi
}

ws_require_setting WORKSHOP_BUCKET "the bucket that pods may use"
if [ "$method" = secret ]; then
  grant_by_secret
else
  # A role name has at most 64 characters: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
  [ "${#role}" -le 64 ] || ws_reject_usage "CLUSTER_NAME is \"$CLUSTER_NAME\"; it must have at most 61 characters, because it begins the name of a role"
  ws_require_tool python3
  if [ "$method" = irsa ]; then ws_require_tool kubectl; fi
  ws_identify_account
  role_arn=arn:aws:iam::$ACCOUNT:role/$role
  if ! ws_find_in_aws eks describe-cluster --name "$CLUSTER_NAME"; then
    ws_fail "there is no cluster $CLUSTER_NAME in $AWS_DEFAULT_REGION. Create it with scripts/create_cluster.sh, or set CLUSTER_NAME."
  fi
  if [ "$method" = irsa ]; then grant_by_irsa; else grant_by_pod_identity; fi
fi
if [ "$CHANGES" = 0 ]; then ws_report "the tasks in $KUBEFLOW_NAMESPACE have access already; nothing to do"; fi
