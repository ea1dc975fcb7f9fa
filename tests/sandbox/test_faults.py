"""The sandbox after kills, on taken ports, and with damaged or missing files."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import boto3
import psutil
import pytest

from workshop.sandbox import Sandbox, SandboxError, processes
from workshop.sandbox import supervisor as supervisor_module
from workshop.sandbox.processes import SERVER_MARK
from workshop.sandbox.registry import what_is_missing
from workshop.sandbox.server import NotYet, Server
from workshop.sandbox.supervisor import Supervisor

# The sandbox has a registry only where its program and Docker are installed.
NAMES = ["object-store", "aws-account", "pipelines-api", *([] if what_is_missing() else ["registry"])]


def client(sandbox):
    environment = sandbox.environment()
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )


def pids(sandbox):
    return {server.name: record.pid for server, record, _ in sandbox.status() if record}


def kill(pid):
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], timeout=10)


@contextmanager
def occupied(port):
    """Take a port, unless another program has taken it already."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
        return
    with listener:
        yield


def left_processes(sandbox):
    """Return every process of this sandbox, found without its records."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SERVER_MARK, "").startswith(f"{sandbox.directory}:"):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.slow
def test_up_twice_changes_nothing_and_down_leaves_no_process(sandbox):
    sandbox.up()
    first = pids(sandbox)
    sandbox.up()
    assert pids(sandbox) == first
    assert {process.pid for process in left_processes(sandbox)} >= set(first.values())
    ports = [port for _, record, _ in sandbox.status() if record for port in record.ports.values()]
    assert [left for port in ports for left in Path("/tmp").glob(f"seaweedfs-*{port}.sock")]
    assert sandbox.down() == NAMES
    assert left_processes(sandbox) == []
    assert not [left for port in ports for left in Path("/tmp").glob(f"seaweedfs-*{port}.sock")]
    assert sandbox.down() == []


@pytest.mark.slow
def test_servers_listen_on_loopback_only_and_their_state_is_private(sandbox):
    sandbox.up()
    for process in left_processes(sandbox):
        listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert set(listening) == ({"127.0.0.1"} if process.pid in pids(sandbox).values() else set())
        assert client(sandbox)._request_signer._credentials.secret_key not in " ".join(process.cmdline())
    assert sandbox.directory.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_what_it_keeps_survives_a_kill_and_a_restart_on_other_ports(sandbox):
    sandbox.up()
    s3 = client(sandbox)
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="key", Body=b"x" * 5_000_000)
    environment = sandbox.environment()
    for pid in pids(sandbox).values():
        kill(pid)
    shutil.rmtree(sandbox.directory / "run")
    with occupied(int(environment["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])):
        sandbox.up()
    assert sandbox.environment()["AWS_ENDPOINT_URL_S3"] != environment["AWS_ENDPOINT_URL_S3"]
    assert sandbox.environment()["AWS_SECRET_ACCESS_KEY"] == environment["AWS_SECRET_ACCESS_KEY"]
    assert client(sandbox).get_object(Bucket="kept", Key="key")["Body"].read() == b"x" * 5_000_000


def test_a_server_killed_mid_way_is_started_again_where_it_was(sandbox):
    sandbox.up()
    before, address = pids(sandbox), sandbox.environment()["AWS_ENDPOINT_URL_S3"]
    kill(before["object-store"])
    sandbox.up()
    assert pids(sandbox)["object-store"] != before["object-store"]
    assert pids(sandbox)["aws-account"] == before["aws-account"]
    assert sandbox.environment()["AWS_ENDPOINT_URL_S3"] == address
    assert client(sandbox).list_buckets()["Buckets"] == []


@pytest.mark.slow
def test_a_server_that_hangs_is_replaced(sandbox, monkeypatch):
    monkeypatch.setattr(supervisor_module, "ANSWER_WITHIN_SECONDS", 1)
    sandbox.up()
    hanging = pids(sandbox)["aws-account"]
    os.kill(hanging, signal.SIGSTOP)
    sandbox.up()
    assert pids(sandbox)["aws-account"] != hanging
    assert not psutil.pid_exists(hanging) or psutil.Process(hanging).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_reused_pid_is_never_mistaken_for_a_server(sandbox):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert sandbox.bucket  # makes the folder
        run = sandbox.directory / "run"
        run.mkdir()
        for name in NAMES:
            record = {"pid": bystander.pid, "started": "another-boot-1", "ports": {"http": 9}}
            (run / f"{name}.json").write_text(json.dumps(record))
        sandbox.up()
        assert bystander.pid not in pids(sandbox).values()
        sandbox.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_record_counts_as_none(sandbox, damage):
    assert sandbox.bucket  # makes the folder
    run = sandbox.directory / "run"
    run.mkdir()
    for name in NAMES:
        (run / f"{name}.json").write_text(damage)
    assert [record for _, record, _ in sandbox.status()] == [None] * 4


@pytest.mark.slow
def test_usual_ports_that_are_taken_are_avoided(sandbox):
    with occupied(8333), occupied(18333), occupied(5005), occupied(8889):
        sandbox.up()
        ports = [next(iter(record.ports.values())) for _, record, _ in sandbox.status() if record]
        assert not set(ports) & {8333, 5005, 8889}


@pytest.mark.slow
def test_a_folder_deleted_while_up_leaves_no_orphan(sandbox):
    sandbox.up()
    orphans = set(pids(sandbox).values())
    shutil.rmtree(sandbox.directory)
    sandbox.up()
    alive = {process.pid for process in left_processes(sandbox)}
    assert not alive & orphans
    assert alive >= set(pids(sandbox).values())
    assert client(sandbox).list_buckets()["Buckets"] == []


@pytest.mark.slow
def test_down_stops_the_servers_of_a_folder_that_was_deleted_while_up(sandbox):
    sandbox.up()
    shutil.rmtree(sandbox.directory)
    assert sandbox.down() == NAMES
    assert left_processes(sandbox) == []


@pytest.mark.slow
def test_concurrent_callers_start_one_of_each(sandbox, workshop_command):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: workshop_command("sandbox", "up"), range(4)))
    assert [result.returncode for result in results] == [0] * 4, [result.stderr for result in results]
    servers = [process for process in left_processes(sandbox) if process.pid in pids(sandbox).values()]
    assert len(servers) == len(NAMES)
    assert {process.environ()[SERVER_MARK] for process in left_processes(sandbox)} == {
        s.environ()[SERVER_MARK] for s in servers
    }


def test_a_folder_that_cannot_be_written_is_named_with_a_way_out(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    environment = os.environ | {"WORKSHOP_SANDBOX_DIR": str(closed / "sandbox")}
    # Root may write anywhere, so the command gives up root's capabilities.
    as_anybody = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*as_anybody, sys.executable, "-m", "workshop", "sandbox", "up"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(closed / "sandbox") in done.stderr and "WORKSHOP_SANDBOX_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_a_file_is_named(tmp_path, workshop_command):
    (tmp_path / "file").write_text("")
    done = workshop_command(
        "sandbox", "up", env=os.environ | {"WORKSHOP_SANDBOX_DIR": str(tmp_path / "file" / "sandbox")}
    )
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_reset_deletes_only_what_is_its_own(borrowing_sandbox):
    sandbox = borrowing_sandbox
    (sandbox.directory / "thesis.txt").write_text("years of work")
    sandbox.up()
    sandbox.reset()
    assert [path.name for path in sandbox.directory.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_keys_that_are_lost_while_up_are_replaced_in_server_and_clients(sandbox):
    sandbox.up()
    (sandbox.directory / "identity.json").unlink()
    sandbox.up()
    assert client(sandbox).list_buckets()["Buckets"] == []


@pytest.mark.slow
def test_another_spelling_of_the_folder_is_the_same_sandbox(sandbox, tmp_path, workshop_command):
    sandbox.up()
    (tmp_path / "link").symlink_to(tmp_path)
    environment = os.environ | {"WORKSHOP_SANDBOX_DIR": str(tmp_path / "link" / "sandbox")}
    assert workshop_command("sandbox", "down", env=environment).stdout == f"stopped: {', '.join(NAMES)}\n"
    assert left_processes(sandbox) == []


@pytest.mark.slow
def test_a_damaged_identity_is_named_and_reset_mends_it(sandbox):
    assert sandbox.bucket  # makes the folder
    (sandbox.directory / "identity.json").write_text("{")
    with pytest.raises(SandboxError, match="reset"):
        sandbox.up()
    sandbox.reset()
    sandbox.up()


class Broken(Server):
    name = "broken"
    stands_for = "nothing"
    usual_ports = {"http": 0}

    def command(self, ports):
        return [sys.executable, "-c", textwrap.dedent("print('the reason why', flush=True); raise SystemExit(3)")]

    def is_ready(self, record):
        return False


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path):
    supervisor = Supervisor(tmp_path / "sandbox", [Broken(tmp_path / "sandbox" / "broken")])
    with pytest.raises(SandboxError, match=r"broken ended while it started[\s\S]*the reason why") as raised:
        supervisor.up()
    assert "reset" not in str(raised.value), "nothing says that the data are damaged"


class NotYetReady(Broken):
    """A server that answers at once, and works at the third request."""

    def command(self, ports):
        code = f"import socket, time; s = socket.create_server(('127.0.0.1', {ports['http']})); time.sleep(60)"
        return [sys.executable, "-c", code]

    def is_ready(self, record):
        return processes.listens(record.pid, record.port)

    def seed(self, record):
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked < 3:
            raise NotYet("not now")


def test_a_server_that_does_not_work_yet_is_asked_again_soon_and_the_wait_is_said(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(supervisor_module, "SAY_AFTER_SECONDS", 0)
    supervisor = Supervisor(tmp_path / "sandbox", [NotYetReady(tmp_path / "sandbox" / "broken")])
    try:
        assert supervisor.up()["broken"].seeded
    finally:
        supervisor.reset()
    assert "waiting for the broken ...\n" in capfd.readouterr().err


@pytest.mark.slow
def test_a_server_that_never_works_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "READY_WITHIN_SECONDS", 2)
    server = NotYetReady(tmp_path / "sandbox" / "broken")
    server.asked = -1000
    with pytest.raises(SandboxError, match="broken answers, but does not work: not now"):
        Supervisor(tmp_path / "sandbox", [server]).up()


class Silent(Broken):
    def command(self, ports):
        return [sys.executable, "-c", "import time; print('waiting', flush=True); time.sleep(60)"]


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "READY_WITHIN_SECONDS", 1)
    sandbox = Sandbox(tmp_path / "sandbox")
    supervisor = Supervisor(sandbox.directory, [Silent(sandbox.directory / "broken")])
    with pytest.raises(SandboxError, match=r"does not answer after 1 s[\s\S]*waiting"):
        supervisor.up()
    assert left_processes(sandbox) == []


def test_a_full_disk_is_named_with_a_way_out(sandbox, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=99 * 2**20))
    with pytest.raises(SandboxError, match=r"only 99 MB are free on the disk of .*WORKSHOP_SANDBOX_DIR"):
        sandbox.up()
    assert not pids(sandbox)


@pytest.mark.slow
def test_a_sandbox_that_is_up_may_fill_its_disk(borrowing_sandbox, monkeypatch):
    sandbox = borrowing_sandbox
    sandbox.up()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    sandbox.up()


@pytest.mark.slow
def test_a_disk_with_less_than_one_gb_has_room_for_many_buckets(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    code = """
        import sys
        from pathlib import Path
        import boto3
        from workshop.sandbox import Sandbox, apply
        sandbox = Sandbox(Path(sys.argv[1]) / "sandbox")
        sandbox.up()
        try:
            apply(sandbox.environment())
            s3 = boto3.client("s3")
            for number in range(3):
                s3.create_bucket(Bucket=f"bucket-{number}")
                s3.put_object(Bucket=f"bucket-{number}", Key="key", Body=b"content")
        finally:
            sandbox.down()
    """
    private = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    small = f"mount -t tmpfs -o size=600m tmpfs {shlex.quote(str(disk))}"
    if not shutil.which("unshare") or subprocess.run([*private, "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here; to run it: Linux, as root or with user namespaces")
    command = [sys.executable, "-c", textwrap.dedent(code), str(disk)]
    done = subprocess.run(
        [*private, "sh", "-c", f"{small} && exec {shlex.join(command)}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
