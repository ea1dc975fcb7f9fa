"""Artifacts of tasks: uploads to S3, downloads from S3, and the errors of both."""

import re

import pytest
from botocore.exceptions import ClientError
from kfp import dsl

from tests.support import every_kind
from tests.support.every_kind import OPTIONS, read


@dsl.component(**OPTIONS)
def writes_elsewhere(told: dsl.Output[dsl.Dataset], moved: dsl.Output[dsl.Dataset], missing: dsl.Output[dsl.Dataset]):
    import pathlib

    told.uri = "s3://elsewhere/data.csv"
    moved.path = f"{moved.path}.csv"
    pathlib.Path(moved.path).write_text("moved")


@dsl.component(**OPTIONS)
def made_by_hand() -> dsl.Dataset:
    artifact = dsl.Dataset(uri=dsl.get_uri("by-hand"), metadata={"by": "hand"})
    with open(artifact.path, "w") as file:
        file.write("made by hand")
    return artifact


@dsl.pipeline
def elsewhere() -> str:
    made = writes_elsewhere()
    read(data=made_by_hand().output)
    return read(data=made.outputs["moved"]).output


@dsl.pipeline
def reads_what_is_missing():
    read(data=writes_elsewhere().outputs["missing"])


@dsl.pipeline
def imports(uri: str) -> str:
    return read(data=dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset).output).output


@dsl.pipeline
def imports_folder(uri: str) -> str:
    data = dsl.importer(artifact_uri=uri, artifact_class=dsl.Artifact)
    return every_kind.read_folder(folder=data.output).output


@dsl.pipeline
def writes(word: str = "stored") -> str:
    return read(data=every_kind.write(value=word).outputs["data"]).output


@dsl.component(**OPTIONS)
def logs_number(number: str, metrics: dsl.Output[dsl.Metrics]):
    metrics.log_metric("loss", float(number))


@dsl.pipeline
def logs(number: str):
    logs_number(number=number)


@dsl.component(**OPTIONS)
def returns_number(number: str) -> float:
    return float(number)


@dsl.pipeline
def returns(number: str):
    returns_number(number=number)


@dsl.component(**OPTIONS)
def returns_list(number: str) -> list:
    return [1, {"loss": float(number)}]


@dsl.pipeline
def returns_in_list(number: str):
    returns_list(number=number)


@dsl.component(**OPTIONS)
def writes_number(number: str, loss: dsl.OutputPath(float)):
    from pathlib import Path

    Path(loss).write_text(number)


@dsl.pipeline
def writes_to_path(number: str):
    writes_number(number=number)


def test_an_artifact_is_stored_where_kubeflow_stores_it(bench):
    ran = bench.run(writes)
    (artifact,) = ran.tasks["write"].outputs["artifacts"]["data"]
    assert re.fullmatch(
        rf"minio://mlpipeline/v2/artifacts/writes/{ran.job.run_id}/write/[-0-9a-f]{{36}}/data", artifact["uri"]
    )
    assert (artifact["name"], artifact["type"], artifact["metadata"]) == ("data", "system.Dataset", {"length": 6})
    stored = bench.s3().get_object(Bucket="mlpipeline", Key=artifact["uri"].removeprefix("minio://mlpipeline/"))
    assert stored["Body"].read() == b"stored"
    assert ran.tasks["read"].inputs["artifacts"]["data"] == [artifact]


def test_every_file_of_a_folder_is_stored(bench):
    ran = bench.run(every_kind.folders)
    uri = ran.tasks["write-folder"].outputs["artifacts"]["folder"][0]["uri"]
    listed = bench.s3().list_objects_v2(Bucket="mlpipeline", Prefix=uri.removeprefix("minio://mlpipeline/"))
    assert sorted(item["Key"].rpartition("/folder/")[2] for item in listed["Contents"]) == ["deep/two", "one"]


@pytest.mark.slow
def test_an_artifact_of_another_run_is_downloaded(bench):
    first = bench.run(writes)
    uri = first.tasks["write"].outputs["artifacts"]["data"][0]["uri"]
    assert bench.run(imports, {"uri": uri}).outputs == {"Output": "stored"}


def test_a_folder_is_downloaded_whole(bench):
    first = bench.run(every_kind.folders)
    uri = first.tasks["write-folder"].outputs["artifacts"]["folder"][0]["uri"]
    assert bench.run(imports_folder, {"uri": uri}).outputs == {"Output": "onedeep/two"}


@pytest.mark.slow
def test_the_name_uri_and_metadata_that_the_code_sets_are_stored(bench):
    ran = bench.run(elsewhere)
    assert ran.outputs == {"Output": "moved"}
    artifacts = ran.tasks["writes-elsewhere"].outputs["artifacts"]
    assert artifacts["told"][0]["uri"] == "s3://elsewhere/data.csv"
    assert artifacts["missing"][0]["uri"].startswith("minio://mlpipeline/")
    by_hand = ran.tasks["made-by-hand"].outputs["artifacts"]["Output"][0]
    assert by_hand["metadata"] == {"by": "hand"} and by_hand["uri"].endswith("/made-by-hand/" + by_hand["uri"][-43:])


def test_a_missing_artifact_file_fails_the_task_that_reads_it(bench):
    ran = bench.run(reads_what_is_missing)
    assert ran.tasks["writes-elsewhere"].state == "SUCCEEDED"
    assert "FileNotFoundError" in ran.outcome.error


def test_a_local_file_is_imported_without_a_copy(bench, tmp_path):
    (tmp_path / "local.txt").write_text("local")
    for uri in (str(tmp_path / "local.txt"), f"file://{tmp_path}/local.txt"):
        ran = bench.run(imports, {"uri": uri})
        assert ran.outputs == {"Output": "local"}
        assert ran.tasks["importer"].outputs["artifacts"]["artifact"][0]["uri"] == uri


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://no-such-bucket/data.csv", "cannot read s3://no-such-bucket/data.csv"),
        ("minio://mlpipeline/nothing/here", "there is nothing at minio://mlpipeline/nothing/here"),
        ("gs://bucket/data.csv", "cannot read gs://bucket/data.csv"),
    ],
)
@pytest.mark.slow
def test_a_failed_download_fails_the_task_that_needs_the_artifact(bench, uri, said):
    bench.run(writes)
    ran = bench.run(imports, {"uri": uri})
    assert ran.tasks["importer"].state == "SUCCEEDED"
    assert said in ran.tasks["read"].error and "'data'" in ran.tasks["read"].error
    assert said in ran.log("read")


@pytest.mark.slow
def test_a_missing_bucket_is_named_and_not_created(bench):
    ran = bench.run(writes, pipeline_root="s3://no-such-bucket/root")
    assert "the bucket 'no-such-bucket' does not exist" in ran.tasks["write"].error
    with pytest.raises(ClientError):
        bench.s3().head_bucket(Bucket="no-such-bucket")


def test_s3_that_does_not_answer_fails_only_tasks_with_artifacts(bench):
    nowhere = bench.environment | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    assert bench.run(every_kind.only_if, environment=nowhere).outcome.state == "SUCCEEDED"
    assert "cannot store minio://" in bench.run(writes, environment=nowhere).outcome.error


def test_the_settings_of_this_process_are_not_used(bench, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert bench.run(writes).outputs == {"Output": "stored"}


@pytest.mark.parametrize(
    ("pipeline", "number", "said"),
    [
        (returns, "nan", "its output 'Output' is NaN, which"),
        (returns, "-inf", "its output 'Output' is -Infinity, which"),
        (returns_in_list, "nan", "its output 'Output' contains NaN, which"),
        (writes_to_path, "NaN", "its output 'loss' is NaN, which"),
        (logs, "nan", "the metadata 'loss' of its output 'metrics' is NaN, which"),
        (logs, "inf", "the metadata 'loss' of its output 'metrics' is Infinity, which"),
    ],
)
def test_an_output_that_json_cannot_represent_fails_its_task(bench, pipeline, number, said):
    ran = bench.run(pipeline, {"number": number})
    assert ran.outcome.state == "FAILED"
    assert f"{said} JSON cannot represent; return a text, or leave the value out" in ran.outcome.error
