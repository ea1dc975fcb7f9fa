"""Tasks that `kfp.local` runs: they start fast, and they never change the environment of the series."""

import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest


def notebook_process(source: str) -> subprocess.CompletedProcess:
    """Run code in its own process, connected as in a notebook. kfp needs the source of functions, so it is a file."""
    Path("lesson.py").write_text(f"from workshop import connect\nconnect()\n{textwrap.dedent(source)}")
    return subprocess.run([sys.executable, "lesson.py"], capture_output=True, text=True, timeout=120)


def installed() -> set[str]:
    return {path.name for path in Path(sysconfig.get_path("purelib")).iterdir()}


@pytest.mark.slow
def test_packages_to_install_reach_the_task_and_not_the_environment(s3, tiny_wheel):
    before = installed()
    done = notebook_process(
        f"""
        from kfp import dsl, local
        local.init(runner=local.SubprocessRunner(use_venv=False))

        @dsl.component(base_image="python:3.12", packages_to_install=["{tiny_wheel}"], install_kfp_package=False)
        def answer() -> int:
            import tinypackage
            return tinypackage.VALUE

        print("ANSWER", answer().output)
        """
    )
    assert "ANSWER 42" in done.stdout, done.stdout + done.stderr
    assert installed() == before
    assert subprocess.run([sys.executable, "-c", "import tinypackage"], capture_output=True).returncode != 0


@pytest.mark.slow
def test_pip_in_a_notebook_does_not_change_the_environment(s3, tiny_wheel):
    before = installed()
    done = notebook_process(
        f"""
        import subprocess, sys
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "{tiny_wheel}"], check=True)
        import tinypackage
        print("VALUE", tinypackage.VALUE)
        """
    )
    assert "VALUE 42" in done.stdout, done.stdout + done.stderr
    assert installed() == before


@pytest.mark.slow
def test_installed_packages_are_deleted_with_the_process(s3, shared_sandbox, tiny_wheel):
    notebook_process(f"""
        import subprocess, sys
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "{tiny_wheel}"], check=True)
        """)
    notebook_process("")
    left = shared_sandbox.directory / "task-packages"
    assert not list(left.glob("*/tinypackage.py"))


@pytest.mark.slow
def test_a_task_starts_without_a_virtual_environment(s3):
    done = notebook_process(
        """
        from kfp import dsl, local
        local.init(runner=local.SubprocessRunner(use_venv=False))

        @dsl.component(base_image="python:3.12", install_kfp_package=False)
        def where() -> str:
            import sys
            return sys.prefix

        import sys

        print("SAME", where().output == sys.prefix)
        """
    )
    assert "SAME True" in done.stdout, done.stdout + done.stderr
