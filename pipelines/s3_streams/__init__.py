"""Streams zips and CSV files from S3, and writes files to S3, with bounded memory and checked data.

The components need the names that this module exports, and no others:

- `S3Zip` reads the files of a zip in S3.
- `Uploads` writes files below a prefix in S3.
- `CsvFile` reads a CSV file in S3, and writes it as a plain table.
- `S3Error` says why S3 refused or failed.

`docs/data_path.md` explains the design.
"""

from pipelines.s3_streams.client import S3Error
from pipelines.s3_streams.csv_files import CsvFile
from pipelines.s3_streams.uploads import Uploads
from pipelines.s3_streams.zips import S3Zip

__all__ = ["CsvFile", "S3Error", "S3Zip", "Uploads"]
