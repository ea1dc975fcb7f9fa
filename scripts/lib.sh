# What the scripts share: settings, messages, asking AWS, and changing things or only showing how. Sourced, not run.
# The script that sources it defines usage().
# shellcheck shell=bash

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPT=${0##*/}
DRY_RUN=false
ANSWER=""
# Python warns on the terminal of what only its developers can change; a pager would wait for a key; and what the AWS
# CLI says is read below, so it must be in the shapes that both of its lines know.
export PYTHONWARNINGS=ignore AWS_PAGER="" AWS_CLI_ERROR_FORMAT=legacy AWS_DEFAULT_OUTPUT=json

# A folder for files that must not outlive the script, readable by its user alone.
WORK=$(umask 077 && mktemp -d)
trap 'rm -rf "$WORK"' EXIT

ws_print() { printf '%s\n' "$*"; }
ws_note() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }
ws_fail() { ws_note "$*"; exit 1; }
ws_reject_usage() { ws_note "$*"; usage >&2; exit 2; }
ws_report_missing() { ws_note "$*"; exit 3; }

# Takes the settings that the environment does not have from settings.env, then the versions from versions.env.
# WORKSHOP_SETTINGS names another file than settings.env.
ws_read_settings() {
  local settings=${WORKSHOP_SETTINGS:-$PROJECT/settings.env}
  # The environment wins over the file, under either name of the region.
  if [ -z "${AWS_DEFAULT_REGION:-}" ] && [ -n "${AWS_REGION:-}" ]; then export AWS_DEFAULT_REGION=$AWS_REGION; fi
  if [ -f "$settings" ]; then ws_read_variables "$settings"; fi
  ws_read_variables "$PROJECT/versions.env"
  : "${CLUSTER_NAME:=kubeflow-demo}" "${NODE_TYPE:=m6i.xlarge}" "${NODE_COUNT:=2}" "${NODE_SPOT:=false}"
  : "${COMPONENT_REPOSITORY:=python-components}" "${KUBEFLOW_NAMESPACE:=kubeflow-user-example-com}"
  : "${SERVICE_ACCOUNT:=default-editor}" "${WORKSHOP_BUCKET:=}"
  # An empty region is none: the AWS CLI would take it for one.
  # Version 2 of it prefers AWS_REGION, version 1 does not know it; so both say the same.
  if [ -n "${AWS_DEFAULT_REGION:-}" ]; then
    export AWS_DEFAULT_REGION AWS_REGION="$AWS_DEFAULT_REGION"
  else
    unset AWS_DEFAULT_REGION AWS_REGION
  fi
  local name
  for name in CLUSTER_NAME NODE_TYPE NODE_COUNT NODE_SPOT COMPONENT_REPOSITORY KUBEFLOW_NAMESPACE SERVICE_ACCOUNT \
    WORKSHOP_BUCKET AWS_DEFAULT_REGION; do
    ws_check_name "$name"
  done
}

# Exports the variables of a file of NAME=VALUE lines that are not set yet. The file is read, not run.
ws_read_variables() {
  local line number=0 name value
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    case "$line" in "" | \#*) continue ;; esac
    name=${line%%=*} value=${line#*=}
    if [ "$name" = "$line" ] || ! [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]]; then
      ws_reject_usage "$1, line $number, is not NAME=VALUE"
    fi
    case "$name" in *SECRET* | *PASSWORD* | *TOKEN* | *_KEY | AWS_ACCESS_KEY_ID)
      ws_reject_usage "$1, line $number: $name does not belong into a file; log in with \`aws configure sso\` instead" ;;
    esac
    case "$value" in \"*\" | \'*\') value=${value#?} value=${value%?} ;; esac
    if [ -z "${!name:-}" ]; then export "$name=$value"; fi
  done <"$1"
}

# Ends the script with 2 when a setting is not a name that its owner takes. Empty is for ws_require_setting.
ws_check_name() {
  local value=${!1:-} rule="" means=""
  case "$1" in
    # https://docs.aws.amazon.com/eks/latest/APIReference/API_CreateCluster.html; a CloudFormation stack begins with a letter.
    CLUSTER_NAME) rule='^[A-Za-z][A-Za-z0-9-]{0,99}$' means="up to 100 letters, digits and hyphens, a letter first" ;;
    NODE_TYPE) rule='^[a-z][a-z0-9-]*\.[a-z0-9-]+$' means="an EC2 instance type such as m6i.xlarge" ;;
    NODE_COUNT) rule='^[1-9][0-9]?$' means="a number from 1 to 99" ;;
    NODE_SPOT) rule='^(true|false)$' means="true or false" ;;
    # https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html
    COMPONENT_REPOSITORY) rule='^[a-z0-9]+([._/-][a-z0-9]+)*$' means="lower-case letters and digits, with single . _ - / between" ;;
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
    KUBEFLOW_NAMESPACE | SERVICE_ACCOUNT)
      rule='^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' means="up to 63 lower-case letters, digits and hyphens" ;;
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    WORKSHOP_BUCKET) rule='^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$' means="3 to 63 lower-case letters, digits, hyphens and dots" ;;
    AWS_DEFAULT_REGION) rule='^[a-z]{2,}(-[a-z]+)+-[0-9]+$' means="an AWS region such as us-east-1" ;;
  esac
  if [ -n "$value" ] && ! [[ $value =~ $rule ]]; then
    ws_reject_usage "$1 is \"$value\"; it must be $means. Quotes are part of a value: leave them out."
  fi
  case "$1 $value" in WORKSHOP_BUCKET\ *..* | WORKSHOP_BUCKET\ *.-* | WORKSHOP_BUCKET\ *-.*)
    ws_reject_usage "$1 is \"$value\"; dots in a bucket's name stand alone, between letters or digits" ;;
  esac
}

# ws_require_setting NAME WHAT: ends the script with 2 when a setting that this step cannot do without is empty.
ws_require_setting() { if [ -z "${!1:-}" ]; then ws_reject_usage "$1 is not set: $2. Export it, or write it into settings.env."; fi; }

# ws_require_tool TOOL: ends the script with 3 when a program is missing. A dry run goes on without it, and says so.
ws_require_tool() {
  if command -v "$1" >/dev/null; then return; fi
  if $DRY_RUN; then
    ws_note "$1 is not installed; the commands are those for when nothing is there yet"
  else
    ws_report_missing "$1 is not installed. $(ws_print_install_advice "$1")"
  fi
}

ws_has_tool() { command -v "$1" >/dev/null; }

ws_print_install_advice() {
  case "$1" in
    aws) ws_print "Linux and macOS: pip install awscli, or see https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html" ;;
    kubectl) ws_print "macOS: brew install kubernetes-cli; Linux: see https://kubernetes.io/docs/tasks/tools/" ;;
    eksctl) ws_print "macOS: brew install eksctl; Linux: see https://docs.aws.amazon.com/eks/latest/eksctl/installation.html" ;;
    kustomize) ws_print "macOS: brew install kustomize; Linux: see https://kubectl.docs.kubernetes.io/installation/kustomize/" ;;
    kind) ws_print "macOS: brew install kind; Linux: see https://kind.sigs.k8s.io/docs/user/quick-start/" ;;
    docker) ws_print "macOS: Docker Desktop, https://docs.docker.com/desktop/; Linux: https://docs.docker.com/engine/install/" ;;
    git) ws_print "macOS: xcode-select --install; Linux: your distribution's package git" ;;
    python3) ws_print "macOS: brew install python; Linux: your distribution's package python3" ;;
    *) ws_print "Install it with your system's package manager." ;;
  esac
}

# Prints a command as it can be pasted into a shell.
ws_show_command() {
  # The replacement stands in a variable, because old bashes would keep its backslashes.
  local word line="" quote="'\\''"
  for word in "$@"; do
    if ! [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then word="'${word//\'/$quote}'"; fi
    line="$line $word"
  done
  ws_print "${line# }"
}

# ws_run_or_show COMMAND...: does something, or, with --dry-run, shows the command that would do it.
# Of AWS, only what goes wrong is shown; other programs show their own progress.
ws_run_or_show() {
  if $DRY_RUN; then ws_show_command "$@"; return; fi
  if [ "$1" = aws ]; then
    "$@" >"$WORK/answer" 2>"$WORK/error" || ws_fail_with_aws_error
  else
    "$@" || ws_fail "this failed: $(ws_show_command "$@")"
  fi
}

# ws_run_or_show_with_input TEXT COMMAND...: the same for a command that reads TEXT, such as a manifest, from its standard input.
ws_run_or_show_with_input() {
  local text=$1
  shift
  if $DRY_RUN; then
    ws_print "$(ws_show_command "$@") <<'EOF'"
    ws_print "$text"
    ws_print EOF
    return
  fi
  printf '%s\n' "$text" | "$@" || ws_fail "this failed: $(ws_show_command "$@")"
}

# ws_find_in_aws ARGUMENTS...: asks AWS, without changing anything. True with the answer in ANSWER; false when AWS says that
# there is no such thing; anything else ends the script.
ws_find_in_aws() {
  if aws "$@" >"$WORK/answer" 2>"$WORK/error"; then
    ANSWER=$(cat "$WORK/answer")
    return 0
  fi
  ANSWER=""
  case "$(ws_print_aws_error_code)" in
    *NotFound* | NoSuch* | 404) return 1 ;;
  esac
  ws_fail_with_aws_error
}

# ws_ask_aws ARGUMENTS...: asks AWS for what must be there, and puts the answer into ANSWER.
ws_ask_aws() { ws_find_in_aws "$@" || ws_fail_with_aws_error; }

ws_print_aws_error_code() { sed -nE 's/^.*An error occurred \(([^)]*)\).*$/\1/p' "$WORK/error" | head -1; }

# Ends the script with what the AWS CLI said last: 3 when it is about credentials, else 1.
ws_fail_with_aws_error() {
  local said
  said=$(sed -e '/^[[:space:]]*$/d' "$WORK/error" | tail -1)
  case "$(ws_print_aws_error_code) $said" in
    ExpiredToken* | RequestExpired* | InvalidClientTokenId* | UnrecognizedClient* | InvalidAccessKeyId* | \
      SignatureDoesNotMatch* | AuthFailure* | *"Unable to locate credentials"* | *"could not be found"* | \
      *"SSO session"* | *"Error loading SSO Token"*)
      ws_report_missing "AWS takes no credentials from here: $said. Log in with \`aws sso login\` (first \`aws configure sso\`), or export AWS_PROFILE" ;;
    *"specify a region"*) ws_report_missing "AWS needs a region: export AWS_DEFAULT_REGION, such as us-east-1" ;;
    AccessDenied* | UnauthorizedOperation* | *"is not authorized to perform"*)
      ws_fail "AWS refuses this to who you are: $said. Ask your administrator for the action it names." ;;
    *"Could not connect to the endpoint"*) ws_fail "AWS does not answer: $said. Are AWS_DEFAULT_REGION and AWS_ENDPOINT_URL right?" ;;
    *) ws_fail "AWS refuses this: $said" ;;
  esac
}

# Puts the account number into ACCOUNT, and thereby finds out early whether there are credentials; the region too.
ws_identify_account() {
  ws_require_tool aws
  if [ -z "${AWS_DEFAULT_REGION:-}" ]; then
    export AWS_DEFAULT_REGION
    AWS_DEFAULT_REGION=$(aws configure get region 2>/dev/null || true)
    if [ -z "$AWS_DEFAULT_REGION" ]; then ws_report_missing "AWS needs a region: export AWS_DEFAULT_REGION, such as us-east-1"; fi
    ws_check_name AWS_DEFAULT_REGION
  fi
  ws_ask_aws sts get-caller-identity --query Account --output text
  # shellcheck disable=SC2034  # for the script
  ACCOUNT=$ANSWER
}

# ws_render FILE NAME=VALUE...: prints a template of deploy/ with each ${NAME} replaced.
ws_render() {
  local text pair
  text=$(cat "$1")
  for pair in "${@:2}"; do text=${text//"\${${pair%%=*}}"/${pair#*=}}; done
  if [[ $text =~ [$][{]([A-Z][A-Z0-9_]*)[}] ]]; then ws_fail "$1 needs a value for ${BASH_REMATCH[1]}"; fi
  printf '%s\n' "$text"
}

# The same for JSON, on one line.
ws_render_json() { ws_render "$@" | tr -d '\n' | sed -E 's/[[:space:]]+/ /g; s/([[{]) /\1/g; s/ ([]}])/\1/g'; }

# ws_select_cluster [CONTEXT]: puts into CONTEXT the name by which kubectl knows the cluster, on AWS or on this machine
# unless one is given, and makes sure that it points there: not to another cluster that you work with. A dry run goes on
# without one.
ws_select_cluster() {
  ws_require_tool kubectl
  local current wanted=${1:-$CLUSTER_NAME}
  current=$(kubectl config current-context </dev/null 2>/dev/null || true)
  case "$current ${1:-}" in
    "$wanted "* | "kind-$CLUSTER_NAME " | *":cluster/$CLUSTER_NAME " | *"@$CLUSTER_NAME".*".eksctl.io ") CONTEXT=$current ;;
    *)
      # shellcheck disable=SC2034  # for the script
      CONTEXT=$wanted
      local advice="Make it with create_cluster.sh or create_local_cluster.sh, or choose it: kubectl config use-context $wanted"
      if $DRY_RUN; then
        ws_note "kubectl does not point to $wanted; the commands are those for when nothing is there yet"
      elif [ -z "$current" ]; then
        ws_report_missing "kubectl points to no cluster. $advice"
      else
        ws_fail "kubectl points to $current, not to $wanted. $advice. Another name: export CLUSTER_NAME"
      fi ;;
  esac
  ws_note "the cluster is $CONTEXT"
}

# ws_ask_cluster ARGUMENTS...: asks the cluster, without changing anything, and puts what kubectl prints into ANSWER: nothing
# when there is no such thing. What goes wrong ends the script, but a dry run, which takes it for nothing there.
ws_ask_cluster() {
  ANSWER=""
  if ANSWER=$(kubectl --context "$CONTEXT" get --ignore-not-found "$@" </dev/null 2>"$WORK/error"); then return; fi
  if $DRY_RUN || grep -q "the server doesn't have a resource type" "$WORK/error"; then return; fi
  ws_fail "the cluster does not answer: $(tail -1 "$WORK/error")"
}

# ws_cluster_has ARGUMENTS...: whether the cluster has something, such as `ws_cluster_has namespace kubeflow`.
ws_cluster_has() {
  ws_ask_cluster "$@" -o name
  [ -n "$ANSWER" ]
}

# What everything that these scripts make on AWS carries, and what clean_up.py goes by.
# shellcheck disable=SC2034  # for the scripts
PROJECT_TAG=Key=project,Value=first-kubeflow-pipeline

# Tells what was found or done. In a dry run it goes beside the commands, so that these alone can be pasted.
ws_report() { if $DRY_RUN; then ws_note "$*"; else ws_print "$*"; fi; }

# ws_report_change TEXT: counts a change in CHANGES, and tells it. A dry run shows only the command.
CHANGES=0
ws_report_change() {
  CHANGES=$((CHANGES + 1))
  $DRY_RUN || ws_print "$1"
}
