#!/usr/bin/env bash
# Builds the image of the components, or that of the notebook server, under a tag that says what is in it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/build_image.sh [--dry-run] [--name] [--tag TAG] [--file FILE] [component|notebook] [-- OPTION...]

Builds docker/component/Dockerfile (the default) or docker/notebook/Dockerfile and prints the image's name and tag. The
tag is a checksum of everything that goes into the image. So a tag never means two different things, what is not
committed yet gets a tag of its own, and building what is there already does nothing.

  --tag TAG   another tag, such as a version; not latest, which says nothing
  --file FILE a Dockerfile of your own, which is built in place of the one in docker/
  --name      only print what the image is or would be called
  --dry-run   print the command that builds, ready to be pasted in the project's folder; build nothing
  -- OPTION   what follows is handed to `docker build`, such as -- --network host

  COMPONENT_REPOSITORY   the image's name (default: python-components); the notebook server's ends in -notebook
  COMPONENT_BASE_IMAGE   what both begin with (default: in versions.env); python@sha256:... holds it for good
  PIP_CONFIG_FILE        a pip.conf for this build, such as one that names a mirror; nothing of it stays in the image
  PIP_CERT               certificates for this build, where a proxy uses its own; they do not stay either
  IMAGE_PLATFORM         of the nodes that run it (default: linux/amd64); linux/arm64 for Graviton, or kind on a Mac
  SOURCE_DATE_EPOCH      the time that all files in the image get (default: the beginning of 2026)

exit status: 0 done, 1 failed, 2 wrong usage, 3 Docker or the base image is missing
EOF
}

kind="" tag="" dockerfile="" name_only=false options=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --name) name_only=true; shift ;;
    --tag) [ -n "${2:-}" ] || ws_reject_usage "--tag needs a value"; tag=$2; shift 2 ;;
    --file)
      if ! [ -f "${2:-}" ]; then ws_reject_usage "--file needs a Dockerfile, and \"${2:-}\" is no file"; fi
      dockerfile=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
      shift 2 ;;
    --) shift; options=("$@"); break ;;
    -*) ws_reject_usage "unknown option: $1" ;;
    component | notebook) [ -z "$kind" ] || ws_reject_usage "one image at a time"; kind=$1; shift ;;
    *) ws_reject_usage "there is no image $1: it is component or notebook" ;;
  esac
done
kind=${kind:-component}
ws_read_settings
ws_require_setting COMPONENT_BASE_IMAGE "the image to begin with, such as python:3.12-slim-bookworm"
if ! [[ $COMPONENT_BASE_IMAGE =~ ^[a-z0-9][A-Za-z0-9._:/@-]*$ ]]; then
  ws_reject_usage "COMPONENT_BASE_IMAGE is \"$COMPONENT_BASE_IMAGE\"; it must be the name of an image"
fi
time_in_image=${SOURCE_DATE_EPOCH:-1767225600}
if ! [[ $time_in_image =~ ^[0-9]+$ ]]; then ws_reject_usage "SOURCE_DATE_EPOCH is \"$time_in_image\"; it must be seconds since 1970"; fi

platform=${IMAGE_PLATFORM:-linux/amd64}
if ! [[ $platform =~ ^linux/[a-z0-9/]+$ ]]; then ws_reject_usage "IMAGE_PLATFORM is \"$platform\"; it must be like linux/amd64 or linux/arm64"; fi

# What goes into each image; .dockerignore lets through just this.
cd "$PROJECT"
case "$kind" in
  component)
    repository=$COMPONENT_REPOSITORY
    inputs=(docker/component docker/build-requirements.txt pipelines) ;;
  notebook)
    repository=$COMPONENT_REPOSITORY-notebook
    inputs=(LICENSE Makefile README.md pyproject.toml requirements.txt settings.env.template versions.env docker
      notebooks/[0-9][0-9]_*.ipynb notebooks/toc.yml notebooks/images pipelines scripts workshop)
    if [ -d deploy ]; then inputs+=(deploy); fi ;;
esac

# One that says the same is no other one.
if [ -z "$dockerfile" ] || [ "$(cat "$dockerfile")" = "$(cat "docker/$kind/Dockerfile")" ]; then
  dockerfile=docker/$kind/Dockerfile
fi

hash_input() { if ws_has_tool sha256sum; then sha256sum; else shasum -a 256; fi; }
print_contents() {
  ws_print "$COMPONENT_BASE_IMAGE $time_in_image $platform"
  find "${inputs[@]}" -type f ! -name '.*' ! -path '*/__pycache__/*' ! -path '*/.*/*' | LC_ALL=C sort |
    while IFS= read -r file; do
      ws_print "$file"
      if [ -x "$file" ]; then ws_print "can be run"; fi
      cat "$file"
    done
  if [ "$dockerfile" != "docker/$kind/Dockerfile" ]; then cat "$dockerfile"; fi
}
if [ -z "$tag" ]; then tag=$(print_contents | hash_input | cut -c 1-12); fi
if [ "$tag" = latest ]; then ws_reject_usage "the tag latest would be moved with each build; leave out --tag, or name a version"; fi
if ! [[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]]; then
  ws_reject_usage "the tag is \"$tag\"; it must be up to 128 letters, digits, and _ . - between them"
fi
image=$repository:$tag
if $name_only; then ws_print "$image"; exit 0; fi

ws_require_tool docker
if ws_has_tool docker; then
  if ! docker version --format '{{.Server.Version}}' >/dev/null 2>"$WORK/error"; then
    if ! $DRY_RUN; then ws_report_missing "Docker is installed, but does not answer: $(tail -1 "$WORK/error") Start it."; fi
    ws_note "Docker does not answer; the command is that for when the image is not there yet"
  elif docker image inspect "$image" >/dev/null 2>&1; then
    ws_note "$kind: it is there already; nothing to do"
    ws_print "$image"
    exit 0
  fi
  # Old clients build with BuildKit by themselves, newer ones by a plugin: https://docs.docker.com/build/buildkit/
  version=$(docker --version | sed -nE 's/^[^0-9]*([0-9]+\.[0-9]+).*$/\1/p')
  if [ "${version%%.*}" -ge 23 ] 2>/dev/null && ! docker buildx version >/dev/null 2>&1; then
    buildx="Docker lacks its plugin for builds, buildx. Linux: install docker-buildx-plugin or docker-buildx; macOS: it comes with Docker Desktop, else brew install docker-buildx"
    if $DRY_RUN; then ws_note "$buildx"; else ws_report_missing "$buildx"; fi
  fi
fi
if ws_has_tool git && [ -n "$(git -c safe.directory='*' status --porcelain -- "${inputs[@]}" 2>/dev/null)" ]; then
  ws_note "some of what goes into the image is not committed; the tag stands for the files as they are"
fi

secrets=()
if [ -n "${PIP_CONFIG_FILE:-}" ]; then secrets+=(--secret "id=pip.conf,src=$PIP_CONFIG_FILE"); fi
if [ -n "${PIP_CERT:-}" ]; then secrets+=(--secret "id=ca.crt,src=$PIP_CERT"); fi
for file in "${PIP_CONFIG_FILE:-}" "${PIP_CERT:-}"; do
  case "$file" in *,* | *\"*) ws_reject_usage "Docker cannot take a file with a comma or a quote in its name: $file" ;; esac
  if [ -n "$file" ] && ! [ -r "$file" ]; then ws_fail "there is no file $file, which PIP_CONFIG_FILE or PIP_CERT names"; fi
done

# Without the attestations, which newer builders add, one build is like the next.
build_image() {
  ws_run_or_show env DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --platform "$platform" --tag "$image" \
    --file "$dockerfile" --build-arg "BASE_IMAGE=$COMPONENT_BASE_IMAGE" \
    --build-arg "SOURCE_DATE_EPOCH=$time_in_image" --build-arg "VERSION=$tag" \
    ${secrets[@]+"${secrets[@]}"} ${options[@]+"${options[@]}"} .
}
if ! (build_image); then
  if ! docker image inspect "$COMPONENT_BASE_IMAGE" >/dev/null 2>&1 &&
    ! docker pull --quiet --platform "$platform" "$COMPONENT_BASE_IMAGE" >/dev/null 2>"$WORK/error"; then
    ws_report_missing "$COMPONENT_BASE_IMAGE, with which the image begins, is not here and cannot be pulled: $(tail -1 "$WORK/error"). Name another in COMPONENT_BASE_IMAGE, such as one in your own registry."
  fi
  exit 1
fi
if ! $DRY_RUN; then ws_print "$image"; fi
