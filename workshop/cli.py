"""The command `workshop`."""

import shlex
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from workshop.errors import WorkshopError

app = typer.Typer(help="The lessons, and the sandbox they run on.", no_args_is_help=True, add_completion=False)
sandbox_app = typer.Typer(help="The cluster on one machine.", no_args_is_help=True)
app.add_typer(sandbox_app, name="sandbox")

Names = Annotated[
    list[str] | None, typer.Argument(help="Lessons by name or number, such as 03. All, when none is named.")
]


def main() -> None:
    """Run the command line. An error that the reader can correct is printed without a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted. If the sandbox is up, stop it with: workshop sandbox down", file=sys.stderr)
        sys.exit(130)
    except WorkshopError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


@app.command()
def run(
    names: Names = None,
    output: Annotated[Path | None, typer.Option(help="Where executed notebooks go.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE for the parameters cells; repeatable.")
    ] = None,
) -> None:
    """Run lessons from top to bottom and print their times."""
    from workshop import supervised
    from workshop.project import BUILD

    folder = (output or BUILD / "lessons").absolute()
    if not supervised.is_child():
        raise typer.Exit(supervised.run_again(folder))
    from workshop import toc
    from workshop.aws_logins import LOGIN_STATUS

    selected = toc.select(names or [])
    values = dict(_name_and_value(text) for text in parameter or [])
    starting = _start_sandbox_meanwhile()
    _leave_out_slow_grammar()
    from workshop import lessons

    if starting:
        starting.result()
    results = lessons.run(selected, folder, values)
    print(f"The executed notebooks are in {folder}.")
    if starting:
        print("The sandbox is still up; `make lab` uses it. To stop it: .venv/bin/workshop sandbox down")
    if failed := [result for result in results if result.error]:
        raise typer.Exit(LOGIN_STATUS if all(result.needs_login for result in failed) else 1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open the lessons in JupyterLab; further arguments go to JupyterLab."""
    from workshop.jupyterlab import open_lessons

    open_lessons(context.args)


@app.command()
def outputs(names: Names = None) -> None:
    """Run each lesson alone on a fresh sandbox, and store its outputs in notebooks/."""
    from workshop import supervised

    if not supervised.is_child():
        raise typer.Exit(supervised.run_again())
    _leave_out_slow_grammar()
    from workshop import lessons, toc

    lessons.store_outputs(toc.select(names or []))


@app.command()
def check() -> None:
    """Check that every lesson has the required parts; runs nothing."""
    _leave_out_slow_grammar()
    from workshop.structure import all_problems

    problems = all_problems()
    print("\n".join(problems) or "every lesson has the required parts")
    if problems:
        raise typer.Exit(1)


@app.command()
def generate() -> None:
    """Write the generated files: navigation, the README's table, settings.env.template, and docs/settings.md."""
    from workshop.toc import write_generated

    changed = write_generated()
    print("\n".join(f"wrote {path}" for path in changed) or "nothing to change")


@app.command()
def connect() -> None:
    """Show which target the lessons use, and whether it answers."""
    from workshop.connect import connect

    connect()


@sandbox_app.command()
def up(
    runner: Annotated[
        str | None, typer.Option(help="How tasks of pipelines run from now on: subprocess or docker.")
    ] = None,
    multi_user: Annotated[
        bool | None,
        typer.Option(help="Whether Pipelines has users from now on: alice and bob, each with a namespace."),
    ] = None,
) -> None:
    """Start every server that is not running."""
    from workshop.sandbox import Sandbox

    Sandbox().up(runner, multi_user)
    status()


@sandbox_app.command()
def down() -> None:
    """Stop every server; their data stay."""
    from workshop.sandbox import Sandbox

    stopped = Sandbox().down()
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@sandbox_app.command()
def status() -> None:
    """Show the state of each part, its address, and the service that it replaces."""
    from rich.console import Console
    from rich.table import Table

    from workshop.sandbox import Sandbox

    table = Table("part", "state", "address", "pid", "replaces on a cluster")
    table.columns[2].no_wrap, table.columns[2].min_width = True, len("http://127.0.0.1:65535")
    for server, record, answers in Sandbox().status():
        state = "up" if answers else "does not answer" if record else "down"
        address, pid = (record.address, str(record.pid)) if record else ("", "")
        table.add_row(server.name, state, address, pid, server.stands_for)
    Console().print(table)


@sandbox_app.command()
def env() -> None:
    """Print shell commands that point any client at the sandbox: eval "$(workshop sandbox env)"."""
    from workshop.project import PROGRAMS
    from workshop.sandbox import Sandbox, SandboxError

    try:
        environment = Sandbox().environment()
    except SandboxError:
        print("false")  # a shell that evaluates this text must fail
        raise
    print(f'export PATH={shlex.quote(str(PROGRAMS))}:"$PATH"')
    for name, value in environment.items():
        print(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")


@sandbox_app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Stop every server and delete the sandbox's data: objects, account, keys."""
    from workshop.sandbox import Sandbox

    sandbox = Sandbox()
    if not yes:
        typer.confirm(f"Delete {sandbox.directory} and everything in it?", abort=True)
    sandbox.reset()
    print(f"deleted {sandbox.directory}; `workshop sandbox up` makes a new one")


@sandbox_app.command()
def logs(lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines of each.", min=1)] = 20) -> None:
    """Print the end of each server's log."""
    from workshop.sandbox import Sandbox

    for name, text in Sandbox().logs(lines).items():
        print(f"==> {name} <==\n{text or '(empty)'}\n")


def _name_and_value(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--parameter")
    if name.endswith("_path") and value:  # lessons run in another folder than this command
        value = str(Path(value).expanduser().absolute())
    return name, value


def _leave_out_slow_grammar() -> None:
    """Save the 2 s that `import nbformat` spends on a grammar for international addresses, which no notebook contains.

    jsonschema imports rfc3987_syntax when it is installed, and leaves out the check of such addresses when
    rfc3987_syntax is missing.
    """
    # None makes the import fail (https://docs.python.org/3/reference/import.html#the-module-cache).
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # the stubs allow only modules


def _start_sandbox_meanwhile() -> "Future[None] | None":
    """If the sandbox is the target, start it while this process imports papermill: each takes about as long."""
    from workshop import settings
    from workshop.connect import target_name
    from workshop.sandbox import Sandbox

    if target_name(settings.read()) != "sandbox":
        return None
    print("starting the sandbox", flush=True)
    return ThreadPoolExecutor(max_workers=1).submit(Sandbox().up)
