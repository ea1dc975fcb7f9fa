"""Runs lessons from top to bottom without a browser, and reports the results."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from rich import box
from rich.console import Console
from rich.table import Table
from traitlets import CaselessStrEnum

from workshop import import_clock
from workshop.aws_logins import login_advice
from workshop.errors import WorkshopError
from workshop.project import BUILD, NOTEBOOKS, sandbox_directory
from workshop.sandbox import Sandbox
from workshop.sandbox.files import full_disk
from workshop.supervised import cannot_write
from workshop.toc import Lesson

SKIP = "skipped:"
# The secret in the address of the sandbox's Pipelines API. Links that kfp shows contain the secret.
# Clients show the secret after a host and a port. In an error, urllib3 shows the secret after "url:".
SECRET_PATH = re.compile(r"((?:127\.0\.0\.1|localhost):\d+|\burl: )/[0-9a-f]{32}(?![0-9a-f])")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# The errors in a cell that may come from a login at AWS: those of boto3, of connect(), and of the scripts.
AWS_ERRORS = (
    "ClientError",
    "CredentialRetrievalError",
    "LoginError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "S3Error",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
)
CELL_WITHIN_SECONDS = 1800  # on a real target, a cell may wait for a cluster


@dataclass(frozen=True)
class Result:
    """The result of one lesson.

    Attributes:
        lesson: the lesson.
        notebook: the executed notebook's path.
        cells: how many code cells ran, and how many there are.
        skipped: the lines that say which steps could not run.
        seconds: wall-clock seconds: `all`, and its parts `kernel` (its start), `imports` in cells, and other `work` of
            cells.
        error: the message of the error; "" when there was none.
        needs_login: whether the error tells that a login at AWS has ended.
    """

    lesson: Lesson
    notebook: Path
    cells: tuple[int, int]
    skipped: list[str]
    seconds: dict[str, float]
    error: str
    needs_login: bool = False


def run(
    lessons: list[Lesson], output: Path = BUILD / "lessons", parameters: Mapping[str, object] | None = None
) -> list[Result]:
    """Run lessons one after the other; print their progress and a table of their times.

    Args:
        lessons: the lessons, in the order in which they run.
        output: folder for the executed notebooks and the files that they make.
        parameters: values for the lessons' parameters cells. A lesson gets only the values that its parameters cell
        names.

    Returns:
        A `Result` for each lesson.
    """
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 110)
    _check_names(lessons, parameters or {})
    prepare_folder(output)
    results = []
    for lesson in lessons:
        with _progress(lesson) as show:
            result = run_one(lesson, output, parameters or {}, progress_bar=show)
        results.append(result)
        console.print(_line(result), markup=False)
        if result.error:
            console.print(f"\n{result.error}\n", markup=False)
    console.print(_table(results))
    for result in results:
        for line in result.skipped:
            console.print(f"{result.lesson.name}: {line}", markup=False)
    return results


def run_one(
    lesson: Lesson, output: Path, parameters: Mapping[str, object], progress_bar: bool | dict = False
) -> Result:
    """Run one lesson in a folder, and leave the executed notebook there, also when it fails.

    Args:
        lesson: the lesson.
        output: the folder, prepared by `prepare_folder`.
        parameters: values for its parameters cell. Names that the cell lacks are left out.
        progress_bar: papermill's argument of that name.
    """
    target = output / lesson.path.name
    known = papermill.inspect_notebook(str(lesson.path))
    target.unlink(missing_ok=True)  # the notebook of an earlier run must not look like the result of this run
    target.touch(mode=0o600)  # outputs contain the secret address of the sandbox's Pipelines API
    error, advice, died = "", "", False
    begun = time.monotonic()
    with _import_clock() as clock:
        try:
            papermill.execute_notebook(
                str(lesson.path),
                str(target),
                parameters={name: value for name, value in parameters.items() if name in known},
                cwd=str(output),
                kernel_name="python3",
                kernel_manager_class=_PrivateKernelManager,
                extra_arguments=[f"--IPKernelApp.extensions={import_clock.__name__}"],
                shutdown_kernel="immediate",
                execution_timeout=CELL_WITHIN_SECONDS,
                progress_bar=progress_bar,
            )
        except PapermillExecutionError as failed:
            error = _explain(lesson, failed, target)
            advice = login_advice(f"{failed.ename}: {failed.evalue}") if failed.ename in AWS_ERRORS else ""
        except (DeadKernelError, CellTimeoutError) as failed:
            died = True  # papermill marks the cell in which the kernel died as completed
            error = f"{lesson.name}: {type(failed).__name__}: {failed}\n\nThe notebook as far as it went: {target}"
        imports = float(clock.read_text())
    if error:
        error = "\n\n".join(
            filter(None, [error, advice and f"AWS does not accept your login. {advice}.", _full_disk(output)])
        )
    seconds = time.monotonic() - begun
    notebook = _with_whole_streams(target)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    ran = [cell for cell in code if cell.metadata.get("papermill", {}).get("status") == "completed"]
    ran = ran[:-1] if died else ran
    spent = _spent(ran, notebook, seconds, imports)
    return Result(lesson, target, (len(ran), len(code)), list(_skips(ran)), spent, error, bool(advice))


def prepare_folder(output: Path) -> None:
    """Make the folder in which lessons run. Like `notebooks/`, the folder holds the pictures, but no notebook.

    Raises:
        WorkshopError: the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        shutil.copytree(NOTEBOOKS / "images", output / "images", dirs_exist_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from None


def store_outputs(lessons: list[Lesson]) -> None:
    """Run each lesson alone on a fresh sandbox, and store its outputs in `notebooks/`.

    Raises:
        WorkshopError: a lesson fails; its stored outputs stay as they were.
    """
    for lesson in lessons:
        with fresh_sandbox() as folder, _progress(lesson) as show:
            result = run_one(lesson, folder, {}, progress_bar=show)
            if result.error:
                raise WorkshopError(result.error)
            nbformat.write(_without_traces(nbformat.read(result.notebook, as_version=4)), lesson.path)
        print(_line(result))


def _full_disk(output: Path) -> str:
    """Return a sentence about a full disk, because few errors of a full disk name the cause."""
    sandbox = sandbox_directory()
    return full_disk(output) or (full_disk(sandbox) if sandbox.exists() else "")


@contextmanager
def fresh_sandbox() -> Iterator[Path]:
    """Run the block with a fresh working folder and a fresh sandbox; delete both afterwards."""
    before = {
        name: os.environ.get(name)
        for name in ("WORKSHOP_TARGET", "WORKSHOP_SANDBOX_DIR", "WORKSHOP_BUCKET", "WORKSHOP_SETTINGS")
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WORKSHOP_TARGET": "sandbox", "WORKSHOP_SANDBOX_DIR": f"{folder}/sandbox"}
        os.environ["WORKSHOP_SETTINGS"] = f"{folder}/none"
        os.environ.pop("WORKSHOP_BUCKET", None)
        work = Path(folder, "notebooks")
        prepare_folder(work)
        try:
            yield work
        finally:
            Sandbox().reset()
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ |= {} if value is None else {name: value}


class _PrivateKernelManager(AsyncKernelManager):
    """Talks to kernels through sockets that only this user can open. On TCP, other users could connect."""

    transport = CaselessStrEnum(["ipc"], default_value="ipc")


@contextmanager
def _progress(lesson: Lesson) -> Iterator[bool | dict]:
    """Show which lesson runs: a bar of its cells on a terminal, one line elsewhere."""
    if sys.stderr.isatty():
        yield {"desc": lesson.name, "unit": "cell", "leave": False}
    else:
        print(f"{lesson.name} ...", flush=True)
        yield False


def _line(result: Result) -> str:
    ran, cells = result.cells
    mark = "FAILED" if result.error else "ok"
    return f"{result.lesson.name:<20} {mark:<6} {ran}/{cells} cells  {result.seconds['all']:5.1f} s"


def _table(results: list[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("lesson", no_wrap=True)
    table.add_column("result")
    for column in ("cells", "skips", "total", "kernel", "imports", "work"):
        table.add_column(column, justify="right")
    for result in results:
        ran, cells = result.cells
        seconds = [f"{result.seconds[part]:.1f}" for part in ("all", "kernel", "imports", "work")]
        mark = "failed" if result.error else "ok"
        table.add_row(result.lesson.name, mark, f"{ran}/{cells}", str(len(result.skipped)), *seconds)
    totals = [f"{sum(r.seconds[part] for r in results):.1f}" for part in ("all", "kernel", "imports", "work")]
    failed = sum(bool(result.error) for result in results)
    ran, cells = (sum(result.cells[place] for result in results) for place in (0, 1))
    skipped = sum(len(result.skipped) for result in results)
    table.add_section()
    table.add_row("all", f"{failed} failed" if failed else "ok", f"{ran}/{cells}", str(skipped), *totals)
    return table


def _skips(cells) -> Iterator[str]:
    for cell in cells:
        for output in cell.outputs:
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            yield from (line for line in text.splitlines() if line.startswith(SKIP))


def _spent(cells, notebook, seconds: float, imports: float) -> dict[str, float]:
    """Return the seconds of each part of a lesson: kernel, imports, other work, and all."""
    first = min((_time(cell.metadata.papermill.start_time) for cell in notebook.cells if _started(cell)), default=None)
    kernel = first - _time(notebook.metadata.papermill.start_time) if first else 0.0
    work = sum(cell.metadata.papermill.duration for cell in cells) - imports
    return {"all": seconds, "kernel": kernel, "imports": imports, "work": work}


def _started(cell) -> bool:
    return bool(cell.metadata.get("papermill", {}).get("start_time"))


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@contextmanager
def _import_clock() -> Iterator[Path]:
    """Return a file. A kernel that starts inside the block writes the seconds of its imports to the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "seconds")
        file.write_text("0")
        os.environ[import_clock.VARIABLE] = str(file)
        try:
            yield file
        finally:
            del os.environ[import_clock.VARIABLE]


def _check_names(lessons: list[Lesson], parameters: Mapping[str, object]) -> None:
    known = {name for lesson in lessons for name in papermill.inspect_notebook(str(lesson.path))}
    if unknown := sorted(set(parameters) - known):
        raise WorkshopError(f"no lesson has a parameter {', '.join(unknown)}; there are: {', '.join(sorted(known))}")


def _explain(lesson: Lesson, failed: PapermillExecutionError, target: Path) -> str:
    """Return a message with the failed cell, its error, and the end of its output."""
    source = "\n".join(f"    {line}" for line in failed.source.splitlines())
    printed = _printed_by_failed_cell(nbformat.read(target, as_version=4))
    last = "\n".join(f"    {line}" for line in COLOURS.sub("", printed).splitlines()[-12:])
    return (
        f"{lesson.name}: code cell [{failed.exec_count}] failed:\n\n{source}\n\n"
        f"{failed.ename}: {COLOURS.sub('', str(failed.evalue))}\n\n"
        + (f"The end of its output:\n\n{last}\n\n" if last else "")
        + f"The notebook as far as it went: {target}"
    )


def _printed_by_failed_cell(notebook) -> str:
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            return "".join(output.get("text", "") for output in outputs)
    return ""


def _without_traces(notebook):
    """Remove the metadata that papermill and the kernel have added."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
    }
    for cell in notebook.cells:
        for key in ("papermill", "execution", "collapsed"):
            cell.metadata.pop(key, None)
        for key in ("status", "duration"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell.outputs = _without_secrets(cell.outputs)
    return notebook


def _with_whole_streams(path: Path):
    """Join the streams of an executed notebook, as JupyterLab shows them; write the notebook back and return it."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    nbformat.write(notebook, path)
    return notebook


def _joined(outputs: list) -> list:
    """Join the pieces of one stream that the kernel sent separately."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = _as_on_a_terminal(output.text)
    return joined


def _without_secrets(outputs: list) -> list:
    for output in outputs:
        if output.output_type == "stream":
            output.text = _without_secret(output.text)
        if output.output_type == "error":
            output.evalue = _without_secret(output.evalue)
            output.traceback = [_without_secret(line) for line in output.traceback]
        for kind, shown in output.get("data", {}).items():
            output.data[kind] = _without_secret(shown) if isinstance(shown, str) else shown
    return outputs


def _without_secret(text: str) -> str:
    return SECRET_PATH.sub(r"\1/SECRET", text)


def _as_on_a_terminal(text: str) -> str:
    """Keep the part of each line after its last carriage return, as a terminal shows a progress bar."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
