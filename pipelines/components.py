"""The two components of the first pipeline, as plain functions.

Each function can be called and tested, or made into a component with `kfp.dsl.component`. A component runs in its own
container, so each function contains its own imports.
"""

from kfp.dsl import Dataset, Output


def unzip_func(
    bucket_name: str,
    zip_key: str,
    output_prefix: str,
    pattern: str = "*.csv",
    max_gb: float = 100.0,
    max_ratio: float = 200.0,
    name_encoding: str = "",
) -> str:
    """Unpack the CSV files of a zip in S3 below a prefix of the same bucket; return that prefix."""
    from pipelines.s3_streams import S3Zip, Uploads

    prefix = "/".join(filter(None, output_prefix.split("/")))
    archive = S3Zip(bucket_name, zip_key)  # reads the zip's directory: a few kilobytes at its end
    members = archive.members(pattern, max_gb, max_ratio, name_encoding)  # refuses a bad zip before any upload
    with Uploads(bucket_name, prefix) as uploads:
        uploads.prepare(members, zip_key)
        for member in members:
            uploads.add(member)  # appears in S3 only when it is complete and its CRC-32 is right
    print(f"files: {len(members)}; bytes: {uploads.sent:,}; bytes read from the zip: {archive.source.transferred:,}")
    return prefix


def csv_s3_reader(
    bucket_name: str,
    csv_path: str,
    csv_name: str,
    table: Output[Dataset],
    separator: str = "",
    encoding: str = "",
    quotes: str = "",
    header: str = "",
    skip_lines: int = 0,
) -> int:
    """Read one CSV file below a prefix in S3; pass it on as a dataset and return its number of rows."""
    from pipelines.s3_streams import CsvFile

    # No such file: the error suggests names. What is not given is guessed, and every guess is printed.
    file = CsvFile(bucket_name, csv_path, csv_name, separator, encoding, quotes, header, skip_lines)
    rows = file.copy_to(table.path)  # most files are UTF-8 with commas: copied byte for byte
    table.metadata["rows"] = rows
    return rows
