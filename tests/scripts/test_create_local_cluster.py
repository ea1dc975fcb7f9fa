"""`scripts/create_local_cluster.sh`: kind, kubectl and Docker are recorded."""

import re

import pytest

from workshop.project import ROOT, versions

CONFIG = (ROOT / "deploy/kind/cluster.yaml").read_text().replace("${KIND_NODE_IMAGE}", versions()["KIND_NODE_IMAGE"])
READS = re.compile(r"kubectl (config current-context|--context \S+ get) ?|kind get|docker info|sysctl|uname|git")
PIPELINES = "github.com/kubeflow/pipelines/manifests/kustomize"
CREATE = "kind create cluster --name kubeflow-demo --config - --wait 5m"


def stand_ins(
    shell, *, clusters="", current="kind-kubeflow-demo", instances=128, watches=8192, system="Linux", machine="x86_64"
):
    shell.stand_in("docker")
    shell.stand_in("git")
    shell.stand_in("kind", ("get clusters", clusters))
    shell.stand_in("uname", ("-m", f"{machine}\n"), ("", f"{system}\n"))
    shell.stand_in("sysctl", ("instances", f"{instances}\n"), ("watches", f"{watches}\n"))
    shell.stand_in(
        "kubectl",
        ("config current-context", f"{current}\n"),
        ("get .*storageclasses", "standard true\n"),
        ("get .*namespace kubeflow", f"pipelines-{versions()['KUBEFLOW_PIPELINES_VERSION']}" if clusters else ""),
    )


def changes(shell) -> list[tuple[str, str]]:
    return [made for made in zip(shell.calls, shell.inputs, strict=True) if not READS.match(made[0])]


@pytest.fixture
def large(shell):
    """A machine without a cluster, with high inotify limits."""
    stand_ins(shell, instances=2280, watches=1255360)


@pytest.mark.slow
def test_the_first_run_creates_a_cluster_and_installs_pipelines(shell, large):
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 0, done.stderr
    version = versions()["KUBEFLOW_PIPELINES_VERSION"]
    assert changes(shell)[0] == (CREATE, CONFIG)
    assert [call for call, _ in changes(shell)][1:] == [
        f"kubectl --context kind-kubeflow-demo {call}"
        for call in (
            f"apply -k '{PIPELINES}/cluster-scoped-resources?ref={version}&timeout=600s'",
            "wait --for=condition=established --timeout=60s crd/applications.app.k8s.io",
            f"apply -k build/pipelines-{version}",
            "wait --for=condition=Available deployments --all -n kubeflow --timeout=1800s",
            f"annotate --overwrite namespace kubeflow first-kubeflow-pipeline/installed=pipelines-{version}",
        )
    ]


def test_the_second_run_changes_nothing(shell):
    stand_ins(shell, clusters="other\nkubeflow-demo\n", instances=2280, watches=1255360)
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 0 and "is there already" in done.stdout and "nothing was changed" in done.stdout
    assert changes(shell) == []


def test_kubectl_is_switched_to_an_existing_cluster(shell):
    stand_ins(shell, clusters="kubeflow-demo\n", current="other", instances=2280, watches=1255360)
    done = shell.run("create_local_cluster.sh")
    assert changes(shell) == [("kind export kubeconfig --name kubeflow-demo", "")]
    # The stand-in still points to another cluster. The next step refuses to install Kubeflow there.
    assert done.returncode == 1 and "points to other, not to kind-kubeflow-demo" in done.stderr


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(shell, large):
    dry = shell.run("create_local_cluster.sh", "--dry-run")
    assert dry.returncode == 0 and changes(shell) == [], dry.stderr
    shell.forget_calls()
    pasted = shell.paste(dry.stdout)
    assert pasted.returncode == 0, pasted.stderr
    by_hand = changes(shell)
    shell.forget_calls()
    assert shell.run("create_local_cluster.sh").returncode == 0
    assert changes(shell) == by_hand


def test_a_dry_run_needs_no_tool(shell):
    done = shell.run("create_local_cluster.sh", "--dry-run")
    assert done.returncode == 0 and done.stdout.startswith(f"{CREATE} <<'EOF'\n"), done.stderr
    assert "kind is not installed" in done.stderr


def test_low_inotify_limits_exit_with_3_and_the_commands_that_raise_them(shell):
    stand_ins(shell)
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and changes(shell) == []
    advice = "sudo sysctl fs.inotify.max_user_instances=2280; sudo sysctl fs.inotify.max_user_watches=1255360"
    assert done.stderr.rstrip().endswith(advice)


@pytest.mark.slow
def test_macos_has_no_inotify_limits_to_check(shell):
    stand_ins(shell, system="Darwin")
    assert shell.run("create_local_cluster.sh").returncode == 0
    assert not any(call.startswith("sysctl") for call in shell.calls)


def test_a_mac_with_an_arm_processor_is_refused_with_the_reason(shell):
    stand_ins(shell, system="Darwin", machine="arm64")
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and "images of Kubeflow Pipelines" in done.stderr and changes(shell) == []
    dry = shell.run("create_local_cluster.sh", "--dry-run")
    assert dry.returncode == 0 and dry.stdout.startswith(CREATE) and "images of Kubeflow Pipelines" in dry.stderr


@pytest.mark.parametrize("missing", ["docker", "kind", "kubectl"])
def test_a_missing_tool_exits_with_3_and_says_how_to_install_it(shell, large, missing):
    (shell.programs / missing).unlink()
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and f"{missing} is not installed. " in done.stderr and changes(shell) == []


def test_a_docker_that_does_not_answer_exits_with_3(shell, large):
    shell.stand_in("docker", ("info", "Cannot connect to the Docker daemon\n", 1))
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and "Docker does not answer: Cannot connect" in done.stderr and changes(shell) == []


@pytest.mark.parametrize("arguments", [["--wrong"], ["name"]], ids=str)
def test_wrong_usage_exits_with_2(shell, arguments):
    done = shell.run("create_local_cluster.sh", *arguments)
    assert done.returncode == 2 and "usage:" in done.stderr


@pytest.mark.parametrize("name", ["Upper", "a b"])
def test_a_bad_name_is_refused_before_any_call(shell, large, name):
    done = shell.run("create_local_cluster.sh", CLUSTER_NAME=name)
    assert done.returncode == 2 and "CLUSTER_NAME" in done.stderr and shell.calls == []
