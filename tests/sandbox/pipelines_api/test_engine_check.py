"""The check of a pipeline before a run: its errors and warnings."""

import copy

import pytest
from kfp import dsl, kubernetes

from tests.support import every_kind
from tests.support.engine_bench import compiled
from tests.support.every_kind import IN_CONTAINERS, KINDS, OPTIONS, WITH_PLATFORM, number, text
from workshop.sandbox.pipelines_api import engine


@dsl.component(base_image="python:3.12", target_image="own/image:1")
def baked_in(word: str) -> str:
    return word


@dsl.pipeline
def in_own_image():
    with dsl.ParallelFor([1]):
        baked_in(word="x")


@dsl.pipeline
def demanding():
    task = text(value="x")
    task.set_cpu_limit("1").set_memory_request("1G").set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
    kubernetes.use_secret_as_env(task, "keys", {"key": "SECRET_KEY"})
    kubernetes.use_secret_as_volume(task, "files", mount_path="/secret")
    kubernetes.use_config_map_as_env(task, "map", {"a": "FROM_MAP"})
    kubernetes.mount_pvc(task, pvc_name="claim", mount_path="/data")
    kubernetes.add_node_selector(task, "disk", "ssd")
    kubernetes.add_toleration(task, key="k", operator="Exists")
    kubernetes.set_image_pull_secrets(task, ["registry"])
    kubernetes.set_timeout(task, 60)
    kubernetes.use_field_path_as_env(task, "POD_NAME", "metadata.name")


@dsl.pipeline
def with_claim():
    claim = kubernetes.CreatePVC(pvc_name="own", access_modes=["ReadWriteOnce"], size="1Gi")
    text(value=claim.outputs["name"])


@dsl.pipeline
def imports_from_elsewhere():
    data = dsl.importer(artifact_uri="gs://bucket/data.csv", artifact_class=dsl.Dataset)
    every_kind.read(data=data.output)


@dsl.pipeline
def compares_badly(word: str = "it's"):
    with dsl.If(word == "it's"):
        number(value=1)


def check(pipeline, runner="subprocess"):
    return engine.check(*compiled(pipeline), runner)


@pytest.mark.parametrize("kind", [*KINDS.values(), *WITH_PLATFORM.values()])
def test_pipelines_that_can_run_are_not_refused(kind):
    assert check(kind.pipeline)[0] == []


@pytest.mark.parametrize(
    ("pipeline", "task", "said"),
    [
        (IN_CONTAINERS["containers"].pipeline, "in-container", "it is a container component, and its program is in"),
        (in_own_image, "for-loop-1/baked-in", "it is a containerized Python component"),
    ],
)
def test_a_component_with_its_code_in_the_image_needs_docker(pipeline, task, said):
    (error,), _ = check(pipeline)
    assert error.partition("/")[0].startswith("task ") and task.rpartition("/")[2] in error
    assert said in error and "needs Docker" in error and "workshop sandbox up --runner docker" in error
    assert check(pipeline, "docker") == ([], [])


@pytest.mark.parametrize("runner", ["subprocess", "docker"])
def test_a_request_to_kubernetes_is_refused(runner):
    errors, _ = check(with_claim, runner)
    assert errors == [
        "task createpvc: it creates a volume claim, which needs Kubernetes. Pass data as artifacts, or use a cluster"
    ]


def test_an_import_from_an_unsupported_store_is_refused():
    (error,), _ = check(imports_from_elsewhere)
    assert error.startswith("task importer: it imports gs://bucket/data.csv")


def test_an_invalid_condition_is_refused_and_quoted():
    (error,), _ = check(compares_badly)
    assert "cannot read the condition" in error and "it's" in error


def test_an_unknown_kind_of_executor_is_refused():
    spec = copy.deepcopy(compiled(every_kind.only_if)[0])
    spec["deploymentSpec"]["executors"]["exec-text-2"] = {"customJob": {}}
    errors, _ = engine.check(spec, {}, "subprocess")
    assert errors == [
        "task text-2: the sandbox cannot run executors of the kind 'customJob', only containers and importers"
    ]


def test_a_pipeline_with_a_missing_component_is_refused():
    spec = copy.deepcopy(compiled(every_kind.only_if)[0])
    del spec["components"]["comp-text-2"]
    errors, _ = engine.check(spec, {}, "subprocess")
    assert errors == ["it lacks the component 'comp-text-2' of the task 'text-2'"]


def test_ignored_settings_are_named():
    errors, warnings = check(demanding)
    assert errors == []
    text = "\n".join(warnings)
    for said in (
        "its CPU limit, memory request, accelerator are ignored",
        "the variables from secrets are not set: SECRET_KEY",
        "the secrets that it mounts as files do not exist: /secret",
        "the variables from config maps are not set: FROM_MAP",
        "the volumes that it mounts do not exist: /data",
        "its node selector is ignored",
        "its tolerations are ignored",
        "its image pull secrets are ignored",
        "its timeout is ignored",
        "the variables from its pod are not set: POD_NAME",
    ):
        assert f"task text: {said}" in text
    assert len(warnings) == 10


def test_a_workspace_gives_a_warning():
    _, warnings = check(WITH_PLATFORM["workspace"].pipeline)
    assert warnings == [
        "the pipeline's workspace is a folder on this machine: its size and its kind of volume are ignored"
    ]


def test_a_pipeline_root_outside_s3_gives_a_warning():
    spec = dict(compiled(every_kind.only_if)[0], defaultPipelineRoot="gs://somewhere")
    (warning,) = engine.check(spec, {}, "subprocess")[1]
    assert "gs://somewhere" in warning and "minio://" in warning


def test_the_usual_options_of_components_give_no_warning():
    assert OPTIONS and check(every_kind.branches) == ([], [])
