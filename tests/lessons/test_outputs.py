"""nbval: run with its defaults on a fresh sandbox, every lesson shows the outputs that it stores."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from workshop.lessons import prepare_folder
from workshop.project import ROOT
from workshop.toc import lessons

# These lessons take the longest; `make run` runs them, too.
SLOW = ("01", "02", "03", "04", "05", "06", "09")
# These lessons look only at their own bucket and at their own runs.
SHARE_S3 = ("03", "04", "05", "06")
SANITIZE = ROOT / "tests" / "lessons" / "nbval_sanitize.cfg"


def nbval(notebook):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-sanitize-with",
        str(SANITIZE),
        "-p",
        "no:cacheprovider",
    ]
    command += ["-o", "addopts=", "--rootdir", str(notebook.parent), "--color=no", str(notebook)]
    return subprocess.run(command, cwd=notebook.parent, env=os.environ, capture_output=True, text=True)


@pytest.mark.parametrize(
    "lesson",
    [
        pytest.param(lesson, id=lesson.name, marks=[pytest.mark.slow] * lesson.name.startswith(SLOW))
        for lesson in lessons()
    ],
)
def test_a_lesson_shows_what_is_stored_in_it(lesson, request, tmp_path):
    own = request.getfixturevalue("borrowing_sandbox" if lesson.name.startswith(SHARE_S3) else "sandbox")
    own.up()  # on a busy machine, a cell would otherwise print that it waits for a server
    prepare_folder(tmp_path)
    notebook = tmp_path / lesson.path.name
    shutil.copy(lesson.path, notebook)
    done = nbval(notebook)
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(lesson.path, as_version=4).cells)
    assert done.returncode == 0, done.stdout[-6000:]
    assert re.search(rf"\b{cells} passed\b", done.stdout), done.stdout[-500:]


@pytest.mark.slow
def test_a_stored_output_that_the_code_does_not_produce_is_found(tmp_path):
    right, wrong = (
        nbformat.v4.new_code_cell(
            "print(1)", execution_count=1, outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)]
        )
        for text in ("1\n", "2\n")
    )
    notebook = nbformat.v4.new_notebook(cells=[right, wrong])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    assert "1 failed, 1 passed" in nbval(tmp_path / "wrong.ipynb").stdout
