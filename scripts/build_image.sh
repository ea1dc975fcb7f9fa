#!/usr/bin/env bash
# Builds the component image or the notebook image. The tag is a checksum of the content.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/build_image.sh [--dry-run] [--name] [--tag TAG] [--file FILE] [component|notebook] [-- OPTION...]

Builds docker/component/Dockerfile (the default) or docker/notebook/Dockerfile, and prints NAME:TAG of the image. The
tag is a checksum of all files in the image. Different content gets a different tag, also before you commit the change.
The script builds nothing when an image with this tag exists.

  --tag TAG   use this tag in place of the checksum, such as a version; latest is not allowed
  --file FILE build this Dockerfile in place of the one in docker/
  --name      only print NAME:TAG; build nothing
  --dry-run   print the build command to paste in the project folder; build nothing
  -- OPTION   pass the options after -- to `docker build`, such as -- --network host

  COMPONENT_REPOSITORY   the name of the image (default: python-components); the notebook image adds -notebook
  COMPONENT_BASE_IMAGE   the base image (default: in versions.env); a digest such as python@sha256:... fixes it
  PIP_CONFIG_FILE        a pip.conf for this build, such as one with a mirror; it does not stay in the image
  PIP_CERT               certificates for a build behind a proxy; they do not stay in the image
  IMAGE_PLATFORM         the platform of the nodes (default: linux/amd64); for Graviton or kind on a Mac: linux/arm64
  SOURCE_DATE_EPOCH      the time of all files in the image, in seconds since 1970 (default: the beginning of 2026)

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
      if ! [ -f "${2:-}" ]; then ws_reject_usage "--file needs the path of a Dockerfile; there is no file \"${2:-}\""; fi
      dockerfile=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
      shift 2 ;;
    --) shift; options=("$@"); break ;;
    -*) ws_reject_usage "unknown option: $1" ;;
    component | notebook) [ -z "$kind" ] || ws_reject_usage "only one image at a time: component or notebook"; kind=$1; shift ;;
    *) ws_reject_usage "there is no image $1; it must be component or notebook" ;;
  esac
done
kind=${kind:-component}
ws_read_settings

# The files of each image. .dockerignore excludes all other files from the build.
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

# A copy with the content of the project's Dockerfile gives the same image, so the tag stays the same.
if [ -z "$dockerfile" ] || [ "$(cat "$dockerfile")" = "$(cat "docker/$kind/Dockerfile")" ]; then
  dockerfile=docker/$kind/Dockerfile
fi

hash_input() { if ws_has_tool sha256sum; then sha256sum; else shasum -a 256; fi; }
print_contents() {
  ws_print "$COMPONENT_BASE_IMAGE $SOURCE_DATE_EPOCH $IMAGE_PLATFORM"
  find "${inputs[@]}" -type f ! -name '.*' ! -path '*/__pycache__/*' ! -path '*/.*/*' | LC_ALL=C sort |
    while IFS= read -r file; do
      ws_print "$file"
      if [ -x "$file" ]; then ws_print "can be run"; fi
      cat "$file"
    done
  if [ "$dockerfile" != "docker/$kind/Dockerfile" ]; then cat "$dockerfile"; fi
}
if [ -z "$tag" ]; then tag=$(print_contents | hash_input | cut -c 1-12); fi
if [ "$tag" = latest ]; then ws_reject_usage "the tag latest would move with each build. Omit --tag, or name a version."; fi
if ! [[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]]; then
  ws_reject_usage "the tag is \"$tag\"; it must be up to 128 letters, digits and _ . -, with a letter, digit or _ first"
fi
image=$repository:$tag
if $name_only; then ws_print "$image"; exit 0; fi

ws_require_tool docker
if ws_has_tool docker; then
  if ! docker version --format '{{.Server.Version}}' >/dev/null 2>"$WORK/error"; then
    if ! $DRY_RUN; then ws_report_missing "Docker is installed, but does not answer: $(tail -1 "$WORK/error"). Start Docker, and run this again."; fi
    ws_note "Docker does not answer; $ASSUMPTION"
  elif docker image inspect "$image" >/dev/null 2>&1; then
    ws_note "the $kind image is there already; nothing to do"
    ws_print "$image"
    exit 0
  fi
  # From version 23 on, Docker needs the plugin buildx to build with BuildKit: https://docs.docker.com/build/buildkit/
  version=$(docker --version | sed -nE 's/^[^0-9]*([0-9]+\.[0-9]+).*$/\1/p')
  if [ "${version%%.*}" -ge 23 ] 2>/dev/null && ! docker buildx version >/dev/null 2>&1; then
    buildx="Docker needs its plugin buildx to build images. Linux: install the package docker-buildx-plugin or docker-buildx. macOS: install Docker Desktop, or brew install docker-buildx"
    if $DRY_RUN; then ws_note "$buildx"; else ws_report_missing "$buildx"; fi
  fi
fi
if ws_has_tool git && [ -n "$(git -c safe.directory='*' status --porcelain -- "${inputs[@]}" 2>/dev/null)" ]; then
  ws_note "some files of the image are not committed; the build uses them, and the tag is their checksum"
fi

secrets=()
if [ -n "${PIP_CONFIG_FILE:-}" ]; then secrets+=(--secret "id=pip.conf,src=$PIP_CONFIG_FILE"); fi
if [ -n "${PIP_CERT:-}" ]; then secrets+=(--secret "id=ca.crt,src=$PIP_CERT"); fi
for file in "${PIP_CONFIG_FILE:-}" "${PIP_CERT:-}"; do
  case "$file" in *,* | *\"*) ws_reject_usage "the path $file has a comma or a quote, which Docker does not accept. Rename the file." ;; esac
  if [ -n "$file" ] && ! [ -r "$file" ]; then ws_fail "the file $file is missing or not readable. Correct PIP_CONFIG_FILE or PIP_CERT."; fi
done

# New versions of BuildKit add attestations. Attestations differ between builds, so the digest would differ too.
build_image() {
  ws_run_or_show env DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --platform "$IMAGE_PLATFORM" --tag "$image" \
    --file "$dockerfile" --build-arg "BASE_IMAGE=$COMPONENT_BASE_IMAGE" \
    --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" --build-arg "VERSION=$tag" \
    ${secrets[@]+"${secrets[@]}"} ${options[@]+"${options[@]}"} .
}
if ! (build_image); then
  if ! docker image inspect "$COMPONENT_BASE_IMAGE" >/dev/null 2>&1 &&
    ! docker pull --quiet --platform "$IMAGE_PLATFORM" "$COMPONENT_BASE_IMAGE" >/dev/null 2>"$WORK/error"; then
    ws_report_missing "the base image $COMPONENT_BASE_IMAGE is not here and cannot be pulled: $(tail -1 "$WORK/error"). Set COMPONENT_BASE_IMAGE to another image, such as a copy in your own registry."
  fi
  exit 1
fi
if ! $DRY_RUN; then ws_print "$image"; fi
