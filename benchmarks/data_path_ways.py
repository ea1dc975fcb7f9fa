"""One way to unpack a zip in S3, or to read a CSV file from S3: `python data_path_ways.py WAY ARGUMENT...`.

The process prints as JSON the seconds without the imports, the CPU seconds, and the peak memory. Some ways need
packages that this project does not have, so each way contains its own imports.
"""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path


def floor(bucket: str, folder: str, prefix: str) -> Callable[[], None]:
    """Upload the files of the zip from disk, one after another, with boto3's defaults."""
    import boto3

    s3 = boto3.client("s3")
    files = sorted(path for path in Path(folder).rglob("*.csv"))

    def work() -> None:
        for path in files:
            s3.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")

    return work


def unzip_func(bucket: str, key: str, prefix: str, pattern: str = "*.csv") -> Callable[[], None]:
    """Unpack a zip with the component of the series."""
    from isal import isal_zlib  # noqa: F401

    from pipelines.components import unzip_func as unzip
    from pipelines.s3_streams.client import client

    client()
    return lambda: unzip(bucket, key, prefix, pattern)


def whole(bucket: str, key: str, prefix: str) -> Callable[[], None]:
    """Read the whole zip into memory, then upload one file after another."""
    import boto3

    s3 = boto3.client("s3")

    def work() -> None:
        archive = zipfile.ZipFile(io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
        for name in archive.namelist():
            s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=archive.read(name))

    return work


def aws_cli(bucket: str, key: str, prefix: str) -> Callable[[], None]:
    """Download, unpack and upload with command line tools."""

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            packed, unpacked = f"{folder}/data.zip", f"{folder}/csv"
            for command in (
                ["aws", "s3", "cp", "--quiet", f"s3://{bucket}/{key}", packed],
                ["unzip", "-q", packed, "-d", unpacked],
                ["aws", "s3", "cp", "--quiet", "--recursive", unpacked, f"s3://{bucket}/{prefix}/"],
            ):
                subprocess.run(command, check=True)

    return work


def s3fs(bucket: str, key: str, prefix: str) -> Callable[[], None]:
    """Copy between files that s3fs opens."""
    from s3fs import S3FileSystem

    files = S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    return lambda: _copy(lambda address, mode: files.open(address, mode), bucket, key, prefix)


def smart_open(bucket: str, key: str, prefix: str) -> Callable[[], None]:
    """Copy between files that smart_open opens."""
    import boto3
    from smart_open import open as opened

    given = {"client": boto3.client("s3")}
    return lambda: _copy(lambda name, mode: opened(f"s3://{name}", mode, transport_params=given), bucket, key, prefix)


def csv_s3_reader(bucket: str, path: str, name: str, target: str) -> Callable[[], None]:
    """Read a CSV file with the component of the series, which writes it to disk."""
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    from isal import isal_zlib  # noqa: F401
    from kfp.dsl import Dataset

    from pipelines.components import csv_s3_reader as read
    from pipelines.s3_streams.client import client

    client()
    return lambda: read(bucket, path, name, Dataset(uri=target))


def read_csv(bucket: str, path: str, name: str, target: str) -> Callable[[], None]:
    """Read a whole CSV file with pandas; write nothing."""
    import boto3
    import pandas as pd

    s3 = boto3.client("s3")
    return lambda: pd.read_csv(s3.get_object(Bucket=bucket, Key=f"{path}/{name}")["Body"])


def main() -> None:
    """Run the way and print the measurement."""
    way, *arguments = sys.argv[1:]
    work = globals()[way](*arguments)
    output = io.StringIO()
    begun, used = time.perf_counter(), _cpu()
    with redirect_stdout(output):
        work()
    seconds, cpu = time.perf_counter() - begun, _cpu() - used
    print(json.dumps({"seconds": seconds, "cpu": cpu, "megabytes": _peak(), "output": output.getvalue()}))


def _copy(opened: Callable, bucket: str, key: str, prefix: str) -> None:
    with opened(f"{bucket}/{key}", "rb") as source, zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            with archive.open(name) as member, opened(f"{bucket}/{prefix}/{name}", "wb") as target:
                shutil.copyfileobj(member, target, 1 << 20)


def _cpu() -> float:
    return sum(os.times()[:4])


def _peak() -> float:
    """Return the peak memory of this process, or of the largest process that it started, in MB.

    The figure of `getrusage` begins with the memory of the parent process. On Linux, `VmHWM` does not.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    status = Path("/proc/self/status")
    if not status.exists():
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, children) / 1e6
    own = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return max(int(own.split()[1]) * 1024, children) / 1e6


if __name__ == "__main__":
    main()
