"""Every lesson obeys the rules of `workshop/structure.py`, and the check finds a lesson that breaks one."""

import dataclasses

import nbformat
import pytest

from workshop import structure, toc


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a function that changes a copy of lesson 03 and returns the broken rules."""
    lesson = toc.select(["03"])[0]

    def check(change) -> str:
        notebook = nbformat.read(lesson.path, as_version=4)
        change(notebook)
        nbformat.write(notebook, tmp_path / lesson.path.name)
        monkeypatch.setattr(toc, "NOTEBOOKS", tmp_path)
        return "\n".join(structure.problems(copy))

    copy = dataclasses.replace(lesson)
    monkeypatch.setattr(structure, "navigation", lambda _: toc_navigation)
    toc_navigation = toc.navigation(lesson)
    return check


def test_every_lesson_obeys_every_rule():
    assert structure.all_problems() == []


def test_the_unchanged_copy_is_fine(broken):
    assert broken(lambda notebook: None) == ""


def first(notebook, kind, text):
    return next(cell for cell in notebook.cells if cell.cell_type == kind and text in cell.source)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda nb: setattr(nb.cells[0], "source", "# Another title"), "must open with the title"),
        (lambda nb: first(nb, "code", 'bucket = ""').metadata.pop("tags"), "0 cells are tagged parameters"),
        (lambda nb: setattr(first(nb, "code", 'bucket = ""'), "source", 'x = f"{1}"'), "raw inputs only"),
        (lambda nb: setattr(first(nb, "code", 'bucket = ""'), "source", 'a = ""  # x\nb = a + "1"'), "raw inputs only"),
        (
            lambda nb: setattr(first(nb, "code", 'bucket = ""'), "source", 'cluster = "kubeflow-demo"'),
            "repeats the default of CLUSTER_NAME",
        ),
        (lambda nb: setattr(first(nb, "code", "connect()"), "source", "pass"), "must call connect()"),
        (lambda nb: setattr(first(nb, "markdown", "### Exercise 2"), "source", ""), "1 exercises"),
        (lambda nb: setattr(first(nb, "markdown", "## Recap"), "source", ""), "## Recap is missing"),
        (lambda nb: setattr(nb.cells[-1], "source", "---"), "navigation is out of date"),
        (lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("![](a.svg)")), "needs a text that says"),
        (lambda nb: nb.cells.append(nbformat.v4.new_code_cell("x = 1\n" * 31)), "31 lines"),
        (lambda nb: nb.cells.append(nbformat.v4.new_code_cell("!ls")), "! shell line"),
        (lambda nb: nb.cells.append(nbformat.v4.new_code_cell("%%bash\nls")), "without set -euo pipefail"),
        (lambda nb: nb.cells.append(nbformat.v4.new_code_cell("1")), "has not been run"),
        (lambda nb: nb.cells[1].metadata.update(tags=["raises-exception"]) or retag(nb), "tagged raises-exception"),
        (lambda nb: unhide(nb), "a solution is not hidden"),
    ],
)
def test_the_check_names_a_broken_rule(broken, change, expected):
    assert expected in broken(change)


def retag(notebook):
    first(notebook, "code", "s3.create_bucket").metadata["tags"] = ["raises-exception"]


def unhide(notebook):
    next(cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])).metadata.pop("jupyter")


def test_stored_errors_are_found(broken):
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    assert "stored error" in broken(lambda nb: first(nb, "code", "s3 =").outputs.append(error))
