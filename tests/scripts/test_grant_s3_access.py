"""`scripts/grant_s3_access.sh`: roles in the emulated account, and recorded calls of Kubernetes and EKS."""

import base64
import json

import pytest
import yaml

from tests.support.account import client, make_cluster
from workshop.project import ROOT
from workshop.sandbox import aws_account

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDNOTAKEY", "AWS_SECRET_ACCESS_KEY": "not/a+secret"}
NAMESPACE = "kubeflow-user-example-com"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
            "Resource": "arn:aws:s3:::my-bucket",
        },
        {
            "Effect": "Allow",
            "Action": [
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
            "Resource": "arn:aws:s3:::my-bucket/*",
        },
    ],
}


@pytest.fixture
def cluster(account, unique, monkeypatch) -> str:
    """A cluster for one test."""
    name = f"c{unique}"
    for constant in ("CLUSTER", "NODE_GROUP", "NODE_ROLE", "CLUSTER_ROLE"):
        monkeypatch.setattr(aws_account, constant, name if constant == "CLUSTER" else f"{name}-{constant[:4].lower()}")
    make_cluster(account)
    return name


@pytest.fixture
def iam(account):
    return client(account, "iam")


@pytest.fixture
def grant(shell, cluster):
    settings = {"CLUSTER_NAME": cluster, "WORKSHOP_BUCKET": "my-bucket"}
    return lambda *arguments, **options: shell.run("grant_s3_access.sh", *arguments, **settings | options)


PLATFORM = ("get .*profiles.kubeflow.org", "crd"), ("get .*poddefaults.kubeflow.org", "crd")
PIPELINES_ALONE = (("get .*serviceaccount pipeline-runner", "serviceaccount/pipeline-runner"),)


def provide_kubectl(shell, cluster, *answers, installed=PLATFORM):
    shell.stand_in("kubectl", ("current-context", f"{cluster}\n"), *installed, *answers)


def role(iam, cluster) -> list:
    found = iam.get_role(RoleName=f"{cluster}-s3")["Role"]
    names = iam.list_role_policies(RoleName=f"{cluster}-s3")["PolicyNames"]
    documents = [iam.get_role_policy(RoleName=f"{cluster}-s3", PolicyName=name)["PolicyDocument"] for name in names]
    return [found["AssumeRolePolicyDocument"]["Statement"][0], found["Tags"], names, documents]


@pytest.mark.slow
def test_pods_get_a_role_for_one_bucket_and_a_second_run_changes_nothing(grant, iam, cluster):
    first = grant()
    assert first.returncode == 0, first.stderr
    trust, tags, names, documents = role(iam, cluster)
    assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert trust["Action"] == ["sts:AssumeRole", "sts:TagSession"]
    assert tags == [{"Key": "project", "Value": "first-kubeflow-pipeline"}]
    assert names == ["one-bucket"] and documents == [POLICY]
    # The emulated EKS has no pod identity, and the script reports this.
    assert "skipped: this AWS account has no EKS Pod Identity" in first.stdout

    before = role(iam, cluster)
    second = grant()
    assert second.returncode == 0 and second.stdout.count("\n") == 1 and "skipped: " in second.stdout
    assert role(iam, cluster) == before


@pytest.mark.slow
def test_an_incomplete_or_changed_role_is_corrected(grant, iam, cluster):
    trust = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, '
    )
    iam.create_role(RoleName=f"{cluster}-s3", AssumeRolePolicyDocument=trust + '"Action": "sts:AssumeRole"}]}')
    assert grant().returncode == 0
    assert iam.get_role(RoleName=f"{cluster}-s3")["Role"]["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {
        "Service": "pods.eks.amazonaws.com"
    }
    wide = json.dumps(POLICY | {"Statement": [POLICY["Statement"][0] | {"Action": "s3:*"}]})
    iam.put_role_policy(RoleName=f"{cluster}-s3", PolicyName="one-bucket", PolicyDocument=wide)
    assert "and no other bucket" in grant().stdout
    found = iam.get_role_policy(RoleName=f"{cluster}-s3", PolicyName="one-bucket")["PolicyDocument"]
    assert found == POLICY


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(grant, shell, iam, cluster):
    shown = grant("--dry-run")
    assert shown.returncode == 0, shown.stderr
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.get_role(RoleName=f"{cluster}-s3")
    pasted = shell.paste(shown.stdout)
    assert pasted.returncode == 0, pasted.stderr
    assert role(iam, cluster)[2:] == [["one-bucket"], [POLICY]]
    assert grant().stdout.count("\n") == 1


def provide_eks(shell, *answers):
    """Put a stand-in for an AWS with pod identity on PATH. The role exists and is correct."""
    (shell.programs / "aws").unlink(missing_ok=True)
    trust = {"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}}
    trust["Action"] = ["sts:AssumeRole", "sts:TagSession"]
    shell.stand_in(
        "aws",
        ("get-caller-identity", "123456789012\n"),
        ("get-role-policy", json.dumps(POLICY)),
        ("get-role ", json.dumps({"Version": "2012-10-17", "Statement": [trust]})),
        *answers,
    )


NO_ADDON = "An error occurred (ResourceNotFoundException) when calling the DescribeAddon operation: No addon"


def changes(shell) -> list[str]:
    reading = "describe-", "list-", "get-", " get ", "current-context"
    return [call for call in shell.calls if not any(word in call for word in reading)]


def test_a_missing_agent_and_a_missing_association_are_created(shell):
    provide_eks(shell, ("list-pod-identity", "None\n"), ("describe-addon", NO_ADDON, 254))
    provide_kubectl(shell, "kubeflow-demo")
    done = shell.run("grant_s3_access.sh", WORKSHOP_BUCKET="my-bucket", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 0, done.stderr
    assert changes(shell) == [
        "aws eks create-addon --cluster-name kubeflow-demo --addon-name eks-pod-identity-agent",
        f"aws eks create-pod-identity-association --cluster-name kubeflow-demo --namespace {NAMESPACE} "
        "--service-account default-editor --role-arn arn:aws:iam::123456789012:role/kubeflow-demo-s3",
    ]


@pytest.mark.parametrize("there, expected", [("kubeflow-demo-s3", 0), ("another", 1)])
@pytest.mark.slow
def test_only_a_wrong_association_is_changed(shell, there, expected):
    arn = f"arn:aws:iam::123456789012:role/{there}\n"
    provide_eks(shell, ("list-pod-identity", "a-1\n"), ("describe-pod-identity", arn))
    provide_kubectl(shell, "kubeflow-demo")
    done = shell.run("grant_s3_access.sh", WORKSHOP_BUCKET="my-bucket", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 0 and len(changes(shell)) == expected
    if expected:
        assert "update-pod-identity-association" in changes(shell)[0] and "before: another" in done.stdout
    else:
        assert done.stdout == f"the tasks in {NAMESPACE} have access already; nothing to do\n"


@pytest.mark.slow
def test_irsa_ties_the_role_to_one_service_account_of_this_cluster(grant, shell, iam, cluster):
    provide_kubectl(shell, cluster)
    done = grant("--method", "irsa")
    assert done.returncode == 0, done.stderr
    trust = role(iam, cluster)[0]
    issuer = trust["Principal"]["Federated"].split("oidc-provider/")[1]
    assert issuer.startswith("oidc.eks.us-east-1.amazonaws.com/id/")
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert trust["Condition"] == {
        "StringEquals": {
            f"{issuer}:aud": "sts.amazonaws.com",
            f"{issuer}:sub": f"system:serviceaccount:{NAMESPACE}:default-editor",
        }
    }
    assert any(
        provider["Arn"].endswith(issuer)
        for provider in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
    )
    arn = f"arn:aws:iam::123456789012:role/{cluster}-s3"
    assert changes(shell) == [
        f"kubectl --context {cluster} annotate --overwrite serviceaccount default-editor -n {NAMESPACE} "
        f"eks.amazonaws.com/role-arn={arn}"
    ]

    shell.forget_calls()
    provide_kubectl(shell, cluster, ("get .*serviceaccount", arn))
    again = grant("--method", "irsa")
    assert again.stdout == f"the tasks in {NAMESPACE} have access already; nothing to do\n" and changes(shell) == []


@pytest.mark.slow
def test_keys_reach_kubectl_only_through_standard_input(grant, shell, cluster):
    provide_kubectl(shell, cluster)
    done = grant("--method", "secret", trace=True, S3_ENDPOINT_FOR_PODS="http://store:9000", **KEYS)
    assert done.returncode == 0, done.stderr
    secret, place, launcher, pod_default = [yaml.safe_load(given) for given in shell.inputs if given]
    assert [place["metadata"]["name"], launcher["metadata"]["name"]] == ["s3-access", "kfp-launcher"]
    assert secret["stringData"] == {"access-key": "AKIDNOTAKEY", "secret-key": "not/a+secret"}
    assert pod_default["kind"] == "PodDefault" and pod_default["metadata"]["namespace"] == NAMESPACE
    shown = done.stdout + done.stderr + "".join(shell.calls)
    assert not any(key in shown for key in KEYS.values())
    # A client-side apply would copy the keys into an annotation.
    assert all("--server-side" in call for call in changes(shell))


IN_BASE64 = " ".join(base64.b64encode(value.encode()).decode() for value in KEYS.values())
PROVIDERS = """s3:
  default:
    endpoint: http://store:9000
    region: us-east-1
    disableSSL: true
    forcePathStyle: true
    credentials:
      fromEnv: false
      secretRef: {secretName: s3-access, accessKeyKey: access-key, secretKeyKey: secret-key}
"""


def test_equal_keys_and_addresses_are_not_written_again(grant, shell, cluster):
    provide_kubectl(
        shell,
        cluster,
        ("get secret", IN_BASE64),
        ("get .*configmap s3-access", "http://store:9000 us-east-1"),
        ("get .*configmap kfp-launcher", f"s3://my-bucket/artifacts\n{PROVIDERS}"),
        ("get .*poddefault s3-access", "http://store:9000 us-east-1"),
    )
    done = grant("--method", "secret", S3_ENDPOINT_FOR_PODS="http://store:9000", **KEYS)
    assert done.returncode == 0 and "nothing to do" in done.stdout and changes(shell) == [], done.stderr


def test_with_pipelines_alone_the_tasks_get_keys_and_the_address_of_the_clusters_own_store(shell):
    seaweedfs = ("get .*service seaweedfs", "service/seaweedfs")
    other = ("get .*configmap kfp-launcher", "minio://mlpipeline/v2/artifacts\n")
    provide_kubectl(shell, "kind-kubeflow-demo", seaweedfs, other, installed=PIPELINES_ALONE)
    settings = {"WORKSHOP_BUCKET": "my-bucket", "AWS_ENDPOINT_URL_S3": "http://localhost:9000"}
    done = shell.run("grant_s3_access.sh", "--method", "secret", **settings, **KEYS)
    assert done.returncode == 0, done.stderr
    secret, place, launcher = [yaml.safe_load(given) for given in shell.inputs if given]
    assert {given["metadata"]["namespace"] for given in (secret, place, launcher)} == {"kubeflow"}
    assert place["data"] == {"endpoint": "http://seaweedfs.kubeflow:9000", "region": "us-east-1"}
    assert launcher["data"]["defaultPipelineRoot"] == "s3://my-bucket/artifacts"
    provider = yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]
    assert provider["endpoint"] == "http://seaweedfs.kubeflow:9000" and provider["disableSSL"] is True
    assert provider["credentials"]["secretRef"]["secretName"] == "s3-access"
    assert "tasks run as pipeline-runner in the namespace kubeflow" in done.stderr
    assert "before, they went to minio://mlpipeline/v2/artifacts" in done.stderr


@pytest.mark.parametrize("address", ["http://localhost:9000", "http://127.0.0.1:9000/", "http://[::1]:9000"])
def test_an_address_of_this_machine_is_refused_where_pods_have_no_other(shell, address):
    provide_kubectl(shell, "kubeflow-demo")
    settings = {"WORKSHOP_BUCKET": "my-bucket", "AWS_ENDPOINT_URL_S3": address}
    done = shell.run("grant_s3_access.sh", "--method", "secret", **settings, **KEYS)
    assert done.returncode == 1 and changes(shell) == []
    assert f"pods cannot reach {address}" in done.stderr and "S3_ENDPOINT_FOR_PODS" in done.stderr


def test_a_cluster_without_kubeflow_is_named(shell):
    provide_kubectl(shell, "kubeflow-demo", installed=())
    done = shell.run("grant_s3_access.sh", "--method", "secret", WORKSHOP_BUCKET="my-bucket", **KEYS)
    assert done.returncode == 1 and changes(shell) == []
    assert "kubeflow-demo has no Kubeflow Pipelines" in done.stderr and "install_kubeflow.sh" in done.stderr


@pytest.mark.slow
def test_a_dry_run_of_a_secret_shows_no_key_and_its_pasted_commands_do_the_same(grant, shell, cluster):
    provide_kubectl(shell, cluster)
    shown = grant("--method", "secret", "--dry-run", **KEYS)
    assert shown.returncode == 0 and changes(shell) == []
    assert not any(key in shown.stdout + shown.stderr for key in KEYS.values())
    shell.forget_calls()
    assert shell.paste(shown.stdout, **KEYS).returncode == 0
    assert yaml.safe_load(shell.inputs[0])["stringData"]["secret-key"] == "not/a+secret"
    assert len(shell.calls) == 4


@pytest.mark.slow
def test_keys_that_expire_within_hours_are_refused(grant, shell, cluster):
    provide_kubectl(shell, cluster)
    done = grant("--method", "secret", AWS_SESSION_TOKEN="not-a-token", **KEYS)
    assert done.returncode == 1 and "session token" in done.stderr and changes(shell) == []


@pytest.mark.slow
def test_missing_tools_and_missing_credentials_exit_with_3(grant, shell, cluster):
    assert "kubectl is not installed" in (done := grant("--method", "irsa")).stderr and done.returncode == 3
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert grant(**none).returncode == 3
    provide_kubectl(shell, cluster)
    assert grant("--method", "secret", **none).returncode == 3
    shell.programs.joinpath("aws").unlink()
    assert grant().returncode == 3


def test_a_denial_of_aws_exits_with_1_and_is_shown(shell):
    said = "An error occurred (AccessDenied) when calling the GetRole operation: no"
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("get-role", said, 254))
    provide_kubectl(shell, "kubeflow-demo")
    done = shell.run("grant_s3_access.sh", WORKSHOP_BUCKET="my-bucket", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and said in done.stderr


def test_wrong_usage_and_bad_names_exit_with_2(shell):
    assert shell.run("grant_s3_access.sh", "--method", "luck").returncode == 2
    assert shell.run("grant_s3_access.sh").returncode == 2
    assert shell.run("grant_s3_access.sh", WORKSHOP_BUCKET="b/*").returncode == 2
    assert shell.run("grant_s3_access.sh", WORKSHOP_BUCKET="my-bucket", CLUSTER_NAME="c" * 62).returncode == 2


def test_the_policy_is_that_of_lesson_03():
    lesson = json.loads((ROOT / "notebooks" / "03_reach_s3.ipynb").read_text())
    cell = next("".join(cell["source"]) for cell in lesson["cells"] if "".join(cell["source"]).startswith("policy = {"))
    variables = {"bucket": "my-bucket"}
    exec(cell, variables)
    assert variables["policy"] == POLICY


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "iam").glob("*.json")), ids=lambda path: path.name)
def test_no_policy_allows_everything_on_anything(path):
    document = json.loads(path.read_text())
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert statement["Effect"] == "Allow" and not any("*" in action for action in actions)
        assert statement.get("Resource", "arn:") not in ("*", ["*"])
        assert "Resource" in statement or set(statement["Principal"]) <= {"Service", "Federated"}
        if "Federated" in statement.get("Principal", {}):
            assert {name.rpartition(":")[2] for name in statement["Condition"]["StringEquals"]} == {"aud", "sub"}
