"""The two components of the first pipeline, as plain functions.

Each can be called as it is, tested, or made into a component with `kfp.dsl.component`. A component runs in a
container of its own, so each function imports what it needs inside itself.
"""

from kfp.dsl import Dataset, Output


def unzip_func(bucket_name: str, zip_key: str, output_prefix: str) -> str:
    """Unpack the CSV files of a zip in S3 below a prefix of the same bucket; return that prefix."""
    import tempfile
    import zipfile

    import boto3
    from botocore.exceptions import ClientError

    s3 = boto3.client("s3")
    source, prefix = f"s3://{bucket_name}/{zip_key}", output_prefix.strip("/")
    with tempfile.TemporaryFile() as downloaded:
        try:
            s3.download_fileobj(bucket_name, zip_key, downloaded)
            archive = zipfile.ZipFile(downloaded)
        except ClientError as error:
            raise RuntimeError(f"cannot download {source}: {error}") from error
        except zipfile.BadZipFile as error:
            raise ValueError(f"{source} is not a whole zip file: {error}") from error
        names = [n for n in archive.namelist() if n.lower().endswith(".csv") and not n.startswith("__MACOSX/")]
        if not names:
            raise ValueError(f"{source} holds no CSV file; the first names in it are {archive.namelist()[:5]}")
        if locked := [member.filename for member in archive.infolist() if member.flag_bits & 1]:
            raise ValueError(f"{source} is encrypted; zip it again without a password: {locked[:5]}")
        if unsafe := [n for n in names if n.startswith("/") or ".." in n.split("/")]:
            raise ValueError(f"{source} holds names that lead out of the prefix: {unsafe}")
        for name in names:
            with archive.open(name) as csv_file:
                s3.upload_fileobj(csv_file, bucket_name, f"{prefix}/{name}".lstrip("/"))
    return prefix


def csv_s3_reader(bucket_name: str, csv_path: str, csv_name: str, table: Output[Dataset]) -> int:
    """Read one CSV file below a prefix in S3 with pandas; pass it on as a dataset and return its number of rows."""
    import difflib

    import boto3
    import pandas as pd

    s3 = boto3.client("s3")
    prefix = f"{csv_path}/".lstrip("/")
    key = prefix + csv_name
    try:
        body = s3.get_object(Bucket=bucket_name, Key=key)["Body"]
    except s3.exceptions.NoSuchKey:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket_name, Prefix=prefix)
        names = [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])]
        lower = {name.lower(): name for name in names}
        nearest = [lower[name] for name in difflib.get_close_matches(csv_name.lower(), lower, cutoff=0.0)]
        raise FileNotFoundError(f"s3://{bucket_name}/{key} is not there; nearest names: {nearest}") from None

    rows = 0
    with open(table.path, "w", newline="") as output:
        for chunk in pd.read_csv(body, chunksize=100_000, dtype=str, keep_default_na=False):
            chunk.to_csv(output, index=False, header=rows == 0)
            rows += len(chunk)
    table.metadata["rows"] = rows
    return rows
