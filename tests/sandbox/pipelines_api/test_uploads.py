"""Uploads: accepted and refused files, and the arguments of pipelines."""

import gzip
import io
import json
import zipfile

import pytest
import yaml

from tests.support import simple
from tests.support.every_kind import WITH_PLATFORM
from workshop.sandbox.pipelines_api import package
from workshop.sandbox.pipelines_api.tables import Store, manifest, store_manifest


def upload(api, content: bytes, name="pipeline.yaml"):
    return api.session.post(f"{api.base}/pipelines/upload", files={"uploadfile": (name, content)}, timeout=120)


def refusal(api, content: bytes, name="pipeline.yaml") -> str:
    answer = upload(api, content, name)
    assert answer.status_code == 400, answer.text
    return answer.json()["message"]


def changed(echo, **fields) -> bytes:
    return json.dumps(echo | fields).encode()


def a_zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pipeline.yaml", content)
    return buffer.getvalue()


def bomb() -> bytes:
    """Return YAML of 1 kB that becomes huge when its anchors are expanded."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(["pipelineInfo: {name: bomb}", "a0: &a0 [x]", *levels, "root: *a11"]).encode()


def test_yaml_and_json_are_accepted_and_get_their_compiled_name(own_api, echo):
    for content, name in ((yaml.safe_dump(echo).encode(), "a.yaml"), (json.dumps(echo).encode(), "b.json")):
        made = upload(own_api, content, name).json()
        assert made["name"] == made["display_name"] == "echo"
        versions = own_api.call("GET", f"/pipelines/{made['pipeline_id']}/versions")["pipeline_versions"]
        assert [(one["name"], one["pipeline_spec"]) for one in versions] == [("echo", echo)]
        own_api.call("DELETE", f"/pipelines/{made['pipeline_id']}", params={"cascade": "true"})


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
        (b"apiVersion: argoproj.io/v1alpha1\nkind: Workflow", "version 1"),
        (b"name: x\nimplementation: {container: {image: x}}", "single component"),
        (b"apiVersion: v1\nkind: Secret", "Kubernetes manifest (Secret)"),
        (b"colour: red", "no field named"),
        (rb'{"apiVersion": "x", "kind": "\ud800"}', "half of a character"),
        (rb'{"schemaVersion": "\ud800"}', "half of a character"),
        (b'{"a": 1' + b"0" * 400 + b"}", "too large"),
        (b"[" * 100_000, "larger or deeper than any compiled pipeline"),
        (b'{"a":' * 100_000, "larger or deeper than any compiled pipeline"),
        ("\n".join("  " * n + "a:" for n in range(2_000)).encode(), "larger or deeper than any compiled pipeline"),
        (bomb(), "larger or deeper than any compiled pipeline"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_a_compiled_pipeline_is_refused_with_the_reason(api, content, said):
    message = refusal(api, content)
    assert said in message and "pipeline.yaml" in message


def test_an_archive_is_refused_even_with_a_pipeline_in_it(api, echo):
    content = json.dumps(echo).encode()
    for archive in (a_zip(content), gzip.compress(content)):
        assert "is an archive" in refusal(api, archive, "nycflights13.zip")


def test_another_schema_version_is_refused_with_what_to_do(api, echo):
    message = refusal(api, changed(echo, schemaVersion="2.2.0"))
    assert "'2.2.0'" in message and "'2.1.0'" in message and "pip install kfp==" in message


@pytest.mark.parametrize("name", ["", "With Capitals", "-a", "a" * 129])
def test_an_invalid_pipeline_name_is_refused(api, echo, name):
    assert "names its pipeline" in refusal(api, changed(echo, pipelineInfo={"name": name}))


def test_missing_parts_are_named(api, echo):
    assert "comp-say" in refusal(api, changed(echo, components={}))
    assert "exec-say" in refusal(api, changed(echo, deploymentSpec={"executors": {}}))
    assert "no tasks" in refusal(api, changed(echo, root={"dag": {"tasks": {}}}))


def test_a_file_of_100_mb_is_refused_with_its_size_not_with_a_broken_connection(api):
    message = refusal(api, b"x" * (100 << 20))
    assert "at most 33,554,432" in message and "put data into S3" in message


def test_a_file_just_above_the_limit_is_refused(api):
    assert "33,554,433 bytes" in refusal(api, b"x" * ((32 << 20) + 1))


def test_an_upload_without_a_file_says_so(api):
    assert "uploadfile" in api.refused(400, "POST", "/pipelines/upload", files={"other": ("a", b"x")})
    assert "multipart" in api.refused(400, "POST", "/pipelines/upload", json={})
    assert "pipelineid" in api.refused(400, "POST", "/pipelines/upload_version", files={"uploadfile": ("a", b"x")})


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
        ("word", 1, "a string"),
        ("count", "1", "an integer"),
        ("count", 1.5, "an integer"),
        ("count", True, "an integer"),
        ("share", "0.5", "a number"),
        ("flag", "true", "true or false"),
        ("flag", 1, "true or false"),
        ("items", {"a": 1}, "a list"),
        ("settings", [1], "an object"),
        ("settings", "{}", "an object"),
        ("word", None, "a string"),
    ],
)
def test_an_argument_with_the_wrong_type_is_refused_by_name(api, typed, name, value, wanted):
    message = api.refused(400, "POST", "/runs", **start(api, typed, GOOD | {name: value}))
    assert f"the parameter '{name}' must be {wanted}" in message


def test_all_unknown_and_missing_arguments_are_named(api, typed):
    message = api.refused(400, "POST", "/runs", **start(api, typed, {"wrd": "x", "count": 1}))
    for said in ("no parameter 'wrd'", "'word' is missing", "'share' is missing", "'settings' is missing"):
        assert said in message
    assert "'extra'" not in message, "it has a default"


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
    for body in ({}, {"pipeline_spec": echo, "pipeline_version_reference": {"pipeline_id": "x"}}):
        assert "one of pipeline_spec" in api.refused(400, "POST", "/runs", json={"display_name": "r"} | body)
    assert "no-such" in api.refused(
        404, "POST", "/runs", json={"display_name": "r", "pipeline_version_reference": {"pipeline_id": "no-such"}}
    )


def test_a_pipeline_root_outside_s3_is_refused(api, echo):
    config = {"pipeline_root": "/tmp/somewhere"}
    body = {"display_name": "r", "pipeline_spec": echo, "runtime_config": config}
    assert "s3://BUCKET/PREFIX" in api.refused(400, "POST", "/runs", json=body)


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
