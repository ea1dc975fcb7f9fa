"""The table of contents, `notebooks/toc.yml`, and the files that `workshop generate` writes.

`workshop generate` writes the navigation of the lessons and the README's table from `toc.yml`, and
`settings.env.template` and the tables of `docs/settings.md` from `workshop/settings.tsv`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workshop import settings
from workshop.errors import WorkshopError
from workshop.project import NOTEBOOKS, ROOT

README_TABLE = re.compile(r"(?<=<!-- lessons -->\n).*?(?=<!-- /lessons -->)", re.DOTALL)
SETTINGS_TABLES = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


@dataclass(frozen=True)
class Lesson:
    """One line of the table of contents.

    Attributes:
        name: the notebook's file name without `.ipynb`, such as `03_reach_s3`.
        title: its heading.
        minutes: time that a reader needs.
        outcome: what the reader can do after the lesson.
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
    """Return the lessons with these names, numbers (`03`) or paths. Without names, return all lessons.

    Raises:
        WorkshopError: no lesson has one of the names.
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
    """Write every generated part of the project.

    Returns:
        The files that changed.
    """
    import nbformat

    changed = []
    for lesson in lessons():
        notebook = nbformat.read(lesson.path, as_version=4)
        cell = navigation_cell(notebook)
        if cell is not None and cell.source != navigation(lesson):
            cell.source = navigation(lesson)
            nbformat.write(notebook, lesson.path)
            changed.append(lesson.path)
    for path, text in outdated_texts().items():
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed


def outdated_texts() -> dict[Path, str]:
    """Return the new text of each generated file that is out of date. Lessons are left out."""
    readme, docs, template = ROOT / "README.md", ROOT / "docs" / "settings.md", ROOT / "settings.env.template"
    texts = {
        readme: README_TABLE.sub(lambda _: readme_table(), readme.read_text(encoding="utf-8")),
        docs: SETTINGS_TABLES.sub(lambda _: settings.documentation(), docs.read_text(encoding="utf-8")),
        template: settings.template(),
    }
    return {path: text for path, text in texts.items() if path.read_text(encoding="utf-8") != text}


def navigation_cell(notebook: Any) -> Any:
    """Return the cell that holds a lesson's navigation, or None."""
    return next((cell for cell in notebook.cells if "navigation" in cell.metadata.get("tags", [])), None)
