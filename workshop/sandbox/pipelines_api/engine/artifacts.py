"""Transfers artifacts between this machine and S3."""

import hashlib
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workshop.sandbox.pipelines_api.engine.errors import Cancelled, EngineError

# The bucket of the default pipeline root. The engine creates the bucket if it does not exist; a Kubeflow
# installation has the bucket too.
OWN_BUCKET = "mlpipeline"
SCHEMES = ("s3", "minio")
_CHUNK_BYTES = 1 << 16
_NEEDED = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Store:
    """The artifacts of a run: in S3, and as local copies.

    Args:
        environment: the address and the keys of S3, under the names of AWS clients.
        directory: the folder for downloaded artifacts.
        cancelled: set it to stop transfers.
    """

    def __init__(self, environment: Mapping[str, str], directory: Path, cancelled: threading.Event) -> None:
        self._environment = environment
        self._directory = directory
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._client: Any = None
        self._buckets: set[str] = set()
        self._local: dict[str, Path] = {}
        self._downloading: dict[str, threading.Lock] = {}

    def remember(self, uri: str, path: Path) -> None:
        """Remember the local path of an artifact. The file may be missing."""
        self._local[uri] = path

    def download_path(self, uri: str) -> Path:
        """Return the local path of a downloaded artifact. The file may be missing."""
        folder = self._directory / hashlib.sha256(uri.encode()).hexdigest()[:16]
        return folder / (uri.rstrip("/").rpartition("/")[2] or "artifact")

    def upload(self, path: Path, uri: str, files: Iterable[Path]) -> None:
        """Upload a file, or files of a folder.

        Args:
            path: the file or folder.
            uri: its URI.
            files: the file itself, or the files below the folder.

        Raises:
            EngineError: S3 cannot be reached, refuses the request, or does not contain the bucket.
            Cancelled: the run was cancelled.
        """
        bucket, key = _split(uri)
        if bucket is None:
            raise EngineError(f"cannot store an artifact as {uri}: a pipeline root begins with minio:// or s3://")
        with _readable_errors(f"cannot store {uri}", self._cancelled):
            self._ensure_bucket(bucket, uri)
            for file in sorted(files):
                name = key if file == path else f"{key.rstrip('/')}/{file.relative_to(path).as_posix()}"
                self._s3().upload_file(str(file), bucket, name, Callback=self._stop_if_cancelled())

    def fetch(self, uri: str) -> Path:
        """Return the local file or folder of a URI. Download the artifact if necessary.

        Raises:
            EngineError: the artifact cannot be downloaded.
            FileNotFoundError: nothing exists at the URI.
            Cancelled: the run was cancelled.
        """
        if is_local(uri):
            return Path(_without_scheme(uri))
        with self._lock:
            lock = self._downloading.setdefault(uri, threading.Lock())
        with lock:
            if uri not in self._local:
                self._local[uri] = self._download(uri)
            return self._local[uri]

    def stream(self, uri: str) -> Iterator[bytes]:
        """Return the content of one object in S3, in pieces.

        Raises:
            EngineError: the URI is not in S3, or S3 cannot be reached or refuses the request.
            FileNotFoundError: no object exists at the URI.
        """
        bucket, key = _split(uri)
        if bucket is None:
            raise EngineError(f"cannot read {uri}: it is not in the sandbox's S3")
        with _readable_errors(f"cannot read {uri}", self._cancelled):
            if not key or not self._is_object(bucket, key):
                raise FileNotFoundError(f"there is no single object at {uri}; a folder can be listed in S3")
            chunks: Iterator[bytes] = self._s3().get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_CHUNK_BYTES)
        return chunks

    def _download(self, uri: str) -> Path:
        bucket, key = _split(uri)
        if bucket is None:
            raise EngineError(f"cannot read {uri}: the sandbox reads artifacts from s3://, minio:// and local files")
        target = self.download_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _readable_errors(f"cannot read {uri}", self._cancelled):
            objects = [key] if key and self._is_object(bucket, key) else self._below(bucket, key)
            if not objects:
                raise FileNotFoundError(f"there is nothing at {uri}")
            for name in objects:
                self._fetch(bucket, name, target if name == key else target / name[len(key) :].lstrip("/"), target)
        return target

    def _fetch(self, bucket: str, name: str, path: Path, target: Path) -> None:
        if name.endswith("/"):  # a folder that was created with an S3 console
            return
        if ".." in path.relative_to(target.parent).parts:
            raise EngineError(f"the name of the object {name} points outside of its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._s3().download_file(bucket, name, str(path), Callback=self._stop_if_cancelled())

    def _is_object(self, bucket: str, key: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._s3().head_object(Bucket=bucket, Key=key)
            return True
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise

    def _below(self, bucket: str, key: str) -> list[str]:
        prefix = f"{key.rstrip('/')}/" if key else ""
        pages = self._s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def _ensure_bucket(self, bucket: str, uri: str) -> None:
        from botocore.exceptions import ClientError

        with self._lock:
            if bucket in self._buckets:
                return
        try:
            self._s3().head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            if bucket != OWN_BUCKET:
                raise EngineError(
                    f"cannot store {uri}: the bucket {bucket!r} does not exist; create it first"
                ) from None
            self._create_bucket(bucket)
        with self._lock:
            self._buckets.add(bucket)

    def _create_bucket(self, bucket: str) -> None:
        from botocore.exceptions import ClientError

        try:
            self._s3().create_bucket(Bucket=bucket)
        except ClientError as error:
            # Another run has created the bucket at the same time.
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _stop_if_cancelled(self) -> Callable[[int], None]:
        def callback(_: int) -> None:
            if self._cancelled.is_set():
                raise Cancelled

        return callback

    def _s3(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self._environment)
            return self._client


def is_local(uri: str) -> bool:
    """Return whether a URI is a file on this machine."""
    return "://" not in uri or uri.startswith("file://")


def _client(environment: Mapping[str, str]) -> Any:
    """Return a client for the S3 of the given environment. Settings of this process are ignored."""
    import boto3
    import botocore.session
    from botocore.config import Config

    if missing := [name for name in _NEEDED if not environment.get(name)]:
        raise EngineError(f"the run has no S3 settings: {', '.join(missing)} not set")
    core = botocore.session.Session(
        session_vars={"profile": (None, None, None, None), "config_file": (None, None, "", None)}
    )
    return boto3.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=environment.get("AWS_SESSION_TOKEN"),
        region_name=environment.get("AWS_DEFAULT_REGION", "us-east-1"),
        botocore_session=core,
    ).client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 4}),
    )


def _split(uri: str) -> tuple[str | None, str]:
    """Return the bucket and the key of a URI. The bucket is None if the URI is not in S3."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        return None, ""
    return parts.netloc, uri.partition("://")[2].partition("/")[2]


def _without_scheme(uri: str) -> str:
    return urllib.parse.unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


class _readable_errors:
    """Turns the exceptions of an S3 client into an `EngineError` with a readable message."""

    def __init__(self, what: str, cancelled: threading.Event) -> None:
        self._what = what
        self._cancelled = cancelled

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if error is None or isinstance(error, EngineError | Cancelled | FileNotFoundError):
            return
        if self._cancelled.is_set():
            raise Cancelled from error
        if isinstance(error, Exception):
            raise EngineError(f"{self._what}: {error}") from error
