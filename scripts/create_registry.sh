#!/usr/bin/env bash
# Creates the ECR repository of the component image.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/create_registry.sh [--keep N] [--untagged-days N] [--public] [--dry-run]

Creates the repository COMPONENT_REPOSITORY in ECR, in your account and region. ECR scans each image after the push,
tags never move, and old images expire. The script corrects the settings of an existing repository, and prints each
change. A repository with images that this project did not create stays unchanged. The last line is the address of the
repository.

  --keep N            keep N tagged images (default: 20)
  --untagged-days N   delete an image without a tag after N days (default: 7)
  --public            use ECR Public, where everyone may pull. ECR Public has no scans and no expiry. clean_up.py does
                      not delete it; use: aws ecr-public delete-repository --region us-east-1 --force
  --dry-run           print the commands to paste; change nothing

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

# The API of ECR Public is in us-east-1 only: https://docs.aws.amazon.com/general/latest/gr/ecr-public.html
if $public; then
  address="ecr-public describe-repositories --region us-east-1 --repository-names $name --query repositories[0].repositoryUri --output text"
  # shellcheck disable=SC2086  # the variable holds several words
  if ws_find_in_aws $address; then
    ws_report "the public repository $name is there already; nothing to do"
  else
    ws_run_or_show aws ecr-public create-repository --region us-east-1 --repository-name "$name" --tags "$PROJECT_TAG"
    if $DRY_RUN; then exit 0; fi
    ws_report "created the public repository $name"
    # shellcheck disable=SC2086
    ws_ask_aws $address
  fi
  ws_report "$ANSWER"
  exit 0
fi

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
      ws_fail "the repository $name holds images and was not made by this project. Set another COMPONENT_REPOSITORY. Or" \
        "let this project manage the repository: $(ws_show_command aws ecr tag-resource --resource-arn "$arn" --tags "$PROJECT_TAG")"
    fi
    ws_run_or_show aws ecr tag-resource --resource-arn "$arn" --tags "$PROJECT_TAG"
    ws_report_change "tagged $name as a repository of this project"
  fi
  if [ "$mutability" != IMMUTABLE ]; then
    ws_run_or_show aws ecr put-image-tag-mutability --repository-name "$name" --image-tag-mutability IMMUTABLE
    ws_report_change "tags of $name are now IMMUTABLE (before: $mutability)"
  fi
  if [ "$scan" != true ]; then
    ws_run_or_show aws ecr put-image-scanning-configuration --repository-name "$name" --image-scanning-configuration scanOnPush=true
    ws_report_change "ECR now scans each image that is pushed to $name"
  fi
else
  ws_run_or_show aws ecr create-repository --repository-name "$name" --image-tag-mutability IMMUTABLE \
    --image-scanning-configuration scanOnPush=true --tags "$PROJECT_TAG"
  ws_report_change "created the repository $name"
fi

ANSWER=""
if ws_find_in_aws ecr get-lifecycle-policy --repository-name "$name" --query lifecyclePolicyText --output text &&
  ws_is_same_json "$ANSWER" "$lifecycle"; then :; else
  ws_run_or_show aws ecr put-lifecycle-policy --repository-name "$name" --lifecycle-policy-text "$lifecycle"
  ws_report_change "$name now keeps the newest $keep images, and deletes images without a tag after $untagged_days days"
fi
if [ "$CHANGES" = 0 ]; then ws_report "the repository $name has the right settings; nothing to do"; fi
if ! $DRY_RUN; then ws_print "$uri"; fi
