"""The sandbox's folder: any name, no foreign files, and a secret path that is new after each `down`."""

import json
import os
import signal
import urllib.error
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import boto3
import nbformat
import psutil
import pytest
import yaml
from kfp import compiler

from tests.support import simple
from tests.support.account import client
from tests.support.api import Api
from tests.support.sampling import sample
from workshop import lessons
from workshop.sandbox import Sandbox, SandboxError
from workshop.sandbox.processes import is_running, start_mark
from workshop.sandbox.supervisor import MARKER

pytestmark = pytest.mark.attack

NAMES = ["a,b", "is it?", "100%20", "100%", "two  spaces", "Übung 中文", "it's", 'a"b', "a;b&c=d#e", "$HOME", "[x]{y}"]


@pytest.mark.parametrize("name", ["aws", "run", "registry", "object-store"])
def test_a_folder_with_files_of_others_is_refused_and_nothing_in_it_changes(tmp_path, name):
    folder = tmp_path / "project"
    (folder / name).mkdir(parents=True)
    (folder / name / "thesis.txt").write_text("years of work")
    for call in (Sandbox(folder).up, Sandbox(folder).reset):
        with pytest.raises(SandboxError, match=f"holds: {name}.*WORKSHOP_SANDBOX_DIR"):
            call()
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == [name, f"{name}/thesis.txt"]


def test_reset_deletes_a_link_and_not_the_folder_behind_it(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    own = Sandbox(tmp_path / "sandbox")
    assert own.bucket  # makes the folder
    (own.directory / "aws").symlink_to(mine)
    own.reset()
    assert (mine / "thesis.txt").exists() and not own.directory.exists()


def test_a_sandbox_that_is_older_than_the_marker_is_recognised(tmp_path):
    own = Sandbox(tmp_path / "sandbox")
    assert own.bucket  # makes the folder
    (own.directory / MARKER).unlink()
    own.reset()
    assert not own.directory.exists()


@pytest.mark.parametrize("name", sample(NAMES, test=0, gate=4))
def test_the_folder_may_have_any_name(tmp_path, tmp_path_factory, name):
    compiled = tmp_path_factory.mktemp("compiled") / "echo.yaml"
    compiler.Compiler().compile(simple.echo, str(compiled))
    own = Sandbox(tmp_path / name / "sandbox")
    own.up()
    try:
        environment = own.environment()
        keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        s3 = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=environment["AWS_ENDPOINT_URL_S3"])
        s3.create_bucket(Bucket="any")
        s3.put_object(Bucket="any", Key="key", Body=b"x" * 100_000)
        client(own, "ecr").create_repository(repositoryName="any")
        api = Api(environment["KF_PIPELINES_ENDPOINT"])
        assert api.await_state(api.run(yaml.safe_load(compiled.read_text()))["run_id"])["state"] == "SUCCEEDED"
        assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is outside the folder"
        assert {path.name for path in (tmp_path / name).iterdir()} == {"sandbox", "sandbox.lock"}
        own.down()
        own.up()
        assert [found["repositoryName"] for found in client(own, "ecr").describe_repositories()["repositories"]] == [
            "any"
        ]
        assert api.endpoint != own.environment()["KF_PIPELINES_ENDPOINT"]
    finally:
        own.reset()


def secret(sandbox) -> str:
    return sandbox.environment()["KF_PIPELINES_ENDPOINT"].rpartition("/")[2]


def test_the_secret_path_is_kept_after_a_crash_and_new_after_down(borrowing_sandbox):
    sandbox = borrowing_sandbox
    sandbox.up()
    first = secret(sandbox)
    record = next(record for server, record, _ in sandbox.status() if server.name == "pipelines-api")
    os.kill(record.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(record.pid)], timeout=10) if psutil.pid_exists(record.pid) else None
    sandbox.up()
    assert secret(sandbox) == first
    sandbox.down()
    sandbox.up()
    assert secret(sandbox) != first
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(sandbox.environment()["KF_PIPELINES_ENDPOINT"].replace(secret(sandbox), first))
    message = json.load(refused.value)["message"]
    assert "connect() again" in message and "eval" in message and "\n" not in message and first not in message


def test_outputs_and_errors_of_lessons_show_no_secret_path():
    hidden = "0123456789abcdef" * 2
    shown = [
        f"http://127.0.0.1:8889/{hidden}",
        f"http://localhost:8889/{hidden}/#/runs/details/1",
        f"HTTPConnectionPool(host='127.0.0.1', port=8889): Max retries exceeded with url: /{hidden}/apis/v2beta1/runs",
        f"<a href='http://127.0.0.1:8889/{hidden}'>",
    ]
    error = nbformat.v4.new_output("error", ename="E", evalue=shown[2], traceback=shown)
    stream = nbformat.v4.new_output("stream", text="\n".join(shown))
    data = nbformat.v4.new_output("display_data", {"text/html": shown[3]})
    cell = nbformat.v4.new_code_cell(outputs=[error, stream, data])
    cleaned = lessons._without_traces(nbformat.v4.new_notebook(cells=[cell]))
    assert hidden not in nbformat.writes(cleaned)
    assert nbformat.writes(cleaned).count("SECRET") == 10
    kept = f"s3://bucket/{hidden}/object http://127.0.0.1:8889/{hidden}0"
    assert lessons._without_secret(kept) == kept, "an address in S3 stays"


@pytest.mark.slow
def test_the_notebook_of_an_executed_lesson_is_private(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    (tmp_path / "out").mkdir()
    result = lessons.run_one(SimpleNamespace(path=tmp_path / "lesson.ipynb", name="lesson"), tmp_path / "out", {})
    assert result.error == "" and result.notebook.stat().st_mode & 0o077 == 0


def test_a_step_of_the_clock_does_not_make_the_servers_look_ended(monkeypatch):
    mark = start_mark(os.getpid())
    for step in (3600, -3600):
        boot = psutil.boot_time()
        with monkeypatch.context() as patch:
            patch.setattr(psutil._psplatform, "boot_time", lambda boot=boot, step=step: boot + step)
            assert start_mark(os.getpid()) == mark
            assert is_running(os.getpid(), mark)


def test_a_folder_that_became_read_only_ends_no_server(borrowing_sandbox, monkeypatch):
    sandbox = borrowing_sandbox
    sandbox.up()
    before = {server.name: record.pid for server, record, _ in sandbox.status() if record}

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    identity = sandbox._identity()
    changed = sandbox._supervisor(replace(identity, access_key="SANDBOXOTHER"))  # these keys ask for new servers
    with pytest.raises(SandboxError, match="cannot write"):
        changed.up()
    assert {server.name: record.pid for server, record, _ in sandbox.status() if record} == before
