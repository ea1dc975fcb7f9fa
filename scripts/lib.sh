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

# The table of settings. The comments at its head explain the columns.
SETTINGS_TABLE=$PROJECT/workshop/settings.tsv

# Sets the variable of each setting: from the environment, else from settings.env, else from its default. Exports a value
# of the environment or the file. WORKSHOP_SETTINGS names another file than settings.env. workshop/settings.py does the
# same in Python and describes the grammar of the file; a test compares both.
ws_read_settings() {
  local LC_ALL name where default example accept refuse must meaning settings=" " versions
  LC_ALL=C # [a-z] is ASCII, whatever the language of the terminal
  versions=$'\n'$(<"$PROJECT/versions.env")
  AWS_DEFAULT_REGION=${AWS_DEFAULT_REGION:-${AWS_REGION:-}}
  ws_read_settings_file "${WORKSHOP_SETTINGS:-$PROJECT/settings.env}"
  # shellcheck disable=SC2034  # example and meaning are for others
  while IFS=$'\t' read -r name where default example accept refuse must meaning; do
    if [ "$where" != file ]; then continue; fi
    settings="$settings$name "
    case "$default" in
      -) default="" ;;
      versions.env) default=${versions#*$'\n'"$name="} default=${default%%$'\n'*} ;;
    esac
    if [ -n "${!name:-}" ]; then ws_check_value "$name" "${!name}" ""; else printf -v "$name" %s "$default"; fi
  done <"$SETTINGS_TABLE"
  # The other versions are facts of this project: a variable of the same name in the environment means something else.
  while IFS= read -r name; do
    case "$name" in "" | \#*) continue ;; esac
    case "$settings" in *" ${name%%=*} "*) ;; *) printf -v "${name%%=*}" %s "${name#*=}" ;; esac
  done <"$PROJECT/versions.env"
  # The AWS CLI takes an empty region for a region. Version 2 prefers AWS_REGION, and version 1 does not read it.
  if [ -n "$AWS_DEFAULT_REGION" ]; then
    export AWS_DEFAULT_REGION AWS_REGION="$AWS_DEFAULT_REGION"
  else
    unset AWS_DEFAULT_REGION AWS_REGION
  fi
}

# ws_read_settings_file FILE: exports the settings of a file that the environment does not set. The file is read, not run.
ws_read_settings_file() {
  local line number=0 place name value names=" " where default accept refuse must meaning
  if ! [ -e "$1" ]; then return; fi
  if [ -d "$1" ] || ! [ -r "$1" ]; then ws_reject_usage "$1 cannot be read; it must be a text file."; fi
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    place="$1, line $number"
    if [ "$number" = 1 ]; then line=${line#$'\xef\xbb\xbf'}; fi # Windows writes this mark in front of UTF-8
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
    # The sandbox has keys of its own, and no profiles.
    if [ "$name ${WORKSHOP_CONNECTED:-}" = "AWS_PROFILE sandbox" ]; then continue; fi
    ws_check_value "$name" "$value" "$place: "
    export "$name=$value"
  done < <(LC_ALL=C tr '\000' '\001' <"$1") # read would drop a zero byte
}

# ws_unquote TEXT PLACE: sets `value` to the value that stands after = in a line, without its quotes or the comment behind it.
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

# ws_find_setting NAME: sets the caller's variables where, default, accept, refuse, must and meaning from the table. False
# when the table has no such setting.
ws_find_setting() {
  local name example
  # shellcheck disable=SC2034  # for the caller
  while IFS=$'\t' read -r name where default example accept refuse must meaning; do
    if [ "$name" = "$1" ]; then return; fi
  done <"$SETTINGS_TABLE"
  return 1
}

# ws_check_value NAME VALUE PLACE: ends the script with 2 when the caller's rule (accept, refuse, must) refuses a value.
ws_check_value() {
  local hint="" whole="^($accept)\$"
  case "$2" in *[[:cntrl:]]*) ;; *)
    if [[ $2 =~ $whole ]] && { [ "$refuse" = - ] || ! [[ $2 =~ $refuse ]]; }; then return; fi ;;
  esac
  case "$2" in \'* | \"*) hint=" Quotes are part of the value: leave them out." ;; esac
  ws_reject_usage "$3$1 is \"${2//[[:cntrl:]]/?}\"; it must be $must.$hint"
}

# ws_check_name NAME: ends the script with 2 when a setting has a value that its rule refuses. Empty is for ws_require_setting.
ws_check_name() {
  local LC_ALL where default accept refuse must meaning
  LC_ALL=C
  if ws_find_setting "$1" && [ -n "${!1:-}" ]; then ws_check_value "$1" "${!1}" ""; fi
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
