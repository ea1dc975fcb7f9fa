"""Every operation of the contract, through the generated client and through `kfp.Client`."""

import json
from pathlib import Path

import kfp_server_api
import pytest
from kfp_server_api import ApiException

from tests.support import simple
from tests.support.contract import OPERATIONS, generated_operations


def test_the_table_has_the_same_operations_as_the_generated_client():
    named = {operation.name.replace("_", "").replace("Service", "service").lower() for operation in OPERATIONS}
    assert named == generated_operations()
    assert len(OPERATIONS) == 37


@pytest.mark.slow
def test_every_operation_works_through_the_generated_client(generated, api, compiled, echo, echo_file, unique):
    called = set()

    def call(service: str, operation: str, *arguments, **options):
        called.add(operation.replace("_", ""))
        return getattr(getattr(kfp_server_api, f"{service}ServiceApi")(generated), operation)(*arguments, **options)

    assert call("Healthz", "healthz_service_get_healthz").multi_user is False

    experiment = call("Experiment", "experiment_service_create_experiment", {"display_name": unique})
    assert (experiment.display_name, experiment.storage_state) == (unique, "AVAILABLE")
    identifier = experiment.experiment_id
    assert call("Experiment", "experiment_service_get_experiment", identifier).display_name == unique
    assert call("Experiment", "experiment_service_list_experiments", page_size=200).total_size >= 1
    assert call("Experiment", "experiment_service_archive_experiment", identifier) == {}
    assert call("Experiment", "experiment_service_unarchive_experiment", identifier) == {}

    pipeline = call("PipelineUpload", "upload_pipeline", echo_file, name=unique, description="says it")
    assert (pipeline.name, pipeline.display_name, pipeline.description) == (unique, unique, "says it")
    version = call("PipelineUpload", "upload_pipeline_version", echo_file, name="two", pipelineid=pipeline.pipeline_id)
    assert version.pipeline_spec == echo
    both = (pipeline.pipeline_id, version.pipeline_version_id)
    assert call("Pipeline", "pipeline_service_get_pipeline", pipeline.pipeline_id).name == unique
    assert call("Pipeline", "pipeline_service_get_pipeline_by_name", unique).pipeline_id == pipeline.pipeline_id
    assert call("Pipeline", "pipeline_service_list_pipelines", page_size=200).total_size >= 1
    assert call("Pipeline", "pipeline_service_get_pipeline_version", *both).name == "two"
    names = [one.name for one in call("Pipeline", "pipeline_service_list_pipeline_versions", both[0]).pipeline_versions]
    assert names == [unique, "two"]
    empty = call("Pipeline", "pipeline_service_create_pipeline", {"name": f"{unique}-empty"})
    assert empty.display_name == f"{unique}-empty"

    reference = {"pipeline_id": both[0], "pipeline_version_id": both[1]}
    body = {"display_name": unique, "experiment_id": identifier, "pipeline_version_reference": reference}
    run = call("Run", "run_service_create_run", body)
    assert (run.state, run.storage_state, run.service_account) == ("PENDING", "AVAILABLE", "pipeline-runner")
    assert call("Run", "run_service_get_run", run.run_id).experiment_id == identifier
    assert call("Run", "run_service_list_runs", experiment_id=identifier).total_size == 1
    assert call("Run", "run_service_archive_run", run.run_id) == {}
    assert call("Run", "run_service_unarchive_run", run.run_id) == {}
    sleeping, failing = (
        call("Run", "run_service_create_run", {"display_name": unique, "pipeline_spec": spec}).run_id
        for spec in (compiled(simple.slow), compiled(simple.failing))
    )
    assert call("Run", "run_service_terminate_run", sleeping) == {}
    assert api.await_state(sleeping)["state"] == "FAILED"
    assert api.await_state(failing)["state"] == "FAILED"
    assert call("Run", "run_service_retry_run", failing) == {}
    assert call("Run", "run_service_delete_run", run.run_id) == {}

    schedule = {"periodic_schedule": {"interval_second": "3600"}}
    recurring = call(
        "RecurringRun",
        "recurring_run_service_create_recurring_run",
        body | {"max_concurrency": "2", "trigger": schedule, "mode": "ENABLE"},
    )
    assert (recurring.status, recurring.mode, recurring.max_concurrency) == ("ENABLED", "ENABLE", "2")
    again = recurring.recurring_run_id
    assert call("RecurringRun", "recurring_run_service_disable_recurring_run", again) == {}
    assert call("RecurringRun", "recurring_run_service_get_recurring_run", again).status == "DISABLED"
    assert call("RecurringRun", "recurring_run_service_enable_recurring_run", again) == {}
    listed = call("RecurringRun", "recurring_run_service_list_recurring_runs", experiment_id=identifier)
    assert [one.recurring_run_id for one in listed.recurring_runs] == [again]
    assert call("RecurringRun", "recurring_run_service_delete_recurring_run", again) == {}

    assert call("Pipeline", "pipeline_service_delete_pipeline_version", *both) == {}
    assert call("Pipeline", "pipeline_service_delete_pipeline", both[0], cascade=True) == {}
    assert call("Experiment", "experiment_service_delete_experiment", identifier) == {}

    # The real server serves the last two only under v1beta1.
    unsupported = {
        "report_service_report_workflow": ("Report", ["{}"], 501),
        "report_service_report_scheduled_workflow": ("Report", ["{}"], 501),
        "visualization_service_create_visualization_v1": ("Visualization", ["namespace", {}], 404),
        "auth_service_authorize": ("Auth", [], 404),
    }
    for operation, (service, arguments, status) in unsupported.items():
        with pytest.raises(ApiException) as refused:
            call(service, operation, *arguments)
        assert refused.value.status == status

    by_url = {"pipelineservicecreatepipelineandversion", "pipelineservicecreatepipelineversion"}
    assert called == generated_operations() - by_url, "these two are in the next test"


@pytest.fixture
def served(httpserver_folder, echo) -> str:
    """The URL of a compiled pipeline on this machine."""
    folder, address = httpserver_folder
    Path(folder, "echo.json").write_text(json.dumps(echo))
    return address


def test_versions_can_be_created_from_a_url(generated, served, unique, echo):
    service = kfp_server_api.PipelineServiceApi(generated)
    url = {"pipeline_url": f"{served}/echo.json"}
    made = service.pipeline_service_create_pipeline_and_version(
        {"pipeline": {"name": unique}, "pipeline_version": {"package_url": url}}
    )
    two = {"name": "2", "package_url": url, "pipeline_id": made.pipeline_id}
    version = service.pipeline_service_create_pipeline_version(made.pipeline_id, two)
    assert version.pipeline_spec == echo and version.package_url.pipeline_url == url["pipeline_url"]
    for bad, status in (("file:///etc/passwd", 500), (f"{served}/missing.json", 400), ("", 400)):
        with pytest.raises(ApiException) as refused:
            service.pipeline_service_create_pipeline_version(
                made.pipeline_id, two | {"name": "3", "package_url": {"pipeline_url": bad}}
            )
        assert refused.value.status == status


def test_every_method_of_the_kfp_client_works(client, echo_file, unique):
    pipeline = client.upload_pipeline(echo_file, pipeline_name=unique)
    version = client.upload_pipeline_version(echo_file, "two", pipeline_name=unique)
    assert (
        client.get_pipeline_id(unique) == pipeline.pipeline_id == client.get_pipeline(pipeline.pipeline_id).pipeline_id
    )
    both = (pipeline.pipeline_id, version.pipeline_version_id)
    assert client.get_pipeline_version(*both).display_name == "two"
    assert client.list_pipeline_versions(pipeline.pipeline_id).total_size == 2
    assert client.list_pipelines(sort_by="created_at desc").pipelines

    experiment = client.create_experiment(unique, description="first")
    assert client.create_experiment(unique).experiment_id == experiment.experiment_id
    assert client.get_experiment(experiment_name=unique).description == "first"
    run = client.run_pipeline(
        experiment.experiment_id, "one", params={"text": "x"}, pipeline_id=both[0], version_id=both[1]
    )
    assert client.wait_for_run_completion(run.run_id, 60, sleep_duration=0.2).state == "SUCCEEDED"
    result = client.create_run_from_pipeline_package(echo_file, {"text": "y"}, experiment_name=unique)
    assert client.wait_for_run_completion(result.run_id, 60, sleep_duration=0.2).state == "SUCCEEDED"
    assert client.list_runs(experiment_id=experiment.experiment_id).total_size == 2

    recurring = client.create_recurring_run(
        experiment.experiment_id, "often", cron_expression="0 0 9 ? * 2-6", pipeline_package_path=echo_file
    )
    client.disable_recurring_run(recurring.recurring_run_id)
    client.enable_recurring_run(recurring.recurring_run_id)
    assert client.get_recurring_run(recurring.recurring_run_id).trigger.cron_schedule.cron == "0 0 9 ? * 2-6"
    assert client.list_recurring_runs(experiment_id=experiment.experiment_id).total_size == 1
    client.delete_recurring_run(recurring.recurring_run_id)

    client.archive_run(run.run_id)
    assert client.get_run(run.run_id).storage_state == "ARCHIVED"
    client.unarchive_run(run.run_id)
    client.archive_experiment(experiment.experiment_id)
    client.unarchive_experiment(experiment.experiment_id)
    client.delete_run(run.run_id)
    client.delete_pipeline_version(*both)
    client.delete_experiment(experiment.experiment_id)
