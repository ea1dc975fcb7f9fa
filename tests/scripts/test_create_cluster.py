"""`scripts/create_cluster.sh`: AWS is the emulated account; eksctl and kubectl are recorded."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.support.account import client
from workshop.project import ROOT, versions

WAIT = "wait --for=condition=Ready nodes --all --timeout=600s"
STORAGE_CLASS = (ROOT / "deploy/kubeflow/storage-class.yaml").read_text()
READS = re.compile(r"kubectl (config current-context|--context \S+ (get|config view)) ?")
OURS = "first-kubeflow-pipeline\thttps://here"  # the tag and the endpoint of a cluster, as the AWS CLI prints them
ADDONS = "daemonset aws-node", "daemonset eks-pod-identity-agent", "deployment ebs-csi-controller"
# An eksctl for the emulated account. This eksctl records its input, and creates the cluster and its nodes.
MAKES_A_CLUSTER = """#!/usr/bin/env bash
tee "$0.given" | "$0-recorded" "$@"
name=$(sed -n 's/^  name: //p' "$0.given")
role=arn:aws:iam::123456789012:role/any
if [ "$2" = cluster ]; then
  aws eks create-cluster --name "$name" --kubernetes-version "$KUBERNETES_VERSION" --role-arn $role \
    --tags project=first-kubeflow-pipeline --resources-vpc-config subnetIds=subnet-a,subnet-b >/dev/null
fi
aws eks create-nodegroup --cluster-name "$name" --nodegroup-name "$name-nodes" --node-role $role --subnets subnet-a \
  >/dev/null
"""


def changes(shell) -> list[tuple[str, str]]:
    """Return the calls of stand-ins that change something, with the standard input of each."""
    return [made for made in zip(shell.calls, shell.inputs, strict=True) if not READS.match(made[0])]


def stand_in_kubectl(
    shell, name, *, endpoint="https://here", classes="gp3 true\n", current=None, addons=ADDONS, nodes="node/a\n"
):
    """Put a kubectl on PATH that has a cluster with the address `endpoint`."""
    shell.stand_in(
        "kubectl",
        ("config current-context", f"{current or name}\n"),
        ("config view", endpoint),
        ("get .* nodes ", nodes),
        ("get .*storageclasses", classes),
        *((f"get .*{addon} ", f"{addon.replace(' ', '/')}\n") for addon in addons),
    )


def endpoint(account, name="kubeflow-demo") -> str:
    """The address of a cluster of the emulated account."""
    return client(account, "eks").describe_cluster(name=name)["cluster"]["endpoint"]


@pytest.fixture
def eksctl(shell, account):
    """A recorded eksctl that creates the cluster in the emulated account."""
    shell.stand_in("eksctl")
    (shell.programs / "eksctl").rename(shell.programs / "eksctl-recorded")
    (shell.programs / "eksctl").write_text(MAKES_A_CLUSTER)
    (shell.programs / "eksctl").chmod(0o755)
    shell.environment["KUBERNETES_VERSION"] = versions()["KUBERNETES_VERSION"]


@pytest.fixture
def kubeconfig(shell, account, tmp_path) -> Path:
    """The kubeconfig that the AWS CLI writes."""
    shell.environment["KUBECONFIG"] = str(tmp_path / "kube/config")
    return tmp_path / "kube/config"


@pytest.mark.slow
def test_the_first_run_makes_the_cluster_and_the_second_changes_nothing(shell, account, eksctl, kubeconfig, unique):
    stand_in_kubectl(shell, unique, classes="gp2 true\n")
    first = shell.run("create_cluster.sh", CLUSTER_NAME=unique)
    assert first.returncode == 0, first.stderr
    assert "AWS bills about 0.49 USD an hour" in first.stderr and "clean_up.py --yes" in first.stderr
    assert [call for call, _ in changes(shell)] == [
        "eksctl create cluster -f -",
        f"kubectl --context {unique} {WAIT}",
        f"kubectl --context {unique} annotate --overwrite storageclass gp2 "
        "storageclass.kubernetes.io/is-default-class=false",
        f"kubectl --context {unique} apply -f -",
    ]
    given = [text for _, text in changes(shell)]
    assert given[-1] == STORAGE_CLASS
    config = yaml.safe_load(given[0])
    assert config["metadata"] == {
        "name": unique,
        "region": "us-east-1",
        "version": versions()["KUBERNETES_VERSION"],
        "tags": {"project": "first-kubeflow-pipeline"},
    }
    nodes = config["managedNodeGroups"][0]
    assert (nodes["name"], nodes["instanceTypes"], nodes["desiredCapacity"]) == (f"{unique}-nodes", ["m6i.xlarge"], 2)
    assert nodes["spot"] is False
    assert yaml.safe_load(kubeconfig.read_text())["current-context"] == unique

    shell.forget_calls()
    stand_in_kubectl(shell, unique, endpoint=endpoint(account, unique))
    second = shell.run("create_cluster.sh", CLUSTER_NAME=unique)
    assert second.returncode == 0 and "nothing was changed" in second.stdout, second.stderr
    assert [call for call, _ in changes(shell)] == [f"kubectl --context {unique} {WAIT}"]


DENIED = "An error occurred (AccessDeniedException) when calling the GetServiceQuota operation: no\n"
NO_CLUSTER = "An error occurred (ResourceNotFoundException) when calling the DescribeCluster operation: none\n"


def stand_in_new_account(shell, *answers):
    """Put programs on PATH for an account without a cluster. `aws` gives the answers by part of the command."""
    stand_in_kubectl(shell, "kubeflow-demo")
    shell.stand_in("eksctl")
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("describe-cluster", NO_CLUSTER, 254), *answers)


def test_too_small_a_quota_ends_the_script_before_anything_is_created(shell):
    stand_in_new_account(shell, ("L-1216C47A", "5.0\n"), ("describe-instance-types.*m6i.xlarge", "4\n"))
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and "run 5 CPUs" in done.stderr and "2 x m6i.xlarge need 8" in done.stderr
    assert "--quota-code L-1216C47A --desired-value 8" in done.stderr
    assert not any(call.startswith("eksctl") or "request-service-quota" in call for call in shell.calls)


@pytest.mark.parametrize(
    "answers, settings, said",
    [
        ([("L-1216C47A", "8.0\n"), ("describe-instance-types", "4\n")], {}, ""),
        ([("L-34B43A08", "8.0\n"), ("describe-instance-types", "4\n")], {"NODE_SPOT": "true"}, ""),
        ([("service-quotas", DENIED, 254)], {}, "cannot be read (AccessDeniedException)"),
        ([], {"NODE_TYPE": "g5.xlarge"}, "the quota for g5.xlarge is not checked"),
    ],
    ids=["enough", "enough for spot", "denied", "another family"],
)
def test_a_quota_that_is_large_enough_or_cannot_be_read_does_not_end_the_script(shell, answers, settings, said):
    stand_in_new_account(shell, *answers)
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1", **settings)
    assert done.returncode == 0, done.stderr
    assert "eksctl create cluster -f -" in shell.calls
    assert said in done.stderr and ("quota" in done.stderr) == bool(said)


@pytest.mark.parametrize(
    "today, version, said",
    [
        ("2026-12-01", None, "at the standard price until {until}"),
        ("9999-01-01", None, "ended the standard support of Kubernetes {version} on {until}"),
        ("2026-12-01", "1.19", "does not list how long EKS supports Kubernetes 1.19"),
    ],
)
def test_the_end_of_the_standard_support_is_shown(shell, today, version, said):
    stand_in_new_account(shell, ("L-1216C47A", "8.0\n"), ("describe-instance-types", "4\n"))
    shell.stand_in("date", ("", f"{today}\n"))
    settings = {"KUBERNETES_VERSION": version} if version else {}
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1", **settings)
    until, pinned = versions()["KUBERNETES_STANDARD_SUPPORT_UNTIL"], versions()["KUBERNETES_VERSION"]
    assert said.format(until=until, version=pinned) in done.stderr, done.stderr


@pytest.mark.slow
def test_a_cluster_without_nodes_gets_them(shell, account, eksctl, unique):
    stand_in_kubectl(shell, unique)
    arguments = f"--name {unique} --role-arn arn:aws:iam::123456789012:role/any --resources-vpc-config subnetIds=a,b"
    arguments = f"{arguments} --kubernetes-version 1.19 --tags project=first-kubeflow-pipeline"
    assert shell.paste(f"aws eks create-cluster {arguments}").returncode == 0
    done = shell.run("create_cluster.sh", CLUSTER_NAME=unique, NODE_SPOT="true", NODE_COUNT="3")
    assert done.returncode == 0, done.stderr
    assert f"runs Kubernetes 1.19, and KUBERNETES_VERSION is {versions()['KUBERNETES_VERSION']}" in done.stderr
    assert "0.12 USD an hour and 3 x m6i.xlarge" in done.stderr
    call, given = changes(shell)[0]
    assert call == "eksctl create nodegroup -f -"
    nodes = yaml.safe_load(given)["managedNodeGroups"][0]
    assert nodes["spot"] is True and nodes["desiredCapacity"] == nodes["maxSize"] == 3


@pytest.mark.parametrize("missing", ADDONS)
@pytest.mark.slow
def test_a_missing_addon_is_created_before_anything_waits_for_it(shell, account, missing):
    shell.stand_in("eksctl")
    stand_in_kubectl(
        shell, "kubeflow-demo", endpoint=endpoint(account), addons=[addon for addon in ADDONS if addon != missing]
    )
    done = shell.run("create_cluster.sh")
    assert done.returncode == 0 and "nothing was changed" not in done.stdout, done.stderr
    assert [call for call, _ in changes(shell)] == [
        "eksctl utils associate-iam-oidc-provider --approve -f -",
        "eksctl create addon -f -",
        f"kubectl --context kubeflow-demo {WAIT}",
    ]
    (given,) = {text for _, text in changes(shell) if text}
    assert {"name": "aws-ebs-csi-driver", "wellKnownPolicies": {"ebsCSIController": True}} in yaml.safe_load(given)[
        "addons"
    ]


def test_a_cluster_of_another_project_is_not_changed(shell):
    stand_in_kubectl(shell, "kubeflow-demo")
    shell.stand_in("eksctl")
    theirs = ("describe-cluster", "ACTIVE\t1.35\tNone\thttps://here\n")
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), theirs)
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and "was not made by this project" in done.stderr and "CLUSTER_NAME" in done.stderr
    assert changes(shell)[2:] == []  # the two calls of aws


@pytest.mark.parametrize(
    "status, said", [("CREATE_IN_PROGRESS", "again in a few minutes"), ("ROLLBACK_COMPLETE", "scripts/clean_up.py")]
)
def test_the_stack_of_an_interrupted_run_is_named(shell, status, said):
    stand_in_kubectl(shell, "kubeflow-demo")
    shell.stand_in("eksctl")
    none = "An error occurred (ResourceNotFoundException) when calling the DescribeCluster operation: none\n"
    answers = ("describe-cluster", none, 254), ("describe-stacks", f"{status}\n")
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), *answers)
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and said in done.stderr
    assert not any(call.startswith("eksctl") for call in shell.calls)


def test_the_script_waits_for_starting_nodes_and_reports_a_cluster_without_nodes(shell):
    shell.stand_in("eksctl")
    cluster = ("describe-cluster", f"ACTIVE\t1.35\t{OURS}\n")
    group = ("describe-nodegroup", "CREATING\n")
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), cluster, group)
    stand_in_kubectl(shell, "kubeflow-demo", nodes="")
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 0, done.stderr
    awaited = "aws eks wait nodegroup-active --cluster-name kubeflow-demo --nodegroup-name kubeflow-demo-nodes"
    assert awaited in shell.calls and not any("--for=condition=Ready" in call for call in shell.calls)
    assert "eksctl scale nodegroup --cluster kubeflow-demo --name kubeflow-demo-nodes --nodes 2" in done.stderr


def test_the_script_does_not_wait_for_failed_nodes(shell):
    stand_in_kubectl(shell, "kubeflow-demo")
    shell.stand_in("eksctl")
    answers = ("describe-cluster", f"ACTIVE\t1.35\t{OURS}\n"), ("describe-nodegroup", "CREATE_FAILED\n")
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), *answers)
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and "kubeflow-demo-nodes is CREATE_FAILED" in done.stderr
    assert "eksctl delete nodegroup" in done.stderr and not any("wait" in call for call in shell.calls)


@pytest.mark.slow
def test_kubectl_is_switched_from_another_cluster_to_this_one(shell, account):
    shell.stand_in("eksctl")
    stand_in_kubectl(shell, "kubeflow-demo", endpoint=endpoint(account), current="another")
    done = shell.run("create_cluster.sh")
    assert done.returncode == 0, done.stderr
    assert [call for call, _ in changes(shell)] == [
        "kubectl config use-context kubeflow-demo",
        f"kubectl --context kubeflow-demo {WAIT}",
    ]


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(shell, eksctl, kubeconfig, unique):
    stand_in_kubectl(shell, unique, classes="gp2 true\n")
    dry = shell.run("create_cluster.sh", "--dry-run", CLUSTER_NAME=unique)
    assert dry.returncode == 0, dry.stderr
    assert changes(shell) == [] and not kubeconfig.exists()
    described = shell.paste(f"aws eks describe-cluster --name {unique}")
    assert "ResourceNotFoundException" in described.stderr
    shell.forget_calls()
    pasted = shell.paste(dry.stdout)
    assert pasted.returncode == 0, pasted.stderr
    by_hand = changes(shell)
    assert kubeconfig.exists()

    # A real run for a cluster with another name makes the same calls.
    shell.forget_calls()
    stand_in_kubectl(shell, f"{unique}-2", classes="gp2 true\n")
    assert shell.run("create_cluster.sh", CLUSTER_NAME=f"{unique}-2").returncode == 0
    assert [(call.replace("-2", ""), text.replace("-2", "")) for call, text in changes(shell)] == [
        (call.replace("-2", ""), text.replace("-2", "")) for call, text in by_hand
    ]


@pytest.mark.slow
def test_a_dry_run_needs_neither_eksctl_nor_kubectl(shell, account, unique):
    done = shell.run("create_cluster.sh", "--dry-run", CLUSTER_NAME=unique)
    assert done.returncode == 0 and done.stdout.startswith("eksctl create cluster -f - <<'EOF'\n")
    assert "eksctl is not installed" in done.stderr and "kubectl is not installed" in done.stderr


@pytest.mark.parametrize("missing", ["aws", "eksctl", "kubectl"])
def test_a_missing_tool_exits_with_3_and_says_how_to_install_it(shell, missing):
    for tool in {"aws", "eksctl", "kubectl"} - {missing}:
        shell.stand_in(tool)
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 3 and f"{missing} is not installed. " in done.stderr
    assert shell.calls == []


@pytest.mark.parametrize("status", ["DELETING", "FAILED"])
def test_a_deleting_or_failed_cluster_is_refused(shell, status):
    stand_in_kubectl(shell, "kubeflow-demo")
    shell.stand_in("eksctl")
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("describe-cluster", f"{status}\t1.35\t{OURS}\n"))
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and f"is {status}" in done.stderr
    assert not any(call.startswith("eksctl") for call in shell.calls)


def test_without_credentials_the_script_calls_no_tool(shell, account):
    shell.stand_in("kubectl")
    shell.stand_in("eksctl")
    done = shell.run("create_cluster.sh", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert done.returncode == 3 and "aws sso login" in done.stderr and shell.calls == []


def test_a_denial_of_aws_is_shown(shell):
    shell.stand_in("kubectl")
    shell.stand_in("eksctl")
    said = "An error occurred (AccessDeniedException) when calling the DescribeCluster operation: not you"
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("describe-cluster", f"{said}\n", 254))
    done = shell.run("create_cluster.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and said in done.stderr and "administrator" in done.stderr


@pytest.mark.slow
def test_a_failure_of_eksctl_ends_the_script(shell, account, unique):
    stand_in_kubectl(shell, unique)
    shell.stand_in("eksctl", ("create", "no capacity\n", 1))
    done = shell.run("create_cluster.sh", CLUSTER_NAME=unique)
    assert done.returncode == 1 and "no capacity" in done.stderr and "eksctl create cluster -f -" in done.stderr
    assert [call for call, _ in changes(shell)] == ["eksctl create cluster -f -"]


@pytest.mark.parametrize("arguments", [["--wrong"], ["my-cluster"]], ids=str)
def test_wrong_usage_exits_with_2(shell, arguments):
    done = shell.run("create_cluster.sh", *arguments)
    assert done.returncode == 2 and "usage:" in done.stderr


@pytest.mark.parametrize("name, value", [("CLUSTER_NAME", "a b"), ("NODE_TYPE", "big"), ("NODE_COUNT", "0")])
def test_a_bad_name_is_refused_before_any_call(shell, name, value):
    for tool in ("aws", "eksctl", "kubectl"):
        shell.stand_in(tool)
    done = shell.run("create_cluster.sh", **{"AWS_DEFAULT_REGION": "us-east-1", name: value})
    assert done.returncode == 2 and name in done.stderr and shell.calls == []


@pytest.mark.slow
def test_the_estimate_is_the_sum_of_the_prices_in_the_data_file(shell, account, unique):
    prices = {
        name: item["usd"] for name, item in json.loads((ROOT / "deploy/prices.json").read_text())["items"].items()
    }
    total = prices["eks_cluster"] + 4 * (prices["m7i.xlarge"] + prices["public_ipv4"])
    done = shell.run("create_cluster.sh", "--dry-run", CLUSTER_NAME=unique, NODE_TYPE="m7i.xlarge", NODE_COUNT="4")
    assert f"about {total:.2f} USD an hour" in done.stderr
