"""What is neither a zip nor a table is named with the next step; addresses and odd names get the part to use."""

import gzip
import io
import struct
import unicodedata
import zipfile
import zlib

import pytest
from kfp.dsl import Dataset

from pipelines.components import csv_s3_reader, unzip_func
from pipelines.s3_streams.file_kinds import kind_of
from tests.support.zips import zipped

KINDS = [
    (b"\n<!-- x -->\n<html lang=en><body>Sign in</body></html>", r"a web page \(HTML\)"),
    (b"<!doctype HTML>", r"a web page \(HTML\)"),
    ("<html></html>".encode("utf-16"), r"a web page \(HTML\)"),
    (b'<?xml version="1.0"?>\n<Error><Code>SlowDown</Code></Error>', r"an error of S3 in XML \(SlowDown\)"),
    (b"<Error><Code>ExpiredToken</Code></Error>", r"an error of S3 in XML \(ExpiredToken\)"),
    (b'\xef\xbb\xbf<?xml version="1.0"?><rows/>', "XML"),
    (b'{"rows": [1]}', "JSON"),
    (b'[{"a": 1}]', "JSON"),
    (b'{"a": 1}\n{"a": 2}\n', "JSON"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4\nsize 1\n", "a Git LFS pointer"),
    (gzip.compress(b"a,b\n1,2\n"), "a gzip file"),
    (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
    (b"PAR1\x15\4", "a Parquet file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office file"),
    (b"%PDF-1.7\n", "a PDF file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"BZh91AY&SY", "a bzip2 file"),
    (bytes(257) + b"ustar\x0000", "a tar archive"),
]
WORKBOOK = zipped({"[Content_Types].xml": "<x/>", "xl/workbook.xml": "<x/>"})


@pytest.mark.parametrize(("content", "kind"), KINDS)
def test_an_object_that_is_no_zip_is_named(s3, bucket, content, kind):
    s3.put_object(Bucket=bucket, Key="x.zip", Body=content)
    with pytest.raises(ValueError, match=f"x.zip is not a complete zip file; it is {kind}.*: "):
        unzip_func(bucket, "x.zip", "out")


@pytest.mark.parametrize(("content", "kind"), [*KINDS, (WORKBOOK, r"an Excel workbook \(.xlsx\)")])
def test_an_object_that_is_no_table_is_named(s3, bucket, content, kind):
    s3.put_object(Bucket=bucket, Key="in/x.csv", Body=content)
    with pytest.raises(ValueError, match=f"x.csv is not a CSV file; it is {kind}.*: "):
        csv_s3_reader(bucket, "in", "x.csv", Dataset(uri="table.csv"))


@pytest.mark.parametrize("text", ["[a],[b]\n1,2\n", "{id},x\n1,2\n", "<none>,b\n1,2\n", "[1],2\n3,4\n"])
def test_a_table_that_begins_with_a_bracket_is_read(s3, bucket, text):
    s3.put_object(Bucket=bucket, Key="in/x.csv", Body=text.encode())
    assert csv_s3_reader(bucket, "in", "x.csv", Dataset(uri="table.csv")) == 1


@pytest.mark.parametrize("word", ["ORCID", "PAR1", "ARROW1", "FEA1", "BZh", "GIF8", "$FL2", "%PDF-", "Rar!", "7z", "é"])
def test_a_table_whose_header_begins_like_a_kind_of_file_is_read(s3, bucket, word):
    s3.put_object(Bucket=bucket, Key="in/x.csv", Body=f"{word},name\n1,2\n".encode())
    assert csv_s3_reader(bucket, "in", "x.csv", Dataset(uri="table.csv")) == 1


@pytest.mark.parametrize("rest", [b"\x03\x12", b"\0\0", b"\n\x06\x08"])
@pytest.mark.parametrize(
    ("word", "kind"), [(b"ORC", "ORC"), (b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"FEA1", "Feather")]
)
def test_a_kind_of_file_whose_signature_is_a_word_is_named(word, kind, rest):
    assert kind in kind_of(word + rest)


def test_a_workbook_is_named_when_it_holds_no_csv_file(s3, bucket):
    s3.put_object(Bucket=bucket, Key="x.zip", Body=WORKBOOK)
    with pytest.raises(ValueError, match=r"holds no CSV file; .*Excel workbook"):
        unzip_func(bucket, "x.zip", "out")


ADDRESSES = ["s3://{}/z/x.zip", "s3a://{}/z/x.zip", "S3://{}/z/x.zip", "https://s3.amazonaws.com/{}/z/x.zip",
             "https://{}.s3.eu-west-1.amazonaws.com/z/x.zip", "arn:aws:s3:::{}/z/x.zip"]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_place_of_a_key_is_refused_with_the_part_to_use(bucket, put_zip, objects, address):
    key, address = put_zip({"a.csv": "x\n1\n"}, "z/x.zip"), address.format(bucket)
    with pytest.raises(ValueError, match=r"zip_key is the address .*after the bucket: 'z/x.zip'$"):
        unzip_func(bucket, address, "out")
    with pytest.raises(ValueError, match=r"output_prefix is the address .*: 'z/x.zip'$"):
        unzip_func(bucket, key, address)
    with pytest.raises(ValueError, match=r"csv_path is the address"):
        csv_s3_reader(bucket, address, "a.csv", Dataset(uri="table.csv"))
    with pytest.raises(ValueError, match=r"csv_name is the address"):
        csv_s3_reader(bucket, "out", address, Dataset(uri="table.csv"))
    with pytest.raises(ValueError, match=rf"bucket_name is the address .*alone: '{bucket}'"):
        unzip_func(address, key, "out")
    assert list(objects("")) == [key]


def test_another_bucket_in_an_address_and_a_slash_in_a_bucket_are_named(bucket):
    with pytest.raises(ValueError, match="bucket_name must be 'elsewhere'"):
        unzip_func(bucket, "s3://elsewhere/x.zip", "out")
    with pytest.raises(ValueError, match="such as 'my-bucket'"):
        csv_s3_reader("my-bucket/folder", "", "a.csv", Dataset(uri="table.csv"))


def raw_zip(names: dict[bytes, bytes]) -> bytes:
    """Return a zip of small files with these names, as bytes without the UTF-8 flag, and these extra fields."""
    local = central = b""
    for name, extra in names.items():
        fields = (0, 0, 0, 33, zlib.crc32(b"a\n1\n"), 4, 4, len(name))
        central += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *fields, len(extra), 0, 0, 0, 0, len(local))
        central += name + extra
        local += struct.pack("<4s5H3L2H", b"PK\3\4", 20, *fields, 0) + name + b"a\n1\n"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(names), len(names), len(central), len(local), 0)
    return local + central + end


def central_extra(name: bytes, text: str, crc: int | None = None) -> bytes:
    field = struct.pack("<BL", 1, zlib.crc32(name) if crc is None else crc) + text.encode()
    return struct.pack("<2H", 0x7075, len(field)) + field


@pytest.fixture
def unpack(s3, bucket, objects):
    """Return a function that unpacks a zip and returns the names below the prefix."""

    def call(content: bytes, **options) -> list[str]:
        s3.put_object(Bucket=bucket, Key="n.zip", Body=content)
        unzip_func(bucket, "n.zip", "out", **options)
        return [key.removeprefix("out/") for key in objects("out/")]

    return call


def test_the_unicode_path_field_wins_if_it_belongs_to_the_name(unpack):
    name = "Отчёт.csv".encode("cp866")
    assert unpack(raw_zip({name: central_extra(name, "Папка\\Отчёт.csv")})) == ["Папка/Отчёт.csv"]
    with pytest.raises(
        ValueError, match=r"names in an unknown encoding, which read.*cp866 'Отчёт\.csv'.*set name_encoding"
    ):
        unpack(raw_zip({name: central_extra(name, "other.csv", 1)}))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Отчёт.csv", "cp866"),
        ("表.csv", "cp932"),
        ("データ.csv", "cp932"),
        ("姓名.csv", "gbk"),
        ("Übung.csv", "cp1252"),
    ],
)
def test_a_name_in_another_code_page_is_refused_until_its_encoding_is_given(unpack, text, encoding):
    content = raw_zip({text.encode(encoding): b""})
    with pytest.raises(ValueError, match="set name_encoding"):
        unpack(content)
    assert unpack(content, name_encoding=encoding) == [text]


def test_a_guess_of_a_name_is_printed(unpack, capsys):
    assert unpack(raw_zip({"Größe.csv".encode("cp437"): b""})) == ["Größe.csv"]
    assert "cp437 is a guess, which gives ['Größe.csv']; if it is wrong, set name_encoding" in capsys.readouterr().out


def test_a_backslash_separates_folders_where_the_encoding_is_known(unpack):
    assert unpack(raw_zip({b"a\\b.csv": b""})) == ["a/b.csv"]
    assert unpack(raw_zip({"ä\\b.csv".encode(): b""})) == ["a/b.csv", "ä/b.csv"]


def test_names_that_differ_only_in_their_normal_form_are_refused(unpack):
    both = {unicodedata.normalize(form, "café.csv"): "a\n1\n" for form in ("NFC", "NFD")}
    with pytest.raises(ValueError, match="differ only in how accents are written"):
        unpack(zipped(both))


@pytest.mark.parametrize(("stored", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_key_in_another_normal_form_is_found(s3, bucket, put_zip, capsys, stored, asked):
    def name(form: str, text: str) -> str:
        return unicodedata.normalize(form, text)

    s3.put_object(Bucket=bucket, Key=name(stored, "données/é.csv"), Body=b"a,b\n1,2\n")
    table = Dataset(uri="table.csv")
    assert csv_s3_reader(bucket, name(asked, "données"), name(asked, "é.csv"), table) == 1
    put_zip({"a.csv": "x\n1\n"}, name(stored, "é.zip"))
    assert unzip_func(bucket, name(asked, "é.zip"), "out") == "out"
    assert capsys.readouterr().out.count("another Unicode normal form") == 2


@pytest.mark.parametrize("name", [".uploads/a.csv", "x/.uploads/a.csv", "x.versions/a.csv", "a/.versions/b.csv"])
def test_folders_that_seaweedfs_does_not_list_are_refused_before_anything_is_written(unpack, bucket, put_zip, name):
    with pytest.raises(ValueError, match="SeaweedFS does not list"):
        unpack(zipped({"good.csv": "x\n", name: "x\n"}))
    with pytest.raises(ValueError, match="SeaweedFS does not list"):
        unzip_func(bucket, put_zip({"a.csv": "x\n"}), name.rpartition("/")[0])


def test_a_file_that_is_only_called_so_is_listed(unpack):
    assert unpack(zipped({"a.versions.csv": "x\n", ".uploads.csv": "x\n"})) == [".uploads.csv", "a.versions.csv"]


@pytest.mark.parametrize("wrong", [10, 10_000, 2**32 - 2])
def test_a_wrong_offset_never_reads_the_whole_object(s3, bucket, wrong):
    buffer = io.BytesIO(bytes(1_000_000))
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("a.csv", "x\n1\n")
    content = bytearray(buffer.getvalue())
    place = content.rindex(b"PK\5\6") + 16
    offset = int.from_bytes(content[place : place + 4], "little")
    content[place : place + 4] = min(offset + wrong, 2**32 - 2).to_bytes(4, "little")
    s3.put_object(Bucket=bucket, Key="w.zip", Body=bytes(content))
    with pytest.raises(ValueError, match=r"w\.zip is not a complete zip file: its directory is not where its end says"):
        unzip_func(bucket, "w.zip", "out")
