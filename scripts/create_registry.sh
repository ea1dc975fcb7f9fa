#!/usr/bin/env bash
# Makes the repository in ECR that the image of the components is pushed to.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/create_registry.sh [--keep N] [--untagged-days N] [--public] [--dry-run]

Makes the repository COMPONENT_REPOSITORY in ECR, in your account and region: images are scanned when they are pushed,
a tag once pushed stays as it is, and old images expire. A repository that is there is brought in line, and what was
changed is said; one that holds images and was not made by this project is left alone. The last line is its address.

  --keep N            how many tagged images to keep (default: 20)
  --untagged-days N   after how many days an image without a tag expires (default: 7)
  --public            in ECR Public instead, which anybody may pull from. It has neither scans nor expiry, and
                      clean_up.py does not delete it: aws ecr-public delete-repository --region us-east-1 --force
  --dry-run           print the commands that change something, ready to be pasted; run none of them

settings: COMPONENT_REPOSITORY (python-components), AWS_DEFAULT_REGION

exit status: 0 done, 1 failed, 2 wrong usage, 3 the AWS CLI or credentials are missing
EOF
}

keep=20 untagged_days=7 public=false
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --public) public=true; shift ;;
    --keep | --untagged-days)
      [[ ${2:-} =~ ^[1-9][0-9]{0,3}$ ]] || ws_reject_usage "$1 needs a number from 1 to 9999"
      if [ "$1" = --keep ]; then keep=$2; else untagged_days=$2; fi
      shift 2 ;;
    *) ws_reject_usage "unknown argument: $1" ;;
  esac
done
ws_read_settings
name=$COMPONENT_REPOSITORY
# https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html
[ "${#name}" -ge 2 ] && [ "${#name}" -le 256 ] || ws_reject_usage "COMPONENT_REPOSITORY is \"$name\"; it must have 2 to 256 characters"
ws_require_tool python3
ws_identify_account

# ECR Public lives in us-east-1 alone: https://docs.aws.amazon.com/general/latest/gr/ecr-public.html
if $public; then
  address="ecr-public describe-repositories --region us-east-1 --repository-names $name --query repositories[0].repositoryUri --output text"
  # shellcheck disable=SC2086  # words
  if ws_find_in_aws $address; then
    ws_report "the public repository $name is there already; nothing to do"
  else
    ws_run_or_show aws ecr-public create-repository --region us-east-1 --repository-name "$name" --tags "$PROJECT_TAG"
    if $DRY_RUN; then exit 0; fi
    ws_report "made the public repository $name"
    # shellcheck disable=SC2086
    ws_ask_aws $address
  fi
  ws_report "$ANSWER"
  exit 0
fi

# Compares what two JSON texts mean, not how they are written.
is_same_json() {
  python3 -c 'import json, sys; one, other = (json.loads(text or "null") for text in sys.argv[1:]); sys.exit(one != other)' "$@"
}

lifecycle=$(ws_render_json "$PROJECT/deploy/ecr-lifecycle.json" "KEEP=$keep" "UNTAGGED_DAYS=$untagged_days")
uri=$ACCOUNT.dkr.ecr.$AWS_DEFAULT_REGION.amazonaws.com/$name
case "$AWS_DEFAULT_REGION" in cn-*) uri=$ACCOUNT.dkr.ecr.$AWS_DEFAULT_REGION.amazonaws.com.cn/$name ;; esac

state="[repositoryArn,repositoryUri,imageTagMutability,to_string(imageScanningConfiguration.scanOnPush)]"
if ws_find_in_aws ecr describe-repositories --repository-names "$name" --query "repositories[0].$state" --output text; then
  read -r arn uri mutability scan <<<"$ANSWER"
  ws_ask_aws ecr list-tags-for-resource --resource-arn "$arn" --query "tags[?Key=='project'].Value" --output text
  if [ "$ANSWER" != "${PROJECT_TAG##*=}" ]; then
    ws_ask_aws ecr list-images --repository-name "$name" --query "length(imageIds)" --max-items 1 --output text
    if [ "${ANSWER%%[!0-9]*}" != 0 ]; then
      ws_fail "the repository $name holds images and was not made by this project. Set another COMPONENT_REPOSITORY; or, to" \
        "hand it over, run: $(ws_show_command aws ecr tag-resource --resource-arn "$arn" --tags "$PROJECT_TAG")"
    fi
    ws_run_or_show aws ecr tag-resource --resource-arn "$arn" --tags "$PROJECT_TAG"
    ws_report_change "tagged $name as the project's"
  fi
  if [ "$mutability" != IMMUTABLE ]; then
    ws_run_or_show aws ecr put-image-tag-mutability --repository-name "$name" --image-tag-mutability IMMUTABLE
    ws_report_change "tags of $name cannot be moved any more (they were $mutability)"
  fi
  if [ "$scan" != true ]; then
    ws_run_or_show aws ecr put-image-scanning-configuration --repository-name "$name" --image-scanning-configuration scanOnPush=true
    ws_report_change "images in $name are now scanned when they are pushed"
  fi
else
  ws_run_or_show aws ecr create-repository --repository-name "$name" --image-tag-mutability IMMUTABLE \
    --image-scanning-configuration scanOnPush=true --tags "$PROJECT_TAG"
  ws_report_change "made the repository $name"
fi

ANSWER=""
if ws_find_in_aws ecr get-lifecycle-policy --repository-name "$name" --query lifecyclePolicyText --output text &&
  is_same_json "$ANSWER" "$lifecycle"; then :; else
  ws_run_or_show aws ecr put-lifecycle-policy --repository-name "$name" --lifecycle-policy-text "$lifecycle"
  ws_report_change "$name keeps the newest $keep images; those without a tag go after $untagged_days days"
fi
if [ "$CHANGES" = 0 ]; then ws_report "the repository $name is as it should be; nothing to do"; fi
if ! $DRY_RUN; then ws_print "$uri"; fi
