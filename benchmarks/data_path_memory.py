"""Measures the peak memory of the components for hostile input: `python -m benchmarks.data_path_memory`.

Each case runs in its own process. The content is generated while it is read, so it needs no memory and no S3. The
benchmark prints a table in Markdown.
"""

import argparse
import contextlib
import io
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workshop.project import ROOT

MB = 1_000_000
BLOCK = 2 << 20
TIMEOUT_SECONDS = 600
FILES = 300_000


class Generated:
    """An object whose content is a beginning, a unit that is repeated, and an end.

    Args:
        start: the beginning.
        unit: the unit.
        size: the size of all units, in bytes.
        end: the end.
    """

    def __init__(self, start: bytes, unit: bytes, size: int, end: bytes = b"") -> None:
        self.address = "s3://generated/input"
        self.requests = self.transferred = 0
        self._start, self._end = start, end
        self._unit = unit * (1 + 4096 // len(unit))
        self._repeated = size // len(unit) * len(unit)
        self.size = len(start) + self._repeated + len(end)

    def read(self, start: int, end: int) -> bytes:
        """Return a range of the content."""
        found = self._start[start:end]
        before = len(self._start)
        if end > before:
            first, last = max(0, start - before), min(end - before, self._repeated)
            if first < last:
                skip = first % len(self._unit)
                found += (self._unit * ((last - first + skip) // len(self._unit) + 1))[skip : skip + last - first]
            tail = before + self._repeated
            found += self._end[max(0, start - tail) : max(0, end - tail)]
        return found

    read_twice = read

    def stream(self) -> Iterator[bytes]:
        """Return the content in blocks."""
        for start in range(0, self.size, BLOCK):
            yield self.read(start, min(start + BLOCK, self.size))


def table(start: bytes, unit: bytes, megabytes: int, end: bytes = b"", **options: Any) -> Callable[[int], str]:
    """Return a case: it reads a generated CSV file, as `csv_s3_reader` does."""

    def run(percent: int) -> str:
        from pipelines.s3_streams import csv_files

        content = Generated(start, unit, megabytes * MB * percent // 100, end)
        csv_files._find = lambda *_: content  # type: ignore[assignment,return-value]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            file = csv_files.CsvFile("generated", "", "input", **options)
            return f"read: {file.copy_to(f'{folder}/table'):,} rows, {file.columns:,} columns"

    return run


def many_files(percent: int) -> str:
    """Check a zip of many files, as `unzip_func` does before it unpacks."""
    data = b"1\n"
    crc, count = zlib.crc32(data), FILES * percent // 100
    names = [b"folder/file-%07d.csv" % number for number in range(count)]
    local = b"".join(_local(name, data, crc) for name in names)
    size = len(_local(names[0], data, crc))
    central = b"".join(_central(name, data, crc, size * number) for number, name in enumerate(names))
    return _members(local, central, count, len(local))


def wrong_offset(percent: int) -> str:
    """Check a large zip whose directory says that it begins elsewhere."""
    size = 600 * MB * percent // 100
    central = _central(b"a.csv", b"1\n", zlib.crc32(b"1\n"), 0)
    return _members(b"", central, 1, size + 1000, filler=size)


def negative_range(percent: int) -> str:
    """Check a large zip in which a file begins before the object does, and another one after the directory."""
    size = 600 * MB * percent // 100
    entries = [_central(name, b"1\n", 1, offset) for name, offset in ((b"a.csv", size + 5_000), (b"b.csv", 2**32 - 2))]
    return _members(b"", b"".join(entries), 2, size, filler=size)


def _members(local: bytes, central: bytes, count: int, offset: int, filler: int = 0) -> str:
    from pipelines.s3_streams import zips

    shown = min(count, 0xFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, shown, shown, len(central), offset, 0)
    content = Generated(local, b"\0", filler, central + end)
    zips.find_object = lambda *_: content  # type: ignore[assignment,return-value]
    found = zips.S3Zip("generated", "input").members("*.csv")
    return f"read: {len(found):,} files"


def _local(name: bytes, data: bytes, crc: int) -> bytes:
    header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, crc, len(data), len(data), len(name), 0)
    return header + name + data


def _central(name: bytes, data: bytes, crc: int, offset: int) -> bytes:
    sizes = (crc, len(data), len(data), len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, *sizes) + name


WIDE = ",".join(f"column number {number}" for number in range(60_000)).encode()
WIDE_ROW = ",".join(map(str, range(60_000))).encode() + b"\n"
CASES: dict[str, Callable[[int], str]] = {
    "plain table of 400 MB": table(b"id,name,value\n", b"1,a text of some length,2.5\n", 400),
    "table of 400 MB with `;`": table(b"id;name;value\n", b"1;" + b"a text of some length " * 9 + b";2,5\n", 400),
    "one line of 400 MB with `,`": table(b"a,b\n", b"1,", 400),
    "one line of 400 MB with `;`": table(b"a;b\n1;2\n", b"1;", 400),
    "one line of 400 MB with tabs": table(b"a\tb\n1\t2\n", b"1\t", 400),
    "one line of 400 MB without a separator": table(b"a|b\n1|2\n", b"x", 400),
    "a header of 400 MB": table(b"", b"name;", 400),
    "an unclosed quote in 400 MB with `,`": table(b'a,b\n1,"x\n', b"1,2\n", 400),
    "an unclosed quote in 400 MB with `;`": table(b'a;b\n1;2\n1;"x\n', b"1;2\n", 400),
    "an unclosed quote in 400 MB with tabs": table(b'a\tb\n1\t2\n1\t"x\n', b"1\t2\n", 400, quotes="doubled"),
    "rows of 7 MB with `;`": table(b"a;b\n", b"1;" + b"x" * 7_000_000 + b"\n", 400),
    "60,000 columns with `,`": table(WIDE + b"\n", WIDE_ROW, 100),
    "60,000 columns with `;`": table(WIDE.replace(b",", b";") + b"\n", WIDE_ROW.replace(b",", b";"), 100),
    "zip of 300,000 files": many_files,
    "zip of 600 MB, wrong offset of the directory": wrong_offset,
    "zip of 600 MB, wrong offsets of files": negative_range,
}


def measure(name: str, percent: int = 100) -> tuple[str, float, float]:
    """Run one case in its own process.

    Args:
        name: the name of the case.
        percent: the size of the content, in percent of the size in the name.

    Returns:
        What came of it; the peak memory of the process in MB; the seconds.
    """
    command = [sys.executable, "-m", "benchmarks.data_path_memory", "--case", name, "--percent", str(percent)]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    result, _, peak = done.stdout.strip().rpartition("\t")
    return result, float(peak), time.monotonic() - begun


def peak_megabytes() -> float:
    """Return the highest use of memory of this process so far. Only Linux tells it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / MB


def main() -> None:
    """Run one case in this process, or print the table of all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case")
    parser.add_argument("--percent", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.case:
        try:
            result = CASES[arguments.case](arguments.percent)
        except ValueError as error:
            result = f"refused: {str(error)[:90]}"
        print(result.replace("\n", " ").replace("\t", " "), peak_megabytes(), sep="\t")
        return
    print("| input | result | peak memory | time |\n|---|---|---|---|")
    for name in CASES:
        result, peak, seconds = measure(name, arguments.percent)
        print(f"| {name} | {result} | {peak:.0f} MB | {seconds:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
