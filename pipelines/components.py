"""The two components of the first pipeline, as plain functions.

Each can be called as it is, tested, or made into a component with `kfp.dsl.component`. A component runs in a
container of its own, so each function imports what it needs inside itself.
"""

from kfp.dsl import Dataset, Output


def unzip_func(
    bucket_name: str,
    zip_key: str,
    output_prefix: str,
    pattern: str = "*.csv",
    max_gb: float = 100.0,
    max_ratio: float = 200.0,
) -> str:
    """Unpack the CSV files of a zip in S3 below a prefix of the same bucket; return that prefix."""
    from pipelines.s3_uploads import Uploads
    from pipelines.s3_zip import S3Zip

    prefix = output_prefix.strip("/")
    archive = S3Zip(bucket_name, zip_key)  # reads its directory, a few kilobytes at the end of the zip
    members = archive.members(pattern, max_gb, max_ratio)  # refuses what cannot be right, before anything is written
    with Uploads(bucket_name, prefix) as uploads:
        uploads.expect(members, zip_key)
        for member in members:
            uploads.add(member)  # inflated piece by piece; visible in S3 when it is whole and its CRC is right
    print(f"{len(members)} files, {uploads.sent:,} bytes, from {archive.source.transferred:,} bytes of the zip")
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
