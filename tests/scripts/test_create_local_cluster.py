"""`scripts/create_local_cluster.sh`: kind, kubectl and Docker are recorded."""

import re

import pytest

from workshop.project import ROOT, versions

CONFIG = (ROOT / "deploy/kind/cluster.yaml").read_text()
READS = re.compile(r"kubectl (config current-context|--context \S+ get) ?|kind get|docker info|sysctl|uname|git")
PIPELINES = "github.com/kubeflow/pipelines/manifests/kustomize"
CREATE = "kind create cluster --name kubeflow-demo --config - --wait 5m"


def stand_ins(shell, *, clusters="", current="kind-kubeflow-demo", instances=128, watches=8192, system="Linux"):
    shell.stand_in("docker")
    shell.stand_in("git")
    shell.stand_in("kind", ("get clusters", clusters))
    shell.stand_in("uname", ("", f"{system}\n"))
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
    """A machine with nothing on it yet that lets enough be watched."""
    stand_ins(shell, instances=2280, watches=1255360)


def test_the_first_run_makes_a_cluster_with_pipelines_in_it(shell, large):
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 0, done.stderr
    version = versions()["KUBEFLOW_PIPELINES_VERSION"]
    assert changes(shell)[0] == (CREATE, CONFIG)
    assert [call for call, _ in changes(shell)][1:] == [
        f"kubectl --context kind-kubeflow-demo {call}"
        for call in (
            f"apply -k '{PIPELINES}/cluster-scoped-resources?ref={version}&timeout=600s'",
            "wait --for=condition=established --timeout=60s crd/applications.app.k8s.io",
            f"apply -k '{PIPELINES}/env/platform-agnostic?ref={version}&timeout=600s'",
            "wait --for=condition=Available deployments --all -n kubeflow --timeout=1800s",
            f"annotate --overwrite namespace kubeflow first-kubeflow-pipeline/installed=pipelines-{version}",
        )
    ]


def test_the_second_run_changes_nothing(shell):
    stand_ins(shell, clusters="other\nkubeflow-demo\n", instances=2280, watches=1255360)
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 0 and "is there already" in done.stdout and "nothing was changed" in done.stdout
    assert changes(shell) == []


def test_a_cluster_that_kubectl_does_not_point_to_is_found_again(shell):
    stand_ins(shell, clusters="kubeflow-demo\n", current="other", instances=2280, watches=1255360)
    done = shell.run("create_local_cluster.sh")
    assert changes(shell) == [("kind export kubeconfig --name kubeflow-demo", "")]
    # The stand-in still points elsewhere, which the next step notices rather than installing there.
    assert done.returncode == 1 and "points to other, not to kind-kubeflow-demo" in done.stderr


def test_a_dry_run_changes_nothing_and_pasted_it_does_the_same(shell, large):
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


def test_linux_that_lets_too_little_be_watched_is_told_how_to_let_more(shell):
    stand_ins(shell)
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and changes(shell) == []
    advice = "sudo sysctl fs.inotify.max_user_instances=2280; sudo sysctl fs.inotify.max_user_watches=1255360"
    assert done.stderr.rstrip().endswith(advice)


def test_on_macos_nobody_asks_for_watches(shell):
    stand_ins(shell, system="Darwin")
    assert shell.run("create_local_cluster.sh").returncode == 0
    assert not any(call.startswith("sysctl") for call in shell.calls)


@pytest.mark.parametrize("missing", ["docker", "kind", "kubectl"])
def test_a_missing_tool_is_3_with_how_to_get_it(shell, large, missing):
    (shell.programs / missing).unlink()
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and f"{missing} is not installed. " in done.stderr and changes(shell) == []


def test_a_docker_that_does_not_run_is_3(shell, large):
    shell.stand_in("docker", ("info", "Cannot connect to the Docker daemon\n", 1))
    done = shell.run("create_local_cluster.sh")
    assert done.returncode == 3 and "Docker does not answer: Cannot connect" in done.stderr and changes(shell) == []


@pytest.mark.parametrize("arguments", [["--wrong"], ["name"]], ids=str)
def test_wrong_usage_is_2(shell, arguments):
    done = shell.run("create_local_cluster.sh", *arguments)
    assert done.returncode == 2 and "usage:" in done.stderr


@pytest.mark.parametrize("name", ["Upper", "a b"])
def test_a_bad_name_is_refused_before_any_call(shell, large, name):
    done = shell.run("create_local_cluster.sh", CLUSTER_NAME=name)
    assert done.returncode == 2 and "CLUSTER_NAME" in done.stderr and shell.calls == []
