"""Uploads: accepted and refused files, and the arguments of pipelines."""

import gzip
import io
import json
import tarfile
import zipfile

import pytest
import yaml

from tests.support import simple
from tests.support.every_kind import WITH_PLATFORM
from workshop.sandbox.pipelines_api import package
from workshop.sandbox.pipelines_api.tables import Store, manifest, store_manifest


def upload(api, content: bytes, name="pipeline.yaml"):
    return api.session.post(f"{api.base}/pipelines/upload", files={"uploadfile": (name, content)}, timeout=120)


def refusal(api, content: bytes, name="pipeline.yaml", status=500) -> str:
    """Return the reason why an upload is refused. As on a cluster, a wrong specification has the status 500."""
    answer = upload(api, content, name)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].partition(";")[0] == ("text/plain" if status == 400 else "application/json")
    assert set(answer.json()) == {"error_message", "error_details"}
    return answer.json()["error_details"]


def changed(echo, **fields) -> bytes:
    return json.dumps(echo | fields).encode()


def a_zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pipeline.yaml", content)
    return buffer.getvalue()


def a_tarball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def bomb() -> bytes:
    """Return YAML of 1 kB that becomes huge when its anchors are expanded."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(["pipelineInfo: {name: bomb}", "a0: &a0 [x]", *levels, "root: *a11"]).encode()


def test_files_and_archives_are_accepted_and_get_the_name_of_the_file(api, echo, unique):
    text = yaml.safe_dump(echo).encode()
    for content, suffix in (
        (text, ".yaml"),
        (text, ".yml"),
        (json.dumps(echo).encode(), ".json"),
        (json.dumps(echo).encode(), "-json.yaml"),
        (a_zip(text), ".zip"),
        (a_zip(text), ""),
        (a_tarball({"notes.txt": b"x", "pipeline.yaml": text}), ".tar.gz"),
        (a_tarball({"other.yaml": text}), "-2.tar.gz"),
    ):
        name = f"{unique}{suffix}"
        made = upload(api, content, name).json()
        assert made["name"] == made["display_name"] == name
        versions = api.call("GET", f"/pipelines/{made['pipeline_id']}/versions")["pipeline_versions"]
        assert [(one["name"], one["pipeline_spec"]) for one in versions] == [(name, echo)]


def test_the_suffix_of_a_plain_file_counts_and_archives_need_yaml(api, echo):
    text = yaml.safe_dump(echo).encode()
    for content, name in (
        (text, "p.txt"),
        (text, "p.YAML"),
        (text, "p"),
        (text, "p.zip"),
        (gzip.compress(text), "p.yaml.gz"),
        (a_tarball({"a.txt": b"x"}), "p.tar.gz"),
        (a_zip(text)[:40], "p.zip"),
    ):
        assert "Failed to read a pipeline spec file" in refusal(api, content, name, status=400)


def test_long_names_are_refused_in_one_line(api, echo, unique):
    def answer(path, **query):
        files = {"uploadfile": ("p.yaml", json.dumps(echo).encode())}
        return api.session.post(f"{api.base}/pipelines/{path}", params=query, files=files)

    long = answer("upload", name="x" * 129)
    assert (long.status_code, long.text) == (400, "Invalid input error: Pipeline.Name length cannot exceed 128\n")
    assert answer("upload", name="y" * 128).status_code == 500, "the name of its version is limited to 127"
    pipeline = answer("upload", name=unique).json()["pipeline_id"]
    assert answer("upload_version", pipelineid=pipeline, name="x" * 128).status_code == 400
    assert answer("upload_version", pipelineid="no-such-id", name="x").status_code == 400
    assert answer("upload_version", pipelineid=pipeline, name=unique).status_code == 409
    assert answer("upload", name=unique.upper()).status_code == 409


def test_an_argo_workflow_is_accepted_and_its_run_fails_with_the_reason(api, unique):
    content = b"apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec: {entrypoint: a}"
    made = upload(api, content, f"{unique}.yaml").json()
    body = {"display_name": "old", "pipeline_version_reference": {"pipeline_id": made["pipeline_id"]}}
    run = api.await_state(api.call("POST", "/runs", "V2beta1Run", json=body)["run_id"])
    assert run["state"] == "FAILED" and "compiled by kfp 1.x" in run["error"]["message"]


def test_a_platform_specification_is_stored(api, unique, compiled):
    from kfp import dsl, kubernetes

    @dsl.pipeline(name="with-platform")
    def with_platform():
        task = simple.say(text="x")
        kubernetes.add_node_selector(task, "zone", "a")

    spec = compiled(with_platform)
    content = yaml.safe_dump_all([spec["pipeline_spec"], spec["platform_spec"]])
    made = api.session.post(
        f"{api.base}/pipelines/upload", params={"name": unique}, files={"uploadfile": ("p.yaml", content)}
    ).json()
    [version] = api.call("GET", f"/pipelines/{made['pipeline_id']}/versions")["pipeline_versions"]
    assert version["pipeline_spec"] == spec


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"a: [", "neither YAML nor JSON"),
        (b'{"a": NaN}', "neither YAML nor JSON"),
        (b"just words", "contains no compiled pipeline"),
        (b"- a\n- b", "contains no compiled pipeline"),
        (b"a: 1\n---\nb: 2\n---\nc: 3", "3 YAML documents"),
        (b"name: x\nimplementation: {container: {image: x}}", "single component"),
        (b"apiVersion: v1\nkind: Secret", "Kubernetes manifest (Secret)"),
        (b"colour: red", "no field named"),
        (b'{"a": 1' + b"0" * 400 + b"}", "too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_a_compiled_pipeline_is_refused_with_the_reason(api, content, said):
    message = refusal(api, content)
    assert said in message and "pipeline.yaml" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (rb'{"apiVersion": "x", "kind": "\ud800"}', "half of a character"),
        (rb'{"schemaVersion": "\ud800"}', "half of a character"),
        (b"[" * 100_000, "larger or deeper than any compiled pipeline"),
        (b'{"a":' * 100_000, "larger or deeper than any compiled pipeline"),
        ("\n".join("  " * n + "a:" for n in range(2_000)).encode(), "larger or deeper than any compiled pipeline"),
        (bomb(), "larger or deeper than any compiled pipeline"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_no_server_could_hold_is_a_wrong_request(api, content, said):
    message = refusal(api, content, status=400)
    assert said in message and "pipeline.yaml" in message


def test_an_archive_with_the_name_of_a_plain_file_is_refused(api, echo):
    assert "is an archive" in refusal(api, a_zip(json.dumps(echo).encode()), "pipeline.yaml")


def test_another_schema_version_is_refused_with_what_to_do(api, echo):
    message = refusal(api, changed(echo, schemaVersion="2.2.0"))
    assert "'2.2.0'" in message and "'2.1.0'" in message and "pip install kfp==" in message


@pytest.mark.parametrize("name", ["", "With Capitals", "-a", "a" * 129])
def test_an_invalid_pipeline_name_is_refused(api, echo, name):
    assert "names its pipeline" in refusal(api, changed(echo, pipelineInfo={"name": name}))


def test_missing_parts_are_named(api, echo):
    assert "comp-say" in refusal(api, changed(echo, components={}), status=400)
    assert "exec-say" in refusal(api, changed(echo, deploymentSpec={"executors": {}}), status=400)
    assert "no tasks" in refusal(api, changed(echo, root={"dag": {"tasks": {}}}))


def test_a_file_of_100_mb_is_refused_with_its_size_not_with_a_broken_connection(api):
    message = upload(api, b"x" * (100 << 20)).json()["message"]
    assert "at most 33,554,432" in message and "put data into S3" in message


def test_a_file_just_above_the_limit_is_refused(api):
    assert "33,554,433 bytes" in refusal(api, b"x" * ((32 << 20) + 1))


def test_an_upload_without_a_file_says_so(api):
    def details(path, **options) -> str:
        answer = api.session.post(f"{api.base}/pipelines/{path}", **options)
        assert answer.status_code == 400
        return answer.json()["error_details"]

    assert "uploadfile" in details("upload", files={"other": ("a", b"x")})
    assert "multipart" in details("upload", json={})
    assert "pipelineid" in details("upload_version", files={"uploadfile": ("a.yaml", b"x")})


def test_two_simultaneous_uploads_of_one_name_create_one_pipeline(api, unique, echo):
    from concurrent.futures import ThreadPoolExecutor

    content = json.dumps(echo).encode()

    def attempt(_):
        files = {"uploadfile": ("p.json", content)}
        return api.session.post(f"{api.base}/pipelines/upload", params={"name": unique}, files=files).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == [200] + [409] * 7
    pipeline = api.call("GET", f"/pipelines/names/{unique}")["pipeline_id"]
    assert len(api.call("GET", f"/pipelines/{pipeline}/versions")["pipeline_versions"]) == 1


GOOD = {"word": "x", "count": 1, "share": 0.5, "flag": True, "items": [1], "settings": {"a": 1}}


def start(api, spec, parameters):
    return {"json": {"display_name": "r", "pipeline_spec": spec, "runtime_config": {"parameters": parameters}}}


@pytest.fixture(scope="session")
def typed(compiled) -> dict:
    return compiled(simple.typed)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("word", 1, "string"),
        ("count", "1", "double or integer"),
        ("count", True, "double or integer"),
        ("share", "0.5", "double or integer"),
        ("flag", "true", "bool"),
        ("flag", 1, "bool"),
        ("items", {"a": 1}, "list"),
        ("settings", [1], "struct"),
        ("settings", "{}", "struct"),
        ("word", None, "string"),
    ],
)
def test_an_argument_with_the_wrong_type_is_refused_by_name(api, typed, name, value, wanted):
    message = api.refused(400, "POST", "/runs", **start(api, typed, GOOD | {name: value}))
    assert f"input parameter {name} requires type {wanted}, but the " in message


def test_a_number_for_a_text_gets_a_hint_for_the_command_line(api, typed):
    message = api.refused(400, "POST", "/runs", **start(api, typed, GOOD | {"word": 123}))
    assert """word='"123"'""" in message


def test_a_missing_argument_is_named_before_an_unknown_one_and_a_wrong_type(api, typed):
    first = api.refused(400, "POST", "/runs", **start(api, typed, {"wrd": "x", "count": "1"}))
    assert "is not optional, yet has neither default value nor user provided value" in first
    second = api.refused(400, "POST", "/runs", **start(api, typed, GOOD | {"wrd": "x", "count": "1"}))
    assert "parameter(s) provided are not required by pipeline: wrd (it takes: count, " in second


def nested(levels: int) -> dict:
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def test_an_argument_with_too_many_levels_is_refused(api, typed):
    run = api.call("POST", "/runs", "V2beta1Run", **start(api, typed, GOOD | {"settings": nested(99)}))["run_id"]
    assert api.await_state(run)["state"] == "SUCCEEDED"
    assert api.tasks(run)[""]["inputs"]["parameters"]["settings"] == nested(99)
    for levels in (102, 300, 900):
        message = api.refused(400, "POST", "/runs", **start(api, typed, GOOD | {"settings": nested(levels)}))
        assert "nested deeper than 100 levels" in message, message
    assert run in [one["run_id"] for one in api.call("GET", "/runs?page_size=200", "V2beta1ListRunsResponse")["runs"]]


def test_valid_arguments_are_accepted_and_returned_unchanged(api, typed):
    run = api.call("POST", "/runs", "V2beta1Run", **start(api, typed, GOOD | {"count": 2.0}))
    assert run["runtime_config"]["parameters"] == GOOD | {"count": 2.0}


def test_a_number_that_is_too_large_for_a_message_is_refused(api, typed):
    assert "is too large" in api.refused(400, "POST", "/runs", **start(api, typed, GOOD | {"count": 10**400}))


@pytest.mark.parametrize("quoted", ["'flights.csv'", '"flights.csv"'])
def test_an_argument_in_quotes_is_accepted_with_a_warning(api, echo, quoted):
    run = api.run(echo, {"text": quoted})
    warning = run["state_history"][0]["error"]["message"]
    assert f"'text' is {quoted}" in warning and "part of the value" in warning
    assert api.run(echo, {"text": "it's"})["state_history"][0].get("error") is None


def test_a_run_needs_one_source(api, echo):
    both = {"pipeline_spec": echo, "pipeline_version_reference": {"pipeline_id": "x"}}
    assert "oneof" in api.refused(400, "POST", "/runs", json={"display_name": "r"} | both)
    assert "empty pipeline spec" in api.refused(500, "POST", "/runs", json={"display_name": "r"})
    assert "no-such" in api.refused(
        500, "POST", "/runs", json={"display_name": "r", "pipeline_version_reference": {"pipeline_id": "no-such"}}
    )


def test_a_run_keeps_its_pipeline_root_as_it_was_given(api, echo):
    for root in ("gs://bucket/x", "folder/x", "s3://bucket/folder/"):
        body = {"display_name": "r", "pipeline_spec": echo, "runtime_config": {"pipeline_root": root}}
        run = api.call("POST", "/runs", "V2beta1Run", json=body)
        assert run["runtime_config"]["pipeline_root"] == root
        api.call("DELETE", f"/runs/{run['run_id']}")


def test_a_pipeline_from_the_database_is_not_checked_again(tmp_path, echo, monkeypatch):
    store = Store(tmp_path / "db.sqlite")
    checked = package.read_document(echo)
    with store.writing() as session:
        digest = store_manifest(session, checked.document)

    def refuse(*_):
        raise AssertionError("the pipeline was checked a second time")

    monkeypatch.setattr(package, "_checked", refuse)
    with store.reading() as session:
        assert package.from_database(manifest(session, digest)) == checked
    store.close()


def test_a_pipeline_with_a_platform_comes_back_from_the_database(compiled):
    checked = package.read_document(compiled(WITH_PLATFORM["workspace"].pipeline))
    assert checked.platform and package.from_database(checked.document) == checked
