#!/usr/bin/env bash
# Makes the bucket for data and artifacts, and uploads the zip of the data to it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'EOF'
usage: scripts/upload_dataset.sh [--olist] [--dry-run] [FILE]

Makes the bucket WORKSHOP_BUCKET, closed to the public, encrypted, and without a memory for unfinished uploads; then
uploads FILE to it, a zip with CSV files, by default the flights data of the lessons. The zip is checked first. A large
one goes in parts of 8 MiB: after an interruption, run this again, and only the missing parts are sent. What is in the
bucket already is not sent again. A bucket that holds something and was not made by this project stays as it is set up.

  --olist     upload the Olist data from Kaggle, which needs an account there (https://www.kaggle.com/settings, "Create
              New Token"): ~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY in the environment
  --dry-run   print the commands that change something, ready to be pasted; run none of them

settings: WORKSHOP_BUCKET, AWS_DEFAULT_REGION; WORKSHOP_DATA, the folder for what is downloaded or made (data)

exit status: 0 done, 1 failed, 2 wrong usage, 3 a tool or credentials (of AWS or Kaggle) are missing
EOF
}

olist=false file=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=true; shift ;;
    --olist) olist=true; shift ;;
    -*) ws_reject_usage "unknown option: $1" ;;
    *) [ -z "$file" ] || ws_reject_usage "one file at a time, not also $1"; file=$1; shift ;;
  esac
done
if $olist && [ -n "$file" ]; then ws_reject_usage "--olist or a file, not both"; fi
ws_read_settings
ws_require_setting WORKSHOP_BUCKET "the bucket for data and artifacts"
bucket=$WORKSHOP_BUCKET
data=${WORKSHOP_DATA:-$PROJECT/data}
# As boto3 and the AWS CLI cut files, so that S3 names the same content by the same ETag, whoever has sent it.
PART=8388608

ws_require_tool python3

# ---- the zip

make_flights() {
  file=$data/nycflights13.zip
  if [ -f "$file" ]; then return; fi
  local make='import sys; from pathlib import Path; from workshop.dataset import flights_zip; flights_zip(Path(sys.argv[1]))'
  if $DRY_RUN; then ws_show_command env "PYTHONPATH=$PROJECT" python3 -c "$make" "$file"; return; fi
  env "PYTHONPATH=$PROJECT" python3 -c "$make" "$file" 2>"$WORK/error" ||
    ws_report_missing "the flights data cannot be made: $(tail -1 "$WORK/error"). Install what the lessons need: pip install -r requirements.txt"
}

# Prints the user and key for curl, as a line of its settings. Only Python sees them: no variable of this script, and
# no command line, holds them.
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
    ws_report_missing "Kaggle gives the Olist data only to those it knows. At https://www.kaggle.com/settings, under API, choose" \
      "\"Create New Token\", and put the file into ~/.kaggle/kaggle.json; or download the zip yourself from" \
      "https://www.kaggle.com/datasets/olistbr/brazilian-ecommerce and name it: scripts/upload_dataset.sh FILE"
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
    ws_fail "Kaggle does not give the file: $(tail -1 "$WORK/error"). 401 or 403: make a new token, and accept the terms of the data set on its page"
  mv "$file.unfinished" "$file"
}

check_zip='
import sys, zipfile
try:
    with zipfile.ZipFile(sys.argv[1]) as archive:
        damaged = archive.testzip()
        names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
except (OSError, zipfile.BadZipFile) as error:
    sys.exit(f"{sys.argv[1]} is no zip that can be read: {error}")
if damaged:
    sys.exit(f"{sys.argv[1]} is damaged, at {damaged}. Get it again")
if not names:
    sys.exit(f"{sys.argv[1]} has no CSV file in it")
print(len(names))
'

if $olist; then
  get_olist
elif [ -z "$file" ]; then
  make_flights
elif [ ! -f "$file" ]; then
  ws_fail "there is no file $file"
fi
key=${file##*/}
if [ -f "$file" ]; then
  files=$(python3 -c "$check_zip" "$file" 2>"$WORK/error") || ws_fail "$(cat "$WORK/error")"
  size=$(wc -c <"$file" | tr -d ' ')
  ws_report "$key: $size bytes, $files CSV files, undamaged"
fi

# ---- the bucket

ws_identify_account

# read_bucket_setting WHAT ARGUMENTS...: asks S3 for a setting of the bucket. True with the answer in ANSWER, empty when nothing is
# set; false, and it says so, when this object store knows no such setting.
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
      ws_report "skipped: this object store knows no $what; to run it: a bucket on AWS"
      return 1 ;;
  esac
  ws_fail_with_aws_error
}

make_bucket() {
  case "$AWS_DEFAULT_REGION" in
    # The oldest region is the only one that must not be named.
    us-east-1) ws_run_or_show aws s3api create-bucket --bucket "$bucket" ;;
    *) ws_run_or_show aws s3api create-bucket --bucket "$bucket" --create-bucket-configuration "LocationConstraint=$AWS_DEFAULT_REGION" ;;
  esac
}

new=false

if aws s3api head-bucket --bucket "$bucket" >"$WORK/answer" 2>"$WORK/error"; then
  ws_ask_aws s3api get-bucket-location --bucket "$bucket" --query LocationConstraint --output text
  case "$ANSWER" in None | "") ANSWER=us-east-1 ;; esac
  if [ "$ANSWER" != "$AWS_DEFAULT_REGION" ]; then
    ws_report "the bucket $bucket is in $ANSWER, not in $AWS_DEFAULT_REGION: traffic between the two is billed"
  fi
else
  case "$(ws_print_aws_error_code)" in
    404 | NoSuchBucket) ;;
    403 | AccessDenied | Forbidden) ws_fail "the bucket $bucket is not yours, or you may not use it: $(tail -1 "$WORK/error"). Bucket names are unique in the world; set another WORKSHOP_BUCKET" ;;
    *) ws_fail_with_aws_error ;;
  esac
  make_bucket
  ws_report_change "made the bucket $bucket in $AWS_DEFAULT_REGION"
  new=true
fi

# Only what is certainly the project's is set up, and tagged: clean_up.py deletes by the tag.
ours=true
if ! $new; then
  if read_bucket_setting tags get-bucket-tagging --query "join(' ', TagSet[].join('=', [Key, Value]))"; then tags=$ANSWER; else tags=""; fi
  case " $tags " in
    *" project=first-kubeflow-pipeline "*) ;;
    "  ")
      # Deleted objects of which a version is left are somebody's data as well.
      ws_ask_aws s3api list-object-versions --bucket "$bucket" --max-keys 1 --no-paginate \
        --query "[Versions[0].Key, DeleteMarkers[0].Key]" --output text
      if [ "$(tr -d '[:space:]' <<<"$ANSWER")" = NoneNone ]; then new=true; else ours=false; fi ;;
    *) ours=false ;;
  esac
fi
if ! $ours; then
  ws_report "the bucket $bucket was in use before; its settings stay, and clean_up.py deletes it only with --bucket $bucket"
else
  if $new && { $DRY_RUN || read_bucket_setting tags get-bucket-tagging; }; then
    ws_run_or_show aws s3api put-bucket-tagging --bucket "$bucket" --tagging 'TagSet=[{Key=project,Value=first-kubeflow-pipeline}]'
    ws_report_change "tagged $bucket as the project's"
  fi
  # A bucket that is not there yet can be asked nothing; what a new one on AWS has by itself is then set once more.
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
    ws_report_change "$bucket encrypts what it holds"
  fi
  lifecycle=$(ws_render_json "$PROJECT/deploy/s3-lifecycle.json")
  if read_bucket_setting "lifecycle rules" get-bucket-lifecycle-configuration --query "to_string(Rules[].AbortIncompleteMultipartUpload)"; then
    case "$ANSWER" in
      "")
        ws_run_or_show aws s3api put-bucket-lifecycle-configuration --bucket "$bucket" --lifecycle-configuration "$lifecycle"
        ws_report_change "$bucket forgets unfinished uploads after 7 days" ;;
      *DaysAfterInitiation*) ;;
      # The rules can only be written all at once.
      *) ws_report "$bucket has lifecycle rules of its own, and none for unfinished uploads: add it to them" ;;
    esac
  fi
fi

# ---- the upload

# Prints number, MD5 sum and the same in base64 of each part, then what S3 calls the whole: its MD5 sum; of parts, the
# sum of their sums. (A bucket that encrypts with a key of its own calls it otherwise; there, it is sent again.)
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

is_uploaded() {
  ws_find_in_aws s3api head-object --bucket "$bucket" "--key=$key" --query ETag --output text && [ "$ANSWER" = "\"$etag\"" ]
}

# Puts the upload of this key that was begun and not finished into UPLOAD, and what S3 has of it into ANSWER.
find_upload() {
  # A query writes a quote as \'. The replacement stands in a variable, because old bashes would keep its backslashes.
  local quote="\\'" quoted
  quoted=${key//\'/$quote}
  ws_ask_aws s3api list-multipart-uploads --bucket "$bucket" "--prefix=$key" --query "Uploads[?Key=='$quoted'].UploadId | [0]" --output text
  UPLOAD=$ANSWER
  if [ "$UPLOAD" = None ] || [ -z "$UPLOAD" ]; then
    ws_ask_aws s3api create-multipart-upload --bucket "$bucket" "--key=$key" --query UploadId --output text
    UPLOAD=$ANSWER ANSWER=""
    return
  fi
  ws_print "going on with the upload that was interrupted"
  ws_ask_aws s3api list-parts --bucket "$bucket" "--key=$key" --upload-id "$UPLOAD" --query "Parts[].[PartNumber,ETag]" --output text
}

send_in_parts() {
  local number md5 base64 have list="" sent=0
  find_upload
  have=$ANSWER
  while read -r number md5 base64; do
    if grep -qxF "$number"$'\t'"\"$md5\"" <<<"$have"; then
      ws_print "part $number of $parts is there"
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

if [ ! -f "$file" ]; then # a dry run, before there is one
  ws_run_or_show aws s3 cp "$file" "s3://$bucket/$key"
  exit 0
fi
python3 -c "$sum_parts" "$file" "$PART" >"$WORK/sums"
etag=$(sed -n '$p' "$WORK/sums")
sed '$d' "$WORK/sums" >"$WORK/parts"
parts=$(wc -l <"$WORK/parts" | tr -d ' ')
if is_uploaded; then
  said="s3://$bucket/$key is there already, with this content"
  if [ "$CHANGES" = 0 ]; then said="$said; nothing to do"; fi
  ws_report "$said"
elif $DRY_RUN; then
  ws_run_or_show aws s3 cp "$file" "s3://$bucket/$key" # in parts by itself; what this script adds is going on after an interruption
elif [ "$size" -lt "$PART" ]; then
  ws_run_or_show aws s3api put-object --bucket "$bucket" "--key=$key" --body "$file"
  ws_print "uploaded s3://$bucket/$key"
else
  send_in_parts
fi
