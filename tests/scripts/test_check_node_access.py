"""`scripts/check_node_access.sh`, against the emulated account."""

import json

import pytest

from tests.support.account import client, make_cluster
from workshop.sandbox import aws_account

READ_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly"
PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"


@pytest.fixture
def cluster(account, unique, monkeypatch) -> str:
    """A cluster for one test, whose nodes may not pull."""
    name = f"c{unique}"
    for constant, value in (
        ("CLUSTER", name),
        ("NODE_GROUP", f"{name}-nodes"),
        ("NODE_ROLE", f"{name}-node"),
        ("CLUSTER_ROLE", f"{name}-cluster"),
    ):
        monkeypatch.setattr(aws_account, constant, value)
    make_cluster(account)
    return name


@pytest.fixture
def iam(account):
    return client(account, "iam")


@pytest.fixture
def check(shell, cluster):
    return lambda *arguments, **options: shell.run(
        "check_node_access.sh", *arguments, **{"CLUSTER_NAME": cluster} | options
    )


def policies(iam, cluster) -> set[str]:
    attached = iam.list_attached_role_policies(RoleName=f"{cluster}-node")["AttachedPolicies"]
    return {policy["PolicyArn"] for policy in attached}


@pytest.mark.slow
def test_the_script_names_each_node_group_role_and_policy_and_the_role_that_may_not_pull(check, cluster):
    done = check()
    assert done.returncode == 1
    assert [line.strip() for line in done.stdout.splitlines()] == [
        f"cluster {cluster}",
        f"node group {cluster}-nodes",
        f"role {cluster}-node",
        "policy AmazonEKSWorkerNodePolicy",
        "policy AmazonEKS_CNI_Policy",
        "no policy of this role allows pulling from ECR",
    ]
    assert f"may not pull from ECR: {cluster}-node" in done.stderr and "--fix" in done.stderr


@pytest.mark.slow
def test_fix_attaches_the_smallest_policy_and_a_second_run_changes_nothing(check, iam, cluster):
    before = policies(iam, cluster)
    fixed = check("--fix")
    assert fixed.returncode == 0, fixed.stderr
    assert policies(iam, cluster) == before | {PULL_ONLY}
    again = check("--fix")
    assert again.returncode == 0 and again.stdout.endswith("all nodes may pull from ECR; nothing to do\n")
    assert policies(iam, cluster) == before | {PULL_ONLY}


@pytest.mark.slow
def test_a_wider_policy_is_enough(check, iam, cluster):
    iam.attach_role_policy(RoleName=f"{cluster}-node", PolicyArn=READ_ONLY)
    assert check().returncode == 0


@pytest.mark.slow
def test_a_customer_policy_with_the_same_name_does_not_count(check, iam, cluster):
    statement = {"Effect": "Allow", "Action": "ecr:ListImages", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    made = iam.create_policy(
        PolicyName="AmazonEC2ContainerRegistryReadOnly", Path=f"/{cluster}/", PolicyDocument=document
    )
    iam.attach_role_policy(RoleName=f"{cluster}-node", PolicyArn=made["Policy"]["Arn"])
    assert check().returncode == 1


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(check, shell, iam, cluster):
    before = policies(iam, cluster)
    shown = check("--fix", "--dry-run")
    assert shown.stdout == f"aws iam attach-role-policy --role-name {cluster}-node --policy-arn {PULL_ONLY}\n"
    assert policies(iam, cluster) == before
    shell.paste(shown.stdout)
    assert policies(iam, cluster) == before | {PULL_ONLY}


@pytest.mark.slow
def test_a_missing_cluster_is_named(check):
    done = check(CLUSTER_NAME="no-such-cluster")
    assert done.returncode == 1 and "there is no cluster no-such-cluster in us-east-1" in done.stderr


@pytest.mark.slow
def test_a_denial_of_aws_exits_with_1_and_is_shown(check, shell):
    shell.programs.joinpath("aws").unlink()
    said = "An error occurred (AccessDenied) when calling the ListAttachedRolePolicies operation: no"
    shell.stand_in(
        "aws",
        ("get-caller-identity", "123456789012\n"),
        ("describe-cluster", "arn:aws:eks:us-east-1:123456789012:cluster/c\n"),
        ("list-nodegroups", "nodes\n"),
        ("describe-nodegroup", "arn:aws:iam::123456789012:role/node\n"),
        ("list-attached-role-policies", said, 254),
    )
    done = check()
    assert done.returncode == 1 and said in done.stderr


@pytest.mark.slow
def test_missing_credentials_and_a_missing_aws_cli_exit_with_3(check, shell):
    assert check(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").returncode == 3
    shell.programs.joinpath("aws").unlink()
    assert check().returncode == 3


def test_wrong_usage_and_bad_names_exit_with_2(shell):
    assert shell.run("check_node_access.sh", "extra").returncode == 2
    assert shell.run("check_node_access.sh", CLUSTER_NAME="a_b").returncode == 2
