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

    prefix = "/".join(filter(None, output_prefix.split("/")))
    archive = S3Zip(bucket_name, zip_key)  # reads its directory, a few kilobytes at the end of the zip
    members = archive.members(pattern, max_gb, max_ratio)  # refuses what cannot be right, before anything is written
    with Uploads(bucket_name, prefix) as uploads:
        uploads.expect(members, zip_key)
        for member in members:
            uploads.add(member)  # inflated piece by piece; visible in S3 when it is whole and its CRC is right
    print(f"files: {len(members)}; bytes: {uploads.sent:,}; fetched of the zip: {archive.source.transferred:,}")
    return prefix


def csv_s3_reader(
    bucket_name: str,
    csv_path: str,
    csv_name: str,
    table: Output[Dataset],
    separator: str = "",
    encoding: str = "",
) -> int:
    """Read one CSV file below a prefix in S3; pass it on as a dataset and return its number of rows."""
    import pandas as pd

    from pipelines.csv_tables import CsvFile, UnusualCsv

    def rewrite() -> int:
        rows = 0
        with file.open() as source, open(table.path, "w", newline="", encoding="utf-8") as output:
            for chunk in pd.read_csv(source, dtype=str, keep_default_na=False, **file.options):
                chunk.to_csv(output, header=rows == 0, **file.plain)
                rows += len(chunk)
        return rows

    file = CsvFile(bucket_name, csv_path, csv_name, separator, encoding)  # if it is not there: names the nearest
    try:
        rows = file.pass_on(table.path)  # UTF-8 with commas, as most files: byte for byte
    except UnusualCsv as unusual:
        print(f"pandas reads {file.address}, which {unusual}")
        rows = file.read_whole(rewrite)
    table.metadata["rows"] = rows
    return rows
