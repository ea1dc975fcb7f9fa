"""`scripts/change_password.sh`, with a real hash and a recorded kubectl. All output is searched for the password."""

import base64
import json
import os
import pty
import select
import shlex
import shutil
import sys
from pathlib import Path

import bcrypt
import pytest

from workshop.project import ROOT

PASSWORD = "correct horse, ' $battery \\ staple"
KUBECTL = "kubectl --context kubeflow-demo"
CHANGES = [
    f"{KUBECTL} apply --server-side --force-conflicts -f -",
    f"{KUBECTL} rollout restart deployment dex -n auth",
    f"{KUBECTL} rollout status deployment dex -n auth --timeout=180s",
]


@pytest.fixture(autouse=True)
def programs(shell):
    """A Python with bcrypt, and a kubectl that finds the login in its cluster."""
    (shell.programs / "python3").unlink(missing_ok=True)
    (shell.programs / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (shell.programs / "python3").chmod(0o755)
    stand_in_kubectl(shell)


def stand_in_kubectl(shell, *answers):
    shell.stand_in(
        "kubectl", *answers, ("config current-context", "kubeflow-demo\n"), ("get .*secret", "secret/dex-passwords\n")
    )


def change(shell, password: str = PASSWORD, *, script=ROOT / "scripts/change_password.sh", trace: bool = False):
    """Call the script with a password on its standard input."""
    return shell.paste(f"""printf '%s\\n' "$NEW" | bash {"-x" if trace else ""} '{script}' --stdin""", NEW=password)


def changes(shell) -> list[str]:
    return [call for call in shell.calls if " get " not in call and "config current-context" not in call]


def hash_given(shell) -> bytes:
    (secret,) = [json.loads(text) for text in shell.inputs if text.strip()]
    assert (secret["kind"], secret["metadata"]) == ("Secret", {"name": "dex-passwords", "namespace": "auth"})
    return base64.b64decode(secret["data"]["DEX_USER_PASSWORD"])


@pytest.mark.slow
def test_the_hash_of_the_new_password_goes_to_the_cluster_and_the_login_restarts(shell):
    done = change(shell)
    assert done.returncode == 0 and "is changed" in done.stdout, done.stderr
    assert changes(shell) == CHANGES
    assert hash_given(shell).startswith(b"$2y$12$") and bcrypt.checkpw(PASSWORD.encode(), hash_given(shell))
    assert "Existing sessions remain until they end" in done.stdout


@pytest.mark.slow
def test_a_second_run_sets_a_new_hash(shell):
    change(shell)
    first = hash_given(shell)
    shell.forget_calls()
    assert change(shell).returncode == 0 and changes(shell) == CHANGES
    assert hash_given(shell) != first and bcrypt.checkpw(PASSWORD.encode(), hash_given(shell))


@pytest.mark.slow
def test_no_output_command_line_or_file_holds_the_password_or_its_hash(shell, tmp_path):
    # With -x, bash prints every command with the values of variables. Temporary files would remain in `left`.
    (tmp_path / "left").mkdir()
    shell.environment["TMPDIR"] = str(tmp_path / "left")
    done = change(shell, trace=True)
    assert done.returncode == 0 and "rollout restart" in done.stderr
    hashed = hash_given(shell).decode()
    for text in (done.stdout, done.stderr, *shell.calls):
        for secret in (PASSWORD, "battery", hashed, base64.b64encode(hashed.encode()).decode()):
            assert secret not in text
    assert list((tmp_path / "left").iterdir()) == []


def test_a_failure_of_kubectl_ends_the_script_without_showing_the_hash(shell):
    stand_in_kubectl(shell, ("apply", "forbidden\n", 1))
    done = change(shell)
    assert done.returncode == 1 and "forbidden" in done.stderr and "the password was not changed" in done.stderr
    assert changes(shell) == CHANGES[:1] and hash_given(shell).decode() not in done.stderr


@pytest.mark.parametrize(
    "password, said",
    [("12341234", "at least 12 characters"), ("", "at least 12 characters"), ("ä" * 37, "at most 72 bytes")],
)
def test_an_invalid_password_changes_nothing(shell, password, said):
    done = shell.paste(f"echo '{password}' | bash '{ROOT}/scripts/change_password.sh' --stdin")
    assert done.returncode == 1 and said in done.stderr and changes(shell) == []


def type_into(shell, *lines: str) -> tuple[int, str]:
    """Run the script in a terminal, and type a line at each prompt. Return the exit status and the terminal's text."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve("/bin/bash", ["bash", f"{ROOT}/scripts/change_password.sh"], shell.environment)
    shown, waiting = b"", list(lines)
    while True:
        ready = select.select([terminal], [], [], 60)[0]
        assert ready, f"it waits: {shown!r}"
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # Linux reports a closed terminal this way
            break
        if waiting and shown.endswith(b"new password: "):
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


@pytest.mark.slow
def test_in_a_terminal_the_script_asks_twice_and_shows_no_password(shell):
    status, shown = type_into(shell, PASSWORD, PASSWORD)
    assert status == 0 and bcrypt.checkpw(PASSWORD.encode(), hash_given(shell)), shown
    assert "battery" not in shown and changes(shell) == CHANGES


def test_two_different_passwords_change_nothing(shell):
    status, shown = type_into(shell, PASSWORD, "something else entirely")
    assert status == 1 and "passwords differ" in shown and changes(shell) == []


@pytest.mark.slow
def test_a_dry_run_asks_nothing_and_its_pasted_commands_do_the_same(shell):
    dry = shell.run("change_password.sh", "--stdin", "--dry-run")
    assert dry.returncode == 0 and changes(shell) == [], dry.stderr
    shell.forget_calls()
    # The pasted command reads the password from the standard input of the shell.
    pasted = shell.paste(f"""bash -ec "$COMMANDS" <<<'{PASSWORD.replace("'", "")}'""", COMMANDS=dry.stdout)
    assert pasted.returncode == 0 and changes(shell) == CHANGES, pasted.stderr
    assert bcrypt.checkpw(PASSWORD.replace("'", "").encode(), hash_given(shell))


def test_a_cluster_without_a_login_service_is_refused_with_advice(shell):
    shell.stand_in("kubectl", ("config current-context", "kubeflow-demo\n"))
    done = change(shell)
    assert done.returncode == 1 and "--platform full" in done.stderr and changes(shell) == []


def test_another_cluster_is_not_changed(shell):
    stand_in_kubectl(shell, ("config current-context", "production\n"))
    done = change(shell)
    assert done.returncode == 1 and "points to production" in done.stderr and changes(shell) == []


def test_a_missing_kubectl_exits_with_3(shell):
    (shell.programs / "kubectl").unlink()
    done = change(shell)
    assert done.returncode == 3 and "kubectl is not installed. " in done.stderr


def test_a_missing_bcrypt_exits_with_3_and_says_how_to_install_it(shell, tmp_path):
    (shell.programs / "python3").write_text(f'#!/bin/sh\nexec {Path(sys._base_executable)} -IS "$@"\n')
    copy = tmp_path / "no environment"  # a project without .venv
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    shutil.copy(ROOT / "versions.env", copy)
    (copy / "workshop").mkdir()
    shutil.copy(ROOT / "workshop" / "settings.tsv", copy / "workshop")
    done = change(shell, script=copy / "scripts/change_password.sh")
    assert done.returncode == 3 and "pip install bcrypt" in done.stderr and changes(shell) == []


@pytest.mark.parametrize("arguments, variables", [(["secret"], {}), (["--wrong"], {}), ([], {"CLUSTER_NAME": "a b"})])
def test_wrong_usage_exits_with_2_before_any_call(shell, arguments, variables):
    done = shell.run("change_password.sh", *arguments, **variables)
    assert done.returncode == 2 and "usage:" in done.stderr and shell.calls == []
