"""Which cluster a lesson talks to.

A target is nothing more than a set of environment variables that boto3, the AWS CLI and the kfp SDK read by
themselves. `connect()` finds out which target is meant, sets those variables for this process and its children,
and shows where the lesson is running.
"""

import atexit
import http.client
import os
import re
import shlex
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from workshop.clean_environment import clean_cells
from workshop.errors import WorkshopError
from workshop.project import ROOT

TARGETS = ("sandbox", "kind", "eks", "in-cluster")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
BUCKET_NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REGION_NAME = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
# What a plain Kubeflow installation serves inside its cluster, on the platform and standalone alike.
IN_CLUSTER_PIPELINES = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
# The target that this process is connected to.
CONNECTED = "WORKSHOP_CONNECTED"


class TargetError(WorkshopError):
    """The target is unknown, or what it needs is missing or wrong."""


class Settings(BaseSettings):
    """What the reader configured: environment variables first, then `settings.env` in the project folder."""

    model_config = SettingsConfigDict(extra="ignore")

    target: str = Field("", validation_alias="WORKSHOP_TARGET")
    bucket: str = Field("", validation_alias="WORKSHOP_BUCKET")
    region: str = Field("", validation_alias=AliasChoices("AWS_DEFAULT_REGION", "AWS_REGION"))
    registry: str = Field("", validation_alias="REGISTRY")
    component_image: str = Field("", validation_alias="COMPONENT_IMAGE")
    s3_endpoint: str = Field("", validation_alias="AWS_ENDPOINT_URL_S3")
    pipelines_endpoint: str = Field("", validation_alias="KF_PIPELINES_ENDPOINT")

    @classmethod
    def read(cls) -> "Settings":
        """Read the settings; `WORKSHOP_SETTINGS` names another file than `settings.env`."""
        return cls(_env_file=os.environ.get("WORKSHOP_SETTINGS") or ROOT / "settings.env")


@dataclass(frozen=True)
class Target:
    """Where a lesson runs.

    Attributes:
        name: one of `TARGETS`.
        account: AWS account number, or "" where there is none.
        region: AWS region.
        bucket: the S3 bucket that lessons use when the reader names none.
        s3: what answers for S3.
        pipelines: what answers for Kubeflow Pipelines.
    """

    name: str
    account: str
    region: str
    bucket: str
    s3: str
    pipelines: str

    def __str__(self) -> str:
        rows = {
            "target": self.name,
            "account": self.account or "none",
            "region": self.region,
            "bucket": self.bucket,
            "S3": self.s3,
            "Pipelines": self.pipelines,
        }
        return "\n".join(f"{label:<11}{value}" for label, value in rows.items())


def connect() -> Target:
    """Connect this process and its children to the target, and print where that is.

    The target is `WORKSHOP_TARGET`, or `in-cluster` inside a Kubeflow notebook server, or else the sandbox, which is
    started if it is not running.

    Returns:
        The target, for its bucket and region.

    Raises:
        TargetError: the target is unknown, or something that it needs is missing, wrong or refused.
        workshop.sandbox.SandboxError: the sandbox does not start.
    """
    settings = Settings.read()
    name = target_name(settings)
    _put_own_programs_on_path()
    if settings.component_image:
        os.environ["COMPONENT_IMAGE"] = settings.component_image
    clean_cells()
    _avoid_spaces_in_the_path_of_python()
    target = _connect_sandbox(settings) if name == "sandbox" else _connect_cluster(name, settings)
    _forget_old_credentials()
    os.environ[CONNECTED] = name
    print(target)
    return target


def target_name(settings: Settings) -> str:
    """Return the name of the target that is meant.

    Raises:
        TargetError: there is no such target, or this process is connected to another one.
    """
    name = settings.target or ("in-cluster" if _inside_kubeflow() else "sandbox")
    if name not in TARGETS:
        raise TargetError(f"WORKSHOP_TARGET is {name!r}; it must be one of: {', '.join(TARGETS)}.")
    connected = os.environ.get(CONNECTED, name)
    if connected != name:
        raise TargetError(
            f"this process is connected to the target {connected!r} and cannot change to {name!r}. "
            "Restart the kernel (or open a new shell), set WORKSHOP_TARGET, and connect again."
        )
    return name


def _connect_sandbox(settings: Settings) -> Target:
    from workshop.sandbox import Sandbox, apply, use_task_packages

    sandbox = Sandbox()
    bucket = _valid_bucket(settings.bucket or sandbox.bucket)
    sandbox.up()
    apply(sandbox.environment())
    use_task_packages(sandbox.task_packages())
    return Target(
        name="sandbox",
        account=_account(),
        region=os.environ["AWS_DEFAULT_REGION"],
        bucket=bucket,
        s3=f"{os.environ['AWS_ENDPOINT_URL_S3']} (SeaweedFS)",
        # The rest of its address is a secret: whoever knows it can run code.
        pipelines=f"{os.environ['KF_PIPELINES_ENDPOINT'].rpartition('/')[0]} (the sandbox's Pipelines API)",
    )


def _connect_cluster(name: str, settings: Settings) -> Target:
    region = settings.region or _profile_region()
    _check_cluster_settings(name, settings, region)
    pipelines = settings.pipelines_endpoint or (IN_CLUSTER_PIPELINES if name == "in-cluster" else "")
    configured = {
        "AWS_DEFAULT_REGION": region,
        "AWS_ENDPOINT_URL_S3": settings.s3_endpoint,
        # Not the default of a notebook server: told a host, kfp.Client() leaves the service account's token unread.
        "KF_PIPELINES_ENDPOINT": settings.pipelines_endpoint,
        "REGISTRY": settings.registry,
    }
    os.environ.update({variable: value for variable, value in configured.items() if value})
    _check_credentials(name)
    # A kind cluster need not have anything to do with AWS.
    account = "" if name == "kind" and settings.s3_endpoint else _account()
    if account and not settings.registry:
        os.environ["REGISTRY"] = f"{account}.dkr.ecr.{region}.amazonaws.com"
    return Target(
        name=name,
        account=account,
        region=region,
        bucket=settings.bucket,
        s3=f"{_without_password(settings.s3_endpoint) or f'Amazon S3, {region}'} ({_bucket_state(settings.bucket)})",
        pipelines=f"{_without_password(pipelines)} ({_pipelines_answer(pipelines)})" if pipelines else "not configured",
    )


def _check_cluster_settings(name: str, settings: Settings, region: str) -> None:
    missing = []
    if not settings.bucket:
        missing.append(
            "WORKSHOP_BUCKET, the S3 bucket to use (S3 bucket names are unique in the world: choose your own)"
        )
    if not region:
        missing.append("AWS_DEFAULT_REGION, the AWS region, such as us-east-1")
    if name == "kind" and not settings.pipelines_endpoint:
        missing.append(
            "KF_PIPELINES_ENDPOINT, such as http://localhost:8080 after "
            "`kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`"
        )
    if missing:
        listed = "\n".join(f"  {line}" for line in missing)
        raise TargetError(f"the target {name!r} needs, as environment variables or in settings.env:\n{listed}")
    _valid_bucket(settings.bucket)
    if not REGION_NAME.fullmatch(region):
        raise TargetError(
            f"AWS_DEFAULT_REGION is {region!r}, which is not a region name such as us-east-1.{_quotes(region)}"
        )
    for variable, url in (
        ("KF_PIPELINES_ENDPOINT", settings.pipelines_endpoint),
        ("AWS_ENDPOINT_URL_S3", settings.s3_endpoint),
    ):
        if url and not _is_url(url):
            raise TargetError(f"{variable} is {url!r}; it must be like http://HOST:PORT or https://HOST.{_quotes(url)}")


def _valid_bucket(bucket: str) -> str:
    if not BUCKET_NAME.fullmatch(bucket):
        raise TargetError(
            f"WORKSHOP_BUCKET is {bucket!r}, which S3 does not take as a bucket name: 3 to 63 lower-case letters, "
            f"digits, hyphens and dots, starting and ending with a letter or digit.{_quotes(bucket)}"
        )
    return bucket


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _quotes(value: str) -> str:
    return " Leave out the quotes: they are part of the value." if value.strip("'\"") != value else ""


def _check_credentials(name: str) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        found = boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise TargetError(f"AWS credentials cannot be read: {error}") from None
    if found is None:
        advice = {
            "kind": "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the S3 that the cluster uses",
            "eks": "run `aws configure sso` (or `aws configure`) and export AWS_PROFILE",
            "in-cluster": "give the notebook's service account a role; lesson 03 shows how",
        }
        raise TargetError(f"the target {name!r} has no AWS credentials: {advice[name]}.")


def _account() -> str:
    """Ask AWS who we are; the one call that every identity may make."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    try:
        return boto3.Session().client("sts", config=config).get_caller_identity()["Account"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise TargetError(
            f"AWS refuses the credentials ({code}: {error.response['Error']['Message']}). Temporary credentials "
            "expire: log in again with `aws sso login`, or check AWS_PROFILE and the access key."
        ) from None
    except BotoCoreError as error:
        raise TargetError(f"AWS does not answer in region {os.environ.get('AWS_DEFAULT_REGION')}: {error}") from None


def _forget_old_credentials() -> None:
    """Let `boto3.client` look again: its default session keeps the credentials that it found first."""
    import boto3

    boto3.setup_default_session()


def _profile_region() -> str:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session().region_name or ""
    except BotoCoreError as error:
        raise TargetError(f"the AWS profile cannot be read: {error}") from None


def _pipelines_answer(endpoint: str) -> str:
    try:
        with urllib.request.urlopen(f"{endpoint.rstrip('/')}/apis/v2beta1/healthz", timeout=3):
            return "answers"
    except urllib.error.HTTPError as error:
        return f"answers with {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer: {getattr(error, 'reason', error)}"


def _bucket_state(bucket: str) -> str:
    """Ask S3 whether the bucket is there and ours to use.

    Raises:
        TargetError: nobody answers for S3.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    try:
        boto3.Session().client("s3", config=config).head_bucket(Bucket=bucket)
        return "the bucket is there"
    except ClientError as error:
        code = error.response["Error"]["Code"]
        known = {"404": "the bucket is not there yet: lesson 03 makes it", "403": "no access to the bucket: lesson 03"}
        return known.get(code, f"answers with {code}")
    except BotoCoreError as error:
        raise TargetError(f"S3 does not answer: {error}. Check AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION.") from None


def _inside_kubeflow() -> bool:
    """Tell whether this is a Kubeflow notebook server: a pod to which the notebook controller gave its URL prefix."""
    return "NB_PREFIX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ


def _avoid_spaces_in_the_path_of_python() -> None:
    """Give this process a Python whose path holds no space: `kfp.local` puts it into a shell command unquoted."""
    if " " not in sys.executable:
        return
    launcher = Path(tempfile.mkdtemp(prefix="workshop-python-"), "python3")
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    launcher.chmod(0o700)
    sys.executable = str(launcher)
    atexit.register(shutil.rmtree, launcher.parent, ignore_errors=True)


def _put_own_programs_on_path() -> None:
    """Let `%%bash` cells find `kfp` and `aws` of this environment, also when it is not activated, and the scripts."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    own = [folder for folder in (str(Path(sys.executable).parent), str(ROOT / "scripts")) if folder not in path]
    os.environ["PATH"] = os.pathsep.join([*own, *path])
