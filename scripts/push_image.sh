#!/usr/bin/env bash
# Pushes an image to a registry, and prints the digest by which pipelines then name it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/push_image.sh [--dry-run] [--tag TAG] [component|notebook]

Pushes what scripts/build_image.sh has built, and prints REGISTRY/NAME@sha256:... as its last line. Give that to
pipelines as COMPONENT_IMAGE: unlike a tag, a digest is never another image tomorrow. What the registry has already is
not pushed again, and a tag that it has is never moved.

  --tag TAG   the tag, if it was given to build_image.sh
  --dry-run   print the commands that change something, ready to be pasted; run none of them

  REGISTRY               where to push: ACCOUNT.dkr.ecr.REGION.amazonaws.com (the default, for the account that AWS
                         sees), public.ecr.aws/ALIAS, or any other; for that, log in first with `docker login`
  COMPONENT_REPOSITORY   the image's name (default: python-components); the notebook server's ends in -notebook

The token for Amazon ECR goes to your credential helper if Docker has one, else it is forgotten at the end.

exit status: 0 done, 1 failed, 2 wrong usage, 3 Docker, the AWS CLI or a login is missing
EOF
}

kind="" tag=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --tag) [ -n "${2:-}" ] || wrong "--tag needs a value"; tag=$2; shift 2 ;;
    -*) wrong "unknown option: $1" ;;
    component | notebook) [ -z "$kind" ] || wrong "one image at a time"; kind=$1; shift ;;
    *) wrong "there is no image $1: it is component or notebook" ;;
  esac
done
kind=${kind:-component}
read_settings
local_image=$("$PROJECT/scripts/build_image.sh" --name ${tag:+--tag "$tag"} "$kind")
if [ -z "${REGISTRY:-}" ]; then
  who_am_i
  REGISTRY=$ACCOUNT.dkr.ecr.$AWS_DEFAULT_REGION.amazonaws.com
fi
if ! [[ $REGISTRY =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-][a-z0-9]+)*)*$ ]]; then
  wrong "REGISTRY is \"$REGISTRY\"; it must be a host such as registry.example.com:5000, without https:// and without a / at its end"
fi
image=$REGISTRY/$local_image
name=${local_image%:*}

# Amazon's registries are asked by the AWS CLI, and give Docker a token; public ones are all in one region.
ecr="" in_ecr=()
if [[ $REGISTRY =~ ^([0-9]{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$ ]]; then
  ecr=ecr in_ecr=(--region "${BASH_REMATCH[2]}" --registry-id "${BASH_REMATCH[1]}")
elif [[ $REGISTRY == public.ecr.aws/* ]]; then
  ecr=ecr-public in_ecr=(--region us-east-1)
elif [[ $REGISTRY == public.ecr.aws ]]; then
  wrong "REGISTRY is public.ecr.aws without your alias: public.ecr.aws/ALIAS"
fi
if [ "$ecr" = ecr ] && [ "${WORKSHOP_TARGET:-}" = sandbox ]; then
  no_images="the sandbox's AWS account keeps no images. For a registry beside it: install docker-registry, start Docker, then \`workshop sandbox up\`"
  if $DRY_RUN; then note "$no_images"; else lacks "$no_images"; fi
fi

# Puts the digest that the registry has under the tag into DIGEST, or nothing.
look_up() {
  DIGEST=""
  if [ -n "$ecr" ]; then look_up_in_ecr; elif has docker; then look_up_with_docker; fi
}

look_up_in_ecr() {
  need aws
  if ! has aws; then return; fi
  if ! found "$ecr" describe-repositories "${in_ecr[@]}" --repository-names "$name"; then
    if ! $DRY_RUN; then fail "$REGISTRY has no repository $name. $(how_to_make_repository)"; fi
    note "$REGISTRY has no repository $name yet. $(how_to_make_repository)"
  elif found "$ecr" describe-images "${in_ecr[@]}" --repository-name "$name" --image-ids "imageTag=${image##*:}" \
    --query 'imageDetails[0].imageDigest' --output text; then
    DIGEST=$ANSWER
  fi
}

how_to_make_repository() {
  if [ "$ecr" = ecr ]; then
    say "Make it: COMPONENT_REPOSITORY=$name scripts/create_registry.sh"
  else
    say "Make it: aws ecr-public create-repository --region us-east-1 --repository-name $name"
  fi
}

look_up_with_docker() {
  local plain=()
  if [[ $REGISTRY =~ ^(127\.0\.0\.1|localhost)(:|/|$) ]]; then plain=(--insecure); fi
  if docker manifest inspect --verbose ${plain[@]+"${plain[@]}"} "$image" >"$WORK/answer" 2>"$WORK/error"; then
    DIGEST=$(sed -nE 's/^.*"digest": "(sha256:[0-9a-f]{64})".*$/\1/p' "$WORK/answer" | head -1)
    return
  fi
  local said
  said=$(tail -1 "$WORK/error")
  case "$said" in
    *"no such manifest"* | *"manifest unknown"* | *"not found"*) ;;
    *unauthorized* | *denied* | *"authentication required"*)
      lacks "$REGISTRY takes no login from here: $said. Log in with \`docker login ${REGISTRY%%/*}\`" ;;
    *) fail "$REGISTRY does not answer as a registry: $said" ;;
  esac
}

# Docker writes a login in plain text into its settings unless a credential helper keeps it. Without one, this script
# works with a copy of the settings, which is deleted at the end; contexts and plugins stay those of the user.
log_in() {
  local settings=${DOCKER_CONFIG:-${HOME:-}/.docker} entry
  if grep -qE "\"${REGISTRY%%/*}\"[[:space:]]*:[[:space:]]*\"" "$settings/config.json" 2>/dev/null; then
    return # a helper for this registry logs in by itself
  fi
  if $DRY_RUN; then
    say "aws $ecr get-login-password ${in_ecr[*]:0:2} | docker login --username AWS --password-stdin ${REGISTRY%%/*}"
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
  if ! aws "$ecr" get-login-password "${in_ecr[@]:0:2}" >"$WORK/token" 2>"$WORK/error"; then aws_failed; fi
  if ! docker login --username AWS --password-stdin "${REGISTRY%%/*}" <"$WORK/token" >"$WORK/answer" 2>"$WORK/error"; then
    fail "${REGISTRY%%/*} does not take the token that AWS gave: $(tail -1 "$WORK/error")"
  fi
  rm "$WORK/token"
}

need docker
if ! $DRY_RUN; then
  if ! docker version --format '{{.Server.Version}}' >/dev/null 2>"$WORK/error"; then
    lacks "Docker is installed, but does not answer: $(tail -1 "$WORK/error") Start it."
  fi
fi
look_up
if [ -n "$DIGEST" ]; then
  if [ -n "$tag" ] && ! docker image inspect --format '{{join .RepoDigests " "}}' "$local_image" 2>/dev/null |
    grep -qF "$REGISTRY/$name@$DIGEST"; then
    fail "$image is another image already, $DIGEST, and a tag is never moved. Give this one another --tag."
  fi
  note "$image is there already; nothing to do"
  say "$REGISTRY/$name@$DIGEST"
  exit 0
fi
if has docker && ! docker image inspect "$local_image" >/dev/null 2>&1; then
  if ! $DRY_RUN; then fail "there is no image $local_image here. Build it: scripts/build_image.sh${tag:+ --tag $tag} $kind"; fi
  note "there is no image $local_image here yet"
fi
if [ -n "$ecr" ]; then log_in; fi
change docker tag "$local_image" "$image"
change docker push "$image"
if $DRY_RUN; then exit 0; fi
digest=$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$image" | grep -F "$REGISTRY/$name@" | head -1)
if [ -z "$digest" ]; then fail "Docker does not say which digest $image has now"; fi
say "$digest"
