"""The emulated AWS account: its first contents, and that it keeps the changes of a reader."""

import errno
import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.account import client
from tests.support.sampling import sample, seed
from workshop.sandbox import SandboxError, aws_server
from workshop.sandbox.aws_journal import AwsRequest

SEED = seed()
TRUST = json.dumps({"Version": "2012-10-17"})


@pytest.fixture
def aws(shared_sandbox):
    return clients(shared_sandbox)


def clients(sandbox):
    return partial(client, sandbox)


def journal(sandbox):
    return sandbox.directory / "aws-account" / "journal.jsonl"


def kill(sandbox):
    pid = next(record.pid for server, record, _ in sandbox.status() if server.name == "aws-account")
    os.kill(pid, signal.SIGKILL)


def test_the_cluster_of_lesson_01_exists_with_a_node_group(aws):
    eks = aws("eks")
    assert "kubeflow-demo" in eks.list_clusters()["clusters"]
    groups = eks.list_nodegroups(clusterName="kubeflow-demo")["nodegroups"]
    assert groups == ["kubeflow-demo-nodes"]


def test_the_node_role_has_the_worker_policies_but_not_the_one_for_ecr(aws):
    group = aws("eks").describe_nodegroup(clusterName="kubeflow-demo", nodegroupName="kubeflow-demo-nodes")["nodegroup"]
    role = group["nodeRole"].rpartition("/")[2]
    attached = aws("iam").list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    assert {policy["PolicyName"] for policy in attached} == {"AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy"}


@pytest.mark.slow
def test_the_managed_policies_of_aws_can_be_attached(aws):
    arn = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
    assert aws("iam").get_policy(PolicyArn=arn)["Policy"]["PolicyName"] == "AmazonEC2ContainerRegistryPullOnly"


@pytest.mark.slow
def test_the_next_start_completes_a_first_start_that_was_interrupted(sandbox):
    sandbox.up()
    sandbox.down()
    journal(sandbox).write_text(journal(sandbox).read_text().splitlines()[0] + "\n")
    sandbox.up()
    assert clients(sandbox)("eks").list_clusters()["clusters"] == ["kubeflow-demo"]


@pytest.mark.slow
def test_requests_that_changed_something_are_kept_with_their_ids_and_other_requests_are_not(sandbox):
    sandbox.up()
    aws = clients(sandbox)
    aws("ecr").create_repository(repositoryName="kept")
    made = aws("iam").create_role(RoleName="kept", AssumeRolePolicyDocument=TRUST)["Role"]["RoleId"]
    aws("iam").attach_role_policy(RoleName="kept", PolicyArn="arn:aws:iam::aws:policy/ReadOnlyAccess")
    network = aws("ec2").create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    with pytest.raises(ClientError, match="already exists"):
        aws("iam").create_role(RoleName="kept", AssumeRolePolicyDocument=TRUST)
    for _ in range(5):
        aws("iam").list_roles()
        aws("sts").get_caller_identity()
    size = journal(sandbox).stat().st_size
    kill(sandbox)
    with open(journal(sandbox), "a") as file:
        file.write('{"method": "POST", "cut off')
    sandbox.up()
    aws = clients(sandbox)
    assert [r["repositoryName"] for r in aws("ecr").describe_repositories()["repositories"]] == ["kept"]
    assert [p["PolicyName"] for p in aws("iam").list_attached_role_policies(RoleName="kept")["AttachedPolicies"]]
    assert aws("iam").get_role(RoleName="kept")["Role"]["RoleId"] == made
    assert network in [found["VpcId"] for found in aws("ec2").describe_vpcs()["Vpcs"]]
    assert aws("eks").list_clusters()["clusters"] == ["kubeflow-demo"]
    assert journal(sandbox).stat().st_size == size, "no refused request, and nothing that a kill cut off"
    assert journal(sandbox).stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_up_makes_the_parts_of_the_cluster_that_a_clean_up_has_deleted(sandbox):
    sandbox.up()
    eks, iam = clients(sandbox)("eks"), clients(sandbox)("iam")
    iam.attach_role_policy(RoleName="kubeflow-demo-node", PolicyArn="arn:aws:iam::aws:policy/ReadOnlyAccess")
    eks.delete_nodegroup(clusterName="kubeflow-demo", nodegroupName="kubeflow-demo-nodes")
    sandbox.up()
    assert eks.list_nodegroups(clusterName="kubeflow-demo")["nodegroups"] == ["kubeflow-demo-nodes"]
    assert len(iam.list_attached_role_policies(RoleName="kubeflow-demo-node")["AttachedPolicies"]) == 3, "left alone"
    eks.delete_nodegroup(clusterName="kubeflow-demo", nodegroupName="kubeflow-demo-nodes")
    eks.delete_cluster(name="kubeflow-demo")
    sandbox.up()
    assert eks.describe_cluster(name="kubeflow-demo")["cluster"]["status"] == "ACTIVE"


@pytest.mark.slow
def test_kubectl_does_not_reach_the_clusters_of_the_reader(borrowing_sandbox):
    sandbox = borrowing_sandbox
    sandbox.up()
    config = yaml.safe_load(Path(sandbox.environment()["KUBECONFIG"]).read_text())
    assert config["current-context"] == "the-sandbox-has-no-kubernetes"
    assert [cluster["cluster"]["server"] for cluster in config["clusters"]] == ["https://127.0.0.1:1"]
    sandbox.reset()
    assert not sandbox.directory.exists()


@pytest.mark.parametrize("number", sample(range(100), test=0, gate=4))
def test_no_acknowledged_role_is_lost_when_the_account_is_killed(sandbox, number):
    chance = random.Random(f"{SEED} {number}")
    acknowledged, begun = [], threading.Event()

    def make_roles():
        iam = clients(sandbox)("iam")
        with suppress(ClientError, BotoCoreError):
            for place in range(1000):
                name = f"role-{number}-{place}"
                iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)
                acknowledged.append(name)
                begun.set()

    sandbox.up()
    writer = threading.Thread(target=make_roles)
    writer.start()
    assert begun.wait(30)
    time.sleep(chance.random())
    kill(sandbox)
    writer.join()
    sandbox.up()
    pages = clients(sandbox)("iam").get_paginator("list_roles").paginate()
    assert set(acknowledged) <= {role["RoleName"] for page in pages for role in page["Roles"]}


@pytest.mark.slow
def test_no_role_is_lost_that_was_acknowledged_before_the_first_up_returned(sandbox):
    """Make roles from the first answer of the account on, while `up` still prepares the sandbox."""
    acknowledged, is_up = [], threading.Event()

    def make_roles():
        while not is_up.is_set():
            with suppress(ClientError, BotoCoreError, SandboxError):
                name = f"early-{len(acknowledged)}"
                clients(sandbox)("iam").create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)
                acknowledged.append(name)

    writer = threading.Thread(target=make_roles)
    writer.start()
    try:
        sandbox.up()
    finally:
        is_up.set()
        writer.join()
    kill(sandbox)
    sandbox.up()
    pages = clients(sandbox)("iam").get_paginator("list_roles").paginate()
    assert set(acknowledged) <= {role["RoleName"] for page in pages for role in page["Roles"]}


@pytest.fixture
def signed():
    """Make a request as the server passes it on after its checks."""

    def make(action: str, **parameters: str) -> AwsRequest:
        scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request"
        headers = {
            "host": "127.0.0.1:1",
            "content-type": "application/x-www-form-urlencoded",
            "authorization": f"{scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}",
        }
        body = urlencode({"Action": action, "Version": "2010-05-08"} | parameters)
        return AwsRequest("POST", "/", headers, body.encode())

    return make


def test_a_full_disk_changes_nothing_and_says_so(tmp_path, signed, monkeypatch):
    account = aws_server.Account(tmp_path)
    role = signed("CreateRole", RoleName="one", AssumeRolePolicyDocument=TRUST)
    real, written = os.write, []

    def write_half(file: int, content: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(file, content[:20]))
        return written[0]

    with monkeypatch.context() as full:
        full.setattr(os, "write", write_half)
        answer = account.carry_out(role)
    assert answer.status == 507 and b"Nothing was changed" in answer.body
    assert (tmp_path / "journal.jsonl").read_bytes() == b""
    assert account.carry_out(signed("GetRole", RoleName="one")).status == 404
    assert account.carry_out(role).status == 200, "there is room again"
    assert aws_server.Account(tmp_path).carry_out(signed("GetRole", RoleName="one")).status == 200
