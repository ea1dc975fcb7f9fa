"""`scripts/upload_pipeline.py` as it is typed, against the sandbox's Pipelines API."""

import os
import subprocess

import pytest
import requests
from kfp import compiler, dsl

from workshop.project import PROGRAMS, ROOT

SCRIPT = ROOT / "scripts" / "upload_pipeline.py"


@dsl.component(base_image="python:3.12", install_kfp_package=False)
def say(text: str) -> str:
    return text


@dsl.pipeline(name="say-it")
def say_it(text: str = "x"):
    say(text=text)


@dsl.pipeline(name="say-it")
def say_it_twice(text: str = "x"):
    say(text=text)
    say(text=text)


@dsl.pipeline(name="say-it")
def say_it_thrice(text: str = "x"):
    for _ in range(3):
        say(text=text)


@pytest.fixture
def upload(s3, tmp_path):
    """Call the script with the sandbox's endpoint and this environment's programs."""

    def call(*arguments: str, by: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"HOME": str(tmp_path)} | variables
        command = [*by, SCRIPT, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return call


@pytest.fixture
def one(tmp_path) -> str:
    compiler.Compiler().compile(say_it, str(tmp_path / "one.yaml"))
    return "one.yaml"


@pytest.fixture
def three(tmp_path) -> str:
    compiler.Compiler().compile(say_it_thrice, str(tmp_path / "three.yaml"))
    return "three.yaml"


@pytest.fixture
def two(tmp_path) -> str:
    compiler.Compiler().compile(say_it_twice, str(tmp_path / "two.yaml"))
    return "two.yaml"


def versions(name: str) -> list[str]:
    base = f"{os.environ['KF_PIPELINES_ENDPOINT']}/apis/v2beta1/pipelines"
    found = requests.get(f"{base}/names/{name}").json()
    if "pipeline_id" not in found:
        return []
    listed = requests.get(f"{base}/{found['pipeline_id']}/versions").json()
    return [version["display_name"] for version in listed["pipeline_versions"]]


def test_the_first_run_uploads_and_the_second_changes_nothing(upload, one):
    first = upload(one)
    assert (first.returncode, first.stdout) == (0, "uploaded one.yaml as the new pipeline say-it\n"), first.stderr
    second = upload(one)
    assert second.stdout == "the pipeline say-it has this as its version say-it already; nothing to do\n"
    assert versions("say-it") == ["say-it"]


@pytest.mark.slow
def test_another_file_becomes_a_version_named_by_its_content_or_by_you(upload, one, two):
    assert upload(one, "--name", "two-of-them").returncode == 0
    assert "as the version v-" in upload(two, "--name", "two-of-them").stdout
    assert "nothing to do" in upload(two, "--name", "two-of-them").stdout
    named = upload(one, "--name", "two-of-them", "--version", "by me", "--description", "a 'b'")
    assert "nothing to do" in named.stdout, "the file is there already, by another name"
    assert len(versions("two-of-them")) == 2


@pytest.mark.slow
def test_a_version_is_never_replaced_nor_taken_for_another_file(upload, one, two, three):
    upload(one, "--name", "fixed", "--version", "v1")
    upload(two, "--name", "fixed", "--version", "v1")
    changed = upload(three, "--name", "fixed", "--version", "v1")
    assert changed.returncode == 1
    assert versions("fixed") == ["fixed", "v1"]
    assert "has a version v1 already, made from another file" in changed.stderr and changed.stdout == ""


@pytest.mark.slow
def test_dry_run_changes_nothing_and_prints_what_can_be_pasted(upload, one, s3):
    shown = upload(one, "--name", "a 'dry' name", "--dry-run")
    assert shown.returncode == 0 and versions("a 'dry' name") == []
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", shown.stdout], env=os.environ | {"PATH": path}, check=True, capture_output=True)
    assert versions("a 'dry' name") == ["a 'dry' name"]


@pytest.mark.parametrize(
    "arguments", [[], ["--wrong", "x"], ["--name"], ["--version", "", "one.yaml"], ["one.yaml", "two.yaml"]], ids=str
)
def test_wrong_usage_exits_with_2_and_shows_the_usage(upload, one, arguments):
    done = upload(*arguments)
    assert done.returncode == 2 and "usage:" in done.stderr


def test_help_is_help(upload):
    assert upload("--help").stdout.startswith("usage:")


def test_a_file_that_is_missing_or_no_pipeline_is_named(upload, tmp_path):
    missing = upload("missing.yaml")
    assert missing.returncode == 1 and "missing.yaml" in missing.stderr and "kfp dsl compile" in missing.stderr
    (tmp_path / "other.yaml").write_text("a: 1\n")
    other = upload("other.yaml")
    assert other.returncode == 1 and "other.yaml is not a compiled pipeline" in other.stderr


@pytest.mark.slow
def test_a_refusal_of_the_server_is_shown_with_its_reason(upload, one, tmp_path):
    text = (tmp_path / one).read_text().replace("schemaVersion: 2.1.0", "schemaVersion: 2.9.0")
    (tmp_path / "new.yaml").write_text(text)
    done = upload("new.yaml", "--name", "refused")
    assert done.returncode == 1
    assert "new.yaml was not uploaded: " in done.stderr and "the schema version '2.9.0'" in done.stderr


def test_a_server_that_does_not_answer_is_3_and_the_secret_is_not_shown(upload, one):
    secret = "0123456789abcdef0123456789abcdef"
    done = upload(one, KF_PIPELINES_ENDPOINT=f"http://127.0.0.1:1/{secret}")
    assert done.returncode == 3
    assert "KF_PIPELINES_ENDPOINT" in done.stderr and secret not in done.stderr + done.stdout


@pytest.mark.slow
def test_the_secret_is_in_no_output_even_with_set_x(upload, one):
    secret = os.environ["KF_PIPELINES_ENDPOINT"].rpartition("/")[2]
    traced = upload(one, "--name", "traced", by=("bash", "-xc", '"$0" "$@"'))
    assert "+ " in traced.stderr and secret not in traced.stderr + traced.stdout
    assert versions("traced") == ["traced"]
