"""`connect()`: the choice of a target, the variables that it sets, and its messages about missing settings."""

import os
import subprocess
import sys

import boto3
import pytest
from botocore.exceptions import ClientError

from workshop import settings
from workshop.connect import TargetError, connect
from workshop.sandbox import Sandbox, apply
from workshop.sandbox.registry import what_is_missing
from workshop.settings import SettingsError


@pytest.fixture
def emulated_aws(shared_sandbox):
    """Stand in for AWS with the sandbox's emulated account. The target gets no other setting of the sandbox."""
    environment = shared_sandbox.environment()
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "NO_PROXY", "no_proxy")
    apply({name: environment[name] for name in names})


def test_the_default_target_is_the_sandbox_and_it_is_started(sandbox, capsys):
    target = connect()
    assert target.name == "sandbox"
    assert [answers for _, record, answers in sandbox.status() if record] == [True] * (3 if what_is_missing() else 4)
    shown = capsys.readouterr().out
    for expected in ("sandbox", "123456789012", "us-east-1", target.bucket, os.environ["AWS_ENDPOINT_URL_S3"]):
        assert expected in shown
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in shown
    address, _, secret = os.environ["KF_PIPELINES_ENDPOINT"].rpartition("/")
    assert address in shown and secret not in shown


def test_the_default_bucket_is_valid_and_each_sandbox_has_its_own(tmp_path):
    buckets = {Sandbox(tmp_path / name).bucket for name in ("one", "two", "one")}
    assert len(buckets) == 2
    assert all(settings.table()["WORKSHOP_BUCKET"].accepts(bucket) for bucket in buckets)


def test_nothing_uses_real_credentials_of_the_environment(s3):
    apply({"AWS_PROFILE": "production", "AWS_SESSION_TOKEN": "token", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"})
    apply({"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "KF_PIPELINES_ENDPOINT": "http://127.0.0.1:1"})
    apply({"KF_PIPELINES_UI_ENDPOINT": "http://127.0.0.1:1"})
    connect()
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL_STS",
        "AWS_ROLE_ARN",
        "KF_PIPELINES_UI_ENDPOINT",
    ):
        assert name not in os.environ
    assert os.environ["KF_PIPELINES_ENDPOINT"] != "http://127.0.0.1:1"


def test_keys_in_the_environment_that_starts_the_sandbox_open_nothing(sandbox):
    apply({"AWS_ACCESS_KEY_ID": "REALKEY", "AWS_SECRET_ACCESS_KEY": "a real secret", "AWS_REGION": "eu-west-1"})
    sandbox.up()
    assert "REALKEY" not in "".join(sandbox.logs(1000).values())
    endpoint = sandbox.environment()["AWS_ENDPOINT_URL_S3"]
    stranger = boto3.Session("REALKEY", "a real secret", region_name="us-east-1").client("s3", endpoint_url=endpoint)
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        stranger.list_buckets()


def test_settings_are_read_from_a_file_and_the_environment_wins(tmp_path):
    file = tmp_path / "my-settings.env"
    file.write_text("WORKSHOP_TARGET=eks\nWORKSHOP_BUCKET=from-the-file\n")
    apply({"WORKSHOP_SETTINGS": str(file), "WORKSHOP_BUCKET": "from-the-environment"})
    found = settings.read()
    assert (found.workshop_target, found.workshop_bucket) == ("eks", "from-the-environment")


def test_the_profile_files_of_this_machine_are_not_read(s3, tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\nregion = eu-west-1\n")
    apply({"HOME": str(tmp_path)})
    assert connect().region == "us-east-1"


def test_a_proxy_is_not_asked_for_the_sandbox(s3):
    apply({"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "NO_PROXY": "example.com"})
    assert connect().account == "123456789012"
    assert os.environ["NO_PROXY"] == "example.com,127.0.0.1,localhost"


@pytest.mark.slow
def test_children_of_the_process_reach_the_same_s3(s3, bucket):
    connect()
    code = "import boto3; print([b['Name'] for b in boto3.client('s3').list_buckets()['Buckets']])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bucket in done.stdout


def test_an_unknown_target_is_refused_with_the_list_of_targets():
    apply({"WORKSHOP_TARGET": "minikube"})
    with pytest.raises(SettingsError, match=r'"minikube".*sandbox, kind, eks, in-cluster'):
        connect()


def test_a_process_does_not_change_from_one_target_to_another(s3):
    connect()
    apply({"WORKSHOP_TARGET": "eks"})
    with pytest.raises(TargetError, match=r"connected to the target 'sandbox'.*Restart the kernel"):
        connect()


def test_a_cluster_without_settings_says_everything_that_is_missing():
    apply({"WORKSHOP_TARGET": "kind"})
    with pytest.raises(TargetError) as caught:
        connect()
    for name in ("WORKSHOP_BUCKET", "AWS_DEFAULT_REGION", "KF_PIPELINES_ENDPOINT"):
        assert name in str(caught.value)


@pytest.mark.parametrize("bucket", ["'my-bucket'", "My-Bucket", "a", "1.2.3.4", "a..b", "a.-b", "under_score"])
def test_a_bucket_name_that_s3_does_not_take_is_refused(bucket):
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": bucket, "AWS_DEFAULT_REGION": "us-east-1"})
    with pytest.raises(SettingsError, match="WORKSHOP_BUCKET is"):
        connect()


def test_the_message_names_quotes_in_a_value():
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "'us-east-1'"})
    with pytest.raises(SettingsError, match="Quotes are part of the value: leave them out"):
        connect()


def test_a_cluster_without_credentials_says_how_to_get_them(tmp_path):
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "us-east-1"})
    apply({"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"})
    with pytest.raises(TargetError, match="no AWS credentials: run `aws configure sso`"):
        connect()


def test_a_profile_that_does_not_exist_is_named():
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_PROFILE": "nobody"})
    with pytest.raises(TargetError, match="nobody"):
        connect()


def test_eks_takes_account_and_registry_from_aws(emulated_aws, capsys):
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "eu-west-1"})
    target = connect()
    assert (target.account, target.region, target.bucket) == ("123456789012", "eu-west-1", "my-bucket")
    assert (target.cluster, target.repository) == ("kubeflow-demo", "python-components")
    assert os.environ["REGISTRY"] == "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    assert target.s3.startswith("Amazon S3, eu-west-1 (")
    # Without an address, kfp.Client() would use the cluster that kubectl points to.
    assert os.environ["KF_PIPELINES_ENDPOINT"] == "http://localhost:8080"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in capsys.readouterr().out


def test_aws_that_does_not_answer_is_an_error_that_names_the_region():
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "eu-west-1"})
    apply({"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    with pytest.raises(TargetError, match="does not answer in region eu-west-1"):
        connect()


@pytest.mark.slow
def test_a_notebook_server_of_kubeflow_is_recognised(emulated_aws):
    apply({"NB_PREFIX": "/notebook/ns/name", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    apply({"WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "us-east-1"})
    target = connect()
    assert target.name == "in-cluster"
    assert "KF_PIPELINES_ENDPOINT" not in os.environ, "told a host, kfp.Client() would not read the token"
    assert target.pipelines.startswith("http://ml-pipeline.kubeflow.svc.cluster.local:8888 (does not answer")


@pytest.mark.parametrize("name", ["kind", "in-cluster"])
def test_a_cluster_with_an_s3_of_its_own_needs_no_aws_account(s3, name):
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")}
    apply({name: None for name in os.environ if name.startswith(("AWS_", "WORKSHOP_CONNECTED"))})
    apply(keys | {"WORKSHOP_TARGET": name, "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "us-east-1"})
    apply({"KF_PIPELINES_ENDPOINT": "http://127.0.0.1:1"})
    target = connect()
    assert target.account == ""
    assert target.s3 == f"{keys['AWS_ENDPOINT_URL_S3']} (the bucket is not there yet: lesson 03 makes it)"
    assert "does not answer" in target.pipelines


@pytest.mark.parametrize("url", ["localhost:8080", "http://localhost:abc", "http://[::1", "ftp://host", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(url):
    apply({"WORKSHOP_TARGET": "kind", "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "us-east-1"})
    apply({"KF_PIPELINES_ENDPOINT": url})
    with pytest.raises(SettingsError, match=r"KF_PIPELINES_ENDPOINT is .*; it must be like http://HOST:PORT"):
        connect()


def test_an_s3_that_does_not_answer_is_an_error():
    apply({"WORKSHOP_TARGET": "kind", "WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "us-east-1"})
    apply({"KF_PIPELINES_ENDPOINT": "http://user:topsecret@127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"})
    apply({"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s"})
    with pytest.raises(TargetError, match="S3 does not answer"):
        connect()


def test_cluster_repository_and_profile_come_from_the_settings(emulated_aws, tmp_path, capsys):
    file = tmp_path / "my-settings.env"
    file.write_text("CLUSTER_NAME=mine\nCOMPONENT_REPOSITORY=team/components\nAWS_PROFILE=nobody\nNODE_COUNT=3\n")
    apply({"WORKSHOP_SETTINGS": str(file), "WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket"})
    apply({"AWS_DEFAULT_REGION": "eu-west-1"})
    with pytest.raises(TargetError, match="nobody"):
        connect()
    apply({"AWS_PROFILE": None})
    file.write_text(file.read_text().replace("AWS_PROFILE=nobody\n", ""))
    target = connect()
    assert (target.cluster, target.repository, target.settings.node_count) == ("mine", "team/components", 3)
    shown = capsys.readouterr().out
    assert "cluster     mine" in shown and "repository  team/components" in shown


def test_the_sandbox_ignores_a_profile_of_the_settings(s3, tmp_path):
    file = tmp_path / "my-settings.env"
    file.write_text("AWS_PROFILE=production\n")
    apply({"WORKSHOP_SETTINGS": str(file)})
    assert connect().account == "123456789012"
    assert "AWS_PROFILE" not in os.environ
