"""The cluster on one machine: real servers on loopback, which start when a lesson needs them."""

import atexit
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from workshop.clean_environment import CLIENT_PREFIXES
from workshop.project import sandbox_directory
from workshop.sandbox import docker_engine
from workshop.sandbox.aws_account import ACCOUNT, REGION, AwsAccount
from workshop.sandbox.errors import SandboxError
from workshop.sandbox.files import free_mb, write_atomically
from workshop.sandbox.object_store import ObjectStore
from workshop.sandbox.pipelines_api import RUNNERS, PipelinesApi
from workshop.sandbox.processes import is_running, start_mark
from workshop.sandbox.registry import Registry, what_is_missing
from workshop.sandbox.server import Record, Server
from workshop.sandbox.supervisor import Supervisor

__all__ = ["Sandbox", "SandboxError"]


# The sandbox's folder takes up to 400 MB in a run of all lessons, before lesson 09 deletes it.
ROOM_MB = 450

# A kubeconfig with one cluster that nothing reaches. The cluster's name shows the reason to the reader.
NO_CLUSTER = """\
apiVersion: v1
kind: Config
current-context: the-sandbox-has-no-kubernetes
contexts: [{name: the-sandbox-has-no-kubernetes, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
"""


@dataclass(frozen=True)
class Identity:
    """The random values of a sandbox: its keys and its bucket name.

    Attributes:
        access_key: S3 access key id.
        secret_key: its secret.
        encryption_key: 64 hexadecimal digits for server-side encryption.
        bucket: the default bucket; eight random digits make its name unique.
        pipelines_path: the path below which the Pipelines API answers. Anyone who knows the path can run code.
        runner: how tasks of pipelines run. The runner is not random, but the same file holds it.
    """

    access_key: str
    secret_key: str
    encryption_key: str
    bucket: str
    pipelines_path: str
    runner: str = "subprocess"

    @classmethod
    def new(cls) -> "Identity":
        return cls(
            access_key="SANDBOX" + secrets.token_hex(6).upper(),
            secret_key=secrets.token_urlsafe(30),
            encryption_key=secrets.token_hex(32),
            bucket=f"first-kubeflow-pipeline-{secrets.token_hex(4)}",
            pipelines_path=secrets.token_hex(16),
        )


class Sandbox:
    """The sandbox below one folder.

    Args:
        directory: where its state lies; `workshop.project.sandbox_directory()` by default.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or sandbox_directory()

    def up(self, runner: str | None = None) -> None:
        """Start every server that is not running; safe to call again, and from several processes at once.

        Args:
            runner: how tasks of pipelines run from now on, "subprocess" or "docker"; unchanged by default.

        Raises:
            SandboxError: a server does not start, the folder cannot be written, its disk is full, or this machine
                cannot use the runner.
        """
        from workshop.sandbox.component_environment import ensure

        apply(_without_proxy())
        if runner:
            self._choose_runner(runner)
        ensure()
        identity = self._identity()
        supervisor = self._supervisor(identity)
        if not supervisor.record(supervisor.servers[0]):  # a running sandbox must stay usable: lesson 09 makes room
            self._check_room()
        if what_is_missing():
            supervisor.servers = [server for server in supervisor.servers if server.name != Registry.name]
        record = supervisor.up()[AwsAccount.name]
        account = self._account(identity)
        if not account.has_cluster(record):  # lesson 09 has deleted the cluster, and eksctl cannot make one here
            with supervisor.locked():
                account.make_cluster(record)
        self._forbid_kubectl()

    def down(self) -> list[str]:
        """Stop every server, and return the names of the servers that ran. Their data stay.

        The next start gives the Pipelines API a new secret path. Another program could take the port, and would then
        learn the old path from an old client.
        """
        try:
            self._renew_pipelines_path()
        finally:
            stopped = self._supervisor(Identity.new()).down()
        return stopped

    def reset(self) -> None:
        """Stop every server and delete the sandbox's data: objects, account, keys.

        Raises:
            SandboxError: the sandbox did not make the folder. Nothing is deleted.
        """
        self._supervisor(Identity.new()).reset()

    def status(self) -> list[tuple[Server, Record | None, bool]]:
        """Return each part with its record (None: no process) and whether it answers."""
        supervisor = self._supervisor(Identity.new())
        records = [(server, supervisor.record(server)) for server in supervisor.servers]
        return [(server, record, bool(record and server.is_ready(record))) for server, record in records]

    def logs(self, lines: int) -> dict[str, str]:
        """Return the last lines of each part's log, by its name."""
        supervisor = self._supervisor(Identity.new())
        return {server.name: supervisor.log(server, lines) for server in supervisor.servers}

    @property
    def bucket(self) -> str:
        """The bucket that lessons use when the reader names none."""
        return self._identity().bucket

    def environment(self) -> dict[str, str | None]:
        """Return the variables that point any AWS or Kubeflow client at this sandbox.

        Returns:
            Value by name; None where a variable must be unset, so that no client uses a real account by accident.

        Raises:
            SandboxError: the sandbox is not up.
        """
        identity = self._identity()
        records = self._running(ObjectStore.name, AwsAccount.name, PipelinesApi.name)
        foreign = {name: None for name in os.environ if name.startswith(CLIENT_PREFIXES)}
        return (
            foreign
            | {
                "WORKSHOP_TARGET": "sandbox",
                "WORKSHOP_CONNECTED": "sandbox",
                "KF_PIPELINES_ENDPOINT": f"{records[PipelinesApi.name].address}/{identity.pipelines_path}",
                "REGISTRY": self._registry(),
                "KUBECONFIG": str(self._kubeconfig),
            }
            | self._aws(identity, records)
            | _without_proxy()
        )

    def task_environment(self) -> dict[str, str]:
        """Return the variables that give a pipeline's task its access, as a role for its service account would.

        Raises:
            SandboxError: the sandbox is not up.
        """
        return self._aws(self._identity(), self._running(ObjectStore.name, AwsAccount.name)) | _without_proxy()

    def task_packages(self) -> Path:
        """Make the temporary folder for packages that this process and its tasks install with pip, and return it.

        `kfp.local` installs a component's `packages_to_install` into the notebook's environment. On the sandbox,
        pip installs the packages in this folder instead. The folders of ended processes are deleted.
        """
        parent = self.directory / "task-packages"
        mine = parent / f"{os.getpid()}@{start_mark(os.getpid())}"
        for folder in parent.iterdir() if parent.exists() else ():
            pid, _, started = folder.name.partition("@")
            if not (pid.isdigit() and is_running(int(pid), started)):
                shutil.rmtree(folder, ignore_errors=True)
        if not mine.exists():
            mine.mkdir(parents=True)
            atexit.register(shutil.rmtree, mine, ignore_errors=True)
        return mine

    def _aws(self, identity: Identity, records: dict[str, Record]) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": records[AwsAccount.name].address,
            "AWS_ENDPOINT_URL_S3": records[ObjectStore.name].address,
            "AWS_ACCESS_KEY_ID": identity.access_key,
            "AWS_SECRET_ACCESS_KEY": identity.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            # The profile files of this machine stay unread and untouched.
            "AWS_CONFIG_FILE": str(self.directory / "aws" / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.directory / "aws" / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _registry(self) -> str:
        """Return the address that image names begin with: the sandbox's registry, else the account's ECR."""
        supervisor = self._supervisor(Identity.new())
        record = next(supervisor.record(server) for server in supervisor.servers if server.name == Registry.name)
        return urlsplit(record.address).netloc if record else f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"

    @property
    def _kubeconfig(self) -> Path:
        return self.directory / "kube" / "config"

    def _forbid_kubectl(self) -> None:
        """Keep kubectl away from the reader's clusters: the sandbox has no Kubernetes API."""
        if not self._kubeconfig.exists():
            write_atomically(self._kubeconfig, NO_CLUSTER)

    def _running(self, *names: str) -> dict[str, Record]:
        """Return the records of these servers. All these servers must run."""
        supervisor = self._supervisor(Identity.new())
        found = {server.name: supervisor.record(server) for server in supervisor.servers if server.name in names}
        records = {name: record for name, record in found.items() if record}
        if missing := [name for name in found if name not in records]:
            raise SandboxError(f"not running in the sandbox: {', '.join(missing)}. Start it: workshop sandbox up")
        return records

    def _check_room(self) -> None:
        """Raise an error about a full disk before the start, because S3 would report only an internal error."""
        free = free_mb(self.directory)
        if free < ROOM_MB:
            raise SandboxError(
                f"only {free} MB are free on the disk of {self.directory}; the sandbox needs {ROOM_MB}. Make room, or "
                "set WORKSHOP_SANDBOX_DIR to a folder on another disk."
            )

    def _choose_runner(self, runner: str) -> None:
        if runner not in RUNNERS:
            raise SandboxError(f"there is no runner {runner!r}; it must be one of: {', '.join(RUNNERS)}")
        if runner == "docker":
            docker_engine.connect(timeout=10).close()
        identity = self._identity()
        write_atomically(self._identity_path, json.dumps(asdict(replace(identity, runner=runner))))

    def _renew_pipelines_path(self) -> None:
        if self._identity_path.exists():
            with suppress(SandboxError):  # without a readable identity, there is no path
                renewed = replace(self._identity(), pipelines_path=Identity.new().pipelines_path)
                write_atomically(self._identity_path, json.dumps(asdict(renewed)))

    def _supervisor(self, identity: Identity) -> Supervisor:
        keys = (identity.access_key, identity.secret_key, identity.encryption_key)
        servers = [
            ObjectStore(self.directory / ObjectStore.name, *keys),
            self._account(identity),
            PipelinesApi(self.directory / PipelinesApi.name, identity.pipelines_path, identity.runner),
            Registry(self.directory / Registry.name),
        ]
        return Supervisor(self.directory, servers)

    def _account(self, identity: Identity) -> AwsAccount:
        return AwsAccount(self.directory / AwsAccount.name, identity.access_key, identity.secret_key)

    @property
    def _identity_path(self) -> Path:
        return self.directory / "identity.json"

    def _identity(self) -> Identity:
        """Return this sandbox's identity, made at the first call."""
        if not self._identity_path.exists():
            new = Identity.new()
            supervisor = self._supervisor(new)
            with supervisor.locked():
                supervisor.claim()
                if not self._identity_path.exists():
                    write_atomically(self._identity_path, json.dumps(asdict(new)))
        try:
            kept = json.loads(self._identity_path.read_text())
            if "pipelines_path" not in kept:  # the file is older than the Pipelines API
                kept = asdict(Identity.new()) | kept
                write_atomically(self._identity_path, json.dumps(kept))
            return Identity(**kept)
        except OSError as error:
            raise SandboxError(
                f"{self._identity_path}, which holds the sandbox's keys, cannot be read: {error.strerror}. Give "
                "yourself the permission to read it. The sandbox's data are not damaged"
            ) from None
        except (ValueError, TypeError) as error:
            raise SandboxError(
                f"{self._identity_path}, which holds the sandbox's keys, is damaged ({error}). Without its keys, the "
                "sandbox cannot start again. Delete the sandbox and make a new one: workshop sandbox reset --yes"
            ) from None


def apply(environment: Mapping[str, str | None]) -> None:
    """Set and unset variables for this process and its children."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def use_task_packages(folder: Path) -> None:
    """Point pip at a folder, and let this process and its children import from that folder."""
    if os.environ.get("PIP_TARGET") == str(folder):
        return
    os.environ["PIP_TARGET"] = str(folder)
    os.environ["PIP_UPGRADE"] = "1"  # without this option, pip keeps another version that is already installed
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    sys.path.append(str(folder))


def _without_proxy() -> dict[str, str]:
    hosts = [host for name in ("NO_PROXY", "no_proxy") for host in os.environ.get(name, "").split(",") if host]
    value = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return {"NO_PROXY": value, "no_proxy": value}
