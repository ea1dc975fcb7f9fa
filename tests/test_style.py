"""Linters, the type checker and the import contracts find nothing."""

import subprocess
import sys

import pytest

from workshop import toc
from workshop.project import PROGRAMS, ROOT


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing_in_code_and_notebooks():
    run(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_would_format_nothing():
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_shellcheck_finds_nothing_in_any_script():
    scripts = [*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run", ROOT / "postBuild"]
    run(str(PROGRAMS / "shellcheck"), *map(str, scripts))


@pytest.mark.slow
def test_mypy_finds_nothing():
    run(sys.executable, "-m", "mypy")


def test_the_readme_lists_the_lessons_as_the_table_of_contents_does():
    assert toc.readme_table() in (ROOT / "README.md").read_text(), "run `workshop generate`"


def test_pipelines_imports_neither_workshop_nor_what_a_component_image_lacks():
    code = "import sys, pipelines.components, pipelines.unzip_and_read; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"workshop", "psutil", "filelock", "moto", "papermill", "matplotlib", "pandas", "boto3"}
