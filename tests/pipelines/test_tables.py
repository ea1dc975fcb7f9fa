"""CSV files of every kind, read by the component from a real S3 server."""

import csv
import io
import itertools
import random
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kfp.dsl import Dataset

from pipelines.components import csv_s3_reader
from pipelines.s3_streams import csv_rows, objects

TEXT = {"dtype": str, "keep_default_na": False}
NUMBERS = itertools.count()
on_s3 = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def read(s3, bucket):
    """Return a function that reads a file from S3 by the component, and returns its number of rows and the table."""

    def put_and_read(content: bytes, **options) -> tuple[int, bytes]:
        key = f"in/{next(NUMBERS)}.csv"
        s3.put_object(Bucket=bucket, Key=key, Body=content)
        table = Dataset(uri="table.csv")
        rows = csv_s3_reader(bucket, "in", key.removeprefix("in/"), table, **options)
        assert table.metadata["rows"] == rows
        return rows, Path("table.csv").read_bytes()

    return put_and_read


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)
HEADING = CELL.filter(lambda name: name.strip() and not name.startswith("\ufeff"))


@on_s3
@given(data=st.data(), separator=st.sampled_from(",;\t|"), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
@pytest.mark.slow
def test_a_table_that_is_written_and_read_stays_the_same(read, data, separator, encoding):
    headings = data.draw(st.lists(HEADING, min_size=1, max_size=5, unique=True))
    values = data.draw(st.lists(st.lists(CELL, min_size=len(headings), max_size=len(headings)), max_size=8))
    table = pd.DataFrame(values, columns=headings, dtype=str)
    ending = data.draw(st.sampled_from(["\n", "\r\n"]))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    text = table.to_csv(index=False, sep=separator, lineterminator=ending, quoting=quoting)
    # pandas cannot read every table that pandas wrote, such as a single column of spaces.
    expected = pd.read_csv(io.StringIO(text), sep=separator, index_col=False, **TEXT)
    assume(expected.equals(table))
    rows, made = read(text.encode(encoding), separator=separator, encoding=encoding)
    assert rows == len(table)
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(made), index_col=False, **TEXT), table)


@settings(on_s3, max_examples=150)
@given(text=st.text('ab,"\n\r \t;', min_size=1, max_size=40))
@pytest.mark.slow
def test_any_text_is_refused_or_becomes_the_table_that_csv_reads(read, text):
    try:
        rows, made = read(text.encode(), separator=",", quotes="doubled")
    except ValueError:
        return

    def filled(rows) -> list[list[str]]:
        """Return the rows without those that are blank, and without empty fields at their ends."""
        return [",".join(row).rstrip(",").split(",") for row in rows if "".join(row).strip()]

    expected = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert filled(csv.reader(io.StringIO(made.decode(), newline=""))) == filled(expected)
    assert rows + 1 >= len(filled(csv.reader(io.StringIO(made.decode(), newline=""))))


@settings(max_examples=150, deadline=None)
@given(text=st.text('a,"\n', max_size=60), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_blocks_cut_anywhere_become_whole_rows(text, sizes):
    assume(text.count('"') % 2 == 0)
    content, blocks = text.encode(), []
    for size in itertools.cycle(sizes):
        if not content:
            break
        blocks.append(content[:size])
        content = content[size:]
    pieces = list(csv_rows.whole_rows(iter(blocks), 0, "address"))
    assert b"".join(pieces) == text.encode()
    assert all(piece.endswith(b"\n") and piece.count(b'"') % 2 == 0 for piece in pieces[:-1])


@pytest.mark.parametrize(
    "text",
    [
        'id,name\n1,"a,b"\n2,"two\nlines"\n3,"a ""quote"""\n',
        "id,name\r\n1,a\r\n2,b\r\n",
        "id,name\n1,a\n2,b",
        "id,name\n\n1,a\n  \n2,b\n\n",
        "id\n1\n\n2\n",
        "id,name\n1\n2,b\n",
        '"id","name"\n"1","a;b"\n"2","c\td"\n',
    ],
)
def test_a_plain_table_is_copied_byte_for_byte(read, text):
    rows, made = read(text.encode())
    assert made == text.encode()
    assert rows == len(pd.read_csv(io.StringIO(text), **TEXT))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.slow
def test_encodings_and_separators_are_detected(read, encoding, separator):
    rows = [["id", "Größe", "note"], *([str(number), "Zoë", "1.5"] for number in range(30))]
    text = "\n".join(separator.join(row) for row in rows) + "\n"
    count, made = read(text.encode(encoding))
    assert count == 30
    assert [row.split(",") for row in made.decode("utf-8").split()] == rows


@pytest.mark.slow
def test_another_encoding_far_from_the_start_is_detected(read):
    count, made = read(b"id,name\n" + b"1,abc\n" * 1_000_000 + "2,Zoë\n".encode("cp1252"))
    assert count == 1_000_001
    assert made.decode("utf-8").endswith("1,abc\r\n2,Zoë\r\n")


def test_a_wrong_encoding_argument_is_an_error(read):
    with pytest.raises(ValueError, match=r"is not written in utf-8: .* can't decode byte 0xeb"):
        read("id,name\n1,Zoë\n".encode("cp1252"), encoding="utf-8")


@pytest.mark.parametrize(
    "text", ['id,size\n1,5" pipe\n2,x\n', "id,size\n1,a\r2,b\r", "id,size\r1,a\r2,b\r", '"a"\r" "\r" "\r']
)
def test_a_table_that_is_not_plain_becomes_a_plain_table(read, text):
    rows, made = read(text.encode())
    expected = pd.read_csv(io.StringIO(text), **TEXT)
    assert rows == len(expected) == 2
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(made), **TEXT), expected)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"is empty: it has no header and no rows \(0 bytes\)"),
        (b"\n \n", "is empty"),
        (b"a,b\n1,2\n1,2,3\n", r"is not a table: row 2 has 3 fields, but the header has 2: 1,2,3"),
        (b"a,b\n1,2,3\n1,2,3\n", "is not a table: row 1 has 3 fields"),
        (b"a;b\n1;2;3\n1;2;3\n", "is not a table: row 1 is wrong: it has 3 fields, but the header has 2"),
        (b'a,b\n1,"2\n3,4\n', "is not a table: row 1 is wrong: a quote is never closed"),
        (b"PK\x03\x04\0\0\0\0", "is not a CSV file; it is a zip: unpack it with `unzip_func` first"),
        (b"a,b\n1,\0\n", r"is not text, so it is not a CSV file: .* has a zero byte at 6"),
        (
            b"a,b\n" + b"1,2\n" * 300_000 + b"3,\0\n",
            "is not text, so it is not a CSV file: it holds zero bytes after row",
        ),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"\xff\xfe", "is empty"),
        ("id,name\n1,Zoë\n2,Käthe\n".encode() + b"3,caf\xe9\n", "is UTF-8 except for the byte 0xe9 in .*caf"),
        (b"id,name\n" + "1,Zoë\n".encode() * 200_000 + b"2,caf\xe9\n", "is UTF-8 except for the byte 0xe9"),
    ],
)
@pytest.mark.slow
def test_the_error_for_a_file_that_is_not_a_table_names_the_problem(read, bucket, content, why):
    with pytest.raises(ValueError, match=rf"s3://{bucket}/in/\d+\.csv {why}"):
        read(content)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"separator": "::"}, "separator is '::'; it must be one character"),
        ({"encoding": "bogus"}, "encoding is 'bogus', which Python does not know"),
    ],
)
def test_the_error_for_a_wrong_argument_names_it(read, options, why):
    with pytest.raises(ValueError, match=why):
        read(b"a,b\n1,2\n", **options)


@pytest.mark.parametrize("separator", ["\t", "\\t", "tab"])
def test_a_tab_can_be_given_in_three_spellings(read, separator):
    assert read(b"a\tb\n1\t2\n", separator=separator) == (1, b"a,b\r\n1,2\r\n")


def test_utf_32_is_detected_by_its_byte_order_mark(read):
    assert read("a;ö\n1;2\n".encode("utf-32")) == (1, "a,ö\r\n1,2\r\n".encode())


@pytest.mark.parametrize("path", ["in", "in/", "/in/"])
def test_a_path_may_have_slashes_around_it(s3, bucket, path):
    s3.put_object(Bucket=bucket, Key="in/t.csv", Body=b"a,b\n1,2\n")
    assert csv_s3_reader(bucket, path, "t.csv", Dataset(uri="table.csv")) == 1


def test_rows_that_are_too_short_are_counted_and_kept(read, capsys):
    assert read(b"a,b,c\n1,2\n1,2,3\n1\n") == (3, b"a,b,c\n1,2\n1,2,3\n1\n")
    assert "2 rows of s3://" in capsys.readouterr().out


def test_a_file_without_a_header_gets_a_message(read, capsys):
    assert read(b"1,2\n3,4\n")[0] == 1
    assert "holds only numbers and is used as the header: 1,2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_table_with_ten_thousand_columns_is_read(read):
    header = ",".join(f"a rather long name of column {number}" for number in range(10_000))
    text = "\n".join([header, *(",".join(map(str, range(row, row + 10_000))) for row in range(30))]) + "\n"
    assert read(text.encode()) == (30, text.encode())
    count, made = read(text.replace(",", ";").encode())
    assert count == 30 and made == text.replace("\n", "\r\n").encode()


def test_the_types_that_pandas_finds_are_those_of_the_original(read):
    text = "id,share,ok,when,mixed,none\n" + "".join(
        f"{n},{n / 3},{n % 2 == 0},2013-01-0{n},{'x' if n > 3 else n},\n" for n in range(1, 9)
    )
    for content in (text, text.replace(",", ";")):
        _, made = read(content.encode())
        original = pd.read_csv(io.StringIO(text))
        pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(made)), original)
        assert len(set(map(str, original.dtypes))) == 4


def test_rows_and_quotes_may_cross_the_ends_of_blocks(read, monkeypatch):
    monkeypatch.setattr(objects, "BLOCK", 1000)
    chance = random.Random(7)
    values = ["".join(chance.choices('ab,"\n', k=chance.randrange(30))) for _ in range(2000)]
    text = pd.DataFrame({"id": range(2000), "text": values}).to_csv(index=False)
    assert read(text.encode()) == (2000, text.encode())


@pytest.mark.slow
def test_a_quote_that_is_never_closed_does_not_fill_the_memory(read, monkeypatch):
    monkeypatch.setattr(csv_rows, "MAX_ROW_BYTES", 4 << 20)
    with pytest.raises(ValueError, match="has a row of more than 4 MB; it may have a quote that is never closed"):
        read(b'a,b\n1,"x\n' + b"1,2\n" * 3_000_000)


@pytest.mark.parametrize("name", ["flights", "FLIGHTS.CSV", "flight.csv", "sub/flights.csv", "'flights.csv'"])
def test_the_nearest_names_are_suggested(s3, bucket, name):
    for other in ("flights.csv", "planes.csv", "weather.csv"):
        s3.put_object(Bucket=bucket, Key=f"near/{other}", Body=b"a\n1\n")
    with pytest.raises(FileNotFoundError, match=r"does not exist; the nearest names are \['flights\.csv'"):
        csv_s3_reader(bucket, "near", name, Dataset(uri="table.csv"))


def test_the_error_for_an_empty_prefix_names_the_prefix(bucket):
    with pytest.raises(FileNotFoundError, match=rf"there is no object below s3://{bucket}/nowhere/: check csv_path"):
        csv_s3_reader(bucket, "nowhere", "a.csv", Dataset(uri="table.csv"))
