"""The AWS account (STS, IAM, EKS, ECR): an emulator, seeded with the cluster that lesson 01 makes."""

import http.client
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

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
DIRECTORY_VARIABLE = "WORKSHOP_AWS_DIR"
ACCESS_KEY_VARIABLE = "WORKSHOP_AWS_ACCESS_KEY"
SECRET_KEY_VARIABLE = "WORKSHOP_AWS_SECRET_KEY"


class AwsAccount(Server):
    """The server `aws_server.py`, on loopback, which answers only to one pair of keys.

    Args:
        directory: the folder of the journal.
        access_key: the key id that may do everything.
        secret_key: its secret. The server gets it as an environment variable, which only its user can read.
    """

    name = "aws-account"
    stands_for = "AWS: STS, IAM, EKS, ECR (moto)"
    usual_ports = {"http": 5005}
    stop_within_seconds = 0  # the journal holds a request before the server answers

    def __init__(self, directory: Path, access_key: str, secret_key: str) -> None:
        super().__init__(directory)
        self.keys = access_key
        self._access_key = access_key
        self._secret_key = secret_key

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [sys.executable, "-P", "-m", "workshop.sandbox.aws_server", str(ports["http"])]

    def environment(self) -> dict[str, str]:
        return {
            DIRECTORY_VARIABLE: str(self.directory),
            ACCESS_KEY_VARIABLE: self._access_key,
            SECRET_KEY_VARIABLE: self._secret_key,
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
            "MOTO_DISABLE_GLOBAL_CORS": "true",
            "DOCKER_HOST": "tcp://127.0.0.1:1",  # moto must never start a container
        }

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/healthz") == 200

    def seed(self, record: Record) -> None:
        if not self.has_cluster(record):
            self.make_cluster(record)

    def has_cluster(self, record: Record) -> bool:
        """Tell whether the account has the cluster of lesson 01, with its node group.

        Args:
            record: the record of the running server.

        Raises:
            SandboxError: the account does not answer, or refuses the request.
        """
        path = f"/clusters/{CLUSTER}/node-groups/{NODE_GROUP}"
        status = self._ask_eks(record, path)
        if status not in (200, 404):
            raise SandboxError(f"the emulated AWS account answers {status or 'nothing'} to GET {path}")
        return status == 200

    def make_cluster(self, record: Record) -> None:
        """Make the missing parts of the EKS cluster of lesson 01. The role of the cluster's nodes may do everything
        except pull from ECR.

        Args:
            record: the record of the running server.
        """
        session = _session_without_settings(self._access_key, self._secret_key)
        iam, eks = (session.client(service, endpoint_url=record.address) for service in ("iam", "eks"))
        _make_cluster(iam, eks)

    def _ask_eks(self, record: Record, path: str) -> int | None:
        """Send one signed request and return the HTTP status; None when there is no answer.

        Importing boto3 would take longer than the request.
        """
        from botocore.credentials import Credentials

        from workshop.sandbox import aws_signature

        keys, scope = Credentials(self._access_key, self._secret_key), aws_signature.Scope(REGION, "eks")
        headers = aws_signature.signed_headers(keys, scope, "GET", record.address + path)
        connection = http.client.HTTPConnection(HOST, record.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def _make_cluster(iam: Any, eks: Any) -> None:
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


def _session_without_settings(access_key: str, secret_key: str) -> Any:
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
        botocore_session=core, aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=REGION
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
