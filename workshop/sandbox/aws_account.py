"""The AWS account (STS, IAM, EKS, ECR): a moto server, seeded with the cluster that lesson 01 makes.

moto keeps everything in memory. So moto's recorder writes every request to a file, and the next start replays the
requests that changed something. The account therefore survives a restart.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
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
# The policies that eksctl attaches to a node role, without the policy for pulling from ECR, which lesson 02 attaches.
NODE_POLICIES = ("AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy")
TAGS = {"project": "first-kubeflow-pipeline"}
READING = ("Get", "List", "Describe", "BatchGet", "Head", "Simulate")


class AwsAccount(Server):
    """moto's server, on loopback, with AWS's managed policies loaded.

    Args:
        directory: the folder of the recording of requests.
    """

    name = "aws-account"
    stands_for = "AWS: STS, IAM, EKS, ECR (moto)"
    usual_ports = {"http": 5005}
    stop_within_seconds = 0  # the recorder writes a request before moto answers

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [sys.executable, "-m", "workshop.sandbox.moto_server", "-H", HOST, "-p", str(ports["http"])]

    def environment(self) -> dict[str, str]:
        return {
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            "MOTO_DISABLE_GLOBAL_CORS": "true",
            "MOTO_RECORDER_FILEPATH": str(self._recording),
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
            self._recording.write_text("")  # an interrupted start may have left some lines
            self._ask_moto(record, "/moto-api/recorder/start-recording")
            make_cluster(record.address)
            complete.touch()

    @property
    def _recording(self) -> Path:
        return self.directory / "history.jsonl"

    def _ask_moto(self, record: Record, path: str) -> None:
        request = urllib.request.Request(record.address + path, data=b"", method="POST")
        try:
            _without_proxy().open(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise SandboxError(f"the emulated AWS account answered {error.code} to {path}: {said}") from None

    def _keep_what_changed_something(self) -> None:
        """Drop from the recording the requests that only read, and a last line that a kill cut off."""
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


def _query_action(request: dict[str, Any]) -> str:
    """Return the Action of a request in AWS's query protocol (STS, IAM); "" when it has none."""
    import base64

    body = request.get("body") or ""
    text = base64.b64decode(body).decode(errors="replace") if request.get("body_encoded") else str(body)
    return parse_qs(text).get("Action", [""])[0]


def has_cluster(address: str) -> bool:
    """Tell whether the account has the cluster of lesson 01, with its node group.

    Args:
        address: the address of the account, such as `http://127.0.0.1:5005`.
    """
    # moto finds the service in the credential part of a signature. Importing boto3 would take longer than the request.
    scope = {"Authorization": f"AWS4-HMAC-SHA256 Credential=seed/20260101/{REGION}/eks/aws4_request"}
    request = urllib.request.Request(f"{address}/clusters/{CLUSTER}/node-groups/{NODE_GROUP}", headers=scope)
    try:
        _without_proxy().open(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def make_cluster(address: str) -> None:
    """Make the missing parts of the EKS cluster of lesson 01. The role of the cluster's nodes may do everything
    except pull from ECR.

    Args:
        address: the address of the account, such as `http://127.0.0.1:5005`.
    """
    session = _session_without_settings()
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


def _session_without_settings() -> Any:
    """Return a boto3 session that reads no AWS setting of the reader: no variable, no profile, no file."""
    import boto3
    import botocore.session

    core = botocore.session.Session()
    # https://botocore.amazonaws.com/v1/documentation/api/latest/reference/config.html: for each name, the key in
    # files, the variable, the default, and the conversion.
    for name, (_, _, default, convert) in list(core.session_var_map.items()):
        core.session_var_map[name] = (None, None, default, convert)
    for name in ("config_file", "credentials_file"):
        core.session_var_map[name] = (None, None, os.devnull, None)
    return boto3.Session(
        botocore_session=core, aws_access_key_id="seed", aws_secret_access_key="seed", region_name=REGION
    )


def _make_role(iam: Any, name: str, service: str, policies: Iterable[str]) -> str:
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


def _without_proxy() -> urllib.request.OpenerDirector:
    # This function does not use requests: its import can lose its filter of warnings while another thread imports
    # boto3.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
