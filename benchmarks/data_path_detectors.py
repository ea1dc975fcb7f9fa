"""Compares the ways to detect encoding and dialect of CSV files: `python -m benchmarks.data_path_detectors`.

Each way reads the same files: one for each kind of oddity, some of the kinds that the corpora csv-spectrum and the
tests of pandas describe, and 200 generated files. Every cell is compared with the cell that was written. A way may read
a file rightly, refuse it, or read it wrongly. The benchmark prints a table in Markdown.
"""

import contextlib
import csv
import io
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workshop.project import ROOT

PACKAGES = ("charset-normalizer==3.5.2", "clevercsv==0.8.5", "duckdb==2.0.1", "polars==2.1.0")
GENERATED = 200
SEED = 2013
CHILD = "--in-own-environment"
Rows = list[list[str]]

# The content of a file, and the rows that a person reads in it. The first ones are like those of csv-spectrum.
PEOPLE = [["name", "note"], ["Ann", "a, b"], ["Bob", "x"]]
KINDS: dict[str, tuple[bytes, Rows]] = {
    "separator in quotes": (b'name,note\nAnn,"a, b"\nBob,x\n', PEOPLE),
    "empty fields": (b'a,b,c\n1,"",""\n2,3,4\n', [["a", "b", "c"], ["1", "", ""], ["2", "3", "4"]]),
    "doubled quotes": (b'a,b\n1,"ha ""ha"" ha"\n3,4\n', [["a", "b"], ["1", 'ha "ha" ha'], ["3", "4"]]),
    "JSON in a field": (b'k,v\n1,"{""a"": 1, ""b"": [2]}"\n', [["k", "v"], ["1", '{"a": 1, "b": [2]}']]),
    "line breaks in quotes": (b'a,b\n1,"x\ny"\n3,4\n', [["a", "b"], ["1", "x\ny"], ["3", "4"]]),
    "quotes and line breaks": (
        b'a,b\n1,"x ""y""\nz"\n',
        [
            ["a", "b"],
            ["1", 'x "y"\nz'],
        ],
    ),
    "CR LF": (b"a,b\r\n1,2\r\n", [["a", "b"], ["1", "2"]]),
    "CR alone": (b"a;b\r1;2\r3;4\r", [["a", "b"], ["1", "2"], ["3", "4"]]),
    "UTF-8": ("a,b\n1,ʤ\n".encode(), [["a", "b"], ["1", "ʤ"]]),
    "byte order mark": ("\ufeffa,b\n1,é\n".encode(), [["a", "b"], ["1", "é"]]),
    "one column": (b"name\nAnn\nBob\n", [["name"], ["Ann"], ["Bob"]]),
    "short rows": (b"a;b;c\n1;2;3\n4\n", [["a", "b", "c"], ["1", "2", "3"], ["4", "", ""]]),
    "leading zeros": (b"code;n\n01037;1\n", [["code", "n"], ["01037", "1"]]),
    "sep= line": (b"sep=;\nid;name\n1;a\n2;b\n", [["id", "name"], ["1", "a"], ["2", "b"]]),
    "backslash before quotes": (b'id,t\n1,"a \\"b\\" c"\n2,d\n', [["id", "t"], ["1", 'a "b" c'], ["2", "d"]]),
    "bare quotes with tabs": (b'id\tt\n1\t5" disk\n2\t"x\n', [["id", "t"], ["1", '5" disk'], ["2", '"x']]),
    "decimal commas": (
        b"Ort;Temperatur, C;Feuchte, %\nKoeln;12,5;80,1\nBonn;11,0;79,9\n",
        [["Ort", "Temperatur, C", "Feuchte, %"], ["Koeln", "12,5", "80,1"], ["Bonn", "11,0", "79,9"]],
    ),
    "spaces before quotes": (b'a, b\n1, "x, y"\n', [["a", "b"], ["1", "x, y"]]),
    "doubled names": (b"a;a\n1;2\n", [["a", "a"], ["1", "2"]]),
    "Windows-1252": ("Nr;Ort\n1;Köln\n2;Mülheim\n".encode("cp1252"), [["Nr", "Ort"], ["1", "Köln"], ["2", "Mülheim"]]),
    "UTF-16": ("Nr;Ort\n1;Köln\n".encode("utf-16"), [["Nr", "Ort"], ["1", "Köln"]]),
    "Shift JIS": ("名前,表\n太郎,1\n".encode("shift_jis"), [["名前", "表"], ["太郎", "1"]]),
    "GBK": ("姓名,年龄\n张三,1\n".encode("gbk"), [["姓名", "年龄"], ["张三", "1"]]),
    "Windows-1251": ("имя;город\nИван;Омск\n".encode("cp1251"), [["имя", "город"], ["Иван", "Омск"]]),  # noqa: RUF001
    "code page 850": ("name;ort\nMüller;Köln\n".encode("cp850"), [["name", "ort"], ["Müller", "Köln"]]),
}
WORDS = ["Ann", "Bob", "Köln", "Straße", "naïve", "café", "São", "été", "œuvre", "x", "z_1", "A-7"]
WORDS += ["12", "7", "3,5", "2.5", "2024-01-31", "10:30"]


def generated() -> Iterator[tuple[bytes, Rows]]:
    """Return generated files and their rows: each a random dialect, encoding and content."""
    chance = random.Random(SEED)
    while True:
        separator = chance.choice(",;\t|")
        encoding = chance.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252", "cp850", "mac_roman"])
        columns, length = chance.randint(1, 6), chance.randint(1, 12)
        rows = [[f"{chance.choice(WORDS)} {number}" for number in range(columns)]]
        rows += [[_cell(chance, separator) for _ in range(columns)] for _ in range(length)]
        text = io.StringIO(newline="")
        quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        ending = chance.choice(["\n", "\r\n"])
        csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=ending).writerows(rows)
        with contextlib.suppress(UnicodeEncodeError):
            yield text.getvalue().encode(encoding), rows


def _cell(chance: random.Random, separator: str) -> str:
    words = " ".join(chance.choices(WORDS, k=chance.randint(1, 3)))
    return words + chance.choice(["", "", "", separator, '"', "\n"]) + chance.choice(["", "1"])


class Held:
    """A file in memory, in place of an object in S3."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size, self.address = content, len(content), "s3://held/file.csv"

    def read_twice(self, start: int, end: int) -> bytes:
        """Return a range."""
        return self.content[start:end]

    def stream(self) -> Iterator[bytes]:
        """Return the whole content."""
        yield self.content


def by_component(content: bytes, path: Path) -> Rows:
    """Read a file as `csv_s3_reader` does."""
    from pipelines.s3_streams import csv_files

    csv_files._find = lambda *_: Held(content)  # type: ignore[assignment,return-value]
    with contextlib.redirect_stdout(io.StringIO()):
        csv_files.CsvFile("held", "", "file.csv").copy_to(str(path))
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    return [row + [""] * (len(rows[0]) - len(row)) for row in rows if row]


def _text(content: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(content).best()
    if best is None:
        raise ValueError("no encoding fits")
    return str(best).removeprefix("\ufeff")


def by_sniffer(content: bytes, _: Path) -> Rows:
    """Read a file by charset-normalizer and Python's csv.Sniffer."""
    text = _text(content)
    dialect = csv.Sniffer().sniff(text)
    return [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if row]


def by_clevercsv(content: bytes, _: Path) -> Rows:
    """Read a file by charset-normalizer and clevercsv."""
    import clevercsv

    text = _text(content)
    dialect = clevercsv.Sniffer().sniff(text)
    return [row for row in clevercsv.reader(io.StringIO(text, newline=""), dialect) if row]


def by_duckdb(content: bytes, path: Path) -> Rows:
    """Read a file by the sniffer of DuckDB."""
    import duckdb

    path.write_bytes(content)
    found = duckdb.connect().execute("SELECT * FROM read_csv(?, all_varchar=true)", [str(path)])
    names = [column[0] for column in found.description or []]
    return [names, *([cell or "" for cell in row] for row in found.fetchall())]


def by_polars(content: bytes, path: Path) -> Rows:
    """Read a file by Polars, which detects neither separator nor encoding."""
    import polars

    path.write_bytes(content)
    table = polars.read_csv(path, infer_schema=False, truncate_ragged_lines=False)
    return [table.columns, *([cell or "" for cell in row] for row in table.rows())]


WAYS: dict[str, Callable[[bytes, Path], Rows]] = {
    "`csv_s3_reader`": by_component,
    "charset-normalizer, csv.Sniffer": by_sniffer,
    "charset-normalizer, clevercsv": by_clevercsv,
    "DuckDB": by_duckdb,
    "Polars": by_polars,
}


def judged(way: Callable[[bytes, Path], Rows], content: bytes, expected: Rows, path: Path) -> str:
    """Return `right`, `refused` or `wrong`."""
    try:
        found = way(content, path)
    except Exception:  # every library has its own errors
        return "refused"
    return "right" if found == expected else "wrong"


def compare() -> None:
    """Print the table of all ways and all files."""
    warnings.simplefilter("ignore")
    files = [file for file, _ in zip(generated(), range(GENERATED), strict=False)]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.csv")
        for name, way in WAYS.items():
            kinds = {kind: judged(way, *file, path) for kind, file in KINDS.items()}
            begun = time.process_time()
            counts = Counter(judged(way, *file, path) for file in files)
            results[name] = {"kinds": kinds, "counts": counts, "seconds": time.process_time() - begun}
    print(f"| file | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for kind in KINDS:
        print(f"| {kind} | {' | '.join(results[name]['kinds'][kind] for name in WAYS)} |")
    for verdict in ("right", "refused", "wrong"):
        print(f"| {GENERATED} generated: {verdict} | {' | '.join(str(results[n]['counts'][verdict]) for n in WAYS)} |")
    milliseconds = (f"{results[name]['seconds'] / GENERATED * 1000:.1f} ms" for name in WAYS)
    print(f"| processor time for each | {' | '.join(milliseconds)} |")


def main() -> None:
    """Run the comparison in an environment that has the packages."""
    if CHILD in sys.argv:
        compare()
        return
    packages = [word for package in PACKAGES for word in ("--with", package)]
    command = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", *packages]
    subprocess.run([*command, "python", "-m", "benchmarks.data_path_detectors", CHILD], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
