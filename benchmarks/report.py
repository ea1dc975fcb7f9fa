"""Writes figures as tables, on the terminal and in Markdown, and as a picture."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.answers import PAGE, REQUESTS, SIZES, WARM_UP, Latency
from benchmarks.startup import ROUNDS, StartUp
from benchmarks.zero_work import TASKS
from workshop.project import ROOT

RESULTS = ROOT / "benchmarks" / "results"
NAME = "pipelines_api"
PARTS = ("kfp", "fastapi", "uvicorn", "sqlmodel", "sqlalchemy", "pydantic")
# Darker for more runs, so that the bars differ without colours, too.
SHADES = ("#a6bddb", "#3690c0", "#034e7b")
INTRODUCTION = f"""\
`make bench` measured these figures on its own sandbox. Server, client and tasks share the machine, and no data leaves
it. No figure is a promise, and no test asserts one.

Requests use plain HTTP on one open connection: {REQUESTS} of each kind, after {WARM_UP} that do not count. The runs \
in the database are copies of one executed run with the records of its tasks. Tasks and recovery are measured with \
{SIZES[-1]:,} runs in the database."""


@dataclass(frozen=True)
class Section:
    """A table with a title above and a remark below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    remark: str


def machine(packages: Sequence[str] = PARTS) -> str:
    """Return the conditions of the figures: the day, the machine, and the versions of packages."""
    load = os.getloadavg()[0]
    parts = ", ".join([*(f"{name} {version(name)}" for name in packages), f"SQLite {sqlite3.sqlite_version}"])
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} CPUs ({platform.system()}, {platform.machine()}), load "
        f"{load:.1f} before the start; Python {platform.python_version()}; {parts}."
    )


def of_answers(latencies: dict[str, dict[int, Latency]]) -> Section:
    """Return the table about requests."""
    few, some, many = SIZES
    rows = []
    for name, found in latencies.items():
        cells = [f"{found[size].p50:.1f} / {found[size].p95:.1f}" for size in SIZES]
        ratios = [f"{found[many].p50 / found[fewer].p50:.1f}" for fewer in (few, some)]
        rows.append([name, *cells, *ratios])
    return Section(
        "Requests, p50 / p95 in ms",
        ["request", *(f"{size:,} runs" for size in SIZES), f"to {few:,}", f"to {some:,}"],
        rows,
        f"The last two columns are ratios: p50 with {many:,} runs to p50 with {few:,} and with {some:,}. A page holds "
        f"{PAGE} runs with their tasks and their pipeline. With {few} copies, a page holds only the few runs of the "
        "benchmark itself, so the first ratio compares a full page with an almost empty one. Both filters find one run "
        "in ten.",
    )


def of_start_up(found: StartUp) -> list[Section]:
    """Return the tables about tasks that do nothing."""
    return [_of_runs(found), _of_one_task(found), _of_comparison(found)]


def of_recovery(seconds: list[float]) -> Section:
    """Return the table about kills of the server."""
    return Section(
        "From kill -9 of the server to its next answer, in s",
        ["kills", "median", "longest"],
        [[str(len(seconds)), f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]],
        "`Sandbox.up()` finds that the server has ended, and starts it again.",
    )


def alternative_text(latencies: dict[str, dict[int, Latency]]) -> str:
    """Describe the picture in words."""
    many = {name: found[SIZES[-1]] for name, found in latencies.items()}
    ordered = sorted(many, key=lambda name: many[name].p50)
    sizes = " and ".join([", ".join(f"{size:,}" for size in SIZES[:-1]), f"{SIZES[-1]:,}"])
    spoken = "; ".join(f"{name} {many[name].p50:.1f} and {many[name].p95:.1f} ms" for name in ordered)
    return (
        f"Bar chart: p50 and p95 of {len(many)} kinds of requests with {sizes} runs in the database. With "
        f"{SIZES[-1]:,} runs, p50 and p95 are, from the fastest to the slowest: {spoken}."
    )


def show(console: Console, sections: list[Section]) -> None:
    """Print the tables."""
    for section in sections:
        table = Table(*section.columns, title=section.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in section.rows:
            table.add_row(*row)
        console.print(table)


def write(machine: str, sections: list[Section], latencies: dict[str, dict[int, Latency]]) -> None:
    """Write tables and picture to the folder of results."""
    RESULTS.mkdir(exist_ok=True)
    _draw(latencies).savefig(RESULTS / f"{NAME}.png", bbox_inches="tight", metadata={"Software": None})
    picture = f"![{alternative_text(latencies)}]({NAME}.png)"
    first, *rest = map(markdown, sections)
    parts = ["# The sandbox's Pipelines API, measured", INTRODUCTION, machine, first, picture, *rest]
    (RESULTS / f"{NAME}.md").write_text("\n\n".join(parts) + "\n")


def markdown(section: Section) -> str:
    """Return a table in Markdown, with its title and remark."""
    lines = [
        " | ".join(section.columns),
        " | ".join(["---", *["---:"] * (len(section.columns) - 1)]),
        *(" | ".join(row) for row in section.rows),
    ]
    table = "\n".join(f"| {line} |" for line in lines)
    return f"## {section.title}\n\n{table}\n\n{section.remark}"


def _of_runs(found: StartUp) -> Section:
    rows = []
    for name, timing in (("chain", found.chain), ("side by side", found.side_by_side)):
        seconds = (timing.whole, timing.before, timing.task, timing.gap, timing.after)
        rows.append([f"{name}: sandbox", *(f"{one:z.2f}" for one in seconds)])
    for what, floor in (("the same commands by hand", found.executor), ("python3 -c pass by hand", found.interpreter)):
        rows.append([f"chain: {what}", f"{floor.chain:.2f}", "", f"{floor.one:.2f}", "", ""])
        rows.append([f"side by side: {what}", f"{floor.side_by_side:.2f}", "", "", "", ""])
    return Section(
        f"{TASKS} tasks that do nothing, in s",
        ["run", "whole", "before the first", "task", "gap", "after the last"],
        rows,
        f"Medians of {ROUNDS} turns. *Whole* is the time from the request to the state SUCCEEDED; the client asks "
        "for the state every 20 ms. *Task* is the time from start to end in the server's records. *Gap* is the time "
        "from the end of a task to the start of the next one. Side by side, one task runs per CPU.",
    )


def _of_one_task(found: StartUp) -> Section:
    each = found.chain.task + found.chain.gap
    rows = [
        ["Python starts", found.interpreter.one],
        ["kfp is imported and writes the outputs", found.executor.one - found.interpreter.one],
        ["the sandbox prepares, watches and records", each - found.executor.one],
        ["together", each],
    ]
    return Section(
        "The parts of the time of one such task, in s",
        ["part", "seconds"],
        [[part, f"{seconds:z.3f}"] for part, seconds in rows],
        "*Together* is the sum of the medians of task and gap in the chain. The first two parts come from the same "
        "command by hand.",
    )


def _of_comparison(found: StartUp) -> Section:
    tasks = f"{TASKS} tasks in a chain"
    rows = [
        [tasks, "sandbox", found.chain.whole],
        [tasks, "kfp.local, use_venv=False", found.local_chain],
        ["one task with a pip command, first run", "sandbox", found.first_after_pip],
        ["one task with a pip command, next run", "sandbox", found.next_after_pip],
        ["one task with a pip command, every run", "kfp.local, its default use_venv=True", found.local_venv],
    ]
    return Section(
        "Beside kfp.local, in s",
        ["what", "with", "seconds"],
        [[*row[:2], row[2] if isinstance(row[2], str) else f"{row[2]:.2f}"] for row in rows],
        "`dsl.component` adds the pip command by default. It installs kfp, from pip's cache if kfp is in there. The "
        "sandbox makes one environment for such tasks; `kfp.local` makes one for every task by default. With "
        "`use_venv=False`, tasks run in the environment of the notebook. `kfp.local` has no server, records or cache.",
    )


def _draw(latencies: dict[str, dict[int, Latency]]) -> Figure:
    """Draw a group of bars for each request. A bar is filled up to the p50, and an outline goes on to the p95."""
    figure = Figure(figsize=(9, 6.5), dpi=150)
    axes = figure.subplots()
    for place, found in enumerate(latencies.values()):
        for number, size in enumerate(SIZES):
            _bar(axes, place + (number - 1) * 0.27, found[size], SHADES[number])
    axes.set_yticks(range(len(latencies)), list(latencies))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds to the last byte of the answer; numbers are p50 / p95")
    axes.set_title("The sandbox's Pipelines API: one client, one connection, loopback", loc="left")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    sizes = [Patch(color=shade, label=f"{size:,} runs") for size, shade in zip(SIZES, SHADES, strict=True)]
    outline = Patch(facecolor="white", edgecolor="#555555", hatch="////", label="from p50 to p95")
    axes.legend(handles=[*sizes, outline], frameon=False)
    return figure


def _bar(axes, place: float, found: Latency, shade: str) -> None:
    axes.barh(place, found.p50, height=0.24, color=shade)
    rest = found.p95 - found.p50
    axes.barh(place, rest, height=0.24, left=found.p50, facecolor="white", edgecolor=shade, hatch="////")
    axes.text(found.p95, place, f"  {found.p50:.1f} / {found.p95:.1f}", va="center", fontsize=8)
