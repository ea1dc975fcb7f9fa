#!/usr/bin/env bash
# Uploads a compiled pipeline to Kubeflow Pipelines: as a new pipeline, or as a new version of one that is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/upload_pipeline.sh [--name NAME] [--version VERSION] [--description TEXT] [--dry-run] FILE

Uploads FILE, the YAML that `kfp dsl compile` wrote. If there is no pipeline of that name yet, it is made, and
FILE is its first version, with the same name; else FILE becomes a new version. A file that is there already as a
version is not uploaded again, so running this twice changes nothing the second time. A version is never replaced.

  --name NAME         the pipeline's name (default: the name that it was compiled with)
  --version VERSION   the name of a new version (default: v- and the first 12 digits of the file's SHA-256 checksum)
  --description TEXT  what to say of the version
  --dry-run           print the commands that change something, ready to be pasted; run none of them

  KF_PIPELINES_ENDPOINT   address of Kubeflow Pipelines, also from settings.env. Inside a Kubeflow notebook server it may be left out.
                          For the sandbox: eval "$(workshop sandbox env)"

exit status: 0 done, 1 failed, 2 wrong usage, 3 kfp is missing, or Kubeflow Pipelines does not answer
EOF
}

name="" version="" description="" file=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --name | --version | --description)
      [ $# -ge 2 ] && [ -n "$2" ] || wrong "$1 needs a value"
      declare "${1#--}=$2"
      shift 2 ;;
    -*) wrong "unknown option: $1" ;;
    *) [ -z "$file" ] || wrong "one file at a time, not also $1"; file=$1; shift ;;
  esac
done
[ -n "$file" ] || wrong "which file?"
[ -f "$file" ] || fail "there is no file $file; compile it first: kfp dsl compile --py X.py --output X.yaml"
read_settings
if ! has kfp || ! has python3; then
  lacks "kfp, the Kubeflow Pipelines SDK, is not on PATH. Install it: pip install kfp==$KUBEFLOW_PIPELINES_VERSION"
fi

read_file='
import hashlib, sys, yaml
content = open(sys.argv[1], "rb").read()
try:
    first = next(yaml.safe_load_all(content))
    print(first["pipelineInfo"]["name"])
except Exception:
    sys.exit(f"{sys.argv[1]} is not a compiled pipeline: it has no pipelineInfo.name. See: kfp dsl compile --help")
print("v-" + hashlib.sha256(content).hexdigest()[:12])
'
found=$(python3 -c "$read_file" "$file")
name=${name:-$(sed -n 1p <<<"$found")}
version=${version:-$(sed -n 2p <<<"$found")}

# The client prints warnings and, before the JSON, links; what is wanted begins with the JSON.
find='
import json, sys, yaml
text = sys.stdin.read()
start = min((place for place in (text.find("["), text.find("{")) if place >= 0), default=len(text))
items = json.loads(text[start:] or "[]")
kind, wanted, file = sys.argv[1:]
if kind == "pipeline":
    print(next((item["pipeline_id"] for item in items if item["display_name"].lower() == wanted.lower()), ""))
else:
    spec, *platform = yaml.safe_load_all(open(file))
    content = {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
    same = next((item["display_name"] for item in items if content == item["pipeline_spec"]), "")
    taken = any(wanted == item["display_name"] for item in items)
    print(f"same {same}" if same else "taken" if taken else "new")
'
# In the sandbox, the path of the endpoint is a secret. It is taken out before anything is kept, so that not even
# `bash -x` shows it.
hide() {
  python3 -c '
import os, sys
from urllib.parse import urlsplit
path = urlsplit(os.environ.get("KF_PIPELINES_ENDPOINT", "")).path.strip("/")
text = sys.stdin.read()
sys.stdout.write(text.replace("/" + path, "/...") if path else text)
'
}

# Prints why kfp failed: the message of Kubeflow Pipelines, else the last line.
reason() {
  python3 -c '
import re, sys
text = sys.stdin.read()
said = re.search(r"\"(?:message|error_message)\": ?\"((?:[^\"\\]|\\.)*)\"", text)
print(said[1] if said else text.strip().splitlines()[-1] if text.strip() else "it said nothing")
'
}

ask_pipelines() {
  local answer
  answer=$(kfp --output json "$@" 2>&1 | hide) ||
    lacks "Kubeflow Pipelines does not answer as it should: $(reason <<<"$answer")
Is KF_PIPELINES_ENDPOINT right, and the server up?"
  printf '%s\n' "$answer"
}

upload() {
  if $DRY_RUN; then show "$@"; return; fi
  local said
  said=$("$@" 2>&1 | hide) || fail "$file was not uploaded: $(reason <<<"$said")"
}

same_name='{"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": %s}]}'
quoted=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$name")
# shellcheck disable=SC2059
pipelines=$(ask_pipelines pipeline list --filter "$(printf "$same_name" "$quoted")")
pipeline_id=$(python3 -c "$find" pipeline "$name" "$file" <<<"$pipelines")

if [ -z "$pipeline_id" ]; then
  upload kfp pipeline create --pipeline-name "$name" ${description:+--description "$description"} "$file"
  $DRY_RUN || printf 'uploaded %s as the new pipeline %s\n' "$file" "$name"
  exit 0
fi

versions=$(ask_pipelines pipeline list-versions --sort-by 'created_at desc' "$pipeline_id")
there=$(python3 -c "$find" version "$version" "$file" <<<"$versions")
case "$there" in
  same*)
    printf 'the pipeline %s has this as its version %s already; nothing to do\n' "$name" "${there#same }"
    exit 0 ;;
  taken)
    fail "the pipeline $name has a version $version already, made from another file. Give another --version, or none:" \
      "its name then comes from the content." ;;
esac
upload kfp pipeline create-version --pipeline-id "$pipeline_id" --pipeline-version "$version" \
  ${description:+--description "$description"} "$file"
$DRY_RUN || printf 'uploaded %s as the version %s of the pipeline %s\n' "$file" "$version" "$name"
