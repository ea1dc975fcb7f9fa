"""papermill: each lesson alone with other inputs, all lessons in other orders, and the message of a failure."""

import json
import os
import random
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import nbformat
import papermill
import pytest
import requests

from tests.support.sampling import seed
from workshop import toc
from workshop.lessons import prepare_folder, run_one
from workshop.project import ROOT
from workshop.sandbox import apply

CHANCE = random.Random(seed())
BUCKET, PREFIX, CSV = "another-bucket", "another/prefix", "olist_orders_dataset.csv"


@pytest.fixture
def work(tmp_path) -> Path:
    folder = tmp_path / "work"
    prepare_folder(folder)
    return folder


@pytest.fixture
def parameters(olist_zip):
    return {"bucket": BUCKET, "zip_path": str(olist_zip), "output_prefix": PREFIX, "csv_name": CSV, "tag": "v7"}


def run(number, work, parameters):
    result = run_one(toc.select([number])[0], work, parameters)
    assert not result.error, result.error
    assert result.cells[0] == result.cells[1]
    return result


def keys(sandbox) -> dict[str, int]:
    apply(sandbox.environment())
    pages = boto3.Session().client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def kept(sandbox) -> dict[str, int]:
    """Return key and size of each object in the bucket. Artifacts of runs are left out, because every run uses new
    keys."""
    return {key: size for key, size in keys(sandbox).items() if not key.startswith("runs/")}


def members(olist_zip) -> dict[str, int]:
    with zipfile.ZipFile(olist_zip) as archive:
        return {f"{PREFIX}/{member.filename}": member.file_size for member in archive.infolist()}


def test_lesson_00_alone(sandbox, work, parameters):
    result = run("00", work, parameters)
    assert result.skipped == []
    text = printed(result.notebook)
    assert "you are in account 123456789012" in text and "kubeflow-demo 1.35" in text


@pytest.mark.slow
def test_lesson_01_alone_shows_what_it_would_build_and_builds_nothing(sandbox, work, parameters):
    result = run("01", work, parameters | {"nodes": 4, "hours": 10})
    assert [line.partition(";")[0] for line in result.skipped][-2:] == [
        "skipped: nothing is built, because a cluster costs money",
        "skipped: there is no Kubernetes API here to install on",
    ]
    text = printed(result.notebook)
    assert "eksctl create cluster -f - <<'EOF'" in text and "desiredCapacity: 4" in text
    assert "kubectl --context kubeflow-demo apply -k github.com/kubeflow/pipelines" in text.replace("'", "")
    assert "kubeflow-demo: ACTIVE, Kubernetes 1.35" in text
    prices = json.loads((ROOT / "deploy" / "prices.json").read_text())["items"]
    hourly = prices["eks_cluster"]["usd"] + 4 * (prices["m6i.xlarge"]["usd"] + prices["public_ipv4"]["usd"])
    volumes = (65 + 4 * 80) * prices["gp3"]["usd"] * 10 / 730
    assert f"10 hours: ${10 * hourly + volumes:.2f}; forgotten for a month: $" in text


@pytest.mark.slow
def test_lesson_02_alone_makes_another_repository_and_lets_the_nodes_pull(sandbox, work, parameters):
    result = run("02", work, parameters | {"repository": "another/components"})
    assert {line.partition(";")[0] for line in result.skipped} <= {
        "skipped: nothing was built",
        "skipped: nothing was pushed",
    }
    apply(sandbox.environment())
    [made] = boto3.Session().client("ecr").describe_repositories()["repositories"]
    assert (made["repositoryName"], made["imageTagMutability"]) == ("another/components", "IMMUTABLE")
    attached = boto3.Session().client("iam").list_attached_role_policies(RoleName="kubeflow-demo-node")
    assert "AmazonEC2ContainerRegistryPullOnly" in [policy["PolicyName"] for policy in attached["AttachedPolicies"]]
    assert (work / "Dockerfile").read_text() == (ROOT / "docker" / "component" / "Dockerfile").read_text()


@pytest.mark.slow
def test_lesson_09_alone_deletes_nothing_without_consent_and_everything_with_it(sandbox, work, parameters):
    sandbox.up()
    apply(sandbox.environment())
    boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
    kept = run("09", work, parameters | {"sure": False})
    assert [line.partition(";")[0] for line in kept.skipped] == ["skipped: nothing is deleted without your word"]
    assert "{'bucket': True, 'repository': False, 'cluster': True}" in printed(kept.notebook)
    result = run("09", work, parameters)
    assert result.skipped == []
    apply(sandbox.environment())
    session = boto3.Session()
    assert session.client("s3").list_buckets()["Buckets"] == []
    assert session.client("ecr").describe_repositories()["repositories"] == []
    assert session.client("eks").list_clusters()["clusters"] == []
    assert session.client("iam").list_roles()["Roles"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "skips"), [("01", 4), ("02", 4), ("09", 3)])
def test_without_an_aws_account_the_shell_steps_say_so_and_the_lesson_reaches_its_end(
    s3, work, parameters, monkeypatch, number, skips
):
    for name in ("KF_PIPELINES_ENDPOINT", "WORKSHOP_CONNECTED"):
        monkeypatch.setenv(name, os.environ[name])
        monkeypatch.delenv(name)
    apply({"WORKSHOP_TARGET": "kind", "WORKSHOP_BUCKET": BUCKET, "KF_PIPELINES_ENDPOINT": "http://127.0.0.1:1"})
    apply({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    result = run(number, work, parameters)
    assert len(result.skipped) >= skips, result.skipped
    assert all("; to " in line for line in result.skipped)


@pytest.mark.slow
def test_lesson_03_alone_uploads_another_zip_to_another_bucket(sandbox, work, parameters, olist_zip):
    result = run("03", work, parameters)
    assert keys(sandbox) == {olist_zip.name: olist_zip.stat().st_size}
    assert len(result.skipped) == 2, "pod identity and the region's refusal have no stand-in, and say so"
    assert "olist_orders_dataset.csv" in printed(result.notebook)


@pytest.mark.slow
def test_lesson_04_alone_unpacks_another_zip_below_another_prefix(sandbox, work, parameters, olist_zip):
    run("04", work, parameters)
    assert keys(sandbox) == members(olist_zip) | {olist_zip.name: olist_zip.stat().st_size}
    with zipfile.ZipFile(olist_zip) as archive:
        assert (work / "table.csv").read_bytes() == archive.read(CSV)


@pytest.mark.slow
def test_lesson_05_alone_compiles_and_runs_with_another_image_and_table(sandbox, work, parameters, olist_zip):
    run("05", work, parameters)
    assert keys(sandbox).items() >= members(olist_zip).items()
    assert "python-components:v7" in (work / "test_pipeline.yaml").read_text()
    assert (work / "test_pipeline.py").exists() and (work / "two_tables.yaml").exists()
    artifacts = list((work / "local_outputs").glob("unzip-and-read-*/csv-s3-reader/table"))
    with zipfile.ZipFile(olist_zip) as archive:
        assert [artifact.read_bytes() for artifact in artifacts] == [archive.read(CSV)]


@pytest.mark.slow
def test_lesson_06_alone_uploads_runs_and_explains_two_failures(sandbox, work, parameters, olist_zip):
    result = run("06", work, parameters)
    assert result.skipped == []
    apply(sandbox.environment())
    endpoint = f"{os.environ['KF_PIPELINES_ENDPOINT']}/apis/v2beta1"
    [pipeline] = requests.get(f"{endpoint}/pipelines").json()["pipelines"]
    versions = requests.get(f"{endpoint}/pipelines/{pipeline['pipeline_id']}/versions").json()["pipeline_versions"]
    assert versions[0]["display_name"] == "unzip-and-read" and len(versions) == 2
    assert "python-components:v7" in json.dumps(versions[0]["pipeline_spec"])
    runs = requests.get(f"{endpoint}/runs").json()["runs"]
    assert [run["state"] for run in runs] == ["SUCCEEDED"] * 3 + ["FAILED"] * 2
    assert all(run["runtime_config"]["pipeline_root"] == f"s3://{BUCKET}/runs" for run in runs)
    [table] = [key for key in keys(sandbox) if key.startswith(f"runs/unzip-and-read/{runs[0]['run_id']}/")]
    with zipfile.ZipFile(olist_zip) as archive:
        body = boto3.Session().client("s3").get_object(Bucket=BUCKET, Key=table)["Body"].read()
        assert body == archive.read(CSV)
    text = printed(result.notebook)
    assert f"FileNotFoundError: s3://{BUCKET}/{PREFIX}/'{CSV}' does not exist" in text
    assert "executors: ['SUCCEEDED', 'SKIPPED']" in text


class OnlyTheContract(BaseHTTPRequestHandler):
    """Forwards requests to the Pipelines API of the sandbox, except those that a cluster's server does not know."""

    upstream = ""

    def answer(self):
        if self.path.endswith("/log") or self.path.startswith("/apis/sandbox/"):
            self.reply(404, "application/json", b"{}")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = {"Content-Type": self.headers["Content-Type"]} if body else {}
        got = requests.request(self.command, self.upstream + self.path, data=body, headers=kind)
        self.reply(got.status_code, got.headers["content-type"], got.content)

    do_GET = do_POST = do_DELETE = answer

    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_lesson_06_runs_unchanged_on_a_configured_endpoint_that_has_only_the_contract(
    sandbox, work, parameters, monkeypatch
):
    sandbox.up()
    found = sandbox.environment()
    monkeypatch.setattr(OnlyTheContract, "upstream", found["KF_PIPELINES_ENDPOINT"])
    with ThreadingHTTPServer(("127.0.0.1", 0), OnlyTheContract) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        apply({name: found[name] for name in found if name.startswith("AWS_") and name != "AWS_ENDPOINT_URL"})
        apply({"WORKSHOP_TARGET": "kind", "WORKSHOP_BUCKET": BUCKET})
        apply({"KF_PIPELINES_ENDPOINT": f"http://127.0.0.1:{server.server_port}"})
        result = run("06", work, parameters)
        server.shutdown()
    assert len(result.skipped) == 3, "logs are elsewhere on a cluster, and the lesson says where"
    assert all("to run it:" in line for line in result.skipped)


@pytest.mark.parametrize(
    "others", [pytest.param(2, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.exhaustive, id="all")]
)
def test_lessons_run_twice_in_reverse_order_on_one_sandbox(sandbox, work, parameters, olist_zip, others):
    clean_up, *backwards = (lesson.name for lesson in reversed(toc.lessons()))
    if others:
        chosen = {"03_reach_s3", *CHANCE.sample(backwards, others)}  # lesson 03 makes the bucket
        backwards = [name for name in backwards if name in chosen]
    run(clean_up, work, parameters)
    first = {name: compared(run(name, work, parameters).notebook) for name in backwards}
    contents = kept(sandbox)
    second = {name: compared(run(name, work, parameters).notebook) for name in backwards}
    assert kept(sandbox) == contents
    for name in backwards:
        assert without_what_varies(second[name]) == without_what_varies(first[name])


@pytest.mark.slow
def test_two_runs_at_once_start_one_sandbox_and_both_succeed(sandbox, tmp_path, olist_zip, workshop_command):
    def run_in(folder: str):
        arguments = ["run", "04", "05", "--output", str(tmp_path / folder), "-p", f"zip_path={olist_zip}"]
        return workshop_command(*arguments, "-p", f"csv_name={CSV}", "-p", f"bucket={folder}-bucket")

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run_in, ("one", "two")))
    assert [result.returncode for result in results] == [0, 0], results[0].stdout + results[1].stdout
    assert "05_compile_pipeline  ok" in results[0].stdout


@pytest.mark.slow
def test_a_failing_cell_is_shown_with_its_lesson_and_the_notebook_is_kept(
    borrowing_sandbox, tmp_path, workshop_command
):
    done = workshop_command("run", "03", "--output", str(tmp_path / "out"), "-p", "bucket=Not_A_Bucket")
    assert done.returncode == 1
    assert "03_reach_s3: code cell [" in done.stdout
    assert "s3.create_bucket(Bucket=bucket, **options)" in done.stdout
    assert "InvalidBucketName" in done.stdout
    assert re.search(r"03_reach_s3 +failed", done.stdout)
    kept = nbformat.read(tmp_path / "out" / "03_reach_s3.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_a_kernel_that_dies_is_an_error_and_the_notebook_so_far_is_kept(work, tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("print(1)", "import os; os._exit(1)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "dies.ipynb")

    class Dying(toc.Lesson):
        path = tmp_path / "dies.ipynb"

    result = run_one(Dying("dies", "Die", 1, "nothing"), work, {})
    assert "DeadKernelError" in result.error
    assert result.cells == (1, 2)
    assert printed(result.notebook) == "1\n"


@pytest.mark.slow
def test_a_failing_task_is_shown_with_its_message(borrowing_sandbox, tmp_path, olist_zip, workshop_command):
    parameters = ["-p", f"zip_path={olist_zip}", "-p", "csv_name=flights.csv"]
    done = workshop_command("run", "05", "--output", str(tmp_path / "out"), *parameters)
    assert done.returncode == 1
    assert "flights.csv does not exist; the nearest names are" in done.stdout and "\x1b[" not in done.stdout


@pytest.mark.slow
def test_a_parameter_that_no_lesson_has_is_named(borrowing_sandbox, workshop_command):
    done = workshop_command("run", "03", "-p", "csvname=x")
    assert done.returncode == 1
    assert "csvname" in done.stderr and "zip_path" in done.stderr


@pytest.mark.slow
def test_a_sandbox_that_cannot_start_is_one_plain_message(tmp_path, workshop_command):
    (tmp_path / "file").write_text("")
    environment = os.environ | {"WORKSHOP_SANDBOX_DIR": str(tmp_path / "file" / "sandbox")}
    done = workshop_command("run", "00", "--output", str(tmp_path / "out"), env=environment)
    assert done.returncode == 1
    assert "WORKSHOP_SANDBOX_DIR" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unknown_lesson_is_named_with_those_that_exist(workshop_command):
    done = workshop_command("run", "77")
    assert done.returncode == 1
    assert "77" in done.stderr and "03_reach_s3" in done.stderr


@pytest.mark.slow
def test_a_table_says_where_the_seconds_went(sandbox, tmp_path, workshop_command):
    done = workshop_command("run", "00", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    row = re.search(r"00_start_here +ok +12/12 +0 +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", done.stdout)
    assert row, done.stdout
    total, kernel, imports, work = map(float, row.groups())
    assert kernel > 0 and imports > 0 and kernel + imports + work <= total + 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("number", "wanted"), [("00", set()), ("03", set()), ("04", {"pandas", "kfp", "matplotlib"})])
def test_a_lesson_imports_only_what_it_uses(s3, work, parameters, number, wanted):
    """A lesson imports no library that it does not need."""
    lesson = toc.select([number])[0]
    notebook = nbformat.read(lesson.path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print('LOADED', *sys.modules)"))
    nbformat.write(notebook, work / "probe.ipynb")
    papermill.execute_notebook(
        str(work / "probe.ipynb"), str(work / "probed.ipynb"), parameters, cwd=str(work), progress_bar=False
    )
    loaded = re.search("LOADED (.*)", printed(work / "probed.ipynb")).group(1).split()
    assert {"pandas", "kfp", "matplotlib", "networkx"} & set(loaded) == wanted


def printed(notebook: Path) -> str:
    return _text(nbformat.read(notebook, as_version=4).cells)


def compared(notebook: Path) -> str:
    """Return the outputs that nbval compares: those of all cells without the tag `nbval-ignore-output`."""
    cells = nbformat.read(notebook, as_version=4).cells
    return _text(cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", []))


def _text(cells) -> str:
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def without_what_varies(text: str) -> str:
    """Replace what nbval replaces, and drop the lines that rightly differ in a second run on the same sandbox."""
    config = (ROOT / "tests" / "lessons" / "nbval_sanitize.cfg").read_text()
    for pattern, replacement in re.findall(r"^regex: (.*)\nreplace: (.*)$", config, re.MULTILINE):
        text = re.sub(pattern, replacement, text)
    said_once = (
        "the bucket exists already\n",
        "the pipeline exists already\n",
        "Writing test_pipeline.py\n",
        "Overwriting test_pipeline.py\n",
        "Writing Dockerfile\n",
        "Overwriting Dockerfile\n",
    )
    uploads = r"(?m)^(uploaded \w+\.yaml as the version|the pipeline unzip-and-read has this as its version) .*\n"
    text = re.sub(uploads, "", text)
    # Lesson 02: the second time, the registry is there and the nodes have their permission.
    text = re.sub(r"(?m)^(created the repository|the repository|python-components now keeps) .*\n", "", text)
    nodes = r"(?m)^(cluster kubeflow-demo| {2,6}\S.*|(attached|check_node_access|all nodes may|a pod with an).*)\n"
    text = re.sub(nodes, "", text)
    text = re.sub(r"(?m)^ *\d+\.\d s  (unzip-func|csv-s3-reader|the run) .*\n", "", text)  # depends on speed
    for line in said_once:
        text = text.replace(line, "")
    return text


def test_the_working_folder_holds_what_notebooks_holds(work):
    expected = {path.name for path in (ROOT / "notebooks" / "images").iterdir()}
    assert {path.name for path in (work / "images").iterdir()} == expected
