"""Rules for every lesson, checked without running it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from workshop import settings
from workshop.toc import Lesson, lessons, navigation, navigation_cell

LONGEST_CELL = 30
CLOSING_SECTIONS = ("## Recap", "## In practice", "## Further reading")
OPENING_PARTS = ("**What you'll do**", "**What you'll learn**", "**What you'll need**", "minutes")
CONNECT = re.compile(r"^(\w+ = )?connect\(\)$", re.MULTILINE)
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


def problems(lesson: Lesson) -> Iterator[str]:
    """Yield one sentence for each rule that a lesson breaks."""
    notebook = nbformat.read(lesson.path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    yield from _opening(lesson, notebook.cells[0])
    yield from _parameters(notebook.cells)
    yield from _exercises(notebook.cells)
    yield from _closing(lesson, notebook, text)
    yield from _images(text)
    for number, cell in enumerate(code, 1):
        yield from _code_cell(number, cell)
    if sum(bool(CONNECT.search(cell.source)) for cell in code) != 1:
        yield "exactly one code cell must call connect()"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel must be python3"


def all_problems() -> list[str]:
    """Return the broken rules of all lessons, with their names, and the notebooks that `toc.yml` does not list."""
    known = lessons()
    found = [f"{lesson.name}: {problem}" for lesson in known for problem in problems(lesson)]
    listed = {lesson.path for lesson in known}
    found += [f"{path.name}: not in toc.yml" for path in _notebooks(known) if path not in listed]
    return found


def _notebooks(known: list[Lesson]) -> list[Path]:
    return sorted(known[0].path.parent.glob("[0-9][0-9]_*.ipynb"))


def _opening(lesson: Lesson, cell: Any) -> Iterator[str]:
    if cell.cell_type != "markdown" or not cell.source.startswith(f"# {lesson.title}\n"):
        yield f"the first cell must open with the title of toc.yml: # {lesson.title}"
    for part in OPENING_PARTS:
        if part not in cell.source:
            yield f"the opening cell lacks {part}"
    if f"{lesson.minutes} minutes" not in cell.source:
        yield f"the opening cell must say the {lesson.minutes} minutes of toc.yml"


def _parameters(cells: Any) -> Iterator[str]:
    tagged = [cell for cell in cells if "parameters" in _tags(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged parameters; there must be one"
    for cell in tagged:
        values = [_constant(statement) for statement in ast.parse(cell.source).body]
        if None in values:
            yield "the parameters cell must hold raw inputs only: NAME = VALUE"
        for setting in settings.table().values():
            if setting.default and repr(setting.default) in values:
                yield f"the parameters cell repeats the default of {setting.name}; leave the parameter empty"


def _constant(statement: ast.stmt) -> str | None:
    """Return the `repr` of the value of `NAME = CONSTANT`, or None for any other statement."""
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
        return repr(statement.value.value)
    return None


def _exercises(cells: Any) -> Iterator[str]:
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = re.findall(r"^### Exercise \d+: .", text, re.MULTILINE)
    solutions = [cell for cell in cells if "solution" in _tags(cell)]
    if len(exercises) < 2:
        yield f"it has {len(exercises)} exercises; there must be two or more"
    if len(solutions) < len(exercises):
        yield f"it has {len(exercises)} exercises and {len(solutions)} solution cells"
    if not all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions):
        yield "a solution is not hidden"


def _closing(lesson: Lesson, notebook: Any, text: Any) -> Iterator[str]:
    for section in CLOSING_SECTIONS:
        if not any(cell.source.startswith(section) for cell in text):
            yield f"the closing section {section} is missing"
    cell = navigation_cell(notebook)
    if cell is None or cell is not notebook.cells[-1]:
        yield "the last cell must be the navigation"
    elif cell.source != navigation(lesson):
        yield "its navigation is out of date; run `workshop generate`"


def _images(text: Any) -> Iterator[str]:
    for cell in text:
        for alternative, target in MARKDOWN_IMAGE.findall(cell.source):
            if len(alternative.split()) < 3:
                yield f"the image {target} needs a text that says what it shows"


def _code_cell(number: int, cell: Any) -> Iterator[str]:
    lines = cell.source.splitlines()
    if len(lines) > LONGEST_CELL:
        yield f"code cell {number} has {len(lines)} lines; {LONGEST_CELL} is the most"
    if "raises-exception" in _tags(cell):
        yield f"code cell {number} is tagged raises-exception"
    if any(line.lstrip().startswith("!") for line in lines):
        yield f"code cell {number} has a ! shell line, whose failure is lost; use %%bash with set -euo pipefail"
    if lines and lines[0].startswith("%%bash") and "set -euo pipefail" not in cell.source:
        yield f"code cell {number} is a %%bash cell without set -euo pipefail"
    if any(output.output_type == "error" for output in cell.outputs):
        yield f"code cell {number} has a stored error"
    if cell.execution_count is None:
        yield f"code cell {number} has not been run; run `make outputs`"


def _tags(cell: Any) -> list[str]:
    tags: list[str] = cell.metadata.get("tags", [])
    return tags
