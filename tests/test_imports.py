"""Imports go in the directions that pyproject.toml allows, and never in a circle."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import import_graph
from workshop.project import PROGRAMS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small_project(tmp_path) -> Path:
    """A project with the package names of this one, and without imports."""
    for name in import_graph.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    return tmp_path


def run_import_graph(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.import_graph", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_no_modules_import_each_other_in_a_circle():
    assert import_graph.circles(import_graph.build(ROOT)) == []


def test_every_contract_of_import_linter_is_kept():
    done = subprocess.run(
        [PROGRAMS / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 broken." in done.stdout


@pytest.mark.parametrize(
    "importing",
    [
        "import workshop.b",
        "def f():\n    import workshop.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from workshop.b import x",
    ],
)
def test_a_circle_is_found_wherever_the_import_stands(small_project, importing):
    (small_project / "workshop" / "a.py").write_text(importing + "\n")
    (small_project / "workshop" / "b.py").write_text("import workshop.a\nx = 1\n")
    done = run_import_graph("--folder", str(small_project))
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "modules: 4, imports: 2, circles: 1",
        "circle of 2: workshop.a, workshop.b",
    ]


def test_another_checkout_is_read_without_being_imported(small_project):
    (small_project / "workshop" / "a.py").write_text("import workshop\nraise SystemExit('imported')\n")
    done = run_import_graph("--edges", "--folder", str(small_project))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["workshop.a -> workshop", "modules: 3, imports: 1, circles: 0"]


def test_the_graph_for_graphviz_marks_circles(small_project):
    (small_project / "workshop" / "a.py").write_text("import workshop.b\n")
    (small_project / "workshop" / "b.py").write_text("import workshop.a\n")
    dot = run_import_graph("--dot", "--folder", str(small_project)).stdout
    assert '"workshop.a" [color=red];' in dot and '"workshop.a" -> "workshop.b";' in dot


def test_a_folder_that_is_no_checkout_is_an_error(tmp_path):
    done = run_import_graph("--folder", str(tmp_path))
    assert done.returncode == 2
    assert "workshop/__init__.py is missing" in done.stderr
