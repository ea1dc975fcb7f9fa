"""Packages that tasks install go into a separate environment, which is created once."""

import sys
import threading
import time
from pathlib import Path

import pytest
from kfp import dsl

from tests.support.engine_bench import Memory
from workshop.sandbox.pipelines_api.engine.package_environments import split


def using(package: str, **options):
    """Return a pipeline with two parallel tasks that install a package and import it."""

    @dsl.component(base_image="python:3.12", packages_to_install=[package], **options)
    def answer(number: int) -> int:
        import pandas  # noqa: F401 - the image holds it
        import tinypackage

        return tinypackage.VALUE + number

    @dsl.pipeline
    def answers() -> list[int]:
        with dsl.ParallelFor([0, 1]) as number:
            task = answer(number=number)
            task.set_caching_options(False)
        return dsl.Collected(task.output)

    return answers


def environments(bench) -> list[Path]:
    return [path for path in (bench.folder / "package-environments").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_an_environment_is_created_once_and_shared(bench, tiny_wheel):
    pipeline = using(str(tiny_wheel), install_kfp_package=False)
    assert bench.run(pipeline).outputs == {"Output": [42, 43]}
    (environment,) = environments(bench)
    made = (environment / "complete").stat().st_mtime_ns
    assert bench.run(pipeline).outputs == {"Output": [42, 43]}
    assert (environment / "complete").stat().st_mtime_ns == made


@pytest.mark.slow
def test_packages_are_not_installed_into_the_shared_environment(bench, tiny_wheel):
    bench.run(using(str(tiny_wheel), install_kfp_package=False))
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/tinypackage*"))


@pytest.mark.slow
def test_other_tasks_do_not_see_packages_that_a_task_installs(bench, tiny_wheel):
    @dsl.component(base_image="python:3.12", install_kfp_package=False)
    def installs(path: str) -> int:
        import subprocess
        import sys

        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", path], check=True)
        import tinypackage

        return tinypackage.VALUE

    @dsl.pipeline
    def installs_itself(path: str) -> int:
        return installs(path=path).output

    assert bench.run(installs_itself, {"path": str(tiny_wheel)}).outputs == {"Output": 42}
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/tinypackage*"))


@pytest.mark.slow
def test_a_component_with_use_venv_works(bench, tiny_wheel):
    assert bench.run(using(str(tiny_wheel), use_venv=True)).outputs == {"Output": [42, 43]}
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/tinypackage*"))


@pytest.mark.slow
def test_kfp_itself_is_not_installed_again(bench, tiny_wheel):
    ran = bench.run(using(str(tiny_wheel), pip_index_urls=["http://127.0.0.1:9"], pip_trusted_hosts=[]))
    assert ran.outputs == {"Output": [42, 43]}
    (environment,) = environments(bench)
    assert not list(environment.glob("lib/python*/site-packages/kfp"))


@pytest.mark.slow
def test_an_incomplete_environment_is_created_again(bench, tiny_wheel):
    pipeline = using(str(tiny_wheel), install_kfp_package=False)
    bench.run(pipeline)
    (environment,) = environments(bench)
    (environment / "complete").unlink()
    (environment / "rubbish").touch()
    assert bench.run(pipeline).outputs == {"Output": [42, 43]}
    assert (environment / "complete").exists() and not (environment / "rubbish").exists()


@pytest.mark.slow
def test_a_failed_installation_gives_the_error_of_pip(bench):
    ran = bench.run(using("./no-such-package.whl", install_kfp_package=False))
    assert ran.outcome.state == "FAILED"
    assert "its packages cannot be installed" in ran.outcome.error and "no-such-package" in ran.outcome.error
    failed = next(path for path, task in ran.tasks.items() if task.kind == "container")
    assert "no-such-package" in ran.log(failed)


def test_cancelling_ends_an_installation(bench, tmp_path):
    @dsl.component(base_image="python:3.12", packages_to_install=["$(sleep 60)"], install_kfp_package=False)
    def never() -> int:
        return 1

    @dsl.pipeline
    def stuck():
        never()

    memory, cancelled = Memory(), threading.Event()
    job = bench.job(stuck)
    job.spec["deploymentSpec"]["executors"]["exec-never"]["container"]["command"][2] = (
        'sleep 60 && pip install nothing && "$0" "$@"'
    )
    threading.Timer(1, cancelled.set).start()
    begun = time.monotonic()
    assert bench.execute(job, memory, cancelled).outcome.state == "CANCELED"
    assert time.monotonic() - begun < 4


def test_only_a_command_that_installs_and_then_runs_a_program_is_split():
    script = 'PIP=1 python3 -m pip install x && "$0" "$@"\n'
    assert split(["sh", "-c", script, "sh", "-ec", "program"]) == (script, ["sh", "-ec", "program"])
    own = 'pip install x &&\npython3 -m venv "$tmp/venv"\n. "$tmp/venv/bin/activate"\npip install y && "$0" "$@"'
    assert split(["sh", "-c", own, "sh"])[0] == 'pip install x &&\n:\n:\npip install y && "$0" "$@"'
    for whole in (["sh", "-ec", "pip install x"], ["sh", "-c", "pip install x", "y", "z"], ["python3", "-m", "x"]):
        assert split(whole) == ("", whole)
