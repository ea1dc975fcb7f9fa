"""`scripts/check_tools.sh`, and the settings, names and errors of `scripts/lib.sh` that all scripts share."""

import re

import pytest

from workshop.project import ROOT, versions

TOOLS = "aws", "kubectl", "eksctl", "kustomize", "docker", "kind"


def provide_all(shell, **versions_of):
    """Put all tools on PATH: with the given version, else with the version needed."""
    ours = versions()
    kubectl = versions_of.get("kubectl", f"{ours['KUBERNETES_VERSION']}.2")
    shell.stand_in("kubectl", ("version", f"Client Version: v{kubectl}\nKustomize Version: v5.7.1\n"))
    shell.stand_in("eksctl", ("version", versions_of.get("eksctl", f"{ours['EKSCTL_VERSION']}\n")))
    shell.stand_in("kustomize", ("version", versions_of.get("kustomize", f"v{ours['KUSTOMIZE_VERSION']}\n")))
    shell.stand_in("docker", ("--version", versions_of.get("docker", "Docker version 28.2.2, build 0000000\n")))
    shell.stand_in("kind", ("version", versions_of.get("kind", f"{ours['KIND_VERSION']}\n")))


def rows(done) -> dict[str, str]:
    return {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line.split()[0] in TOOLS}


@pytest.mark.slow
def test_with_every_tool_the_script_succeeds_and_shows_the_aws_identity(shell, account):
    provide_all(shell)
    done = shell.run("check_tools.sh")
    assert done.returncode == 0, done.stderr
    assert list(rows(done)) == list(TOOLS) and all(row.endswith(" ok") for row in rows(done).values())
    assert done.stdout.splitlines()[-1].startswith("AWS: you are arn:aws:sts::123456789012:")
    assert done.stdout.splitlines()[-1].endswith("account 123456789012, region us-east-1")


@pytest.mark.slow
def test_a_missing_tool_is_named_with_its_installation_on_both_systems(shell, account):
    done = shell.run("check_tools.sh")
    assert done.returncode == 3 and "5 of these tools are missing" in done.stderr
    for tool in TOOLS[1:]:
        assert " missing. " in rows(done)[tool]
        assert "macOS: " in rows(done)[tool] and "Linux: " in rows(done)[tool] and "https://" in rows(done)[tool]


@pytest.mark.parametrize(
    "tool, version, said",
    [
        ("kubectl", "1.32.9", "too old"),
        ("kubectl", "1.37.0", "too new for Kubernetes 1.35"),
        ("eksctl", "0.99.0", "too old"),
        ("kind", "0.9.0", "too old"),
        ("docker", "Docker version 19.03.15, build x\n", "too old"),
        ("kustomize", "nonsense", "does not print its version"),
    ],
)
def test_a_wrong_version_is_reported(shell, tool, version, said):
    provide_all(shell, **{tool: version})
    done = shell.run("check_tools.sh", tool)
    assert said in rows(done)[tool]
    assert done.returncode == (0 if "does not print" in said else 3)


@pytest.mark.parametrize("version", ["1.34.0", "1.36.9"])
def test_kubectl_may_differ_by_one_minor_version(shell, version):
    provide_all(shell, kubectl=version)
    assert shell.run("check_tools.sh", "kubectl").returncode == 0


@pytest.mark.slow
def test_settings_come_from_the_environment_then_from_settings_env(shell, account, tmp_path):
    settings = tmp_path / "mine.env"
    settings.write_text("# a comment\n\nAWS_DEFAULT_REGION='eu-west-1'\r\n")
    del shell.environment["AWS_DEFAULT_REGION"], shell.environment["AWS_REGION"]
    from_file = shell.run("check_tools.sh", "aws", WORKSHOP_SETTINGS=str(settings))
    assert from_file.stdout.rstrip().endswith("region eu-west-1"), from_file.stderr
    both = shell.run("check_tools.sh", "aws", WORKSHOP_SETTINGS=str(settings), AWS_DEFAULT_REGION="us-west-2")
    assert both.stdout.rstrip().endswith("region us-west-2")


def test_settings_env_is_never_executed(shell, tmp_path):
    settings = tmp_path / "mine.env"
    settings.write_text(f"CLUSTER_NAME=$(touch {tmp_path}/was-run)\n")
    done = shell.run("check_tools.sh", "kind", WORKSHOP_SETTINGS=str(settings))
    assert done.returncode == 2 and "CLUSTER_NAME is" in done.stderr
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "line, said",
    [
        ("export A=b", "line 1, is not NAME=VALUE"),
        ("nonsense", "line 1, is not NAME=VALUE"),
        ("AWS_SECRET_ACCESS_KEY=x", "does not belong in this file"),
    ],
)
def test_an_invalid_settings_file_is_refused_with_its_line(shell, tmp_path, line, said):
    settings = tmp_path / "mine.env"
    settings.write_text(f"{line}\n")
    done = shell.run("check_tools.sh", "kind", WORKSHOP_SETTINGS=str(settings))
    assert done.returncode == 2 and f"{settings}, line 1" in done.stderr and said in done.stderr


@pytest.mark.parametrize(
    "name, value",
    [
        ("CLUSTER_NAME", "'kubeflow-demo'"),
        ("CLUSTER_NAME", "1st"),
        ("CLUSTER_NAME", "a" * 101),
        ("NODE_TYPE", "large"),
        ("NODE_COUNT", "0"),
        ("NODE_COUNT", "many"),
        ("NODE_SPOT", "yes"),
        ("COMPONENT_REPOSITORY", "Upper"),
        ("COMPONENT_REPOSITORY", "a//b"),
        ("KUBEFLOW_NAMESPACE", "a_b"),
        ("SERVICE_ACCOUNT", "-a"),
        ("WORKSHOP_BUCKET", "My-Bucket"),
        ("WORKSHOP_BUCKET", "a..b"),
        ("WORKSHOP_BUCKET", "x; rm -rf"),
        ("AWS_DEFAULT_REGION", "'us-east-1'"),
        ("AWS_DEFAULT_REGION", "Virginia"),
    ],
)
def test_an_invalid_name_is_refused_before_any_call(shell, name, value):
    shell.stand_in("aws")
    done = shell.run("check_tools.sh", "aws", **{"AWS_DEFAULT_REGION": "us-east-1", name: value})
    assert done.returncode == 2 and f'{name} is "{value}"; ' in done.stderr
    assert shell.calls == []


def test_missing_credentials_exit_with_3_and_advice(shell, account):
    done = shell.run("check_tools.sh", "aws", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert done.returncode == 3 and "Unable to locate credentials" in done.stderr and "aws sso login" in done.stderr


@pytest.mark.parametrize(
    "said, status, advice",
    [
        ("An error occurred (ExpiredToken) when calling the GetCallerIdentity operation: old", 3, "aws sso login"),
        ("An error occurred (AccessDenied) when calling the GetCallerIdentity operation: no", 1, "administrator"),
        ("An error occurred (Throttling) when calling the GetCallerIdentity operation: slow", 1, "AWS refuses this"),
    ],
)
def test_an_error_of_aws_is_shown_with_advice(shell, said, status, advice):
    shell.stand_in("aws", ("sts", f"\n{said}\n", 255), ("--version", "aws-cli/2.31.0 Python/3.13\n"))
    done = shell.run("check_tools.sh", "aws", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == status and said in done.stderr and advice in done.stderr


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer_is_named(shell, account):
    done = shell.run("check_tools.sh", "aws", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert done.returncode == 1 and "does not answer" in done.stderr and "127.0.0.1:1" in done.stderr


def test_a_missing_region_is_reported_with_its_variable(shell, account):
    done = shell.run("check_tools.sh", "aws", AWS_DEFAULT_REGION="", AWS_REGION="")
    assert done.returncode == 3 and "export AWS_DEFAULT_REGION" in done.stderr


@pytest.mark.parametrize("arguments", [["--wrong"], ["terraform"]], ids=str)
def test_wrong_usage_exits_with_2_and_shows_the_usage(shell, arguments):
    done = shell.run("check_tools.sh", *arguments)
    assert done.returncode == 2 and "usage:" in done.stderr


@pytest.mark.slow
def test_every_script_has_help_that_names_its_exit_statuses(shell):
    scripts = sorted(path.name for path in (ROOT / "scripts").glob("*.sh") if path.name != "lib.sh")
    assert len(scripts) > 2
    for script in scripts:
        done = shell.run(script, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: scripts/{script}"), script
        assert "\nexit status: 0 " in done.stdout, script
        assert shell.run(script, "--no-such-option").returncode == 2, script


def test_the_template_of_settings_env_is_valid_unchanged_and_filled_in(shell, tmp_path):
    template = (ROOT / "settings.env.template").read_text()
    settings = tmp_path / "mine.env"
    shell.stand_in("kind", ("version", f"{versions()['KIND_VERSION']}\n"))
    for text in (template, re.sub(r"^# (?=[A-Z_0-9]+=)", "", template, flags=re.MULTILINE)):
        settings.write_text(text)
        done = shell.run("check_tools.sh", "kind", WORKSHOP_SETTINGS=str(settings))
        assert done.returncode == 0, done.stderr
