"""The AWS account (STS, IAM, EKS, ECR): a moto server, seeded with the cluster that lesson 01 makes.

moto keeps everything in memory. So that the account survives a restart, moto's own recorder writes every request
down, and a new start plays back those that changed something.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

from workshop.project import versions
from workshop.sandbox.errors import SandboxError
from workshop.sandbox.processes import HOST
from workshop.sandbox.server import Record, Server, http_status

ACCOUNT = "123456789012"  # moto's default, an account number that AWS uses only in examples
REGION = "us-east-1"
CLUSTER = "kubeflow-demo"
NODE_GROUP = "kubeflow-demo-nodes"
NODE_ROLE = "kubeflow-demo-node"
CLUSTER_ROLE = "kubeflow-demo-cluster"
# What eksctl attaches to a node role, without the policy that lets nodes pull from ECR: lesson 02 finds that out.
NODE_POLICIES = ("AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy")
TAGS = {"project": "first-kubeflow-pipeline"}
READING = ("Get", "List", "Describe", "BatchGet", "Head", "Simulate")


class AwsAccount(Server):
    """moto's server, on loopback, with AWS's managed policies loaded.

    Args:
        directory: where the recording of the account's history is kept.
    """

    name = "aws-account"
    stands_for = "AWS: STS, IAM, EKS, ECR (moto)"
    usual_ports = {"http": 5005}
    stop_within_seconds = 0  # every request is in the recording before it is answered

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(ports["http"])]

    def environment(self) -> dict[str, str]:
        return {
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            "MOTO_DISABLE_GLOBAL_CORS": "true",
            "MOTO_RECORDER_FILEPATH": str(self._recording),
            "PYTHONPATH": "",
        }

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/moto-api/") == 200

    def seed(self, record: Record) -> None:
        self._ask_moto(record, "/moto-api/seed?a=1")  # the same ids in every new account
        complete = self.directory / "complete"
        if complete.exists() and self._recording.exists():
            self._keep_what_changed_something()
            self._ask_moto(record, "/moto-api/recorder/replay-recording")
            self._ask_moto(record, "/moto-api/recorder/start-recording")
        else:
            self._recording.write_text("")  # what an interrupted start has left
            self._ask_moto(record, "/moto-api/recorder/start-recording")
            make_cluster(record.address)
            complete.touch()

    @property
    def _recording(self) -> Path:
        return self.directory / "history.jsonl"

    def _ask_moto(self, record: Record, path: str) -> None:
        request = urllib.request.Request(record.address + path, data=b"", method="POST")
        try:
            _past_any_proxy().open(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise SandboxError(f"the emulated AWS account answered {error.code} to {path}: {said}") from None

    def _keep_what_changed_something(self) -> None:
        """Drop from the recording what only reads, and what a kill cut off."""
        kept = [line for line in self._recording.read_text().splitlines() if _changes_something(line)]
        temporary = self._recording.with_suffix(".new")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(self._recording)


def _changes_something(line: str) -> bool:
    try:
        request = json.loads(line)
    except ValueError:
        return False
    if request["method"] in ("GET", "HEAD"):
        return False
    headers = {name.lower(): value for name, value in request["headers"].items()}
    operation = headers.get("x-amz-target", "").rpartition(".")[2] or _query_action(request)
    return not operation.startswith(READING)


def _query_action(request: dict) -> str:
    """Return the Action of a request in AWS's query protocol (STS, IAM), or nothing."""
    import base64

    body = request.get("body") or ""
    text = base64.b64decode(body).decode(errors="replace") if request.get("body_encoded") else str(body)
    return parse_qs(text).get("Action", [""])[0]


def has_cluster(address: str) -> bool:
    """Tell whether the account has the cluster of lesson 01, with its node group.

    Args:
        address: of the account, such as `http://127.0.0.1:5005`.
    """
    # The part of a signature by which moto knows the service: boto3 would take longer to import than all of this.
    scope = {"Authorization": f"AWS4-HMAC-SHA256 Credential=seed/20260101/{REGION}/eks/aws4_request"}
    request = urllib.request.Request(f"{address}/clusters/{CLUSTER}/node-groups/{NODE_GROUP}", headers=scope)
    try:
        _past_any_proxy().open(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def make_cluster(address: str) -> None:
    """Make what is missing of the EKS cluster of lesson 01: its role may do everything but pull from ECR.

    Args:
        address: of the account, such as `http://127.0.0.1:5005`.
    """
    import boto3

    session = boto3.Session(aws_access_key_id="seed", aws_secret_access_key="seed", region_name=REGION)
    iam, eks = (session.client(service, endpoint_url=address) for service in ("iam", "eks"))
    cluster_role = _make_role(iam, CLUSTER_ROLE, "eks.amazonaws.com", ["AmazonEKSClusterPolicy"])
    node_role = _make_role(iam, NODE_ROLE, "ec2.amazonaws.com", NODE_POLICIES)
    network = {"subnetIds": ["subnet-0a", "subnet-0b"], "endpointPublicAccess": True}
    with suppress(eks.exceptions.ResourceInUseException):
        eks.create_cluster(
            name=CLUSTER,
            version=versions()["KUBERNETES_VERSION"],
            roleArn=cluster_role,
            resourcesVpcConfig=network,
            tags=TAGS,
        )
    with suppress(eks.exceptions.ResourceInUseException):
        eks.create_nodegroup(
            clusterName=CLUSTER,
            nodegroupName=NODE_GROUP,
            nodeRole=node_role,
            subnets=network["subnetIds"],
            instanceTypes=["m6i.xlarge"],
            scalingConfig={"minSize": 2, "maxSize": 3, "desiredSize": 2},
            tags=TAGS,
        )


def _make_role(iam, name: str, service: str, policies) -> str:
    """Make a role that an AWS service may assume, if it is missing, and return its ARN."""
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    }
    tags = [{"Key": key, "Value": value} for key, value in TAGS.items()]
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), Tags=tags)
    for policy in policies:
        iam.attach_role_policy(RoleName=name, PolicyArn=f"arn:aws:iam::aws:policy/{policy}")
    return iam.get_role(RoleName=name)["Role"]["Arn"]


def _past_any_proxy() -> urllib.request.OpenerDirector:
    # Not with requests: imported in one thread while boto3 is in another, it can lose its filter of warnings.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
