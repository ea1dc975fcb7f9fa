"""The data set is real and complete, and every call makes the same bytes."""

import csv
import io
import zipfile

import pytest

from workshop.dataset import FILES, ensure_uploaded, flights_zip


@pytest.mark.slow
def test_the_zip_holds_the_five_files_and_every_flight(tmp_path):
    path = flights_zip(tmp_path / "data" / "flights.zip")
    with zipfile.ZipFile(path) as archive:
        assert tuple(archive.namelist()) == FILES
        assert archive.testzip() is None
        with archive.open("flights.csv") as file:
            rows = csv.DictReader(io.TextIOWrapper(file))
            months = [row["month"] for row in rows]
    assert len(months) == 336_776
    assert len(set(months)) == 12


@pytest.mark.slow
def test_the_zip_is_made_once_and_always_with_the_same_bytes(tmp_path):
    first = flights_zip(tmp_path / "first.zip")
    made = first.stat().st_mtime_ns
    assert flights_zip(first).stat().st_mtime_ns == made
    assert flights_zip(tmp_path / "second.zip").read_bytes() == first.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"first.zip", "second.zip"}


def test_a_missing_or_incomplete_zip_is_uploaded_and_a_complete_one_is_not(s3, tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(b"12345")
    ensure_uploaded("made-on-the-way", path, "data.zip")
    first = s3.head_object(Bucket="made-on-the-way", Key="data.zip")
    assert first["ContentLength"] == 5
    ensure_uploaded("made-on-the-way", path, "data.zip")
    assert s3.head_object(Bucket="made-on-the-way", Key="data.zip")["LastModified"] == first["LastModified"]
    s3.put_object(Bucket="made-on-the-way", Key="data.zip", Body=b"1")
    ensure_uploaded("made-on-the-way", path, "data.zip")
    assert s3.get_object(Bucket="made-on-the-way", Key="data.zip")["Body"].read() == b"12345"


@pytest.mark.slow
def test_the_setting_of_the_data_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_DATA", str(tmp_path / "my data"))
    assert flights_zip() == tmp_path / "my data" / "nycflights13.zip"
    assert flights_zip().exists()
