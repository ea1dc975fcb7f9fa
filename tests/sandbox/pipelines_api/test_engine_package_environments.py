"""Packages that tasks install go into a separate environment, which is created once."""

import sys
import threading
import time
from pathlib import Path

from kfp import dsl

from tests.support.engine_bench import Memory
from workshop.sandbox.pipelines_api.engine.package_environments import split


def using(package: str, **options):
    """Return a pipeline of two tasks at a time that install a package and import it."""

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


def test_an_environment_is_created_once_and_shared(bench, tiny_wheel):
    pipeline = using(str(tiny_wheel), install_kfp_package=False)
    assert bench.run(pipeline).outputs == {"Output": [42, 43]}
    (environment,) = environments(bench)
    made = (environment / "complete").stat().st_mtime_ns
    begun = time.monotonic()
    assert bench.run(pipeline).outputs == {"Output": [42, 43]}
    assert time.monotonic() - begun < 3
    assert (environment / "complete").stat().st_mtime_ns == made


def test_nothing_is_installed_where_others_could_see_it(bench, tiny_wheel):
    bench.run(using(str(tiny_wheel), install_kfp_package=False))
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/tinypackage*"))


def test_what_the_code_of_a_task_installs_is_its_own(bench, tiny_wheel):
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


def test_a_component_that_wants_an_environment_of_its_own_has_one(bench, tiny_wheel):
    assert bench.run(using(str(tiny_wheel), use_venv=True)).outputs == {"Output": [42, 43]}
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/tinypackage*"))


def test_kfp_itself_is_not_installed_again(bench, tiny_wheel):
    ran = bench.run(using(str(tiny_wheel), pip_index_urls=["http://127.0.0.1:9"], pip_trusted_hosts=[]))
    assert ran.outputs == {"Output": [42, 43]}
    (environment,) = environments(bench)
    assert not list(environment.glob("lib/python*/site-packages/kfp"))


def test_a_layer_that_was_left_half_made_is_made_again(bench, tiny_wheel):
    pipeline = using(str(tiny_wheel), install_kfp_package=False)
    bench.run(pipeline)
    (environment,) = environments(bench)
    (environment / "complete").unlink()
    (environment / "rubbish").touch()
    assert bench.run(pipeline).outputs == {"Output": [42, 43]}
    assert (environment / "complete").exists() and not (environment / "rubbish").exists()


def test_an_installation_that_fails_says_what_pip_says(bench):
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


def test_only_a_command_that_installs_and_then_goes_on_is_parted():
    script = 'PIP=1 python3 -m pip install x && "$0" "$@"\n'
    assert split(["sh", "-c", script, "sh", "-ec", "program"]) == (script, ["sh", "-ec", "program"])
    own = 'pip install x &&\npython3 -m venv "$tmp/venv"\n. "$tmp/venv/bin/activate"\npip install y && "$0" "$@"'
    assert split(["sh", "-c", own, "sh"])[0] == 'pip install x &&\n:\n:\npip install y && "$0" "$@"'
    for whole in (["sh", "-ec", "pip install x"], ["sh", "-c", "pip install x", "y", "z"], ["python3", "-m", "x"]):
        assert split(whole) == ("", whole)
