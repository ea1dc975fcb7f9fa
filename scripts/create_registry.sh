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
      [[ ${2:-} =~ ^[1-9][0-9]{0,3}$ ]] || wrong "$1 needs a number from 1 to 9999"
      if [ "$1" = --keep ]; then keep=$2; else untagged_days=$2; fi
      shift 2 ;;
    *) wrong "unknown argument: $1" ;;
  esac
done
read_settings
name=$COMPONENT_REPOSITORY
# https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html
[ "${#name}" -ge 2 ] && [ "${#name}" -le 256 ] || wrong "COMPONENT_REPOSITORY is \"$name\"; it must have 2 to 256 characters"
need python3
who_am_i

# ECR Public lives in us-east-1 alone: https://docs.aws.amazon.com/general/latest/gr/ecr-public.html
if $public; then
  address="ecr-public describe-repositories --region us-east-1 --repository-names $name --query repositories[0].repositoryUri --output text"
  # shellcheck disable=SC2086  # words
  if found $address; then
    tell "the public repository $name is there already; nothing to do"
  else
    change aws ecr-public create-repository --region us-east-1 --repository-name "$name" --tags "$PROJECT_TAG"
    if $DRY_RUN; then exit 0; fi
    tell "made the public repository $name"
    # shellcheck disable=SC2086
    ask $address
  fi
  tell "$ANSWER"
  exit 0
fi

lifecycle=$(render_json "$PROJECT/deploy/ecr-lifecycle.json" "KEEP=$keep" "UNTAGGED_DAYS=$untagged_days")
uri=$ACCOUNT.dkr.ecr.$AWS_DEFAULT_REGION.amazonaws.com/$name
case "$AWS_DEFAULT_REGION" in cn-*) uri=$ACCOUNT.dkr.ecr.$AWS_DEFAULT_REGION.amazonaws.com.cn/$name ;; esac
changed=0
brought() { changed=$((changed + 1)); $DRY_RUN || say "$1"; }

state="[repositoryArn,repositoryUri,imageTagMutability,to_string(imageScanningConfiguration.scanOnPush)]"
if found ecr describe-repositories --repository-names "$name" --query "repositories[0].$state" --output text; then
  read -r arn uri mutability scan <<<"$ANSWER"
  ask ecr list-tags-for-resource --resource-arn "$arn" --query "tags[?Key=='project'].Value" --output text
  if [ "$ANSWER" != "${PROJECT_TAG##*=}" ]; then
    ask ecr list-images --repository-name "$name" --query "length(imageIds)" --max-items 1 --output text
    if [ "${ANSWER%%[!0-9]*}" != 0 ]; then
      fail "the repository $name holds images and was not made by this project. Set another COMPONENT_REPOSITORY; or, to" \
        "hand it over, run: $(show aws ecr tag-resource --resource-arn "$arn" --tags "$PROJECT_TAG")"
    fi
    change aws ecr tag-resource --resource-arn "$arn" --tags "$PROJECT_TAG"
    brought "tagged $name as the project's"
  fi
  if [ "$mutability" != IMMUTABLE ]; then
    change aws ecr put-image-tag-mutability --repository-name "$name" --image-tag-mutability IMMUTABLE
    brought "tags of $name cannot be moved any more (they were $mutability)"
  fi
  if [ "$scan" != true ]; then
    change aws ecr put-image-scanning-configuration --repository-name "$name" --image-scanning-configuration scanOnPush=true
    brought "images in $name are now scanned when they are pushed"
  fi
else
  change aws ecr create-repository --repository-name "$name" --image-tag-mutability IMMUTABLE \
    --image-scanning-configuration scanOnPush=true --tags "$PROJECT_TAG"
  brought "made the repository $name"
fi

ANSWER=""
if found ecr get-lifecycle-policy --repository-name "$name" --query lifecyclePolicyText --output text &&
  same_json "$ANSWER" "$lifecycle"; then :; else
  change aws ecr put-lifecycle-policy --repository-name "$name" --lifecycle-policy-text "$lifecycle"
  brought "$name keeps the newest $keep images; those without a tag go after $untagged_days days"
fi
if [ "$changed" = 0 ]; then tell "the repository $name is as it should be; nothing to do"; fi
if ! $DRY_RUN; then say "$uri"; fi
