"""`scripts/install_kubeflow.sh`: kubectl, kustomize and git are recorded. The script runs in a copy of the project."""

import re
import shlex
import shutil

import pytest
import yaml

from workshop.project import ROOT, versions

KUBECTL = "kubectl --context kubeflow-demo"
READS = re.compile(r"kubectl (config current-context|--context \S+ get) ?")
KUBEFLOW = versions()["KUBEFLOW_VERSION"]
PIPELINES = versions()["KUBEFLOW_PIPELINES_VERSION"]
CLONE = (
    f"git clone --quiet --depth 1 --branch release-{KUBEFLOW} https://github.com/kubeflow/community-distribution "
    f"build/community-distribution-{KUBEFLOW}"
)
BUILD = (
    f"kustomize build build/community-distribution-{KUBEFLOW}/example -o build/community-distribution-{KUBEFLOW}.yaml"
)
APPLY = f"{KUBECTL} apply --server-side --force-conflicts -f build/community-distribution-{KUBEFLOW}.yaml"
FULL = [
    CLONE,
    BUILD,
    APPLY,
    f"{KUBECTL} wait --for=condition=Available deployments --all --all-namespaces --timeout=1800s",
    f"{KUBECTL} wait --for=create namespace/kubeflow-user-example-com --timeout=300s",
    f"{KUBECTL} annotate --overwrite namespace kubeflow first-kubeflow-pipeline/installed=full-{KUBEFLOW}",
    f"{KUBECTL} apply -f -",
]
IMAGE = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/lessons@sha256:{'a' * 64}"


@pytest.fixture
def project(tmp_path):
    """A copy of the files that the script needs. The script must not clone into the real build folder."""
    copy = tmp_path / "a project"
    for folder in ("scripts", "deploy"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "versions.env", copy)
    (copy / "workshop").mkdir()
    shutil.copy(ROOT / "workshop" / "settings.tsv", copy / "workshop")
    return copy


@pytest.fixture
def install(shell, project):
    """Run the script of the copy with the given arguments and settings."""

    def call(*arguments: str, **variables: str):
        script = project / "scripts/install_kubeflow.sh"
        return shell.paste(shlex.join(["bash", str(script), *arguments]), **variables)

    return call


@pytest.fixture
def paste(shell, project):
    """Paste the output of a dry run in the project folder."""
    return lambda printed: shell.paste(f"cd {shlex.quote(str(project))}\n{printed}")


def stand_ins(shell, *answers, installed="", classes="gp3 true\n", nodes="3920m 15087292Ki\n" * 2):
    """Put recorders on PATH for a cluster whose installation of Kubeflow is `installed`."""
    shell.stand_in("git")
    shell.stand_in("kustomize")
    shell.stand_in("sleep")
    shell.stand_in(
        "kubectl",
        *answers,
        ("config current-context", "kubeflow-demo\n"),
        ("get .*storageclasses", classes),
        ("get .* nodes", nodes),
        ("get .*namespace kubeflow", installed),
    )


def changes(shell) -> list[str]:
    return [call for call in shell.calls if not READS.match(call)]


def given(shell) -> list[dict]:
    return [document for text in shell.inputs for document in yaml.safe_load_all(text) if document]


def test_the_first_run_installs_the_whole_platform(shell, install):
    stand_ins(shell)
    done = install()
    assert done.returncode == 0, done.stderr
    assert changes(shell) == FULL
    assert [(made["kind"], made["metadata"]["name"]) for made in given(shell)] == [("PodDefault", "access-ml-pipeline")]
    assert given(shell)[0]["metadata"]["namespace"] == "kubeflow-user-example-com"
    assert "the cluster is kubeflow-demo" in done.stderr and "7.8 CPUs and 28.8 GiB" in done.stdout
    assert "scripts/change_password.sh" in done.stdout


def test_the_second_run_changes_nothing(shell, install):
    stand_ins(shell, ("get .*poddefault", "poddefault/access-ml-pipeline\n"), installed=f"full-{KUBEFLOW}")
    done = install()
    assert done.returncode == 0 and changes(shell) == [], done.stderr
    assert "installed already" in done.stdout and done.stdout.endswith("nothing was changed\n")


@pytest.mark.slow
def test_a_second_run_finishes_an_interrupted_installation(shell, install, project):
    (project / f"build/community-distribution-{KUBEFLOW}/example").mkdir(parents=True)
    stand_ins(shell)
    install()
    assert changes(shell)[:2] == [CLONE, BUILD]
    assert not (project / f"build/community-distribution-{KUBEFLOW}").exists()
    shell.forget_calls()
    (project / f"build/community-distribution-{KUBEFLOW}/example").mkdir(parents=True)
    (project / f"build/community-distribution-{KUBEFLOW}/example/kustomization.yaml").touch()
    assert install().returncode == 0
    assert changes(shell) == FULL[1:]


@pytest.mark.slow
def test_apply_is_retried_at_most_30_times(shell, install):
    stand_ins(shell, ("apply --server-side", "no matches for kind\n", 1))
    done = install()
    assert done.returncode == 1 and "failed 30 times" in done.stderr and "(1 of 30)" in done.stderr
    assert changes(shell) == [CLONE, BUILD, *[APPLY, "sleep 20"] * 30]


@pytest.mark.parametrize(
    "arguments", [[], ["--platform", "pipelines"], ["--s3-artifacts", "--notebook", IMAGE]], ids=str
)
@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(shell, install, paste, arguments):
    stand_ins(shell)
    settings = {"WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "eu-west-1"}
    dry = install(*arguments, "--dry-run", **settings)
    assert dry.returncode == 0 and changes(shell) == [], dry.stderr
    shell.forget_calls()
    pasted = paste(dry.stdout)
    assert pasted.returncode == 0, pasted.stderr
    by_hand = changes(shell), given(shell)
    shell.forget_calls()
    assert install(*arguments, **settings).returncode == 0
    assert (changes(shell), given(shell)) == by_hand


def test_a_dry_run_needs_neither_a_tool_nor_a_cluster(shell, install):
    done = install("--dry-run")
    assert done.returncode == 0 and done.stdout.startswith(CLONE), done.stderr
    assert "kubectl is not installed" in done.stderr and "kustomize is not installed" in done.stderr


def test_a_dry_run_with_kubectl_at_another_cluster_shows_the_commands_for_the_right_one(shell, install):
    stand_ins(shell, ("config current-context", "production\n"), ("--context kubeflow-demo", "no such context\n", 1))
    done = install("--dry-run")
    assert done.returncode == 0 and "kubectl does not point to kubeflow-demo" in done.stderr
    assert f"\n{KUBECTL} wait" in done.stdout and "production" not in done.stdout


def test_pipelines_alone_is_installed_in_two_steps(shell, install):
    stand_ins(shell)
    assert install("--platform", "pipelines").returncode == 0
    base = "github.com/kubeflow/pipelines/manifests/kustomize"
    assert changes(shell) == [
        f"{KUBECTL} apply -k '{base}/cluster-scoped-resources?ref={PIPELINES}&timeout=600s'",
        f"{KUBECTL} wait --for=condition=established --timeout=60s crd/applications.app.k8s.io",
        f"{KUBECTL} apply -k build/pipelines-{PIPELINES}",
        f"{KUBECTL} wait --for=condition=Available deployments --all -n kubeflow --timeout=1800s",
        f"{KUBECTL} annotate --overwrite namespace kubeflow first-kubeflow-pipeline/installed=pipelines-{PIPELINES}",
    ]


@pytest.mark.parametrize("platform, namespace", [("full", "kubeflow-user-example-com"), ("pipelines", "kubeflow")])
def test_artifacts_go_to_s3_with_the_flag(shell, install, platform, namespace):
    version = KUBEFLOW if platform == "full" else PIPELINES
    there = [("get .*poddefault", "poddefault/access-ml-pipeline\n")]
    stand_ins(shell, *there, installed=f"{platform}-{version}")
    settings = {"WORKSHOP_BUCKET": "my-bucket", "AWS_DEFAULT_REGION": "eu-west-1"}
    done = install("--platform", platform, "--s3-artifacts", **settings)
    assert done.returncode == 0 and changes(shell) == [f"{KUBECTL} apply --server-side --force-conflicts -f -"]
    (launcher,) = given(shell)
    assert launcher["metadata"] == {"name": "kfp-launcher", "namespace": namespace}
    assert launcher["data"]["defaultPipelineRoot"] == "s3://my-bucket/artifacts"
    store = yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]
    assert (store["endpoint"], store["region"]) == ("s3.eu-west-1.amazonaws.com", "eu-west-1")

    shell.forget_calls()
    stand_ins(shell, *there, ("get .*kfp-launcher", "s3://my-bucket/artifacts"), installed=f"{platform}-{version}")
    assert install("--platform", platform, "--s3-artifacts", **settings).stdout.endswith("nothing was changed\n")
    assert changes(shell) == []


def test_a_notebook_server_is_created_only_once(shell, install):
    there = [("get .*poddefault", "poddefault/access-ml-pipeline\n")]
    stand_ins(shell, *there, installed=f"full-{KUBEFLOW}")
    assert install("--notebook", IMAGE).returncode == 0
    assert changes(shell) == [f"{KUBECTL} apply -f -"]
    claim, notebook = given(shell)
    assert (claim["kind"], notebook["kind"]) == ("PersistentVolumeClaim", "Notebook")
    pod = notebook["spec"]["template"]["spec"]
    assert (pod["containers"][0]["image"], pod["serviceAccountName"]) == (IMAGE, "default-editor")

    shell.forget_calls()
    stand_ins(shell, *there, ("get .*notebook lessons", IMAGE), installed=f"full-{KUBEFLOW}")
    assert install("--notebook", IMAGE).returncode == 0 and changes(shell) == []


def test_an_older_release_is_replaced_and_another_platform_is_not(shell, install):
    stand_ins(shell, installed="full-26.03.0")
    older = install()
    assert older.returncode == 0 and "this replaces full-26.03.0" in older.stderr and changes(shell) == FULL
    shell.forget_calls()
    stand_ins(shell, installed=f"pipelines-{PIPELINES}")
    other = install()
    assert other.returncode == 1 and "cannot replace it" in other.stderr and changes(shell) == []


def test_another_cluster_is_not_changed(shell, install):
    stand_ins(shell, ("config current-context", "production\n"))
    done = install()
    assert done.returncode == 1 and "kubectl points to production, not to kubeflow-demo" in done.stderr
    assert changes(shell) == []


@pytest.mark.parametrize(
    "context",
    [
        "kind-kubeflow-demo",
        "arn:aws:eks:us-east-1:123456789012:cluster/kubeflow-demo",
        "me@kubeflow-demo.us-east-1.eksctl.io",
    ],
)
def test_every_context_name_of_the_tools_is_accepted(shell, install, context):
    stand_ins(shell, ("config current-context", f"{context}\n"))
    assert install("--platform", "pipelines").returncode == 0
    assert all(call.startswith(f"kubectl --context {context} ") for call in changes(shell))


def test_kubectl_without_any_cluster_exits_with_3(shell, install):
    stand_ins(shell, ("config current-context", "error: current-context is not set\n", 1))
    done = install()
    assert done.returncode == 3 and "create_cluster.sh" in done.stderr and changes(shell) == []


def test_a_cluster_that_does_not_answer_is_not_mistaken_for_an_empty_one(shell, install):
    stand_ins(shell, (" get ", "Unable to connect to the server\n", 1))
    done = install()
    assert done.returncode == 1 and "Unable to connect to the server" in done.stderr and changes(shell) == []


@pytest.mark.usefixtures("each_awk")
def test_without_a_default_storage_class_nothing_is_installed(shell, install):
    stand_ins(shell, classes="gp2 <none>\n")
    done = install()
    assert done.returncode == 1 and "no default StorageClass" in done.stderr and changes(shell) == []


@pytest.mark.usefixtures("each_awk")
@pytest.mark.parametrize("nodes", ["3920m 32Gi\n", "8 12000Mi\n", "4 1Gi\n4 1073741824\n"])
@pytest.mark.slow
def test_nodes_that_are_too_small_for_the_platform_are_reported(shell, install, nodes):
    stand_ins(shell, nodes=nodes)
    done = install()
    assert done.returncode == 1 and "needs 4.4 CPUs and 12.3 GiB" in done.stderr and changes(shell) == []
    assert install("--platform", "pipelines").returncode == 0


@pytest.mark.parametrize("missing", ["git", "kustomize", "kubectl"])
def test_a_missing_tool_exits_with_3_and_says_how_to_install_it(shell, install, missing):
    stand_ins(shell)
    (shell.programs / missing).unlink()
    done = install()
    assert done.returncode == 3 and f"{missing} is not installed. " in done.stderr and shell.calls == []


@pytest.mark.parametrize(
    "arguments, variables",
    [
        (["--platform"], {}),
        (["--platform", "half"], {}),
        (["--wrong"], {}),
        (["--notebook", "lessons:latest"], {}),
        (["--platform", "pipelines", "--notebook", IMAGE], {}),
        (["--s3-artifacts"], {"AWS_DEFAULT_REGION": "us-east-1"}),
        (["--s3-artifacts"], {"WORKSHOP_BUCKET": "my-bucket"}),
        ([], {"KUBEFLOW_NAMESPACE": "not_a_name"}),
        ([], {"CLUSTER_NAME": "not a name"}),
    ],
    ids=str,
)
def test_wrong_usage_exits_with_2_before_any_call(shell, install, arguments, variables):
    stand_ins(shell)
    done = install(*arguments, **variables)
    assert done.returncode == 2 and "usage:" in done.stderr and shell.calls == []
