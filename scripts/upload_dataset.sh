#!/usr/bin/env bash
# Creates the bucket for data and artifacts, and uploads a zip of the data.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/upload_dataset.sh [--olist] [--dry-run] [--] [FILE]

Creates the bucket WORKSHOP_BUCKET: closed to the public, encrypted, with a rule that deletes unfinished uploads. Then
uploads FILE, a zip with CSV files. The default is the flights data of the lessons. The script checks the zip first. It
uploads a large zip in parts of 8 MiB. After an interruption, run it again: it sends only the missing parts. It does not
send a file that the bucket has. It does not change the settings of a used bucket that this project did not create.

  --olist     upload the Olist data from Kaggle. You need a Kaggle account and a token (https://www.kaggle.com/settings,
              "Create New Token") in ~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY in the environment.
  --dry-run   print the commands to paste; change nothing

settings: WORKSHOP_BUCKET, AWS_DEFAULT_REGION; WORKSHOP_DATA, the folder of downloaded and created data sets (data)

exit status: 0 done, 1 failed, 2 wrong usage, 3 a tool or credentials (of AWS or Kaggle) are missing
EOF
}

olist=false file=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --olist) olist=true; shift ;;
    --)
      if [ $# -gt 2 ]; then ws_reject_usage "only one file at a time: $2 or $3"; fi
      if [ $# = 2 ]; then file=$2; fi
      break ;;
    -*) ws_reject_usage "unknown option: $1. If it is the name of a file, write ./$1" ;;
    *) [ -z "$file" ] || ws_reject_usage "only one file at a time: $file or $1"; file=$1; shift ;;
  esac
done
# A program would take a file name with a dash at its beginning for an option.
case "$file" in -*) file=./$file ;; esac
if $olist && [ -n "$file" ]; then ws_reject_usage "--olist and a file exclude each other. Omit one of them."; fi
ws_read_settings
ws_require_setting WORKSHOP_BUCKET "the bucket for data and artifacts"
bucket=$WORKSHOP_BUCKET
data=${WORKSHOP_DATA:-$PROJECT/data}
# The part size of boto3 and of the AWS CLI. With the same size, S3 gives the same content the same ETag.
PART=8388608

ws_require_tool python3

# ---- the zip

make_flights() {
  file=$data/nycflights13.zip
  if [ -f "$file" ]; then return; fi
  local make='import sys; from pathlib import Path; from workshop.dataset import flights_zip; flights_zip(Path(sys.argv[1]))'
  if $DRY_RUN; then ws_show_command env "PYTHONPATH=$PROJECT" python3 -c "$make" "$file"; return; fi
  env "PYTHONPATH=$PROJECT" python3 -c "$make" "$file" 2>"$WORK/error" ||
    ws_report_missing "the flights data cannot be created: $(tail -1 "$WORK/error"). Install the packages of the lessons: pip install -r requirements.txt"
}

# Prints the user and the key as a line of a curl configuration. No variable of this script and no command line holds
# the user or the key.
kaggle_login='
import json, os, pathlib, sys
user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
if not (user and key):
    folder = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR") or pathlib.Path.home() / ".kaggle")
    try:
        found = json.loads((folder / "kaggle.json").read_text())
        user, key = found["username"], found["key"]
    except (OSError, ValueError, KeyError, TypeError):
        sys.exit(1)
print("user = " + json.dumps(f"{user}:{key}"))
'
get_olist() {
  file=$data/brazilian-ecommerce.zip
  if [ -f "$file" ]; then return; fi
  ws_require_tool curl
  if ! python3 -c "$kaggle_login" >/dev/null 2>&1; then
    ws_report_missing "there is no Kaggle token, which the Olist data needs. At https://www.kaggle.com/settings, under API, choose" \
      "\"Create New Token\", and save the file as ~/.kaggle/kaggle.json. Or download the zip yourself from" \
      "https://www.kaggle.com/datasets/olistbr/brazilian-ecommerce and run: scripts/upload_dataset.sh FILE"
  fi
  local address=${KAGGLE_API_ENDPOINT:-https://www.kaggle.com}/api/v1/datasets/download/olistbr/brazilian-ecommerce
  if $DRY_RUN; then
    ws_print "python3 -c '$kaggle_login' | $(ws_show_command curl --config - --fail --location --silent --show-error --output "$file" "$address")"
    return
  fi
  mkdir -p "$data"
  ws_print "downloading the Olist data from Kaggle (43 MB)"
  python3 -c "$kaggle_login" |
    curl --config - --fail --location --silent --show-error --output "$file.unfinished" "$address" 2>"$WORK/error" ||
    ws_fail "the download from Kaggle failed: $(tail -1 "$WORK/error"). After 401 or 403, create a new token, and accept the terms on the page of the data set."
  mv "$file.unfinished" "$file"
}

check_zip='
import sys, zipfile
try:
    with zipfile.ZipFile(sys.argv[1]) as archive:
        damaged = archive.testzip()
        names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
except (OSError, zipfile.BadZipFile) as error:
    sys.exit(f"{sys.argv[1]} is not a readable zip: {error}")
if damaged:
    sys.exit(f"{sys.argv[1]} is damaged, at {damaged}. Download or create the zip again.")
if not names:
    sys.exit(f"{sys.argv[1]} has no CSV file. Name a zip with CSV files.")
print(len(names))
'

if $olist; then
  get_olist
elif [ -z "$file" ]; then
  make_flights
elif [ ! -f "$file" ]; then
  ws_fail "there is no file $file. Name an existing zip, or omit FILE."
fi
key=${file##*/}
if [ -f "$file" ]; then
  files=$(python3 -c "$check_zip" "$file" 2>"$WORK/error") || ws_fail "$(cat "$WORK/error")"
  size=$(wc -c <"$file" | tr -d ' ')
  ws_report "$key: $size bytes, $files CSV files, undamaged"
fi

# ---- the bucket

ws_identify_account

# read_bucket_setting NAME ARGUMENTS...: sets ANSWER to a setting of the bucket. ANSWER is empty when the bucket lacks the
# setting. Returns 1, and reports NAME, when this object store does not support the setting.
read_bucket_setting() {
  local what=$1
  shift
  ANSWER=""
  if aws s3api "$@" --bucket "$bucket" --output text >"$WORK/answer" 2>"$WORK/error"; then
    ANSWER=$(cat "$WORK/answer")
    return
  fi
  case "$(ws_print_aws_error_code)" in
    *NotFound* | NoSuch* | 404) return ;;
    NotImplemented | MethodNotAllowed | 501 | 405)
      ws_report "skipped: this object store does not support the $what; to run it: use a bucket on AWS"
      return 1 ;;
  esac
  ws_fail_with_aws_error
}

make_bucket() {
  case "$AWS_DEFAULT_REGION" in
    # S3 refuses us-east-1 as a LocationConstraint.
    us-east-1) ws_run_or_show aws s3api create-bucket --bucket "$bucket" ;;
    *) ws_run_or_show aws s3api create-bucket --bucket "$bucket" --create-bucket-configuration "LocationConstraint=$AWS_DEFAULT_REGION" ;;
  esac
}

new=false

if aws s3api head-bucket --bucket "$bucket" >"$WORK/answer" 2>"$WORK/error"; then
  ws_ask_aws s3api get-bucket-location --bucket "$bucket" --query LocationConstraint --output text
  case "$ANSWER" in None | "") ANSWER=us-east-1 ;; esac
  if [ "$ANSWER" != "$AWS_DEFAULT_REGION" ]; then
    ws_report "the bucket $bucket is in $ANSWER, not in $AWS_DEFAULT_REGION. AWS bills the traffic between the two regions."
  fi
else
  case "$(ws_print_aws_error_code)" in
    404 | NoSuchBucket) ;;
    403 | AccessDenied | Forbidden) ws_fail "the bucket $bucket is not yours, or you may not use it: $(tail -1 "$WORK/error"). Bucket names are unique in the world: set another WORKSHOP_BUCKET." ;;
    *) ws_fail_with_aws_error ;;
  esac
  make_bucket
  ws_report_change "created the bucket $bucket in $AWS_DEFAULT_REGION"
  new=true
fi

# The script tags and configures only a bucket of this project: a new one, an empty one without tags, or one with the
# project's tag. clean_up.py deletes every bucket with this tag.
ours=true
if ! $new; then
  if read_bucket_setting tags get-bucket-tagging --query "join(' ', TagSet[].join('=', [Key, Value]))"; then tags=$ANSWER; else tags=""; fi
  case " $tags " in
    *" project=first-kubeflow-pipeline "*) ;;
    "  ")
      # A bucket may hold old versions of deleted objects. The script treats old versions as data of another project.
      ws_ask_aws s3api list-object-versions --bucket "$bucket" --max-keys 1 --no-paginate \
        --query "[Versions[0].Key, DeleteMarkers[0].Key]" --output text
      if [ "$(tr -d '[:space:]' <<<"$ANSWER")" = NoneNone ]; then new=true; else ours=false; fi ;;
    *) ours=false ;;
  esac
fi
if ! $ours; then
  ws_report "the bucket $bucket was not created by this project; its settings stay, and clean_up.py deletes it only with --bucket $bucket"
else
  if $new && { $DRY_RUN || read_bucket_setting tags get-bucket-tagging; }; then
    ws_run_or_show aws s3api put-bucket-tagging --bucket "$bucket" --tagging 'TagSet=[{Key=project,Value=first-kubeflow-pipeline}]'
    ws_report_change "tagged $bucket as a bucket of this project"
  fi
  # A dry run cannot read the settings of a bucket that does not exist yet, so it prints all commands. Some of these
  # settings are defaults of AWS.
  closed=BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
  if read_bucket_setting "block of public access" get-public-access-block \
    --query "PublicAccessBlockConfiguration.[BlockPublicAcls,IgnorePublicAcls,BlockPublicPolicy,RestrictPublicBuckets]" &&
    [ "$(tr -d '[:space:]' <<<"$ANSWER")" != TrueTrueTrueTrue ]; then
    ws_run_or_show aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration "$closed"
    ws_report_change "closed $bucket to the public"
  fi
  encryption='{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}'
  if read_bucket_setting encryption get-bucket-encryption \
    --query "ServerSideEncryptionConfiguration.Rules[0].ApplyServerSideEncryptionByDefault.SSEAlgorithm" && [ -z "$ANSWER" ]; then
    ws_run_or_show aws s3api put-bucket-encryption --bucket "$bucket" --server-side-encryption-configuration "$encryption"
    ws_report_change "$bucket now encrypts new objects"
  fi
  lifecycle=$(ws_render_json "$PROJECT/deploy/s3-lifecycle.json")
  if read_bucket_setting "lifecycle rules" get-bucket-lifecycle-configuration --query "to_string(Rules[].AbortIncompleteMultipartUpload)"; then
    case "$ANSWER" in
      "")
        ws_run_or_show aws s3api put-bucket-lifecycle-configuration --bucket "$bucket" --lifecycle-configuration "$lifecycle"
        ws_report_change "$bucket now deletes unfinished uploads after 7 days" ;;
      *DaysAfterInitiation*) ;;
      # S3 can only replace all lifecycle rules at once, so the script does not add a rule.
      *) ws_report "$bucket has its own lifecycle rules, without one for unfinished uploads. Add the rule of deploy/s3-lifecycle.json to them." ;;
    esac
  fi
fi

# ---- the upload

# Prints the number of each part and its MD5 sum, in hex and in base64. The last line is the ETag of the object. For
# a file in one part, the ETag is its MD5 sum. For more parts, the ETag is the MD5 sum of the parts' sums, and the
# number of parts. With SSE-KMS, S3 uses other ETags, so each run sends the file again.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
sum_parts='
import base64, hashlib, os, sys
path, size = sys.argv[1], int(sys.argv[2])
sums = []
with open(path, "rb") as file:
    while part := file.read(size):
        sums.append(hashlib.md5(part, usedforsecurity=False).digest())
for number, md5 in enumerate(sums, 1):
    print(number, md5.hex(), base64.b64encode(md5).decode())
whole = hashlib.md5(b"".join(sums), usedforsecurity=False).hexdigest() + f"-{len(sums)}"
print(sums[0].hex() if os.path.getsize(path) < size else whole)
'
cut_part='
import sys
path, number, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "rb") as file:
    file.seek((number - 1) * size)
    sys.stdout.buffer.write(file.read(size))
'

find_unfinished='
import json, sys
uploads = json.loads(sys.stdin.read() or "{}").get("Uploads") or []
print(next((upload["UploadId"] for upload in uploads if upload["Key"] == sys.argv[1]), ""))
'

is_uploaded() {
  ws_find_in_aws s3api head-object --bucket "$bucket" "--key=$key" --query ETag --output text && [ "$ANSWER" = "\"$etag\"" ]
}

# Sets UPLOAD to the unfinished upload of this key, or to a new upload. Sets ANSWER to the parts that S3 has.
find_upload() {
  # A query of the AWS CLI would need the key within quotes, and a key may hold quotes and backslashes.
  ws_ask_aws s3api list-multipart-uploads --bucket "$bucket" "--prefix=$key" --output json
  UPLOAD=$(python3 -c "$find_unfinished" "$key" <<<"$ANSWER")
  if [ -z "$UPLOAD" ]; then
    ws_ask_aws s3api create-multipart-upload --bucket "$bucket" "--key=$key" --query UploadId --output text
    UPLOAD=$ANSWER ANSWER=""
    return
  fi
  ws_print "resuming the interrupted upload"
  ws_ask_aws s3api list-parts --bucket "$bucket" "--key=$key" --upload-id "$UPLOAD" --query "Parts[].[PartNumber,ETag]" --output text
}

send_in_parts() {
  local number md5 base64 have list="" sent=0
  find_upload
  have=$ANSWER
  while read -r number md5 base64; do
    if grep -qxF "$number"$'\t'"\"$md5\"" <<<"$have"; then
      ws_print "part $number of $parts is already there"
    else
      python3 -c "$cut_part" "$file" "$number" "$PART" >"$WORK/part"
      ws_run_or_show aws s3api upload-part --bucket "$bucket" "--key=$key" --upload-id "$UPLOAD" --part-number "$number" \
        --body "$WORK/part" --content-md5 "$base64"
      sent=$((sent + 1))
      ws_print "part $number of $parts sent"
    fi
    list="$list,{\"PartNumber\":$number,\"ETag\":\"$md5\"}"
  done <"$WORK/parts"
  printf '{"Parts":[%s]}' "${list#,}" >"$WORK/list.json"
  ws_run_or_show aws s3api complete-multipart-upload --bucket "$bucket" "--key=$key" --upload-id "$UPLOAD" \
    --multipart-upload "file://$WORK/list.json"
  ws_print "uploaded s3://$bucket/$key ($sent of $parts parts sent)"
}

if [ ! -f "$file" ]; then # a dry run has not created the file
  ws_run_or_show aws s3 cp "$file" "s3://$bucket/$key"
  exit 0
fi
python3 -c "$sum_parts" "$file" "$PART" >"$WORK/sums"
etag=$(sed -n '$p' "$WORK/sums")
sed '$d' "$WORK/sums" >"$WORK/parts"
parts=$(wc -l <"$WORK/parts" | tr -d ' ')
if is_uploaded; then
  message="s3://$bucket/$key is there already, with this content"
  if [ "$CHANGES" = 0 ]; then message="$message; nothing to do"; fi
  ws_report "$message"
elif $DRY_RUN; then
  ws_run_or_show aws s3 cp "$file" "s3://$bucket/$key" # aws s3 cp also sends parts, but cannot resume
elif [ "$size" -lt "$PART" ]; then
  ws_run_or_show aws s3api put-object --bucket "$bucket" "--key=$key" --body "$file"
  ws_print "uploaded s3://$bucket/$key"
else
  send_in_parts
fi
