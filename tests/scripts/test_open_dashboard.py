"""`scripts/open_dashboard.sh`: with a recorded kubectl, and real ports and signals."""

import os
import re
import signal
import socket
import subprocess

import pytest

from workshop.project import ROOT

GATEWAY = ("get .*istio-ingressgateway.* -o name", "service/istio-ingressgateway\n")
PAGE = ("get .*ml-pipeline-ui.* -o name", "service/ml-pipeline-ui\n")


@pytest.fixture
def port() -> int:
    """The first of several free ports."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return min(server.getsockname()[1], 65000)


def stand_in_kubectl(shell, *answers):
    shell.stand_in("kubectl", ("config current-context", "kubeflow-demo\n"), *answers)


def forwards(shell) -> list[str]:
    return [call for call in shell.calls if "port-forward" in call]


@pytest.mark.parametrize(
    "answers, target",
    [
        ([GATEWAY], "-n istio-system service/istio-ingressgateway"),
        ([PAGE], "-n kubeflow service/ml-pipeline-ui"),
        ([GATEWAY, PAGE], "-n istio-system service/istio-ingressgateway"),
    ],
)
def test_a_port_is_forwarded_to_the_installed_dashboard(shell, port, answers, target):
    stand_in_kubectl(shell, *answers)
    done = shell.run("open_dashboard.sh", "--port", str(port))
    used = int(re.fullmatch(r"http://localhost:(\d+)\n", done.stdout)[1])
    assert forwards(shell) == [f"kubectl --context kubeflow-demo port-forward {target} {used}:80"]


def test_a_taken_port_is_skipped_and_reported(shell, port):
    stand_in_kubectl(shell, GATEWAY)
    with socket.create_server(("127.0.0.1", port)):
        done = shell.run("open_dashboard.sh", "--print-only", "--port", str(port))
    used = int(done.stdout.rstrip().rpartition(":")[2])
    assert used > port and f"port {port} is taken; using port {used}" in done.stderr


def test_a_public_address_is_printed_with_advice(shell):
    hostname = "abc.us-east-1.elb.amazonaws.com"
    stand_in_kubectl(shell, GATEWAY, ("loadBalancer", hostname))
    done = shell.run("open_dashboard.sh")
    assert (done.returncode, done.stdout) == (0, f"https://{hostname}\n")
    assert "change_password.sh" in done.stderr and "certificate" in done.stderr and forwards(shell) == []


def test_print_only_forwards_nothing_and_prints_the_command(shell, port):
    stand_in_kubectl(shell, PAGE)
    done = shell.run("open_dashboard.sh", "--print-only", "--port", str(port))
    assert done.returncode == 0 and done.stdout.startswith("http://localhost:") and forwards(shell) == []
    assert "kubectl --context kubeflow-demo port-forward -n kubeflow service/ml-pipeline-ui" in done.stderr


@pytest.mark.slow
def test_a_dry_run_forwards_nothing_and_its_pasted_command_does_the_same(shell, port):
    stand_in_kubectl(shell, GATEWAY)
    dry = shell.run("open_dashboard.sh", "--dry-run", "--port", str(port))
    assert dry.returncode == 0 and forwards(shell) == []
    assert shell.paste(dry.stdout).returncode == 0
    by_hand = forwards(shell)
    shell.forget_calls()
    shell.run("open_dashboard.sh", "--port", str(port))
    assert by_hand == forwards(shell) and len(by_hand) == 1


def test_a_dry_run_needs_no_cluster(shell):
    done = shell.run("open_dashboard.sh", "--dry-run")
    assert done.returncode == 0 and "port-forward -n istio-system service/istio-ingressgateway" in done.stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_the_script_runs_until_a_signal_and_leaves_no_process(shell, port, tmp_path, sent):
    stand_in_kubectl(shell, GATEWAY)
    (shell.programs / "kubectl").rename(shell.programs / "kubectl-recorded")
    forwarding = (
        f'case "$*" in *port-forward*) echo $$ >{tmp_path}/pid; exec sleep 60 ;; esac\nexec "$0-recorded" "$@"\n'
    )
    (shell.programs / "kubectl").write_text(f"#!/usr/bin/env bash\n{forwarding}")
    (shell.programs / "kubectl").chmod(0o755)
    command = ["bash", ROOT / "scripts/open_dashboard.sh", "--port", str(port)]
    environment = {**shell.environment, "TMPDIR": str(tmp_path / "left")}
    (tmp_path / "left").mkdir()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs these tests in the background ignores Ctrl-C, and its children inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        while "Ctrl-C" not in (line := running.stderr.readline()):
            assert line, "it ended by itself"
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert running.poll() is None
        running.send_signal(sent)
        assert running.wait(timeout=30) == 0
        assert "stopped" in running.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list((tmp_path / "left").iterdir()) == []


def test_a_broken_connection_exits_with_1(shell, port):
    stand_in_kubectl(shell, GATEWAY, ("port-forward", "lost connection to pod\n", 1))
    done = shell.run("open_dashboard.sh", "--port", str(port))
    assert (
        done.returncode == 1
        and "lost connection to pod" in done.stderr
        and "connection to the dashboard broke" in done.stderr
    )


def test_a_missing_dashboard_exits_with_1_and_says_how_to_install_it(shell):
    stand_in_kubectl(shell)
    done = shell.run("open_dashboard.sh")
    assert done.returncode == 1 and "scripts/install_kubeflow.sh" in done.stderr


def test_a_missing_kubectl_exits_with_3(shell):
    done = shell.run("open_dashboard.sh")
    assert done.returncode == 3 and "kubectl is not installed. " in done.stderr


@pytest.mark.parametrize(
    "arguments, variables",
    [
        (["--port"], {}),
        (["--port", "80"], {}),
        (["--port", "70000"], {}),
        (["--wrong"], {}),
        ([], {"CLUSTER_NAME": "a b"}),
    ],
    ids=str,
)
def test_wrong_usage_exits_with_2_before_any_call(shell, arguments, variables):
    stand_in_kubectl(shell, GATEWAY)
    done = shell.run("open_dashboard.sh", *arguments, **variables)
    assert done.returncode == 2 and "usage:" in done.stderr and shell.calls == []
