"""The component functions, called as plain functions, on a real S3 server."""

from pathlib import Path

import pytest
from kfp.dsl import Dataset

from pipelines.components import csv_s3_reader, unzip_func


@pytest.mark.slow
def test_all_csv_files_are_unpacked_and_no_others(bucket, put_zip, objects):
    files = {"a.csv": "x\n1\n", "folder/B.CSV": "y\n2\n", "notes.txt": "no", "__MACOSX/a.csv": "noise", "folder/": ""}
    assert unzip_func(bucket, put_zip(files), "/out/") == "out"
    assert objects("out") == {"out/a.csv": b"x\n1\n", "out/folder/B.CSV": b"y\n2\n"}


def test_a_second_run_changes_nothing_and_keeps_other_objects(s3, bucket, put_zip, objects):
    key = put_zip({"a.csv": "x\n1\n"})
    s3.put_object(Bucket=bucket, Key="out/other.csv", Body=b"kept")
    unzip_func(bucket, key, "out")
    first = objects("out")
    unzip_func(bucket, key, "out")
    assert objects("out") == first == {"out/a.csv": b"x\n1\n", "out/other.csv": b"kept"}


@pytest.mark.slow
def test_a_file_of_several_parts_arrives_complete(bucket, put_zip, objects):
    large = "value\n" + "".join(f"{number}\n" for number in range(2_500_000))
    unzip_func(bucket, put_zip({"large.csv": large}), "out")
    assert objects("out")["out/large.csv"] == large.encode()


def test_an_empty_prefix_means_the_bucket_itself(bucket, put_zip):
    assert unzip_func(bucket, put_zip({"a.csv": "x\n1\n"}), "") == ""
    table = Dataset(uri="table.csv")
    assert csv_s3_reader(bucket, "", "a.csv", table) == 1


@pytest.mark.parametrize("name", ["../a.csv", "/etc/a.csv", "x/../../a.csv"])
def test_a_name_that_leads_outside_the_prefix_is_refused_before_anything_is_written(bucket, put_zip, objects, name):
    key = put_zip({"good.csv": "x\n1\n", name: "x\n1\n"})
    with pytest.raises(ValueError, match="names that lead outside the output prefix"):
        unzip_func(bucket, key, "out")
    assert objects("out") == {}


def test_the_error_for_a_zip_without_csv_files_names_its_files(bucket, put_zip, objects):
    with pytest.raises(ValueError, match=r"holds no CSV file.*notes\.txt"):
        unzip_func(bucket, put_zip({"notes.txt": "no"}), "out")
    assert objects("out") == {}


@pytest.mark.parametrize("cut", [0, 10, 100])
@pytest.mark.slow
def test_the_error_for_a_truncated_zip_names_the_zip(s3, bucket, put_zip, objects, cut):
    key = put_zip({"a.csv": "x\n1\n" * 50})
    whole = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=whole[:cut])
    with pytest.raises(ValueError, match=rf"s3://{bucket}/{key} is not a complete zip file"):
        unzip_func(bucket, key, "out")
    assert objects("out") == {}


@pytest.mark.slow
def test_an_encrypted_zip_is_refused_before_anything_is_written(s3, bucket, put_zip, objects):
    key = put_zip({"good.csv": "x\n1\n", "secret.csv": "x\n1\n"})
    data = bytearray(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    second = data.rindex(b"PK\x01\x02")
    data[second + 8] |= 1  # the flag for an encrypted file, in the zip's directory
    s3.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    with pytest.raises(ValueError, match=r"encrypted files: \['secret\.csv'\]"):
        unzip_func(bucket, key, "out")
    assert objects("out") == {}


def test_the_error_for_a_missing_zip_names_the_zip(bucket):
    with pytest.raises(RuntimeError, match=rf"cannot read s3://{bucket}/missing.zip"):
        unzip_func(bucket, "missing.zip", "out")


def test_a_table_keeps_every_byte(s3, bucket):
    original = 'postcode,name,share,ok,missing\n01037,Zoë,0.10,true,\n2,"a,b",1.25,NA,7\n'
    s3.put_object(Bucket=bucket, Key="out/t.csv", Body=original.encode())
    table = Dataset(uri="table.csv")
    assert csv_s3_reader(bucket, "out", "t.csv", table) == 2
    assert table.metadata["rows"] == 2
    assert Path("table.csv").read_text() == original


@pytest.mark.slow
def test_a_table_of_several_blocks_has_one_header_and_every_row(s3, bucket):
    original = "number,text\n" + "".join(f"{number},row {number}\n" for number in range(250_001))
    s3.put_object(Bucket=bucket, Key="out/t.csv", Body=original.encode())
    assert csv_s3_reader(bucket, "out", "t.csv", Dataset(uri="table.csv")) == 250_001
    assert Path("table.csv").read_text() == original


def test_a_table_without_rows_keeps_its_header(s3, bucket):
    s3.put_object(Bucket=bucket, Key="out/t.csv", Body=b"a,b\n")
    assert csv_s3_reader(bucket, "out", "t.csv", Dataset(uri="table.csv")) == 0
    assert Path("table.csv").read_text() == "a,b\n"


def test_the_error_for_a_missing_file_suggests_the_nearest_names(s3, bucket):
    for name in ("flights.csv", "planes.csv", "weather.csv"):
        s3.put_object(Bucket=bucket, Key=f"out/{name}", Body=b"a\n1\n")
    with pytest.raises(
        FileNotFoundError, match=r"out/FLIGHT\.CSV does not exist; the nearest names are \['flights\.csv'"
    ):
        csv_s3_reader(bucket, "out", "FLIGHT.CSV", Dataset(uri="table.csv"))
