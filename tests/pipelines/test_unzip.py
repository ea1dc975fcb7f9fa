"""Zips of every kind, good and bad, unpacked on a real S3 server."""

import contextlib
import io
import itertools
import random
import struct
import subprocess
import sys
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.components import unzip_func
from pipelines.s3_streams import S3Error, S3Zip, Uploads, zips
from tests.support.zips import zipped

BIG = "value\n" + "".join(f"{number * 7919 % 1_000_003}\n" for number in range(1_700_000))
NUMBERS = itertools.count()
ENTRY = b"PK\x01\x02"


def put(s3, bucket, content: bytes, key="data.zip") -> str:
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    return key


def edited(content: bytes, offset: int, value: bytes, header=ENTRY) -> bytes:
    """Change bytes in the last entry of a zip's directory, or in another header."""
    start = content.rindex(header) + offset
    return content[:start] + value + content[start + len(value) :]


class Unseekable(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError

    def tell(self):
        raise OSError


# Letters, digits, punctuation, symbols and spaces of all scripts.
PART = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="/\\:"), min_size=1, max_size=20)
NAME = (
    st.lists(PART, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda name: not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))
)
CONTENT = st.one_of(
    st.binary(max_size=2000), st.integers(0, 400_000).map(lambda size: bytes(range(256)) * (size // 256))
)
FILES = st.dictionaries(NAME, CONTENT, min_size=1, max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=FILES,
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
    level=st.integers(1, 9),
    streamed=st.booleans(),
    zip64=st.booleans(),
    before=st.binary(max_size=50),
    comment=st.binary(max_size=300),
)
@pytest.mark.slow
def test_any_files_zipped_in_any_way_are_unpacked_unchanged(
    s3, bucket, objects, files, method, level, streamed, zip64, before, comment
):
    buffer = Unseekable() if streamed else io.BytesIO()
    buffer.write(b"" if streamed else before)
    with zipfile.ZipFile(buffer, "w" if streamed else "a", method, compresslevel=level) as archive:
        archive.comment = comment
        for name, content in files.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(content)
    prefix = f"any/{next(NUMBERS)}"
    unzip_func(bucket, put(s3, bucket, buffer.getvalue()), prefix, pattern="*")
    assert objects(f"{prefix}/") == {f"{prefix}/{name}": content for name, content in files.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4), tail=st.booleans()
)
@pytest.mark.slow
def test_a_zip_with_damaged_bytes_is_refused_or_unpacked_unchanged(s3, bucket, objects, changes, tail):
    files = {"a.csv": b"x\n" * 50, "b.csv": bytes(range(256)) * 4}
    content = bytearray(zipped(files))
    for place, change in changes:
        # Half of the time the damage is in the directory, which most checks depend on.
        content[-1 - place % 130 if tail else place % len(content)] ^= change
    prefix = f"damaged/{next(NUMBERS)}"
    with contextlib.suppress(ValueError, S3Error):
        unzip_func(bucket, put(s3, bucket, bytes(content)), prefix, pattern="*")
    assert set(objects(f"{prefix}/").values()) <= set(files.values())


@pytest.mark.slow
def test_a_large_file_is_sent_in_parts_and_s3_keeps_the_crc_of_the_zip(s3, bucket, put_zip, objects, unfinished):
    key = put_zip({"big.csv": BIG, "small.csv": "a\n"})
    unzip_func(bucket, key, "out")
    assert objects("out/") == {"out/big.csv": BIG.encode(), "out/small.csv": b"a\n"}
    head = s3.head_object(Bucket=bucket, Key="out/big.csv", ChecksumMode="ENABLED")
    assert head["ETag"].strip('"').endswith("-3") and head["ChecksumType"] == "FULL_OBJECT"
    assert unfinished() == []


def test_only_wanted_files_are_fetched(s3, bucket, objects):
    noise = random.Random(1)
    files = {f"{number}.csv": noise.randbytes(1_000_000) for number in range(8)}
    put(s3, bucket, zipped(files, zipfile.ZIP_STORED))
    archive = S3Zip(bucket, "data.zip")
    members = archive.members("[26].csv")
    assert [b"".join(member.pieces()) for member in members] == [files["2.csv"], files["6.csv"]]
    assert archive.source.transferred < 2_300_000
    unzip_func(bucket, "data.zip", "out", pattern="2.CSV")
    assert objects("out/").keys() == {"out/2.csv"}


@pytest.mark.slow
def test_many_small_files_need_few_reads(s3, bucket, put_zip):
    archive = S3Zip(bucket, put_zip({f"{number}.csv": f"a\n{number}\n" for number in range(500)}))
    assert [b"".join(member.pieces()) for member in archive.members()] == [
        f"a\n{number}\n".encode() for number in range(500)
    ]
    assert archive.source.requests <= 3  # two of these requests read the directory


@pytest.mark.slow
def test_a_file_can_be_read_again_and_out_of_order(bucket, put_zip):
    archive = S3Zip(bucket, put_zip({"a.csv": "a" * 100, "b.csv": BIG}))
    first, second = archive.members()
    for member, expected in ((second, BIG), (first, "a" * 100), (second, BIG), (second, BIG)):
        assert b"".join(member.pieces()) == expected.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak memory; to run it: use Linux")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_the_files(s3, bucket, put_zip):
    code = """if True:
        import sys
        from pipelines.components import unzip_func
        unzip_func(sys.argv[1], sys.argv[2], "out", max_ratio=2000)
        print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
    """

    def peak(size: int) -> int:
        key = put_zip({"a.csv": b"1234567,\n" * (size // 9)})
        done = subprocess.run([sys.executable, "-c", code, bucket, key], capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[-1]) * 1024

    assert peak(150_000_000) < min(1.3 * peak(15_000_000), 200_000_000)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder\\a.csv", "folder/a.csv"),
        ("./x//a.csv", "x/a.csv"),
        ("caf\u00e9.csv", "caf\u00e9.csv"),
        (f"{'n' * 200}/{'m' * 200}/{'o' * 200}/a.csv", f"{'n' * 200}/{'m' * 200}/{'o' * 200}/a.csv"),
        ("a b+c%20&=?#;@$,'\"*.csv", "a b+c%20&=?#;@$,'\"*.csv"),
    ],
)
@pytest.mark.slow
def test_odd_names_become_keys(bucket, put_zip, objects, name, expected):
    unzip_func(bucket, put_zip({name: "x\n"}), "out")
    assert objects("out/") == {f"out/{expected}": b"x\n"}


@pytest.mark.parametrize(
    ("written", "expected"), [(b"caf\x82.csv", "caf\u00e9.csv"), (b"r\xc3\xa9s.csv", "r\u00e9s.csv")]
)
def test_names_without_the_utf_8_flag_are_read_as_utf_8_or_cp437(s3, bucket, objects, written, expected):
    content = zipped({"x" * len(written): "1\n"})
    put(s3, bucket, content.replace(b"x" * len(written), written))
    unzip_func(bucket, "data.zip", "out")
    assert objects("out/").keys() == {f"out/{expected}"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../a.csv", "lead outside"),
        ("/etc/a.csv", "lead outside"),
        ("x\\..\\..\\a.csv", "lead outside"),
        ("C:\\a.csv", "lead outside"),
        ("a\nb.csv", "control characters"),
        ("a\x7fb.csv", "control characters"),
        (f"{'n' * 1000}.csv", "more than 255 bytes"),
        ("/".join("n" * 100 for _ in range(11)) + ".csv", "1024 bytes"),
    ],
)
def test_names_that_cannot_be_keys_are_refused_before_anything_is_written(bucket, put_zip, objects, name, why):
    key = put_zip({"good.csv": "x\n", name: "x\n"})
    with pytest.raises(ValueError, match=why):
        unzip_func(bucket, key, "out")
    assert objects("out") == {}


@pytest.mark.slow
def test_a_link_is_refused_before_anything_is_written(s3, bucket, objects):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        link = zipfile.ZipInfo("link.csv")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "../../elsewhere.csv")
    s3.put_object(Bucket=bucket, Key="data.zip", Body=content.getvalue())
    with pytest.raises(ValueError, match=r"symbolic links: \['link.csv'\]"):
        unzip_func(bucket, "data.zip", "out")
    assert objects("out") == {}


@pytest.mark.parametrize("limit", ["max_gb", "max_ratio"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_the_error_for_a_wrong_limit_names_it(bucket, put_zip, limit, value):
    with pytest.raises(ValueError, match=f"{limit}.* must be more than 0"):
        unzip_func(bucket, put_zip({"a.csv": "x\n"}), "out", **{limit: value})


@pytest.mark.slow
def test_a_prefix_with_dots_is_refused_and_extra_slashes_are_removed(bucket, put_zip, objects):
    key = put_zip({"a.csv": "x\n"})
    with pytest.raises(ValueError, match=r"output_prefix '../out/' must not have"):
        unzip_func(bucket, key, "../out")
    assert unzip_func(bucket, key, "/q//x/") == "q/x"
    assert objects("q") == {"q/x/a.csv": b"x\n"}


def test_folders_and_the_files_that_macos_adds_are_left_out(bucket, put_zip, objects):
    files = {"d.csv/": "", "d.csv/a.csv": "1", "__MACOSX/a.csv": "2", "x/__MACOSX/._a.csv": "3", "x/._b.csv": "4"}
    unzip_func(bucket, put_zip(files), "out", pattern="*")
    assert objects("out/") == {"out/d.csv/a.csv": b"1"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_duplicate_name_is_refused(s3, bucket, objects):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a.csv", "b.csv", "./a.csv"):
            archive.writestr(name, name)
    put(s3, bucket, buffer.getvalue())
    with pytest.raises(ValueError, match=r"duplicate names: \['a\.csv'\]"):
        unzip_func(bucket, "data.zip", "out")
    assert objects("out") == {}


def test_the_error_for_an_object_that_is_not_a_zip_names_it(s3, bucket):
    for content in (b"", b"a,b\n1,2\n", b"PK\x03\x04" + bytes(100), zipped({"a.csv": "x"})[:-1]):
        put(s3, bucket, content)
        with pytest.raises(ValueError, match=rf"s3://{bucket}/data.zip is not a complete zip file"):
            unzip_func(bucket, "data.zip", "out")


def test_the_error_for_a_zip_without_matching_files_names_its_files(s3, bucket, put_zip):
    put(s3, bucket, zipped({}))
    with pytest.raises(ValueError, match=r"holds no CSV file; its first names are \[\]"):
        unzip_func(bucket, "data.zip", "out")
    with pytest.raises(ValueError, match=r"unpack the inner zip first: 'inner\.zip'"):
        unzip_func(bucket, put_zip({"inner.zip": zipped({"a.csv": "x"})}), "out")
    with pytest.raises(ValueError, match=r"holds no file that matches \*\.parquet"):
        unzip_func(bucket, put_zip({"a.csv": "x"}), "out", pattern="*.parquet")


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (8, b"\x01\x00", "encrypted files: "),
        (8, b"\x20\x00", "patches of other files: "),
        (10, b"\x09\x00", r"unsupported compression: \['b.csv \(method 9\)'\]; make the zip again with deflate"),
        (10, b"\x5d\x00", r"unsupported compression: \['b.csv \(method 93\)'\]; make the zip again with deflate"),
        (42, b"\x00\x00\x00\x00", "files that overlap: "),
    ],
)
def test_files_that_cannot_be_unpacked_are_refused_before_anything_is_written(s3, bucket, objects, offset, value, why):
    put(s3, bucket, edited(zipped({"a.csv": "x\n" * 50, "b.csv": "x\n" * 60}), offset, value))
    with pytest.raises(ValueError, match=why):
        unzip_func(bucket, "data.zip", "out")
    assert objects("out") == {}


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (16, b"\0\0\0\0", "has the CRC"),
        (24, struct.pack("<I", 100), "holds more than its 100 bytes"),
        (24, struct.pack("<I", len(BIG) + 1), "holds less than its"),
        (20, struct.pack("<I", 1000), "cannot be unpacked"),
        (42, struct.pack("<I", 50), "is not where the directory says"),
    ],
)
@pytest.mark.slow
def test_a_damaged_file_never_appears_in_s3(s3, bucket, objects, unfinished, offset, value, why):
    put(s3, bucket, edited(zipped({"a.csv": "x\n" * 50, "big.csv": BIG}), offset, value))
    with pytest.raises(ValueError, match=rf"big\.csv in s3://{bucket}/data\.zip is damaged: it .*{why}"):
        unzip_func(bucket, "data.zip", "out")
    assert objects("out").keys() <= {"out/a.csv"}
    assert unfinished() == []


@pytest.mark.slow
def test_damaged_data_never_appears_in_s3(s3, bucket, objects, unfinished):
    content = bytearray(zipped({"big.csv": BIG}))
    content[len(content) // 2] ^= 1
    put(s3, bucket, bytes(content))
    with pytest.raises(ValueError, match=r"big\.csv in .* is damaged"):
        unzip_func(bucket, "data.zip", "out")
    assert objects("out") == {} and unfinished() == []


def test_a_bomb_is_refused_by_its_size_and_by_its_ratio(bucket, put_zip, objects, monkeypatch):
    monkeypatch.setattr(zips, "RATIO_CHECK_BYTES", 1_000_000)
    key = put_zip({"a.csv": bytes(5_000_000)})
    with pytest.raises(ValueError, match=r"times its size, but max_ratio is 200; it may be a zip bomb"):
        unzip_func(bucket, key, "out")
    with pytest.raises(ValueError, match=r"would unpack to 0\.0 GB, but max_gb is 0\.001; it may be a zip bomb"):
        unzip_func(bucket, key, "out", max_gb=0.001)
    assert objects("out") == {}
    unzip_func(bucket, key, "out", max_ratio=2000)
    assert objects("out") == {"out/a.csv": bytes(5_000_000)}


def test_a_zip_that_is_replaced_while_it_is_read_is_an_error(s3, bucket, put_zip, objects):
    archive = S3Zip(bucket, put_zip({"a.csv": "x\n" * 300_000}, method=zipfile.ZIP_STORED))
    [member] = archive.members()
    put_zip({"a.csv": "y\n" * 300_000}, method=zipfile.ZIP_STORED)
    with pytest.raises(S3Error, match=r"data\.zip: .*the object was replaced while it was read"):
        list(member.pieces())


def test_a_zip_is_not_overwritten_by_a_file_in_it(bucket, put_zip):
    key = put_zip({"data.zip": "not a zip"})
    with pytest.raises(ValueError, match=rf"s3://{bucket}/data\.zip would be overwritten by a file that it holds"):
        unzip_func(bucket, key, "", pattern="*")


@pytest.mark.slow
def test_an_upload_that_another_process_aborts_is_repeated(s3, bucket, put_zip, objects, unfinished, monkeypatch):
    begun = []
    real = Uploads._begin

    def begin_and_abort(self, file):
        upload = real(self, file)
        begun.append(upload.id)
        if len(begun) <= 2:
            s3.abort_multipart_upload(Bucket=bucket, Key=self._key(file), UploadId=upload.id)
        return upload

    monkeypatch.setattr(Uploads, "_begin", begin_and_abort)
    unzip_func(bucket, put_zip({"big.csv": BIG}), "out")
    assert len(begun) == 3
    assert objects("out/") == {"out/big.csv": BIG.encode()} and unfinished() == []
