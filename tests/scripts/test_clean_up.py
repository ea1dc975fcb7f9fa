"""`scripts/clean_up.py`: its list, its deletions, and the resources that it keeps."""

import json
import re

import boto3
import pytest

from tests.support.aws_stand_in import AwsStandIn, Refusal, as_call
from workshop.project import ROOT
from workshop.sandbox import aws_account

TAG = {"Key": "project", "Value": "first-kubeflow-pipeline"}
EKSCTL_TAG = {"Key": "alpha.eksctl.io/cluster-name", "Value": "kubeflow-demo"}
BY_EKSCTL = {"cluster": {"tags": {TAG["Key"]: TAG["Value"], EKSCTL_TAG["Key"]: EKSCTL_TAG["Value"]}}}
GONE = Refusal("ResourceNotFoundException", "none")
NOTHING = "nothing of this project is left in account 123456789012, region us-east-1; nothing to do\n"


class Project:
    """What the scripts and a cluster leave in an account, under the test's own names."""

    def __init__(self, variables: dict, name: str) -> None:
        session = boto3.Session(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
        self.aws = lambda service: session.client(
            service,
            region_name="us-east-1",
            endpoint_url=variables["AWS_ENDPOINT_URL_S3" if service == "s3" else "AWS_ENDPOINT_URL"],
        )
        self.s3 = self.aws("s3")
        self.cluster, self.bucket, self.repository = name, f"{name}-bucket", f"{name}-images"
        self.settings = {
            "CLUSTER_NAME": self.cluster,
            "WORKSHOP_BUCKET": self.bucket,
            "COMPONENT_REPOSITORY": self.repository,
        }

    def make_bucket(self, tagged: bool = True) -> None:
        """Make a bucket with two versions of an object, a deleted object, and an upload that was not finished."""
        self.s3.create_bucket(Bucket=self.bucket)
        if tagged:
            self.s3.put_bucket_tagging(Bucket=self.bucket, Tagging={"TagSet": [TAG]})
        versioning = {"Status": "Enabled"}
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration=versioning)
        for body in (b"one", b"two"):
            self.s3.put_object(Bucket=self.bucket, Key="it's a key", Body=body)
        self.s3.put_object(Bucket=self.bucket, Key="deleted", Body=b"")
        self.s3.delete_object(Bucket=self.bucket, Key="deleted")
        suspended = {"Status": "Suspended"}
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration=suspended)
        self.s3.put_object(Bucket=self.bucket, Key="without a version", Body=b"")
        self.s3.create_multipart_upload(Bucket=self.bucket, Key="unfinished")

    def make_repository(self, tagged: bool = True) -> None:
        """Make the repositories of both images."""
        for name in (self.repository, f"{self.repository}-notebook"):
            self.aws("ecr").create_repository(repositoryName=name, tags=[TAG] if tagged else [])

    def make_role(self) -> None:
        trust = {"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": "sts:AssumeRole"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        self.aws("iam").create_role(RoleName=f"{self.cluster}-s3", AssumeRolePolicyDocument=document)
        allow = json.dumps({"Version": "2012-10-17", "Statement": [trust | {"Resource": "*"}]}).replace(
            '"Principal": {"Service": "pods.eks.amazonaws.com"}, ', ""
        )
        self.aws("iam").put_role_policy(RoleName=f"{self.cluster}-s3", PolicyName="one-bucket", PolicyDocument=allow)

    def make_leftovers(self) -> None:
        """Make the resources that a cluster creates and does not delete: a disk, a load balancer, logs."""
        owned = {"Key": f"kubernetes.io/cluster/{self.cluster}", "Value": "owned"}
        disk = {"ResourceType": "volume", "Tags": [owned]}
        self.aws("ec2").create_volume(
            AvailabilityZone="us-east-1a", Size=100, VolumeType="gp3", TagSpecifications=[disk]
        )
        listener = {"Protocol": "tcp", "LoadBalancerPort": 80, "InstancePort": 80}
        self.aws("elb").create_load_balancer(
            LoadBalancerName=self.cluster[-20:], Listeners=[listener], AvailabilityZones=["us-east-1a"], Tags=[owned]
        )
        self.aws("logs").create_log_group(logGroupName=f"/aws/eks/{self.cluster}/cluster")

    def left(self) -> list[str]:
        """Return the resources that the account still has."""
        volumes = self.aws("ec2").describe_volumes(
            Filters=[{"Name": "tag-key", "Values": [f"kubernetes.io/cluster/{self.cluster}"]}]
        )["Volumes"]
        balancers = self.aws("elb").describe_load_balancers()["LoadBalancerDescriptions"]
        logs = self.aws("logs").describe_log_groups(logGroupNamePrefix=f"/aws/eks/{self.cluster}/")["logGroups"]
        names = [
            *(cluster for cluster in self.aws("eks").list_clusters()["clusters"]),
            *(found["repositoryName"] for found in self.aws("ecr").describe_repositories()["repositories"]),
            *(found["Name"] for found in self.s3.list_buckets()["Buckets"]),
            *(found["RoleName"] for found in self.aws("iam").list_roles()["Roles"]),
        ]
        return [
            *(name for name in names if name.startswith(self.cluster)),
            *(["disk"] if volumes else []),
            *(["load balancer"] if self.cluster[-20:] in [found["LoadBalancerName"] for found in balancers] else []),
            *(["logs"] if logs else []),
        ]


@pytest.fixture
def project(account, unique) -> Project:
    return Project(account.environment(), f"c{unique}")


@pytest.fixture
def clean_up(shell, project):
    return lambda *arguments, **options: shell.run("clean_up.py", *arguments, **project.settings | options)


@pytest.mark.slow
def test_everything_is_shown_with_its_price_then_deleted_then_found_gone(own_account, shell):
    project = Project(own_account.environment(), "kubeflow-demo")
    for make in (project.make_bucket, project.make_repository, project.make_role, project.make_leftovers):
        make()
    ec2 = project.aws("ec2")
    of_another = {"Key": "kubernetes.io/cluster/another", "Value": "owned"}
    for size, tags in ((50, [TAG]), (1, [TAG, of_another])):
        specification = {"ResourceType": "volume", "Tags": tags}
        ec2.create_volume(AvailabilityZone="us-east-1a", Size=size, VolumeType="gp3", TagSpecifications=[specification])
    before = project.left()
    assert len(before) == 10

    shown = shell.run("clean_up.py", **project.settings)
    assert shown.returncode == 0, shown.stderr
    prices = json.loads((ROOT / "deploy" / "prices.json").read_text())["items"]
    hours = {"cluster": prices["eks_cluster"]["usd"], "nodes": 2 * prices["m6i.xlarge"]["usd"]}
    assert f"{hours['cluster'] * 730:10.2f}  EKS cluster kubeflow-demo" in shown.stdout
    assert f"{hours['nodes'] * 730:10.2f}    node group kubeflow-demo-nodes: 2 x m6i.xlarge" in shown.stdout
    assert re.search(rf"{100 * prices['gp3']['usd']:10.2f}  disk vol-\w+: 100 GB", shown.stdout)
    in_all = sum(hours.values()) * 730 + 150 * prices["gp3"]["usd"] + prices["classic_load_balancer"]["usd"] * 730
    assert f"{in_all:10.2f}  in all" in shown.stdout
    assert "nothing was changed" in shown.stdout and project.left() == before

    done = shell.run("clean_up.py", "--yes", **project.settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("AWS was asked again: nothing that is billed is left")
    assert project.left() == [] and [disk["Size"] for disk in ec2.describe_volumes()["Volumes"]] == [1]
    again = shell.run("clean_up.py", "--yes", **project.settings)
    assert again.returncode == 0 and again.stdout == NOTHING


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_pasted_does_the_same(clean_up, shell, project):
    for make in (project.make_bucket, project.make_repository, project.make_leftovers):
        make()
    before = project.left()
    shown = clean_up("--dry-run")
    assert shown.returncode == 0 and project.left() == before
    pasted = shell.paste(shown.stdout)
    assert pasted.returncode == 0, pasted.stderr
    assert project.left() == []


@pytest.mark.slow
def test_what_is_not_the_projects_is_left_alone(clean_up, project):
    project.make_bucket(tagged=False)
    project.make_repository(tagged=False)
    other = Project.__new__(Project)
    other.__dict__ |= project.__dict__ | {"cluster": f"{project.cluster}-2"}
    other.make_role()  # this cluster's name only begins like the name of the test's cluster
    before = project.left()
    done = clean_up("--yes")
    assert done.returncode == 0 and done.stdout == NOTHING
    assert f"--bucket {project.bucket}" in done.stderr and "repository" in done.stderr
    assert project.left() == before


@pytest.mark.slow
def test_what_was_half_deleted_is_finished_and_a_bucket_without_the_tag_goes_when_it_is_named(clean_up, project):
    project.make_bucket(tagged=False)
    project.make_role()
    project.aws("iam").delete_role_policy(RoleName=f"{project.cluster}-s3", PolicyName="one-bucket")
    assert clean_up("--yes", "--bucket", "another").returncode == 2
    assert len(project.left()) == 2
    assert clean_up("--yes", "--bucket", project.bucket).returncode == 0
    assert project.left() == []


@pytest.fixture
def eks(shell):
    """Start an AWS that has a cluster made by eksctl, and nothing else; the given answers replace the default
    answers."""
    started = []

    def start(**answers) -> AwsStandIn:
        none = Refusal("RepositoryNotFoundException", "none")
        group = {"scalingConfig": {"desiredSize": 3}, "instanceTypes": ["m6i.xlarge"], "capacityType": "SPOT"}
        usual = {
            "GetCallerIdentity": {"Account": "123456789012"},
            "DescribeCluster": BY_EKSCTL,
            "ListPodIdentityAssociations": {
                "associations": [{"associationId": "a-1", "serviceAccount": "default-editor"}]
            },
            "ListNodegroups": {"nodegroups": ["nodes"]},
            "DescribeNodegroup": {"nodegroup": group},
            "DescribeRepositories": none,
        }
        started.append(AwsStandIn(shell, usual | answers))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def changes(shell) -> list[str]:
    return [call for call in shell.calls if not re.search(r" (describe|list|get)-| version", call)]


@pytest.mark.slow
def test_a_cluster_by_eksctl_is_deleted_by_eksctl(shell, eks):
    shell.stand_in("eksctl")
    eks()
    shown = shell.run("clean_up.py", "--dry-run", AWS_DEFAULT_REGION="us-east-1")
    assert shown.stdout.splitlines() == [
        "aws eks delete-pod-identity-association --cluster-name kubeflow-demo --association-id a-1",
        "eksctl delete cluster --name kubeflow-demo --region us-east-1 --wait --disable-nodegroup-eviction",
    ]
    assert changes(shell) == []
    done = shell.run("clean_up.py", "--yes", AWS_DEFAULT_REGION="us-east-1")
    association, cluster = shown.stdout.splitlines()
    assert changes(shell) == [as_call(association), cluster]
    # This AWS still shows the cluster after the deletion, so the script must report a failure.
    assert done.returncode == 1 and "AWS still bills some of it" in done.stderr
    assert "cluster\tkubeflow-demo" in done.stderr
    # The price of a spot instance is not made up.
    assert "         ?    node group nodes: 3 x m6i.xlarge" in done.stdout


@pytest.mark.slow
def test_when_eksctl_fails_what_it_has_left_is_deleted_if_the_cluster_is_gone(shell, eks):
    shell.stand_in("eksctl", ("delete", "the stack cannot be deleted\n", 1))

    def stacks():
        deleted = any("delete-stack" in call for call in shell.calls)
        stack = {"StackName": "eksctl-kubeflow-demo-cluster", "StackStatus": "DELETE_COMPLETE", "Tags": [EKSCTL_TAG]}
        return {"Stacks": [stack | ({} if deleted else {"StackStatus": "CREATE_COMPLETE"})]}

    eks(
        DescribeCluster=lambda: GONE if any("eksctl" in call for call in changes(shell)) else BY_EKSCTL,
        DescribeNetworkInterfaces={"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1"}]},
        DescribeSecurityGroups={"SecurityGroups": [{"GroupId": "sg-1"}]},
        DescribeStacks=stacks,
    )
    done = shell.run("clean_up.py", "--yes", AWS_DEFAULT_REGION="us-east-1")
    assert "eksctl has left something" in done.stderr
    assert changes(shell)[2:] == [
        "aws ec2 delete-network-interface --network-interface-id eni-1",
        "aws ec2 delete-security-group --group-id sg-1",
        "aws cloudformation delete-stack --stack-name eksctl-kubeflow-demo-cluster",
    ]
    deleted = shell.calls.index(changes(shell)[-1])
    waited = "aws cloudformation describe-stacks --stack-name eksctl-kubeflow-demo-cluster"
    assert shell.calls[deleted + 1] == waited


@pytest.mark.slow
def test_when_eksctl_fails_and_the_cluster_is_there_nothing_else_is_deleted(shell, eks):
    shell.stand_in("eksctl", ("delete", "no\n", 1))
    eks()
    done = shell.run("clean_up.py", "--yes", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and "eksctl has not deleted the cluster kubeflow-demo" in done.stderr
    assert changes(shell)[-1].startswith("eksctl delete cluster")


@pytest.mark.slow
def test_without_eksctl_nothing_is_deleted(shell, eks):
    eks()
    done = shell.run("clean_up.py", "--yes", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 3 and "eksctl is not installed" in done.stderr and changes(shell) == []


@pytest.mark.slow
def test_a_cluster_without_the_tag_keeps_all_that_carries_its_name(shell, eks):
    disk = {"VolumeId": "vol-1", "Size": 1, "VolumeType": "gp3", "State": "available"}
    disk["Tags"] = [{"Key": "kubernetes.io/cluster/kubeflow-demo", "Value": "owned"}]
    of_others = {"cluster": {"tags": {"alpha.eksctl.io/cluster-name": "kubeflow-demo"}}}
    eks(DescribeCluster=of_others, DescribeVolumes={"Volumes": [disk]})
    done = shell.run("clean_up.py", "--yes", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 0 and done.stdout == NOTHING and "left alone" in done.stderr
    assert changes(shell) == []


@pytest.mark.slow
def test_stacks_that_eksctl_has_left_are_deleted_the_clusters_own_last(shell, eks):
    names = ("eksctl-kubeflow-demo-cluster", "eksctl-kubeflow-demo-nodegroup-nodes")
    stacks = [{"StackName": name, "Tags": [EKSCTL_TAG]} for name in names]
    eks(DescribeCluster=GONE, DescribeStacks={"Stacks": stacks})
    shown = shell.run("clean_up.py", "--dry-run", AWS_DEFAULT_REGION="us-east-1")
    names = re.findall(r"delete-stack --stack-name (\S+)", shown.stdout)
    assert names == ["eksctl-kubeflow-demo-nodegroup-nodes", "eksctl-kubeflow-demo-cluster"]


@pytest.mark.slow
def test_what_aws_denies_is_1_and_nothing_is_deleted(shell, eks):
    said = "An error occurred (AccessDenied) when calling the ListNodegroups operation: no"
    eks(ListNodegroups=Refusal("AccessDenied", "no"))
    done = shell.run("clean_up.py", "--yes", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 1 and said in done.stderr and changes(shell) == []


@pytest.mark.slow
def test_pasting_a_dry_run_sends_the_requests_that_the_program_sends(shell, eks):
    def tagged(**fields):
        return fields | {"Tags": [{"Key": "kubernetes.io/cluster/kubeflow-demo", "Value": "owned"}]}

    balancer = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/net/a/1"
    provider = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/A"
    eks(
        DescribeCluster=GONE,
        DescribeVolumes={
            "Volumes": [tagged(VolumeId="vol-1", Size=1, VolumeType="gp3", State="available")],
        },
        DescribeNatGateways=lambda: {
            "NatGateways": [{"NatGatewayId": "nat-1", "State": state_of("nat", "deleted", "available")}]
        },
        DescribeAddresses={"Addresses": [{"AllocationId": "eip-1"}]},
        DescribeLoadBalancers={"LoadBalancers": [{"LoadBalancerArn": balancer}], "LoadBalancerDescriptions": []},
        DescribeTags={"TagDescriptions": [tagged(ResourceArn=balancer)]},
        DescribeLogGroups={"logGroups": [{"logGroupName": "/aws/eks/kubeflow-demo/cluster", "storedBytes": 1}]},
        ListRoles={"Roles": [{"RoleName": "kubeflow-demo-s3"}]},
        ListAttachedRolePolicies={"AttachedPolicies": [{"PolicyArn": "arn:aws:iam::aws:policy/AnyPolicy"}]},
        ListRolePolicies={"PolicyNames": ["it's one"]},
        ListOpenIDConnectProviders={"OpenIDConnectProviderList": [{"Arn": provider}]},
        ListOpenIDConnectProviderTags={"Tags": [TAG]},
    )

    def state_of(what, after, before):
        return after if any(f"delete-{what}" in call for call in shell.calls) else before

    shown = shell.run("clean_up.py", "--dry-run")
    assert shown.returncode == 0 and changes(shell) == [], shown.stderr
    shell.run("clean_up.py", "--yes")
    by_program = changes(shell)
    assert len(by_program) == 9
    shell.forget_calls()
    shell.provide_aws()
    pasted = shell.paste(shown.stdout)
    assert pasted.returncode == 0, pasted.stderr
    assert changes(shell) == by_program


@pytest.mark.slow
def test_the_cluster_on_this_machine_is_deleted_by_kind(shell):
    shell.stand_in("kind", ("get clusters", "another\nkubeflow-demo\n"))
    assert "nothing was changed" in shell.run("clean_up.py", "--local").stdout
    assert shell.run("clean_up.py", "--local", "--dry-run").stdout == "kind delete cluster --name kubeflow-demo\n"
    assert changes(shell) == ["kind get clusters"] * 2
    assert shell.run("clean_up.py", "--local", "--yes").returncode == 0
    assert shell.calls[-1] == "kind delete cluster --name kubeflow-demo"
    shell.stand_in("kind", ("get clusters", "another\n"))
    assert "nothing to do" in shell.run("clean_up.py", "--local", "--yes").stdout


@pytest.mark.slow
def test_no_tool_and_no_credentials_are_3(clean_up):
    assert clean_up(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").returncode == 3
    assert clean_up("--local").returncode == 3


@pytest.mark.slow
def test_wrong_usage_and_bad_names_are_2(shell):
    assert shell.run("clean_up.py", "everything").returncode == 2
    assert shell.run("clean_up.py", "--bucket").returncode == 2
    assert shell.run("clean_up.py", CLUSTER_NAME="*").returncode == 2


def test_the_clusters_of_the_sandbox_are_tagged_as_the_projects(account):
    eks = Project(account.environment(), "x").aws("eks")
    found = eks.describe_cluster(name=aws_account.CLUSTER)["cluster"]
    assert found["tags"] == {TAG["Key"]: TAG["Value"]}


def test_every_price_says_what_it_is_for_and_where_it_is_from():
    prices = json.loads((ROOT / "deploy" / "prices.json").read_text())
    assert prices["currency"] == "USD" and re.fullmatch(r"\d{4}-\d\d-\d\d", prices["read_on"])
    for name, item in prices["items"].items():
        assert item["per"] in ("hour", "GB-month", "GB"), name
        assert item["usd"] is None or 0 < item["usd"] < 10, name
        assert item["what"] and item["source"].startswith("https://") and "//aws.amazon.com/" in item["check"], name
