"""Which cluster a lesson talks to.

A target is a set of environment variables that boto3, the AWS CLI and the kfp SDK read by themselves. `connect()`
chooses the target from the settings, sets the variables for this process and its children, and prints the target.
"""

import atexit
import os
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from workshop.aws_logins import LOGIN_STATUS, USUAL_ADVICE, login_advice
from workshop.clean_environment import clean_cells
from workshop.errors import WorkshopError
from workshop.project import PROGRAMS, ROOT
from workshop.settings import CONNECTED, Settings, read, table

# The address of Kubeflow Pipelines inside the cluster. The full platform and Pipelines alone use the same address.
IN_CLUSTER_PIPELINES = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
FORWARDED_PIPELINES = "http://localhost:8080"  # where scripts/open_dashboard.sh forwards the dashboard


class TargetError(WorkshopError):
    """The target lacks a setting or credentials, or one of its services does not answer."""


class LoginError(TargetError):
    """AWS does not accept the login, or there is none. The message says how to log in."""

    exit_status = LOGIN_STATUS


@dataclass(frozen=True)
class Target:
    """Where a lesson runs.

    Attributes:
        name: `sandbox`, `kind`, `eks` or `in-cluster`.
        account: AWS account number, or "" where there is none.
        region: AWS region.
        bucket: the S3 bucket that lessons use when their parameter `bucket` is empty.
        cluster: the name of the cluster that lessons use when their parameter `cluster` is empty.
        repository: the repository of the component image, when the parameter `repository` is empty.
        s3: the S3 service that answers, as text for the reader.
        pipelines: the Kubeflow Pipelines that answers, as text for the reader.
        settings: the value of every setting. `str()` leaves the settings out.
    """

    name: str
    account: str
    region: str
    bucket: str
    cluster: str
    repository: str
    s3: str
    pipelines: str
    settings: Settings = field(repr=False)

    def __str__(self) -> str:
        rows = {
            "target": self.name,
            "account": self.account or "none",
            "region": self.region,
            "bucket": self.bucket,
            "cluster": self.cluster,
            "repository": self.repository,
            "S3": self.s3,
            "Pipelines": self.pipelines,
        }
        return "\n".join(f"{label:<12}{value}" for label, value in rows.items())


def connect() -> Target:
    """Connect this process and its children to the target, and print the target.

    The target is `WORKSHOP_TARGET`. Without that setting, the target is `in-cluster` inside a Kubeflow notebook server,
    and the sandbox elsewhere. `connect()` starts the sandbox if it is not running.

    Returns:
        The target. Lessons use the target's bucket, region, cluster and repository where their own parameters are
        empty.

    Raises:
        workshop.settings.SettingsError: a setting has a value that its rule refuses.
        LoginError: AWS does not accept the login, or there is none.
        TargetError: the target lacks something, or a service refuses or does not answer.
        workshop.sandbox.SandboxError: the sandbox does not start.
    """
    settings = read()
    name = target_name(settings)
    _put_own_programs_on_path()
    if settings.component_image:
        os.environ["COMPONENT_IMAGE"] = settings.component_image
    clean_cells()
    avoid_spaces_in_the_path_of_python()
    target = _connect_sandbox(settings) if name == "sandbox" else _connect_cluster(name, settings)
    _forget_old_credentials()
    os.environ[CONNECTED] = name
    print(target)
    return target


def target_name(settings: Settings) -> str:
    """Return the name of the target that the settings choose.

    Raises:
        TargetError: this process is connected to another target.
    """
    name = settings.workshop_target or ("in-cluster" if _inside_kubeflow() else "sandbox")
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
    bucket = settings.workshop_bucket or sandbox.bucket
    sandbox.up()
    apply(sandbox.environment())
    use_task_packages(sandbox.task_packages())
    return Target(
        name="sandbox",
        account=_account(),
        region=os.environ["AWS_DEFAULT_REGION"],
        bucket=bucket,
        cluster=settings.cluster_name,
        repository=settings.component_repository,
        s3=f"{os.environ['AWS_ENDPOINT_URL_S3']} (SeaweedFS)",
        # The path of the address is a secret: anyone who knows the path can run code.
        pipelines=f"{os.environ['KF_PIPELINES_ENDPOINT'].rpartition('/')[0]} (the sandbox's Pipelines API)",
        settings=settings,
    )


def _connect_cluster(name: str, settings: Settings) -> Target:
    if settings.aws_profile:
        os.environ["AWS_PROFILE"] = settings.aws_profile
    region = settings.aws_default_region or _profile_region()
    _check_cluster_settings(name, settings, region)
    pipelines = settings.kf_pipelines_endpoint or (
        IN_CLUSTER_PIPELINES if name == "in-cluster" else FORWARDED_PIPELINES
    )
    # In a notebook server, KF_PIPELINES_ENDPOINT stays unset: with a host, kfp.Client() does not read the token of the
    # service account.
    os.environ.update(settings.environment() | {"AWS_DEFAULT_REGION": region, "AWS_REGION": region})
    if name != "in-cluster":
        # Without an address, kfp.Client() would use the cluster that kubectl points to, which can be another one.
        os.environ["KF_PIPELINES_ENDPOINT"] = pipelines
    if settings.registry:
        os.environ["REGISTRY"] = settings.registry
    _check_credentials(name)
    # A cluster with its own S3 needs no AWS account. On EKS, images and roles still come from the account.
    account = "" if name != "eks" and settings.aws_endpoint_url_s3 else _account()
    if account and not settings.registry:
        os.environ["REGISTRY"] = f"{account}.dkr.ecr.{region}.amazonaws.com"
    bucket = settings.workshop_bucket
    return Target(
        name=name,
        account=account,
        region=region,
        bucket=bucket,
        cluster=settings.cluster_name,
        repository=settings.component_repository,
        s3=f"{_without_password(settings.aws_endpoint_url_s3) or f'Amazon S3, {region}'} ({_bucket_state(bucket)})",
        pipelines=f"{_without_password(pipelines)} ({_pipelines_answer(pipelines)})",
        settings=settings,
    )


def _check_cluster_settings(name: str, settings: Settings, region: str) -> None:
    missing = []
    if not settings.workshop_bucket:
        missing.append(
            "WORKSHOP_BUCKET, the S3 bucket to use (S3 bucket names are unique in the world: choose your own)"
        )
    if not region:
        missing.append("AWS_DEFAULT_REGION, the AWS region, such as us-east-1")
    if name == "kind" and not settings.kf_pipelines_endpoint:
        missing.append(
            "KF_PIPELINES_ENDPOINT, such as http://localhost:8080 after "
            "`kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`"
        )
    if missing:
        listed = "\n".join(f"  {line}" for line in missing)
        raise TargetError(f"the target {name!r} needs, as environment variables or in settings.env:\n{listed}")
    table()["AWS_DEFAULT_REGION"].check(region)  # the region may come from the AWS profile


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _check_credentials(name: str) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        found = boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise _no_login(error) from None
    if found is None:
        advice = {
            "kind": "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the S3 that the cluster uses",
            "eks": "run `aws configure sso` (or `aws configure`) and export AWS_PROFILE",
            "in-cluster": "give the notebook's service account a role; lesson 03 shows how",
        }
        raise LoginError(f"the target {name!r} has no AWS credentials: {advice[name]}.")


def _account() -> str:
    """Return the number of the AWS account. STS allows this call to every identity."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    try:
        account: str = boto3.Session().client("sts", config=config).get_caller_identity()["Account"]
        return account
    except ClientError as error:
        # STS allows this call to every identity, so a refusal always comes from the login.
        raise _no_login(error) from None
    except BotoCoreError as error:
        if login_advice(error):
            raise _no_login(error) from None
        raise TargetError(f"AWS does not answer in region {os.environ.get('AWS_DEFAULT_REGION')}: {error}") from None


def _no_login(error: Exception) -> LoginError:
    return LoginError(f"AWS does not accept your credentials: {error}. {login_advice(error) or USUAL_ADVICE}.")


def _forget_old_credentials() -> None:
    """Make `boto3.client` look for credentials again: its default session keeps the first ones that it found."""
    import boto3

    boto3.setup_default_session()


def _profile_region() -> str:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session().region_name or ""
    except BotoCoreError as error:
        raise _no_login(error) from None


def _pipelines_answer(endpoint: str) -> str:
    import http.client
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{endpoint.rstrip('/')}/apis/v2beta1/healthz", timeout=3):
            return "answers"
    except urllib.error.HTTPError as error:
        return f"answers with {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer: {getattr(error, 'reason', error)}"


def _bucket_state(bucket: str) -> str:
    """Return whether the bucket exists and may be used, as text for the reader.

    Raises:
        LoginError: S3 does not accept the login.
        TargetError: S3 does not answer.
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
        if login_advice(error):
            raise _no_login(error) from None
        known = {"404": "the bucket is not there yet: lesson 03 makes it", "403": "no access to the bucket: lesson 03"}
        return known.get(code, f"answers with {code}")
    except BotoCoreError as error:
        if login_advice(error):
            raise _no_login(error) from None
        raise TargetError(f"S3 does not answer: {error}. Check AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION.") from None


def _inside_kubeflow() -> bool:
    """Tell whether this is a Kubeflow notebook server: the notebook controller sets NB_PREFIX in its pods."""
    return "NB_PREFIX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ


def avoid_spaces_in_the_path_of_python() -> None:
    """Give this process a Python without a space in its path: `kfp.local` puts the path into a command unquoted."""
    if " " not in sys.executable:
        return
    launcher = Path(tempfile.mkdtemp(prefix="workshop-python-"), "python3")
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    launcher.chmod(0o700)
    sys.executable = str(launcher)
    atexit.register(shutil.rmtree, launcher.parent, ignore_errors=True)


def _put_own_programs_on_path() -> None:
    """Put `kfp`, `aws` and the scripts on PATH: `%%bash` cells need these programs, also when no environment is
    activated."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    own = [folder for folder in (str(PROGRAMS), str(ROOT / "scripts")) if folder not in path]
    os.environ["PATH"] = os.pathsep.join([*own, *path])
