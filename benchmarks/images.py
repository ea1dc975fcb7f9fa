"""Measures the component image beside an image as old tutorials make it: `python -m benchmarks.images`.

Both images are built on the same base, and run the same component, which does nothing. The benchmark needs Docker and a
base image: `python tests/support/base_image.py` makes the default one, as root with debootstrap. The benchmark
prints tables, and writes them with a picture to `benchmarks/results`. The benchmark fails only when a measured
program does not work.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import docker
import yaml
from kfp import compiler, dsl, local
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import report
from benchmarks.report import Section
from workshop.project import ROOT

NAME = "images"
ROUNDS = 5
BASE = os.environ.get("COMPONENT_BASE_IMAGE", "workshop-test-base:bookworm")
MEGABYTE = 1_000_000
CERTIFICATES = "/etc/ssl/certs/of-this-machine.crt"
SHADES = {"naive": "#3690c0", "component": "#034e7b"}
# An image as in tutorials of the first years of Kubeflow Pipelines: with compilers, packages without versions, pip's
# cache, the index of apt, and the user root. It does not hold kfp: each task installs kfp when it starts.
NAIVE = """\
ARG BASE_IMAGE
FROM $BASE_IMAGE
RUN apt-get update && apt-get install -y build-essential python3-dev git curl
RUN --mount=type=secret,id=ca.crt if [ -s /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi; \
    pip3 install boto3 numpy pandas scikit-learn
"""
INTRODUCTION = f"""\
`python -m benchmarks.images` compared the image of `docker/component/` with an image as old tutorials make it. Both
were built on this machine in one run, on the same base: Debian with its Python and pip. No figure is a promise, and no
test asserts one.

The naive image has build tools and the same packages without versions, and runs as root. The naive image does not
hold kfp, so its task begins with the command that `dsl.component` adds: `pip install kfp=={version("kfp")}`. The
component image holds kfp, and its task has `install_kfp_package=False`. The package index is near; over a slow line,
the naive task waits longer."""


@dataclass
class Measured:
    """The figures of one image.

    Attributes:
        image: the name of the image.
        build: the seconds of a build without a cache.
        size: the bytes of all layers, with those of the base.
        packed: the bytes of `docker save`, compressed by gzip.
        runner: the seconds of each task with `kfp.local.DockerRunner`.
        command: the seconds of each `docker run` of the command that kfp compiles.
        nothing: the seconds of each `docker run` of `true`.
    """

    image: str
    build: float
    size: int = 0
    packed: int = 0
    runner: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)
    nothing: list[float] = field(default_factory=list)


def main() -> None:
    """Measure both images and write the report. With arguments, run one task and print its seconds."""
    if sys.argv[1:]:
        print(_seconds_of_task(*sys.argv[1:]))
        return
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    machine = _machine()
    console.print("building both images")
    found = {"naive": _build_naive(), "component": _build_component()}
    for name, one in found.items():
        console.print(f"size of the {name} image")
        one.size = docker.from_env().images.get(one.image).attrs["Size"]
        one.packed = _packed(one.image)
    for number in range(ROUNDS + 1):
        console.print(f"tasks, {number} of {ROUNDS}" if number else "tasks, a first turn that does not count")
        for name, one in found.items():
            _measure_tasks(name, one, counts=number > 0)
    sections = [_of_images(found), _of_tasks(found)]
    report.show(console, sections)
    _write(machine, sections, found)


@dsl.component(base_image="python:3.12")
def nothing_naive():
    pass


@dsl.component(base_image="python:3.12", install_kfp_package=False)
def nothing_component():
    pass


def _seconds_of_task(name: str, image: str) -> float:
    """Run the component in a container with `kfp.local`, which a process can set up only once."""
    component = _component(name, image)
    environment = {"PIP_CERT": CERTIFICATES, "PIP_ROOT_USER_ACTION": "ignore"} if os.environ.get("PIP_CERT") else {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        os.umask(0)
        runner = local.DockerRunner(environment=environment, mounts=_mounts(), network_mode="host")
        local.init(runner, pipeline_root=folder, raise_on_error=True)
        sys.stdout = sys.stderr
        begun = time.perf_counter()
        component()
        seconds = time.perf_counter() - begun
        sys.stdout = sys.__stdout__
        subprocess.run(["rm", "-rf", *map(str, Path(folder).iterdir())], check=True)
    return seconds


def _component(name: str, image: str):
    component = {"naive": nothing_naive, "component": nothing_component}[name]
    component.component_spec.implementation.container.image = image
    return component


def _mounts() -> list[docker.types.Mount]:
    """Return the mount of the certificates that pip trusts on this machine."""
    bundle = os.environ.get("PIP_CERT")
    return [docker.types.Mount(CERTIFICATES, bundle, type="bind", read_only=True)] if bundle else []


def _build_naive() -> Measured:
    image = "naive-components:measured"
    certificates = ["--secret", f"id=ca.crt,src={os.environ['PIP_CERT']}"] if os.environ.get("PIP_CERT") else []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(NAIVE)
        command = ["docker", "build", "--no-cache", "--network=host", f"--build-arg=BASE_IMAGE={BASE}", *certificates]
        seconds = _seconds([*command, "--tag", image, folder])
    return Measured(image, seconds)


def _build_component() -> Measured:
    script = str(ROOT / "scripts" / "build_image.sh")
    command = [script, "--tag", "measured", "component", "--", "--no-cache", "--network=host"]
    subprocess.run(["docker", "image", "rm", "--force", "python-components:measured"], capture_output=True)
    return Measured("python-components:measured", _seconds(command))


def _packed(image: str) -> int:
    command = f"docker save {image} | gzip --fast | wc --bytes"
    return int(subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=True).stdout)


def _measure_tasks(name: str, one: Measured, counts: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.images", name, one.image]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"the {name} task failed:\n{done.stdout}{done.stderr}")
    run = ["docker", "run", "--rm", "--network=host", *_options(), one.image]
    compiled = _seconds([*run, *_compiled_command(name, one.image)])
    nothing = _seconds([*run, "true"])
    if counts:
        one.runner.append(float(done.stdout.splitlines()[-1]))
        one.command.append(compiled)
        one.nothing.append(nothing)


def _options() -> list[str]:
    bundle = os.environ.get("PIP_CERT")
    return [f"--volume={bundle}:{CERTIFICATES}:ro", f"--env=PIP_CERT={CERTIFICATES}"] if bundle else []


def _compiled_command(name: str, image: str) -> list[str]:
    """Return the command that a cluster would start in the container of the task."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        compiler.Compiler().compile(_component(name, image), file.name)
        spec = next(yaml.safe_load_all(Path(file.name).read_text()))
    container = next(iter(spec["deploymentSpec"]["executors"].values()))["container"]
    executor_input = json.dumps({"inputs": {}, "outputs": {"outputFile": "/tmp/output.json"}})
    return [executor_input if word == "{{$}}" else word for word in [*container["command"], *container["args"]]]


def _seconds(command: list[str]) -> float:
    environment = os.environ | {"DOCKER_BUILDKIT": "1", "COMPONENT_BASE_IMAGE": BASE}
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"`{' '.join(command)}` failed:\n{done.stdout}")
    return time.perf_counter() - begun


def _machine() -> str:
    engine = docker.from_env().version()["Version"]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} CPUs ({platform.system()}, {platform.machine()}), load "
        f"{os.getloadavg()[0]:.1f} before the start; Docker Engine {engine}, kfp {version('kfp')}, base {BASE}."
    )


def _of_images(found: dict[str, Measured]) -> Section:
    naive, ours = found["naive"], found["component"]
    base = docker.from_env().images.get(BASE).attrs["Size"]
    rows = [
        _row("size, MB", naive.size / MEGABYTE, ours.size / MEGABYTE, 0),
        _row("size above the base, MB", (naive.size - base) / MEGABYTE, (ours.size - base) / MEGABYTE, 0),
        _row("packed, MB", naive.packed / MEGABYTE, ours.packed / MEGABYTE, 0),
        _row("build without a cache, s", naive.build, ours.build, 1),
        ["user", "root", "1000", ""],
        ["compilers inside", "yes", "no", ""],
        ["kfp inside", "no", "yes", ""],
    ]
    return Section(
        "The images",
        ["", "naive", "component", "naive / component"],
        rows,
        "*Packed* is `docker save` through `gzip --fast`, which is about the size that a node pulls. The component "
        "image holds more packages: kfp, the packages that kfp needs, and pip.",
    )


def _of_tasks(found: dict[str, Measured]) -> Section:
    naive, ours = found["naive"], found["component"]
    rows = [
        _row("kfp.local.DockerRunner", *map(statistics.median, (naive.runner, ours.runner)), 2),
        _row("docker run of the compiled command", *map(statistics.median, (naive.command, ours.command)), 2),
        _row("docker run of true", *map(statistics.median, (naive.nothing, ours.nothing)), 2),
    ]
    return Section(
        "One task that does nothing, in s",
        ["started by", "naive", "component", "naive / component"],
        rows,
        f"Medians of {ROUNDS} turns after one turn that does not count. Both images are on the machine. The last row "
        "is the time of Docker itself.",
    )


def _row(what: str, naive: float, ours: float, digits: int) -> list[str]:
    return [what, f"{naive:,.{digits}f}", f"{ours:,.{digits}f}", f"{naive / ours:.1f}"]


def _write(machine: str, sections: list[Section], found: dict[str, Measured]) -> None:
    report.RESULTS.mkdir(exist_ok=True)
    _draw(found).savefig(report.RESULTS / f"{NAME}.png", bbox_inches="tight", metadata={"Software": None})
    picture = f"![{_alternative_text(found)}]({NAME}.png)"
    title = "# The component image beside a naive one, measured"
    parts = [title, INTRODUCTION, machine, *map(report.markdown, sections), picture]
    (report.RESULTS / f"{NAME}.md").write_text("\n\n".join(parts) + "\n")


def _alternative_text(found: dict[str, Measured]) -> str:
    naive, ours = found["naive"], found["component"]
    return (
        f"Two bar charts. Image size: naive {naive.size / MEGABYTE:,.0f} MB, component {ours.size / MEGABYTE:,.0f} MB. "
        f"A task that does nothing, by kfp.local.DockerRunner: naive {statistics.median(naive.runner):.2f} s, "
        f"component {statistics.median(ours.runner):.2f} s."
    )


def _draw(found: dict[str, Measured]) -> Figure:
    figure = Figure(figsize=(9, 2.6), dpi=150)
    left, right = figure.subplots(1, 2)
    _bars(left, "image size, MB", {name: one.size / MEGABYTE for name, one in found.items()}, "{:,.0f}")
    _bars(right, "a task that does nothing, s", {n: statistics.median(o.runner) for n, o in found.items()}, "{:.2f}")
    figure.tight_layout()
    return figure


def _bars(axes, title: str, values: dict[str, float], form: str) -> None:
    bars = axes.barh(list(values), list(values.values()), color=[SHADES[name] for name in values], height=0.6)
    axes.bar_label(bars, [form.format(value) for value in values.values()], padding=4)
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
