"""Lessons 03 to 06 run with any zip of CSV files, by the one setting WORKSHOP_DATASET."""

import os

import pytest

from tests.support.sampling import sample
from tests.support.zips import zipped
from workshop import toc
from workshop.dataset import chosen_csv, chosen_zip, read_options
from workshop.errors import WorkshopError
from workshop.lessons import prepare_folder, run_one

ROWS = range(300)
SEMICOLONS = "Nr;Name, Vorname;Umsatz\r\n" + "".join(f"{row};Müller, Anna;{row},50\r\n" for row in ROWS)
STREETS = "Nr,Straße\r\n" + "".join(f'{row},"Königsallee {row}"\r\n' for row in ROWS)
DATA = {
    "semicolons in folders": {
        "2024/": b"",
        "2024/sales/Kunden.csv": SEMICOLONS.encode("utf-8-sig"),
        "2024/small.csv": b"a,b\n1,2\n",
        "__MACOSX/2024/._small.csv": b"\0",
    },
    "cp1252": {"Kunden.csv": STREETS.encode("cp1252")},
    "UTF-16 with tabs": {"Export.CSV": ("Nr\tOrt\r\n" + "".join(f"{row}\tKöln\r\n" for row in ROWS)).encode("utf-16")},
    "one column": {"names.csv": ("name\n" + "".join(f"person {row}\n" for row in ROWS)).encode()},
}  # fmt: skip


@pytest.fixture(params=sample([*DATA, "Olist's nine files"], test=0, gate=2))
def own_zip(request, tmp_path, olist_zip):
    """A zip of CSV files, set as the data of the lessons."""
    path = olist_zip
    if request.param in DATA:
        path = tmp_path / "my data.zip"
        path.write_bytes(zipped(DATA[request.param]))
    os.environ["WORKSHOP_DATASET"] = str(path)
    return path


@pytest.mark.slow
def test_the_lessons_run_with_the_setting_alone(sandbox, tmp_path, own_zip):
    work = tmp_path / "work"
    prepare_folder(work)
    for number in ("03", "04", "05", "06"):
        result = run_one(toc.select([number])[0], work, {})
        assert not result.error, result.error
        assert result.cells[0] == result.cells[1]


@pytest.mark.parametrize(
    ("data", "name", "options"),
    [
        ("semicolons in folders", "2024/sales/Kunden.csv", {"sep": ";", "encoding": "utf-8-sig"}),
        ("cp1252", "Kunden.csv", {"encoding": "cp1252"}),
        ("UTF-16 with tabs", "Export.CSV", {"sep": "\t", "encoding": "utf-16"}),
        ("one column", "names.csv", {}),
    ],
)
def test_the_largest_csv_file_is_chosen_and_its_dialect_is_found(tmp_path, data, name, options):
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(DATA[data]))
    assert chosen_csv(path) == name
    assert read_options(path, name) == options
    assert chosen_csv(path, "another.csv") == "another.csv" and read_options(path, "another.csv") == {}


def test_a_zip_that_is_missing_or_without_csv_files_is_named(tmp_path):
    os.environ["WORKSHOP_DATASET"] = str(tmp_path / "missing.zip")
    with pytest.raises(WorkshopError, match=r"there is no file .*missing\.zip; set WORKSHOP_DATASET"):
        chosen_zip()
    (tmp_path / "x.zip").write_bytes(zipped({"notes.txt": "x"}))
    with pytest.raises(WorkshopError, match="holds no CSV file"):
        chosen_csv(tmp_path / "x.zip")
    (tmp_path / "x.zip").write_bytes(b"<html></html>")
    with pytest.raises(WorkshopError, match="a web page"):
        chosen_csv(tmp_path / "x.zip")
