"""The table of contents, `notebooks/toc.yml`, and what is generated from it: navigation, and the README's table."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from workshop.errors import WorkshopError
from workshop.project import NOTEBOOKS, ROOT

README_TABLE = re.compile(r"(?<=<!-- lessons -->\n).*?(?=<!-- /lessons -->)", re.DOTALL)


@dataclass(frozen=True)
class Lesson:
    """One line of the table of contents.

    Attributes:
        name: the notebook's file name without its ending, such as `03_reach_s3`.
        title: its heading.
        minutes: how long a reader takes.
        outcome: what the reader can do afterwards.
    """

    name: str
    title: str
    minutes: int
    outcome: str

    @property
    def path(self) -> Path:
        return NOTEBOOKS / f"{self.name}.ipynb"


def lessons() -> list[Lesson]:
    """Read the table of contents, in the order of the series."""
    return [Lesson(**entry) for entry in yaml.safe_load((NOTEBOOKS / "toc.yml").read_text())]


def select(names: list[str]) -> list[Lesson]:
    """Return the lessons with these names, numbers (`03`) or paths; all of them when none is given.

    Raises:
        WorkshopError: there is no such lesson.
    """
    known = lessons()
    if not names:
        return known
    by_key = {key: lesson for lesson in known for key in (lesson.name, lesson.name[:2])}
    wanted = [Path(name).stem for name in names]
    if unknown := [name for name in wanted if name not in by_key]:
        listed = ", ".join(lesson.name for lesson in known)
        raise WorkshopError(f"there is no lesson {', '.join(unknown)}; the lessons are: {listed}")
    return [by_key[name] for name in wanted]


def navigation(lesson: Lesson) -> str:
    """Return the Markdown of a lesson's last cell: previous lesson, all lessons, next lesson."""
    known = lessons()
    place = known.index(lesson)
    links = []
    if place > 0:
        links.append(f"[← {known[place - 1].title}]({known[place - 1].name}.ipynb)")
    links.append("[all lessons](../README.md#the-lessons)")
    if place + 1 < len(known):
        links.append(f"[{known[place + 1].title} →]({known[place + 1].name}.ipynb)")
    return "---\n" + " · ".join(links)


def readme_table() -> str:
    """Return the README's table of lessons."""
    rows = [f"| [{le.name}](notebooks/{le.name}.ipynb) | {le.minutes} | {le.outcome} |\n" for le in lessons()]
    return "| lesson | minutes | afterwards you can |\n|---|---:|---|\n" + "".join(rows)


def write_generated() -> list[Path]:
    """Write the navigation into every lesson and the table into the README; return the files that changed."""
    import nbformat

    changed = []
    for lesson in lessons():
        notebook = nbformat.read(lesson.path, as_version=4)
        cell = navigation_cell(notebook)
        if cell is not None and cell.source != navigation(lesson):
            cell.source = navigation(lesson)
            nbformat.write(notebook, lesson.path)
            changed.append(lesson.path)
    readme = ROOT / "README.md"
    text = readme.read_text()
    if (new := README_TABLE.sub(lambda _: readme_table(), text)) != text:
        readme.write_text(new)
        changed.append(readme)
    return changed


def navigation_cell(notebook):
    """Return the cell that holds a lesson's navigation, or None."""
    return next((cell for cell in notebook.cells if "navigation" in cell.metadata.get("tags", [])), None)
