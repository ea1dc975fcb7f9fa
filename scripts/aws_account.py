"""The project's resources in the AWS account, and the steps by which `clean_up.py` deletes them."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoRegionError,
    WaiterError,
)
from steps import FAILED, MISSING, ScriptError, Step, note

from workshop.aws_logins import login_advice
from workshop.settings import Settings

TAG, OURS = "project", "first-kubeflow-pipeline"
EKSCTL_TAG = "alpha.eksctl.io/cluster-name"
# The service prefix of a command, where it differs from the name of the service.
COMMANDS = {"s3": "s3api"}
# A shell takes a command line of at least 128 KiB; S3 deletes at most 1,000 objects at a time.
LONGEST_BATCH, LARGEST_BATCH = 90_000, 1000


@dataclass(frozen=True)
class Item:
    """One resource of the project in the account.

    Attributes:
        kind: such as "volume".
        name: its name at AWS.
        what: text for the reader.
        price: name of its price in `deploy/prices.json`, or "" when AWS does not bill it.
        quantity: hours or GB-months are billed times this number.
        steps: returns the steps that delete the resource. The call may ask AWS.
    """

    kind: str
    name: str
    what: str
    price: str
    quantity: float
    steps: Callable[[], Iterator[Step]]


class Account:
    """An AWS account and region, with the project's resources in them.

    Args:
        settings: names of cluster, repository and bucket.
        named_bucket: a bucket that is the project's although it has no tag, or "".
    """

    def __init__(self, settings: Settings, named_bucket: str) -> None:
        self._settings = settings
        self._cluster = settings.cluster_name
        self._named_bucket = named_bucket
        self._session = boto3.Session()
        self._clients: dict[str, Any] = {}
        self._making_clients = threading.Lock()
        self.region = self._session.region_name or ""
        if not self.region:
            raise NoRegionError
        self.number = self._client("sts").get_caller_identity()["Account"]

    # ---- the resources

    def find(self) -> list[Item]:
        """Ask AWS for all resources of the project at the same time, because each answer takes a moment.

        Returns:
            The items, in the order in which they are shown.
        """
        cluster = self._find_cluster()
        searches: list[Callable[[], list[Item]]] = [self._find_repositories, self._find_bucket]
        if cluster is not None:
            of_cluster = [self._find_stacks, self.find_volumes, self._find_nat_gateways, self._find_addresses]
            of_cluster += [self._find_load_balancers, self._find_classic_load_balancers, self._find_logs]
            searches = [*of_cluster, *searches, self._find_roles, self._find_identity_providers]
        with ThreadPoolExecutor(len(searches)) as threads:
            found = list(threads.map(lambda search: search(), searches))
        return [*(cluster or []), *(item for items in found for item in items)]

    def _find_cluster(self) -> list[Item] | None:
        """Return the cluster's items; None when another project has a cluster of this name."""
        try:
            cluster = self._client("eks").describe_cluster(name=self._cluster)["cluster"]
        except ClientError as error:
            if is_gone(error):
                return []
            raise
        tags = cluster.get("tags") or {}
        if tags.get(TAG) != OURS:
            note(
                f"the cluster {self._cluster} does not carry the tag {TAG}={OURS}; "
                "it is left alone, with its disks, logs and roles"
            )
            return None
        if EKSCTL_TAG in tags:
            kind, deletion, group_deletion = "eksctl cluster", self._delete_cluster_with_eksctl, no_steps
        else:
            kind, deletion, group_deletion = "cluster", self._delete_cluster, self._delete_node_group
        what = f"EKS cluster {self._cluster}"
        return [
            *self._find_associations(),
            *self._find_node_groups(group_deletion),
            Item(kind, self._cluster, what, "eks_cluster", 1, deletion),
        ]

    def _find_associations(self) -> list[Item]:
        """Find the resources that `grant_s3_access.sh` made. EKS deletes all other associations with the cluster."""
        try:
            found = self._list(
                "eks",
                "list_pod_identity_associations",
                "associations",
                clusterName=self._cluster,
                **self._service_account(),
            )
        except ClientError as error:
            # The sandbox has no pod identity, and answers 404.
            if is_gone(error):
                return []
            raise
        items = []
        for association in found:
            name = association["associationId"]
            call = partial(self._step, "eks", "DeletePodIdentityAssociation", clusterName=self._cluster)
            step = call(associationId=name, after=f"deleted the pod identity association {name}")
            what = f"  pod identity association of {association['serviceAccount']}"
            items.append(Item("association", name, what, "", 0, partial(iter, [step])))
        return items

    def _service_account(self) -> dict[str, str]:
        """Return the namespace and the service account, where the settings name them."""
        named = {"namespace": self._settings.kubeflow_namespace, "serviceAccount": self._settings.service_account}
        return {name: value for name, value in named.items() if value}

    def _find_node_groups(self, deletion: Callable[[str], Iterator[Step]]) -> list[Item]:
        items = []
        for name in self._list("eks", "list_nodegroups", "nodegroups", clusterName=self._cluster):
            group = self._client("eks").describe_nodegroup(clusterName=self._cluster, nodegroupName=name)["nodegroup"]
            nodes = group.get("scalingConfig", {}).get("desiredSize", 0)
            machine = (group.get("instanceTypes") or ["unknown"])[0]
            price = "spot" if group.get("capacityType") == "SPOT" else machine
            what = f"  node group {name}: {nodes} x {machine}"
            items.append(Item("node group", name, what, price, nodes, partial(deletion, name)))
        return items

    def _find_stacks(self) -> list[Item]:
        """Find the CloudFormation stacks of eksctl. After an interruption, only these stacks may be left."""
        wanted = {"Key": EKSCTL_TAG, "Value": self._cluster}
        stacks = self._list("cloudformation", "describe_stacks", "Stacks")
        names = [stack["StackName"] for stack in stacks if wanted in stack.get("Tags", [])]
        # The cluster's own stack holds the network of the other stacks, so eksctl deletes this stack last.
        names.sort(key=lambda name: name.endswith("-cluster"))
        return [
            Item("stack", name, f"CloudFormation stack {name}", "", 0, partial(self._delete_stack, name))
            for name in names
        ]

    def find_volumes(self) -> list[Item]:
        """Find disks with the cluster's name, and unattached disks that have only the project's tag.

        `deploy/kubeflow/storage-class.yaml` gives disks that tag.
        """
        of_cluster = f"kubernetes.io/cluster/{self._cluster}"
        filters = [{"Name": "tag-key", "Values": [of_cluster, TAG]}]
        items = []
        for volume in self._list("ec2", "describe_volumes", "Volumes", Filters=filters):
            tags = as_dict(volume.get("Tags"))
            in_no_cluster = not any(key.startswith("kubernetes.io/cluster/") for key in tags)
            unattached = tags.get(TAG) == OURS and volume["State"] == "available" and in_no_cluster
            if of_cluster in tags or unattached:
                name, size = volume["VolumeId"], volume["Size"]
                deletion = partial(self._delete_volume, name, volume["State"])
                items.append(Item("volume", name, f"disk {name}: {size} GB", volume["VolumeType"], size, deletion))
        return items

    def _find_nat_gateways(self) -> list[Item]:
        filters = [
            {"Name": f"tag:{EKSCTL_TAG}", "Values": [self._cluster]},
            {"Name": "state", "Values": ["pending", "available"]},
        ]
        gateways = self._list("ec2", "describe_nat_gateways", "NatGateways", Filter=filters)
        names = [gateway["NatGatewayId"] for gateway in gateways]
        return [
            Item("NAT gateway", name, f"NAT gateway {name}", "nat_gateway", 1, partial(self._delete_nat_gateway, name))
            for name in names
        ]

    def _find_addresses(self) -> list[Item]:
        filters = [{"Name": f"tag:{EKSCTL_TAG}", "Values": [self._cluster]}]
        items = []
        for address in self._list("ec2", "describe_addresses", "Addresses", Filters=filters):
            name = address["AllocationId"]
            step = self._step("ec2", "ReleaseAddress", AllocationId=name, after=f"released the address {name}")
            items.append(Item("address", name, f"public address {name}", "public_ipv4", 1, partial(iter, [step])))
        return items

    def _find_load_balancers(self) -> list[Item]:
        """Find the load balancers that Kubernetes made for its services."""
        client = self._client("elbv2")
        items = []
        for balancer in self._list("elbv2", "describe_load_balancers", "LoadBalancers"):
            name = balancer["LoadBalancerArn"]
            tags = as_dict(client.describe_tags(ResourceArns=[name])["TagDescriptions"][0].get("Tags"))
            if self._is_of_cluster(tags):
                step = self._step("elbv2", "DeleteLoadBalancer", LoadBalancerArn=name, after=f"deleted {name}")
                what = f"load balancer {'/'.join(name.split('/')[1:3])}"
                items.append(Item("load balancer", name, what, "load_balancer", 1, partial(iter, [step])))
        return items

    def _find_classic_load_balancers(self) -> list[Item]:
        client = self._client("elb")
        items = []
        for balancer in self._list("elb", "describe_load_balancers", "LoadBalancerDescriptions"):
            name = balancer["LoadBalancerName"]
            tags = as_dict(client.describe_tags(LoadBalancerNames=[name])["TagDescriptions"][0].get("Tags"))
            if self._is_of_cluster(tags):
                after = f"deleted the load balancer {name}"
                step = self._step("elb", "DeleteLoadBalancer", LoadBalancerName=name, after=after)
                what = f"load balancer {name}"
                items.append(Item("load balancer", name, what, "classic_load_balancer", 1, partial(iter, [step])))
        return items

    def _is_of_cluster(self, tags: dict[str, str]) -> bool:
        return f"kubernetes.io/cluster/{self._cluster}" in tags or tags.get("elbv2.k8s.aws/cluster") == self._cluster

    def _find_logs(self) -> list[Item]:
        prefix = f"/aws/eks/{self._cluster}/"
        items = []
        for group in self._list("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=prefix):
            name = group["logGroupName"]
            step = self._step("logs", "DeleteLogGroup", logGroupName=name, after=f"deleted the logs {name}")
            gigabytes = group.get("storedBytes", 0) / 1e9
            items.append(Item("logs", name, f"logs {name}", "cloudwatch_logs", gigabytes, partial(iter, [step])))
        return items

    def _find_repositories(self) -> list[Item]:
        client = self._client("ecr")
        items = []
        for name in (self._settings.component_repository, f"{self._settings.component_repository}-notebook"):
            try:
                arn = client.describe_repositories(repositoryNames=[name])["repositories"][0]["repositoryArn"]
            except client.exceptions.RepositoryNotFoundException:
                continue
            if as_dict(client.list_tags_for_resource(resourceArn=arn).get("tags")).get(TAG) != OURS:
                note(f"the repository {name} does not carry the tag {TAG}={OURS}; it is left alone")
                continue
            images = self._list("ecr", "describe_images", "imageDetails", repositoryName=name)
            gigabytes = sum(image.get("imageSizeInBytes", 0) for image in images) / 1e9
            after = f"deleted the repository {name}"
            step = self._step("ecr", "DeleteRepository", repositoryName=name, force=True, after=after)
            what = f"ECR repository {name}: {gigabytes:.3f} GB of images"
            items.append(Item("repository", name, what, "ecr", gigabytes, partial(iter, [step])))
        return items

    def _find_bucket(self) -> list[Item]:
        name = self._settings.workshop_bucket
        if not name:
            return []
        try:
            tags = as_dict(self._client("s3").get_bucket_tagging(Bucket=name)["TagSet"])
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchBucket", "404"):
                return []
            # The bucket exists, without tags, or its S3 has no tags.
            if code not in ("NoSuchTagSet", "NotImplemented", "MethodNotAllowed", "501", "405"):
                raise
            tags = {}
        if tags.get(TAG) != OURS and not self._named_bucket:
            note(
                f"the bucket {name} does not carry the tag {TAG}={OURS}; it is left alone. "
                f"To delete it too, with everything in it: --bucket {name}"
            )
            return []
        versions = self._list("s3", "list_object_versions", "Versions", Bucket=name)
        gigabytes = sum(version.get("Size", 0) for version in versions) / 1e9
        deletion = partial(self._delete_bucket, name)
        return [Item("bucket", name, f"bucket {name}: {gigabytes:.3f} GB", "s3", gigabytes, deletion)]

    def _find_roles(self) -> list[Item]:
        """Find the roles of the scripts. The roles of an eksctl cluster go with its stacks."""
        of_s3 = f"{self._cluster}-s3"
        wanted = (of_s3, f"{self._cluster}-node", f"{self._cluster}-cluster")
        items = []
        for role in self._list("iam", "list_roles", "Roles"):
            name = role["RoleName"]
            if name not in wanted:
                continue
            # Lesson 03 makes the role for S3 without a tag.
            if name != of_s3:
                tags = as_dict(self._client("iam").list_role_tags(RoleName=name).get("Tags"))
                if tags.get(TAG) != OURS:
                    continue
            items.append(Item("role", name, f"IAM role {name}", "", 0, partial(self._delete_role, name)))
        return items

    def _find_identity_providers(self) -> list[Item]:
        client = self._client("iam")
        items = []
        for provider in self._list("iam", "list_open_id_connect_providers", "OpenIDConnectProviderList"):
            arn = provider["Arn"]
            # IAM is the same in every region, and another region may have a cluster of this name.
            if f"/oidc.eks.{self.region}." not in arn:
                continue
            listed = client.list_open_id_connect_provider_tags(OpenIDConnectProviderArn=arn)
            tags = as_dict(listed.get("Tags"))
            if tags.get(TAG) == OURS or tags.get(EKSCTL_TAG) == self._cluster:
                name = arn.rpartition("/")[2]
                after = f"deleted the OIDC provider {name}"
                step = self._step("iam", "DeleteOpenIDConnectProvider", OpenIDConnectProviderArn=arn, after=after)
                items.append(Item("OIDC provider", arn, f"OIDC provider {name}", "", 0, partial(iter, [step])))
        return items

    # ---- the deletions

    def _delete_cluster_with_eksctl(self) -> Iterator[Step]:
        # Nothing in the cluster has to survive, so eksctl need not wait for pods that may not be evicted.
        options = ("--region", self.region, "--wait", "--disable-nodegroup-eviction")
        command = ("eksctl", "delete", "cluster", "--name", self._cluster, *options)
        yield Step(command, partial(self._run_eksctl, command), after=f"deleted the cluster {self._cluster}")

    def _run_eksctl(self, command: tuple[str, ...]) -> str | None:
        """Run eksctl. If eksctl fails after the cluster is gone, later steps delete the cluster's network."""
        if subprocess.run(command).returncode == 0:
            return None
        try:
            self._client("eks").describe_cluster(name=self._cluster)
        except ClientError as error:
            if is_gone(error):
                return "eksctl has left something; going on without it"
            raise
        raise ScriptError(f"eksctl has not deleted the cluster {self._cluster}: see above")

    def _delete_node_group(self, name: str) -> Iterator[Step]:
        group: dict[str, Any] = {"clusterName": self._cluster, "nodegroupName": name}
        after = f"deleting the node group {name}; this takes some minutes"
        yield self._step("eks", "DeleteNodegroup", after=after, **group)
        yield self._wait("eks", "nodegroup_deleted", after=f"deleted the node group {name}", **group)

    def _delete_cluster(self) -> Iterator[Step]:
        yield self._step("eks", "DeleteCluster", name=self._cluster)
        yield self._wait("eks", "cluster_deleted", name=self._cluster, after=f"deleted the cluster {self._cluster}")

    def free_network(self) -> Iterator[Step]:
        """Delete what keeps a stack of eksctl from deleting its network, once the cluster is gone.

        These are network interfaces of pods, and security groups of services. No other resource uses them any more.
        https://github.com/eksctl-io/eksctl/issues/7589
        """
        filters = [
            {"Name": "tag:cluster.k8s.amazonaws.com/name", "Values": [self._cluster]},
            {"Name": "status", "Values": ["available"]},
        ]
        for interface in self._list("ec2", "describe_network_interfaces", "NetworkInterfaces", Filters=filters):
            yield self._step("ec2", "DeleteNetworkInterface", NetworkInterfaceId=interface["NetworkInterfaceId"])
        filters = [
            {"Name": "tag-key", "Values": [f"kubernetes.io/cluster/{self._cluster}"]},
            {"Name": "group-name", "Values": ["k8s-*"]},
        ]
        for group in self._list("ec2", "describe_security_groups", "SecurityGroups", Filters=filters):
            # A security group in use stays, and so does its stack. The script then names the stack.
            yield self._step("ec2", "DeleteSecurityGroup", GroupId=group["GroupId"], may_fail=True)

    def _delete_stack(self, name: str) -> Iterator[Step]:
        yield self._step("cloudformation", "DeleteStack", StackName=name)
        waiting = self._wait("cloudformation", "stack_delete_complete", StackName=name)

        def wait() -> str | None:
            try:
                return waiting.run()
            except WaiterError as error:
                return f"the stack {name} is still there: {error}"

        yield Step(waiting.command, wait, after=f"deleted the stack {name}")

    def _delete_nat_gateway(self, name: str) -> Iterator[Step]:
        yield self._step("ec2", "DeleteNatGateway", NatGatewayId=name)
        yield self._wait("ec2", "nat_gateway_deleted", NatGatewayIds=[name], after=f"deleted the NAT gateway {name}")

    def _delete_volume(self, name: str, state: str) -> Iterator[Step]:
        if state != "available":
            yield self._wait("ec2", "volume_available", VolumeIds=[name])
        yield self._step("ec2", "DeleteVolume", VolumeId=name, after=f"deleted the disk {name}")

    def _delete_bucket(self, name: str) -> Iterator[Step]:
        """Delete a bucket. S3 deletes only an empty bucket, so all versions and unfinished uploads go first."""
        has_versions = "Status" in self._client("s3").get_bucket_versioning(Bucket=name)
        objects = []
        for key in ("Versions", "DeleteMarkers"):
            for version in self._list("s3", "list_object_versions", key, Bucket=name):
                marked = {"Key": version["Key"]}
                # A bucket without versioning refuses the version "null". With versioning, an object without a
                # version has the version "null". Without this name, S3 keeps the object and only adds a delete
                # marker.
                if has_versions or version.get("VersionId", "null") != "null":
                    marked["VersionId"] = version["VersionId"]
                objects.append(marked)
        for batch in batches(objects):
            yield self._step(
                "s3", "DeleteObjects", Bucket=name, Delete={"Objects": batch, "Quiet": True}, check=no_object_is_left
            )
        for upload in self._list("s3", "list_multipart_uploads", "Uploads", Bucket=name):
            yield self._step("s3", "AbortMultipartUpload", Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
        yield self._step("s3", "DeleteBucket", Bucket=name, after=f"deleted the bucket {name}")

    def _delete_role(self, name: str) -> Iterator[Step]:
        role: dict[str, Any] = {"RoleName": name}
        try:
            attached = self._list("iam", "list_attached_role_policies", "AttachedPolicies", **role)
            inline = self._list("iam", "list_role_policies", "PolicyNames", **role)
        except ClientError as error:
            # eksctl deleted the role with its stack.
            if is_gone(error):
                return
            raise
        for policy in attached:
            yield self._step("iam", "DetachRolePolicy", PolicyArn=policy["PolicyArn"], **role)
        for policy_name in inline:
            yield self._step("iam", "DeleteRolePolicy", PolicyName=policy_name, **role)
        yield self._step("iam", "DeleteRole", after=f"deleted the role {name}", **role)

    # ---- calls

    def _step(
        self,
        service: str,
        operation: str,
        *,
        after: str = "",
        may_fail: bool = False,
        check: Callable[[Any], None] | None = None,
        **parameters: Any,
    ) -> Step:
        """Return a step that calls an operation of AWS. A resource that does not exist needs no deletion."""

        def run() -> None:
            try:
                answer = getattr(self._client(service), xform_name(operation))(**parameters)
            except ClientError as error:
                if not may_fail and not is_gone(error):
                    raise
            else:
                if check:
                    check(answer)

        return Step(aws_command(service, xform_name(operation, "-"), parameters=parameters), run, after=after)

    def _wait(self, service: str, waiter: str, *, after: str = "", **parameters: Any) -> Step:
        def run() -> None:
            self._client(service).get_waiter(waiter).wait(**parameters)

        words = ("wait", waiter.replace("_", "-"))
        return Step(aws_command(service, *words, parameters=parameters), run, after=after)

    def _list(self, service: str, operation: str, key: str, **parameters: Any) -> list[Any]:
        """Return the items of a list call to AWS, from all pages."""
        client = self._client(service)
        if client.can_paginate(operation):
            answers = client.get_paginator(operation).paginate(**parameters)
        else:
            answers = [getattr(client, operation)(**parameters)]
        return [item for answer in answers for item in answer.get(key) or []]

    def _client(self, service: str) -> Any:
        # A boto3 session makes one client at a time; the clients themselves serve every thread.
        with self._making_clients:
            if service not in self._clients:
                config = Config(connect_timeout=10, retries={"mode": "standard"})
                self._clients[service] = self._session.client(service, config=config)
            return self._clients[service]


def aws_command(service: str, *words: str, parameters: dict[str, Any]) -> tuple[str, ...]:
    """Return the command of the AWS CLI that makes a call, as the CLI itself derives its names from the call."""
    command = ["aws", COMMANDS.get(service, service), *words]
    for name, value in parameters.items():
        option = f"--{xform_name(name, '-')}"
        if value is True:
            command.append(option)
        elif isinstance(value, list):
            command += [option, *value]
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            command += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return tuple(command)


def no_steps(name: str) -> Iterator[Step]:
    """Delete nothing: eksctl deletes the node groups of its cluster."""
    return iter(())


def as_dict(tags: list[dict[str, str]] | None) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in tags or []}


def batches(objects: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Split a list into batches that S3 takes, and that fit on a command line."""
    batch: list[dict[str, str]] = []
    length = 0
    for item in objects:
        more = len(json.dumps(item)) + 2
        if batch and (len(batch) == LARGEST_BATCH or length + more > LONGEST_BATCH):
            yield batch
            batch, length = [], 0
        batch.append(item)
        length += more
    if batch:
        yield batch


def no_object_is_left(answer: Any) -> None:
    """Raise when S3 did not delete some objects of a batch: S3 reports the failed objects in a successful answer."""
    if errors := answer.get("Errors"):
        first = errors[0]
        raise ScriptError(
            f"{len(errors)} objects were not deleted; the first is {first.get('Key')}: {first.get('Message')}"
        )


def is_gone(error: ClientError) -> bool:
    """Tell whether an error of AWS means that a resource does not exist."""
    code = error.response["Error"]["Code"]
    return "NotFound" in code or code.startswith("NoSuch") or code == "404"


def explain(error: BotoCoreError | ClientError) -> ScriptError:
    """Return the message and the exit status for an error of AWS."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if advice := login_advice(error):
        return ScriptError(f"AWS does not accept your credentials: {error}. {advice}", MISSING)
    if isinstance(error, NoRegionError):
        return ScriptError("AWS needs a region: export AWS_DEFAULT_REGION, such as us-east-1", MISSING)
    if code.startswith(("AccessDenied", "UnauthorizedOperation")):
        return ScriptError(
            f"AWS does not allow you this: {error}. Ask your administrator for the action that the message names.",
            FAILED,
        )
    if isinstance(error, (ConnectionError, HTTPClientError)):
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        tried = f" (AWS_ENDPOINT_URL is {endpoint})" if endpoint else ""
        return ScriptError(f"AWS does not answer: {error}. Are AWS_DEFAULT_REGION and AWS_ENDPOINT_URL right?{tried}")
    return ScriptError(f"AWS refuses this: {error}")
