# Functions of all scripts: settings, messages, queries of AWS and of the cluster, and dry runs. The scripts source this
# file. A script that sources this file must define usage().
# shellcheck shell=bash

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPT=${0##*/}
DRY_RUN=false
ANSWER=""
# The AWS CLI is a Python program, and users cannot act on Python's warnings. A pager would wait for a key. The
# functions below parse the output of the AWS CLI, so its formats are fixed to those that versions 1 and 2 both have.
export PYTHONWARNINGS=ignore AWS_PAGER="" AWS_CLI_ERROR_FORMAT=legacy AWS_DEFAULT_OUTPUT=json

# The folder of temporary files. Only the user can read the folder, and the script deletes the folder at its end.
WORK=$(umask 077 && mktemp -d)
trap 'rm -rf "$WORK"' EXIT

ws_print() { printf '%s\n' "$*"; }
ws_note() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }
ws_fail() { ws_note "$*"; exit 1; }
ws_reject_usage() { ws_note "$*"; usage >&2; exit 2; }
ws_report_missing() { ws_note "$*"; exit 3; }

# The table of settings. The comments at its head explain the columns.
SETTINGS_TABLE=$PROJECT/workshop/settings.tsv

# Sets a variable for each setting: from the environment, else from settings.env, else from its default. Exports the
# values of settings.env; does not export defaults. WORKSHOP_SETTINGS names a file to read in place of settings.env.
# workshop/settings.py does the same in Python, and describes the grammar of the file. A test compares lib.sh and
# settings.py.
ws_read_settings() {
  local LC_ALL name where default example accept refuse must meaning settings=" " versions
  LC_ALL=C # in other locales, [a-z] matches more than ASCII letters
  versions=$'\n'$(<"$PROJECT/versions.env")
  AWS_DEFAULT_REGION=${AWS_DEFAULT_REGION:-${AWS_REGION:-}}
  ws_read_settings_file "${WORKSHOP_SETTINGS:-$PROJECT/settings.env}"
  # shellcheck disable=SC2034  # this function does not use example and meaning
  while IFS=$'\t' read -r name where default example accept refuse must meaning; do
    if [ "$where" != file ]; then continue; fi
    settings="$settings$name "
    case "$default" in
      -) default="" ;;
      versions.env) default=${versions#*$'\n'"$name="} default=${default%%$'\n'*} ;;
    esac
    if [ -n "${!name:-}" ]; then ws_check_value "$name" "${!name}" ""; else printf -v "$name" %s "$default"; fi
  done <"$SETTINGS_TABLE"
  # The other versions of versions.env are fixed. An environment variable of the same name is unrelated and ignored.
  while IFS= read -r name; do
    case "$name" in "" | \#*) continue ;; esac
    case "$settings" in *" ${name%%=*} "*) ;; *) printf -v "${name%%=*}" %s "${name#*=}" ;; esac
  done <"$PROJECT/versions.env"
  # The AWS CLI fails when the variable of the region is empty. Version 2 prefers AWS_REGION. Version 1 ignores
  # AWS_REGION.
  if [ -n "$AWS_DEFAULT_REGION" ]; then
    export AWS_DEFAULT_REGION AWS_REGION="$AWS_DEFAULT_REGION"
  else
    unset AWS_DEFAULT_REGION AWS_REGION
  fi
}

# ws_read_settings_file FILE: exports the settings of a file that the environment does not set. Never executes FILE.
ws_read_settings_file() {
  local line number=0 place name value names=" " where default accept refuse must meaning
  if ! [ -e "$1" ]; then return; fi
  if [ -d "$1" ] || ! [ -r "$1" ]; then ws_reject_usage "$1 cannot be read; it must be a text file."; fi
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    place="$1, line $number"
    if [ "$number" = 1 ]; then line=${line#$'\xef\xbb\xbf'}; fi # the byte order mark of Windows
    line=${line%$'\r'}
    case ${line//$'\t'/ } in *[[:cntrl:]]*)
      ws_reject_usage "$place, holds a control character. Save the file as plain text in UTF-8." ;;
    esac
    line=${line#"${line%%[![:blank:]]*}"} line=${line%"${line##*[![:blank:]]}"}
    case "$line" in "" | \#*) continue ;; esac
    name=${line%%=*}
    if [ "$name" = "$line" ] || ! [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]]; then
      ws_reject_usage "$place, is not NAME=VALUE. Write one setting a line, without \`export\`."
    fi
    if ! ws_find_setting "$name"; then
      ws_reject_usage "$place: $name is not a setting. Delete the line; docs/settings.md lists the settings."
    elif [ "$where" != file ]; then
      ws_reject_usage "$place: $name does not belong in this file. $meaning"
    fi
    value=${line#*=}
    ws_unquote "${value#"${value%%[![:blank:]]*}"}" "$place: $name"
    case "$names" in *" $name:"*)
      names=${names##* "$name":}
      ws_reject_usage "$place: line ${names%% *} sets $name already. Delete one of them." ;;
    esac
    names="$names$name:$number "
    if [ -n "${!name:-}" ] || [ -z "$value" ]; then continue; fi
    # The sandbox has its own keys and no profiles.
    if [ "$name ${WORKSHOP_CONNECTED:-}" = "AWS_PROFILE sandbox" ]; then continue; fi
    ws_check_value "$name" "$value" "$place: "
    export "$name=$value"
  done < <(LC_ALL=C tr '\000' '\001' <"$1") # bash's read drops zero bytes
}

# ws_unquote TEXT PLACE: sets `value` to TEXT (a line after its =) without quotes and without the comment at its end.
ws_unquote() {
  local quote=${1:0:1} rest
  value=$1
  case "$quote" in
    \' | \")
      value=${value:1}
      rest=${value#*"$quote"}
      if [ "$rest" = "$value" ]; then ws_reject_usage "$2 begins with a quote that nothing closes. Leave the quotes out."; fi
      value=${value%%"$quote"*} rest=${rest#"${rest%%[![:blank:]]*}"}
      case "$rest" in "" | \#*) ;; *) ws_reject_usage "$2 has text after its closing quote. Leave the quotes out." ;; esac ;;
    \#) value="" ;;
    *) value=${value%%[[:blank:]]#*} value=${value%"${value##*[![:blank:]]}"} ;;
  esac
}

# ws_find_setting NAME: sets the caller's variables where, default, accept, refuse, must and meaning from the table.
# Returns 1 when the table does not list NAME.
ws_find_setting() {
  local name example
  # shellcheck disable=SC2034  # the caller uses them
  while IFS=$'\t' read -r name where default example accept refuse must meaning; do
    if [ "$name" = "$1" ]; then return; fi
  done <"$SETTINGS_TABLE"
  return 1
}

# ws_check_value NAME VALUE PLACE: exits with 2 when VALUE breaks the rule in the caller's variables accept and refuse.
ws_check_value() {
  local hint="" whole="^($accept)\$"
  case "$2" in *[[:cntrl:]]*) ;; *)
    if [[ $2 =~ $whole ]] && { [ "$refuse" = - ] || ! [[ $2 =~ $refuse ]]; }; then return; fi ;;
  esac
  case "$2" in \'* | \"*) hint=" Quotes are part of the value: leave them out." ;; esac
  ws_reject_usage "$3$1 is \"${2//[[:cntrl:]]/?}\"; it must be $must.$hint"
}

# ws_check_name NAME: exits with 2 when the value of a setting breaks its rule. An empty value passes.
ws_check_name() {
  local LC_ALL where default accept refuse must meaning
  LC_ALL=C
  if ws_find_setting "$1" && [ -n "${!1:-}" ]; then ws_check_value "$1" "${!1}" ""; fi
}

# ws_require_setting NAME EXPECTED: exits with 2 when a setting that this step needs is empty.
ws_require_setting() {
  if [ -z "${!1:-}" ]; then ws_reject_usage "$1 is not set; it must be $2. Export $1, or write $1=... into settings.env."; fi
}

# ws_require_tool TOOL: exits with 3 when a program is missing. A dry run prints a note and goes on without the program.
ws_require_tool() {
  if command -v "$1" >/dev/null; then return; fi
  if $DRY_RUN; then
    ws_note "$1 is not installed; $ASSUMPTION"
  else
    ws_report_missing "$1 is not installed. $(ws_print_install_advice "$1")"
  fi
}

# The note of a dry run that cannot read the present state.
ASSUMPTION="the dry run assumes that nothing exists yet"

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

# Prints a command with quotes, so that a user can paste the command into a shell.
ws_show_command() {
  # The replacement is a variable, because bash 3.2 keeps the backslashes of a literal replacement.
  local word line="" quote="'\\''"
  for word in "$@"; do
    if ! [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then word="'${word//\'/$quote}'"; fi
    line="$line $word"
  done
  ws_print "${line# }"
}

# ws_run_or_show COMMAND...: runs a command, or prints the command in a dry run. Shows only the errors of the AWS CLI.
# Shows all output of other programs, because they print their own progress.
ws_run_or_show() {
  if $DRY_RUN; then ws_show_command "$@"; return; fi
  if [ "$1" = aws ]; then
    "$@" >"$WORK/answer" 2>"$WORK/error" || ws_fail_with_aws_error
  else
    "$@" || ws_fail "this command failed: $(ws_show_command "$@")"
  fi
}

# ws_run_or_show_with_input TEXT COMMAND...: like ws_run_or_show. COMMAND reads TEXT (a manifest) on standard input.
ws_run_or_show_with_input() {
  local text=$1
  shift
  if $DRY_RUN; then
    ws_print "$(ws_show_command "$@") <<'EOF'"
    ws_print "$text"
    ws_print EOF
    return
  fi
  printf '%s\n' "$text" | "$@" || ws_fail "this command failed: $(ws_show_command "$@")"
}

# ws_write_or_show FILE TEXT: writes TEXT to FILE and creates the folder of FILE. A dry run prints the commands.
ws_write_or_show() {
  ws_run_or_show mkdir -p "$(dirname "$1")"
  if $DRY_RUN; then
    ws_print "cat >$(ws_show_command "$1") <<'EOF'"
    ws_print "$2"
    ws_print EOF
    return
  fi
  printf '%s\n' "$2" >"$1" || ws_fail "$1 cannot be written"
}

# ws_find_in_aws ARGUMENTS...: reads from AWS and changes nothing. Puts the output into ANSWER. Returns 1 when AWS
# reports that the resource does not exist. Any other error ends the script.
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

# ws_ask_aws ARGUMENTS...: like ws_find_in_aws, but a resource that does not exist also ends the script.
ws_ask_aws() { ws_find_in_aws "$@" || ws_fail_with_aws_error; }

ws_print_aws_error_code() { sed -nE 's/^.*An error occurred \(([^)]*)\).*$/\1/p' "$WORK/error" | head -1; }

# ws_print_login_advice ERROR: prints how to log in. Returns 1 when ERROR does not come from the login. The table
# workshop/aws_logins.tsv explains its columns.
ws_print_login_advice() {
  local text advice
  while IFS=$'\t' read -r text advice; do
    case "$text" in "" | \#*) continue ;; esac
    case "$1" in *"$text"*) ;; *) continue ;; esac
    if [ "$advice" = - ]; then advice="Log in with \`aws sso login\` (first \`aws configure sso\`), or export AWS_PROFILE"; fi
    ws_print "$advice"
    return
  done <"$PROJECT/workshop/aws_logins.tsv"
  return 1
}

# Ends the script with the last error of the AWS CLI. The exit status is 3 for credentials or a missing region, else 1.
ws_fail_with_aws_error() {
  local message advice
  message=$(sed -e '/^[[:space:]]*$/d' "$WORK/error" | tail -1)
  if advice=$(ws_print_login_advice "$(<"$WORK/error")"); then
    ws_report_missing "AWS does not accept your credentials: $message. $advice"
  fi
  case "$(ws_print_aws_error_code) $message" in
    *"specify a region"*) ws_report_missing "AWS needs a region: export AWS_DEFAULT_REGION, such as us-east-1" ;;
    AccessDenied* | UnauthorizedOperation* | *"is not authorized to perform"*)
      ws_fail "AWS does not allow you this: $message. Ask your administrator for the action that the message names." ;;
    *"Could not connect to the endpoint"*) ws_fail "AWS does not answer: $message. Check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL." ;;
    *) ws_fail "AWS refuses this: $message" ;;
  esac
}

# Sets ACCOUNT to the account number, and AWS_DEFAULT_REGION to the region. Ends the script when AWS accepts no
# credentials, or when no region is set. Scripts call this function before they change anything.
ws_identify_account() {
  ws_require_tool aws
  if [ -z "${AWS_DEFAULT_REGION:-}" ]; then
    export AWS_DEFAULT_REGION
    AWS_DEFAULT_REGION=$(aws configure get region 2>/dev/null || true)
    if [ -z "$AWS_DEFAULT_REGION" ]; then ws_report_missing "AWS needs a region: export AWS_DEFAULT_REGION, such as us-east-1"; fi
    ws_check_name AWS_DEFAULT_REGION
  fi
  ws_ask_aws sts get-caller-identity --query Account --output text
  # shellcheck disable=SC2034  # the script uses the variable
  ACCOUNT=$ANSWER
}

# ws_render FILE NAME=VALUE...: prints a template of deploy/, with VALUE in place of each ${NAME}.
ws_render() {
  local text pair
  text=$(cat "$1")
  for pair in "${@:2}"; do text=${text//"\${${pair%%=*}}"/${pair#*=}}; done
  if [[ $text =~ [$][{]([A-Z][A-Z0-9_]*)[}] ]]; then ws_fail "the template $1 needs a value for ${BASH_REMATCH[1]}"; fi
  printf '%s\n' "$text"
}

# ws_render_json FILE NAME=VALUE...: like ws_render for a JSON template. Prints one line.
ws_render_json() { ws_render "$@" | tr -d '\n' | sed -E 's/[[:space:]]+/ /g; s/([[{]) /\1/g; s/ ([]}])/\1/g'; }

# ws_is_same_json ONE OTHER: returns 1 when two JSON texts have different values. Ignores spaces and the order of keys.
ws_is_same_json() {
  python3 -c 'import json, sys; one, other = (json.loads(text or "null") for text in sys.argv[1:]); sys.exit(one != other)' "$@"
}

# ws_select_cluster [NAME]: sets CONTEXT to the kubectl context of the cluster. NAME is the only context to accept.
# Without NAME, the cluster CLUSTER_NAME may be on AWS or on this machine. Ends the script when kubectl points to any
# other cluster, which the user may need for something else. A dry run goes on without a cluster.
ws_select_cluster() {
  ws_require_tool kubectl
  local current wanted=${1:-$CLUSTER_NAME}
  current=$(kubectl config current-context </dev/null 2>/dev/null || true)
  case "$current ${1:-}" in
    "$wanted "* | "kind-$CLUSTER_NAME " | *":cluster/$CLUSTER_NAME " | *"@$CLUSTER_NAME".*".eksctl.io ") CONTEXT=$current ;;
    *)
      # shellcheck disable=SC2034  # the script uses the variable
      CONTEXT=$wanted
      local advice="Create it with scripts/create_cluster.sh or scripts/create_local_cluster.sh, or select it: kubectl config use-context $wanted"
      if $DRY_RUN; then
        ws_note "kubectl does not point to $wanted; $ASSUMPTION"
      elif [ -z "$current" ]; then
        ws_report_missing "kubectl points to no cluster. $advice"
      else
        ws_fail "kubectl points to $current, not to $wanted. $advice. If your cluster has another name, export CLUSTER_NAME."
      fi ;;
  esac
  ws_note "the cluster is $CONTEXT"
}

# ws_ask_cluster ARGUMENTS...: reads from the cluster and changes nothing. Puts the output of kubectl into ANSWER.
# ANSWER is empty when the object does not exist. An error ends the script; in a dry run, an error leaves ANSWER empty.
ws_ask_cluster() {
  ANSWER=""
  if ANSWER=$(kubectl --context "$CONTEXT" get --ignore-not-found "$@" </dev/null 2>"$WORK/error"); then return; fi
  if $DRY_RUN || grep -q "the server doesn't have a resource type" "$WORK/error"; then return; fi
  ws_fail "the cluster does not answer: $(tail -1 "$WORK/error")"
}

# ws_cluster_has ARGUMENTS...: returns 1 when the cluster lacks an object, such as `ws_cluster_has namespace kubeflow`.
ws_cluster_has() {
  ws_ask_cluster "$@" -o name
  [ -n "$ANSWER" ]
}

# ws_find_namespace: sets KUBEFLOW_NAMESPACE and SERVICE_ACCOUNT to those of the tasks, unless the settings name them.
# With Pipelines alone, tasks run as pipeline-runner in the namespace kubeflow. With the whole platform, tasks run as
# default-editor in the namespace of a user. Needs CONTEXT. A dry run without a cluster assumes the whole platform.
ws_find_namespace() {
  local namespace=kubeflow-user-example-com account=default-editor
  if [ -n "$KUBEFLOW_NAMESPACE" ] && [ -n "$SERVICE_ACCOUNT" ]; then return; fi
  if ! ws_cluster_has customresourcedefinition profiles.kubeflow.org; then
    if ws_cluster_has serviceaccount pipeline-runner -n kubeflow; then
      namespace=kubeflow account=pipeline-runner
    elif ! $DRY_RUN; then
      ws_fail "the cluster $CONTEXT has no Kubeflow Pipelines. Install Kubeflow: scripts/install_kubeflow.sh"
    fi
  fi
  KUBEFLOW_NAMESPACE=${KUBEFLOW_NAMESPACE:-$namespace}
  SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-$account}
  ws_note "tasks run as $SERVICE_ACCOUNT in the namespace $KUBEFLOW_NAMESPACE"
}

# The tag of every AWS resource that the scripts create. clean_up.py finds the resources by this tag.
# shellcheck disable=SC2034  # the scripts use the variable
PROJECT_TAG=Key=project,Value=first-kubeflow-pipeline

# ws_report TEXT: prints a result. A dry run prints TEXT on standard error, because standard output holds only commands.
ws_report() { if $DRY_RUN; then ws_note "$*"; else ws_print "$*"; fi; }

# ws_report_change TEXT: adds 1 to CHANGES and prints TEXT. A dry run does not print TEXT, because nothing has changed.
CHANGES=0
ws_report_change() {
  CHANGES=$((CHANGES + 1))
  $DRY_RUN || ws_print "$1"
}
