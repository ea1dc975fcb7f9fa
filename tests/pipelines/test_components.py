"""The component functions, called as they are, on real S3."""

import io
import zipfile
from pathlib import Path

import pytest
from kfp.dsl import Dataset

from pipelines.components import csv_s3_reader, unzip_func


def put_zip(s3, bucket, files: dict[str, str | bytes], key="data.zip") -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    s3.put_object(Bucket=bucket, Key=key, Body=buffer.getvalue())
    return key


def objects(s3, bucket, prefix) -> dict[str, bytes]:
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}


def test_every_csv_file_is_unpacked_and_nothing_else(s3, bucket):
    files = {"a.csv": "x\n1\n", "folder/B.CSV": "y\n2\n", "notes.txt": "no", "__MACOSX/a.csv": "noise", "folder/": ""}
    key = put_zip(s3, bucket, files)
    assert unzip_func(bucket, key, "/out/") == "out"
    assert objects(s3, bucket, "out") == {"out/a.csv": b"x\n1\n", "out/folder/B.CSV": b"y\n2\n"}


def test_a_second_run_changes_nothing_and_touches_nothing_else(s3, bucket):
    key = put_zip(s3, bucket, {"a.csv": "x\n1\n"})
    s3.put_object(Bucket=bucket, Key="out/other.csv", Body=b"kept")
    unzip_func(bucket, key, "out")
    first = objects(s3, bucket, "out")
    unzip_func(bucket, key, "out")
    assert objects(s3, bucket, "out") == first == {"out/a.csv": b"x\n1\n", "out/other.csv": b"kept"}


def test_a_file_larger_than_one_part_arrives_whole(s3, bucket):
    large = "value\n" + "".join(f"{number}\n" for number in range(2_500_000))
    key = put_zip(s3, bucket, {"large.csv": large})
    unzip_func(bucket, key, "out")
    assert objects(s3, bucket, "out")["out/large.csv"] == large.encode()


def test_an_empty_prefix_means_the_bucket_itself(s3, bucket):
    key = put_zip(s3, bucket, {"a.csv": "x\n1\n"})
    assert unzip_func(bucket, key, "") == ""
    table = Dataset(uri="table.csv")
    assert csv_s3_reader(bucket, "", "a.csv", table) == 1


@pytest.mark.parametrize("name", ["../a.csv", "/etc/a.csv", "x/../../a.csv"])
def test_a_name_that_leads_out_of_the_prefix_is_refused_before_anything_is_written(s3, bucket, name):
    key = put_zip(s3, bucket, {"good.csv": "x\n1\n", name: "x\n1\n"})
    with pytest.raises(ValueError, match="lead out of the prefix"):
        unzip_func(bucket, key, "out")
    assert objects(s3, bucket, "out") == {}


def test_a_zip_without_csv_files_names_what_it_holds(s3, bucket):
    key = put_zip(s3, bucket, {"notes.txt": "no"})
    with pytest.raises(ValueError, match=r"holds no CSV file.*notes\.txt"):
        unzip_func(bucket, key, "out")


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_a_truncated_zip_is_named(s3, bucket, cut):
    key = put_zip(s3, bucket, {"a.csv": "x\n1\n" * 50})
    whole = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=whole[:cut])
    with pytest.raises(ValueError, match=rf"s3://{bucket}/{key} is not a whole zip file"):
        unzip_func(bucket, key, "out")
    assert objects(s3, bucket, "out") == {}


def test_an_encrypted_zip_is_refused_before_anything_is_written(s3, bucket):
    key = put_zip(s3, bucket, {"good.csv": "x\n1\n", "secret.csv": "x\n1\n"})
    data = bytearray(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    second = data.rindex(b"PK\x01\x02")
    data[second + 8] |= 1  # the flag in the zip's directory that says: encrypted
    s3.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    with pytest.raises(ValueError, match=r"are encrypted.*secret\.csv"):
        unzip_func(bucket, key, "out")
    assert objects(s3, bucket, "out") == {}


def test_a_zip_that_is_not_there_is_named(s3, bucket):
    with pytest.raises(RuntimeError, match=rf"cannot read s3://{bucket}/missing.zip"):
        unzip_func(bucket, "missing.zip", "out")


def test_a_table_is_passed_on_as_it_is_written(s3, bucket):
    original = 'postcode,name,share,ok,missing\n01037,Zoë,0.10,true,\n2,"a,b",1.25,NA,7\n'
    s3.put_object(Bucket=bucket, Key="out/t.csv", Body=original.encode())
    table = Dataset(uri="table.csv")
    assert csv_s3_reader(bucket, "out", "t.csv", table) == 2
    assert table.metadata["rows"] == 2
    assert Path("table.csv").read_text() == original


def test_a_table_of_several_pieces_has_one_header_and_every_row(s3, bucket):
    original = "number,text\n" + "".join(f"{number},row {number}\n" for number in range(250_001))
    s3.put_object(Bucket=bucket, Key="out/t.csv", Body=original.encode())
    assert csv_s3_reader(bucket, "out", "t.csv", Dataset(uri="table.csv")) == 250_001
    assert Path("table.csv").read_text() == original


def test_a_table_without_rows_keeps_its_header(s3, bucket):
    s3.put_object(Bucket=bucket, Key="out/t.csv", Body=b"a,b\n")
    assert csv_s3_reader(bucket, "out", "t.csv", Dataset(uri="table.csv")) == 0
    assert Path("table.csv").read_text() == "a,b\n"


def test_a_name_that_is_not_there_is_answered_with_the_nearest(s3, bucket):
    for name in ("flights.csv", "planes.csv", "weather.csv"):
        s3.put_object(Bucket=bucket, Key=f"out/{name}", Body=b"a\n1\n")
    with pytest.raises(FileNotFoundError, match=r"out/FLIGHT\.CSV is not there; nearest names: \['flights\.csv'"):
        csv_s3_reader(bucket, "out", "FLIGHT.CSV", Dataset(uri="table.csv"))
