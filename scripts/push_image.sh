#!/usr/bin/env bash
# Pushes an image to a registry, and prints its name with its digest for use in pipelines.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/push_image.sh [--dry-run] [--tag TAG] [component|notebook]

Pushes the image that scripts/build_image.sh has built, and prints REGISTRY/NAME@sha256:... as its last line. Set
COMPONENT_IMAGE to this line: unlike a tag, a digest always names the same image. The script does not push an image that
the registry has, and never moves an existing tag.

  --tag TAG   the tag, if you gave build_image.sh a tag
  --dry-run   print the commands to paste; change nothing

  REGISTRY               the registry: ACCOUNT.dkr.ecr.REGION.amazonaws.com (default: your AWS account and region),
                         public.ecr.aws/ALIAS, or any other registry after `docker login`
  COMPONENT_REPOSITORY   the name of the image (default: python-components); the notebook image adds -notebook

If Docker has a credential helper, the helper keeps the token for Amazon ECR. Without one, the script deletes the token.

exit status: 0 done, 1 failed, 2 wrong usage, 3 Docker, the AWS CLI or a login is missing
EOF
}

kind="" tag=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --tag) [ -n "${2:-}" ] || ws_reject_usage "--tag needs a value"; tag=$2; shift 2 ;;
    -*) ws_reject_usage "unknown option: $1" ;;
    component | notebook) [ -z "$kind" ] || ws_reject_usage "only one image at a time: component or notebook"; kind=$1; shift ;;
    *) ws_reject_usage "there is no image $1; it must be component or notebook" ;;
  esac
done
kind=${kind:-component}
ws_read_settings
local_image=$("$PROJECT/scripts/build_image.sh" --name ${tag:+--tag "$tag"} "$kind")
if [ -z "${REGISTRY:-}" ]; then
  ws_identify_account
  REGISTRY=$ACCOUNT.dkr.ecr.$AWS_DEFAULT_REGION.amazonaws.com
fi
image=$REGISTRY/$local_image
name=${local_image%:*}

# The AWS CLI reads Amazon's registries, and gets their token for Docker. ECR Public has its API in one region only.
ecr=""
if [[ $REGISTRY =~ ^([0-9]{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$ ]]; then
  ecr=ecr in_ecr=(--region "${BASH_REMATCH[2]}" --registry-id "${BASH_REMATCH[1]}")
elif [[ $REGISTRY == public.ecr.aws/* ]]; then
  ecr=ecr-public in_ecr=(--region us-east-1)
fi
if [ "$ecr" = ecr ] && [ "${WORKSHOP_TARGET:-}" = sandbox ]; then
  no_images="the AWS account of the sandbox cannot store images. To get a local registry: install docker-registry, start Docker, and run \`workshop sandbox up\`"
  if $DRY_RUN; then ws_note "$no_images"; else ws_report_missing "$no_images"; fi
fi

# Sets DIGEST to the digest of the tag in the registry. DIGEST is empty when the registry does not have the tag.
find_digest() {
  DIGEST=""
  if [ -n "$ecr" ]; then find_digest_in_ecr; elif ws_has_tool docker; then find_digest_with_docker; fi
}

find_digest_in_ecr() {
  ws_require_tool aws
  if ! ws_has_tool aws; then return; fi
  if ! ws_find_in_aws "$ecr" describe-repositories "${in_ecr[@]}" --repository-names "$name"; then
    if ! $DRY_RUN; then ws_fail "$REGISTRY has no repository $name. $(print_repository_advice)"; fi
    ws_note "$REGISTRY has no repository $name yet. $(print_repository_advice)"
  elif ws_find_in_aws "$ecr" describe-images "${in_ecr[@]}" --repository-name "$name" --image-ids "imageTag=${image##*:}" \
    --query 'imageDetails[0].imageDigest' --output text; then
    DIGEST=$ANSWER
  fi
}

print_repository_advice() {
  if [ "$ecr" = ecr ]; then
    ws_print "Create it: COMPONENT_REPOSITORY=$name scripts/create_registry.sh"
  else
    ws_print "Create it: aws ecr-public create-repository --region us-east-1 --repository-name $name"
  fi
}

find_digest_with_docker() {
  local plain=()
  if [[ $REGISTRY =~ ^(127\.0\.0\.1|localhost)(:|/|$) ]]; then plain=(--insecure); fi
  if docker manifest inspect --verbose ${plain[@]+"${plain[@]}"} "$image" >"$WORK/answer" 2>"$WORK/error"; then
    DIGEST=$(sed -nE 's/^.*"digest": "(sha256:[0-9a-f]{64})".*$/\1/p' "$WORK/answer" | head -1)
    return
  fi
  local message
  message=$(tail -1 "$WORK/error")
  case "$message" in
    *"no such manifest"* | *"manifest unknown"* | *"not found"*) ;;
    *unauthorized* | *denied* | *"authentication required"*)
      ws_report_missing "$REGISTRY requires a login: $message. Log in with \`docker login ${REGISTRY%%/*}\`" ;;
    *) ws_fail "$REGISTRY does not answer as a registry: $message. Check REGISTRY and the network." ;;
  esac
}

# Without a credential helper, Docker would write the login into its settings in plain text. In that case, this function
# lets Docker use a copy of the settings, and the script deletes the copy. Links keep the user's contexts and plugins.
log_in() {
  local settings=${DOCKER_CONFIG:-${HOME:-}/.docker} entry
  if grep -qE "\"${REGISTRY%%/*}\"[[:space:]]*:[[:space:]]*\"" "$settings/config.json" 2>/dev/null; then
    return # a credential helper for this registry does the login
  fi
  if $DRY_RUN; then
    ws_print "aws $ecr get-login-password ${in_ecr[*]:0:2} | docker login --username AWS --password-stdin ${REGISTRY%%/*}"
    return
  fi
  if ! grep -q '"credsStore"' "$settings/config.json" 2>/dev/null; then
    mkdir "$WORK/docker"
    for entry in "$settings"/*; do
      case "$entry" in
        */config.json) cp "$entry" "$WORK/docker/" ;;
        *) if [ -e "$entry" ]; then ln -s "$entry" "$WORK/docker/"; fi ;;
      esac
    done
    export DOCKER_CONFIG=$WORK/docker
  fi
  if ! aws "$ecr" get-login-password "${in_ecr[@]:0:2}" >"$WORK/token" 2>"$WORK/error"; then ws_fail_with_aws_error; fi
  if ! docker login --username AWS --password-stdin "${REGISTRY%%/*}" <"$WORK/token" >"$WORK/answer" 2>"$WORK/error"; then
    ws_fail "${REGISTRY%%/*} does not accept the token from AWS: $(tail -1 "$WORK/error")"
  fi
  rm "$WORK/token"
}

ws_require_tool docker
if ! $DRY_RUN; then
  if ! docker version --format '{{.Server.Version}}' >/dev/null 2>"$WORK/error"; then
    ws_report_missing "Docker is installed, but does not answer: $(tail -1 "$WORK/error"). Start Docker, and run this again."
  fi
fi
find_digest
if [ -n "$DIGEST" ]; then
  if [ -n "$tag" ] && ! docker image inspect --format '{{join .RepoDigests " "}}' "$local_image" 2>/dev/null |
    grep -qF "$REGISTRY/$name@$DIGEST"; then
    ws_fail "$image already names another image, $DIGEST. A tag is never moved: build and push this image with another --tag."
  fi
  ws_note "$image is there already; nothing to do"
  ws_print "$REGISTRY/$name@$DIGEST"
  exit 0
fi
if ws_has_tool docker && ! docker image inspect "$local_image" >/dev/null 2>&1; then
  if ! $DRY_RUN; then ws_fail "there is no image $local_image on this machine. Build it: scripts/build_image.sh${tag:+ --tag $tag} $kind"; fi
  ws_note "there is no image $local_image on this machine yet"
fi
if [ -n "$ecr" ]; then log_in; fi
ws_run_or_show docker tag "$local_image" "$image"
ws_run_or_show docker push "$image"
if $DRY_RUN; then exit 0; fi
digest=$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$image" | grep -F "$REGISTRY/$name@" | head -1)
if [ -z "$digest" ]; then ws_fail "Docker has no digest of $image after the push. Look at: docker image inspect $image"; fi
ws_print "$digest"
