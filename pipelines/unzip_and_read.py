"""The first pipeline: unpack a zip of CSV files in S3, then read one of them."""

import os

from kfp import dsl

from pipelines.components import csv_s3_reader, unzip_func

IMAGE = os.environ.get("COMPONENT_IMAGE", "python-components:latest")
unzip = dsl.component(unzip_func, base_image=IMAGE, install_kfp_package=False)
read = dsl.component(csv_s3_reader, base_image=IMAGE, install_kfp_package=False)


@dsl.pipeline(name="unzip-and-read", description="Unpack a zip of CSV files in S3 and read one of them.")
def unzip_and_read_pipeline(bucket_name: str, zip_key: str, output_prefix: str, csv_name: str) -> dsl.Dataset:
    unzipped = unzip(bucket_name=bucket_name, zip_key=zip_key, output_prefix=output_prefix)
    unzipped.set_caching_options(False)  # the zip may have changed, and caching compares only the inputs
    table = read(bucket_name=bucket_name, csv_path=unzipped.output, csv_name=csv_name)
    table.set_caching_options(False)
    return table.outputs["table"]
