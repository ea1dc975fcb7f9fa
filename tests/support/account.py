"""Clients of a sandbox's emulated AWS account, with the keys of the sandbox."""

from typing import Any

import boto3

from workshop.sandbox import Sandbox
from workshop.sandbox.aws_account import AwsAccount


def client(sandbox: Sandbox, service: str) -> Any:
    """Return a boto3 client of the account.

    Args:
        sandbox: a sandbox that is up.
        service: such as "iam".
    """
    environment = sandbox.environment()
    session = boto3.Session(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    )
    return session.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"])


def make_cluster(sandbox: Sandbox) -> None:
    """Make the cluster that the constants of `aws_account` describe.

    Args:
        sandbox: a sandbox that is up.
    """
    environment = sandbox.environment()
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    record = next(record for server, record, _ in sandbox.status() if server.name == AwsAccount.name)
    AwsAccount(sandbox.directory / AwsAccount.name, *keys).make_cluster(record)
