"""Both images, built and pushed by the scripts on a real Docker engine, with a real registry.

The first builds take minutes, so these tests run only on request: `pytest -n 0 --images tests/docker`.
"""

import json
import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from filelock import FileLock

from tests.support import base_image
from workshop import toc
from workshop.lessons import prepare_folder, run_one
from workshop.project import ROOT
from workshop.sandbox import docker_engine

pytestmark = [pytest.mark.docker, pytest.mark.images]
LESSONS = "/home/jovyan/first-kubeflow-pipeline"
READ_ONLY = {"read_only": True, "tmpfs": {"/tmp": "exec"}}
RUN_THE_PIPELINE = """
import json, os, sys
from kfp import dsl, local
from workshop.connect import avoid_spaces_in_the_path_of_python

avoid_spaces_in_the_path_of_python()
runner, root, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
os.umask(0)
from pipelines.unzip_and_read import unzip_and_read_pipeline

box = {"user": "1000:1000", "read_only": True, "tmpfs": {"/tmp": ""}, "network_mode": "host"}
environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_") and "FILE" not in name}
docker = runner == "docker"
runner = local.DockerRunner(environment=environment, **box) if docker else local.SubprocessRunner(use_venv=False)
local.init(runner, pipeline_root=root)
table = unzip_and_read_pipeline(**arguments).output
print(json.dumps({"rows": table.metadata["rows"], "text": open(table.path).read()}))
"""


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    try:
        client = docker_engine.connect(timeout=300)
    except docker_engine.NoDockerEngine as error:
        pytest.skip(f"{error}; to run it: start Docker")
    yield client
    client.close()


@pytest.fixture(scope="session")
def environment(engine, tmp_path_factory) -> dict[str, str]:
    """The variables with which the scripts use a `docker` that can build, and a base image made by debootstrap."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "image.lock"):
        try:
            base_image.ensure(engine)
        except base_image.CannotMakeImage as error:
            pytest.skip(str(error))
    programs = tmp_path_factory.mktemp("programs")
    (programs / "docker").symlink_to(base_image.client_that_builds())
    return {"PATH": f"{programs}:{os.environ['PATH']}", "COMPONENT_BASE_IMAGE": base_image.PLAIN}


@pytest.fixture(scope="session")
def script(environment, tmp_path_factory):
    """Return a function that calls a script without the settings of this machine."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WORKSHOP_", "REGISTRY"))}
    base |= environment | {"WORKSHOP_SETTINGS": str(tmp_path_factory.getbasetemp() / "none.env")}

    def call(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        command = [str(ROOT / "scripts" / name), *arguments]
        done = subprocess.run(command, env=base | variables, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="session")
def build(script, tmp_path_factory):
    """Return a function that builds an image, once for all processes of this run, and returns its name."""

    def once(kind: str) -> str:
        with FileLock(tmp_path_factory.getbasetemp().parent / f"{kind}.lock"):
            return last_line(script("build_image.sh", kind, "--", "--network", "host"))

    return once


@pytest.fixture(scope="session")
def component(build) -> str:
    return build("component")


@pytest.fixture(scope="session")
def notebook(build) -> str:
    return build("notebook")


@pytest.fixture(scope="session")
def pushed(script, component, shared_sandbox, tmp_path_factory) -> str:
    """The name of the component image in the sandbox's registry, with its digest."""
    registry = shared_sandbox.environment()["REGISTRY"]
    if not registry.startswith("127."):
        pytest.skip("the sandbox has no registry; to run it: apt-get install docker-registry")
    return last_line(script("push_image.sh", "component", REGISTRY=registry))


@pytest.fixture
def notebook_server(engine, notebook):
    """Return a function that starts a notebook server on an empty volume for the home; remove all at the end."""
    volume, started = engine.volumes.create(f"test-home-{uuid.uuid4().hex}"), []
    # Docker copies the image's files into a new volume, and Kubernetes does not. A first mount elsewhere prevents this.
    engine.containers.run(
        notebook, ["chown", "1000:100", "/mnt"], user="0", volumes={volume.name: {"bind": "/mnt"}}, remove=True
    )

    def start(**options):
        for container in started:
            container.stop(timeout=5)
        volumes = {volume.name: {"bind": "/home/jovyan"}}
        container = engine.containers.run(
            notebook,
            detach=True,
            volumes=volumes,
            environment={"NB_PREFIX": "/notebook/me/lessons"},
            network_mode="none",
            **options,
        )
        started.append(container)
        return container

    yield start
    for container in started:
        container.remove(force=True)
    volume.remove(force=True)


@contextmanager
def removed(engine, image: str):
    """Remove an image from the engine. The layers of the image stay if another process of these tests may use them."""
    found = engine.images.get(image)
    names = found.tags if "PYTEST_XDIST_WORKER" not in os.environ else [t for t in found.tags if t.startswith("127.")]
    for name in names:
        engine.images.remove(name, force=True)
    with pytest.raises(docker.errors.ImageNotFound):
        engine.images.get(image)
    yield
    for name in names:
        engine.images.get(image).tag(name)


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stdout.splitlines()[-1]


def run_in(engine, image: str, command: str, **options) -> str:
    return engine.containers.run(image, ["sh", "-c", command], remove=True, stderr=True, **options).decode()


def inside(container, *command: str) -> str:
    done = container.exec_run(command)
    assert done.exit_code == 0, done.output.decode()
    return done.output.decode()


def ask(container, path: str) -> dict:
    """Make a request to a notebook server from inside its container; repeat it until the server answers."""
    source = f"""
import json, time, urllib.error, urllib.request
for _ in range(300):
    try:
        answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8888{path}", headers={{"Origin": "https://kubeflow"}}))
        print(json.dumps({{"status": answer.status, "headers": dict(answer.headers), "text": answer.read().decode()}}))
        break
    except urllib.error.HTTPError as error:
        print(json.dumps({{"status": error.code}}))
        break
    except OSError:
        time.sleep(0.2)
"""
    return json.loads(inside(container, "python3", "-c", source) or "{}")


def run_the_pipeline(runner: str, image: str, folder: Path, **arguments: str) -> dict:
    root = folder / "root"
    root.mkdir(parents=True)
    root.chmod(0o777)  # the image runs as another user
    program = folder / "program.py"
    program.write_text(RUN_THE_PIPELINE)
    command = [sys.executable, str(program), runner, str(root), json.dumps(arguments)]
    environment = os.environ | {"COMPONENT_IMAGE": image}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(last_line(done))


def test_the_pushed_image_and_plain_processes_produce_the_same_rows(engine, pushed, s3, bucket, olist_zip, tmp_path):
    s3.upload_file(str(olist_zip), bucket, "olist.zip")
    arguments = {"bucket_name": bucket, "zip_key": "olist.zip", "csv_name": "olist_orders_dataset.csv"}
    with removed(engine, pushed):
        engine.images.pull(pushed)
    tmp_path.chmod(0o755)
    in_docker = run_the_pipeline("docker", pushed, tmp_path / "docker", output_prefix="in-docker", **arguments)
    in_process = run_the_pipeline("subprocess", pushed, tmp_path / "process", output_prefix="in-process", **arguments)
    assert in_docker == in_process and in_docker["rows"] > 20


def test_a_second_push_pushes_nothing_and_prints_the_same_digest(script, pushed, shared_sandbox):
    again = script("push_image.sh", REGISTRY=shared_sandbox.environment()["REGISTRY"])
    assert again.stdout == f"{pushed}\n" and "there already; nothing to do" in again.stderr
    assert pushed.partition("/")[2].startswith("python-components@sha256:")


def test_lesson_02_writes_the_image_with_its_digest(environment, pushed, s3, tmp_path):
    os.environ |= environment
    prepare_folder(tmp_path / "work")
    result = run_one(toc.select(["02"])[0], tmp_path / "work", {})
    assert not result.error and not result.skipped, result.error or result.skipped
    assert (tmp_path / "work" / "image.txt").read_text().split()[-1] == pushed


def test_a_second_build_builds_nothing(script, component):
    again = script("build_image.sh", "component", "--", "--network", "host")
    assert again.stdout == f"{component}\n" and "there already; nothing to do" in again.stderr


def test_two_builds_have_the_same_layers(engine, script, component):
    again = last_line(
        script(
            "build_image.sh", "component", "--", "--no-cache", "--network", "host", COMPONENT_REPOSITORY="built-again"
        )
    )
    try:
        first, second = engine.images.get(component), engine.images.get(again)
        assert first.attrs["RootFS"] == second.attrs["RootFS"]
        # From version 23 on, the engine's builder writes SOURCE_DATE_EPOCH into the image's description, too.
        if int(engine.version()["Version"].partition(".")[0]) >= 23:
            assert first.id == second.id
    finally:
        engine.images.remove(again)


def test_tasks_run_as_a_user_without_rights_on_a_read_only_root(engine, component):
    said = run_in(
        engine,
        component,
        "id -u; id -un; touch /tmp/mine && echo wrote; touch /opt/venv/x 2>&1; touch /x 2>&1; "
        "python3 -c 'import pipelines.unzip_and_read'",
        **READ_ONLY,
    )
    assert said.splitlines()[:3] == ["1000", "component", "wrote"]
    assert said.count("Read-only file system") == 2
    assert "denied" in run_in(engine, component, "touch /opt/venv/x || true; touch /etc/passwd || true")


def test_the_image_has_no_compiler_no_health_check_and_no_root(engine, component):
    tools = "gcc cc g++ make ld as cpp"
    assert run_in(engine, component, f"for tool in {tools}; do command -v $tool; done; true") == ""
    config = engine.images.get(component).attrs["Config"]
    assert config["User"] == "1000:1000" and not config.get("Healthcheck")
    assert "setuptools" not in run_in(engine, component, "ls /opt/venv/lib/python3*/site-packages")


def test_the_image_holds_the_packages_of_the_lock_and_no_others(engine, component):
    found = run_in(engine, component, "python3 -m pip list --format freeze")
    versions = run_in(engine, component, "python3 -c 'import sys; print(sys.version_info[1])'").strip()
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--no-deps"]
    lock = str(ROOT / "docker" / "component" / "requirements.txt")
    wanted = subprocess.run(
        [*command, f"--python-version=3.{versions}", lock], capture_output=True, text=True, check=True
    )
    assert sorted(map(normal, found.split())) == sorted(map(normal, wanted.stdout.split()))


def normal(pin: str) -> str:
    return pin.lower().replace("_", "-").replace(".", "-")


def test_the_images_hold_no_pip_configuration_and_no_settings_of_this_machine(engine, component, notebook):
    places = '/run/secrets /etc/pip.conf "$(getent passwd 0 | cut -d: -f6)/.config/pip" /build'
    for image in (component, notebook):
        assert run_in(engine, image, f"ls -A {places} 2>/dev/null || true", user="0") == ""
        history = json.dumps(engine.images.get(image).history()) + json.dumps(engine.images.get(image).attrs["Config"])
        assert "PIP_CERT=/etc" not in history and str(ROOT) not in history and "index-url" not in history
    hidden = "find /opt/first-kubeflow-pipeline -name '.*' -o -name settings.env -o -name __pycache__ -o -name tests"
    assert run_in(engine, notebook, hidden) == ""


def test_packages_to_install_reach_a_task_on_a_read_only_root(engine, component, tiny_wheel):
    tiny_wheel.parent.chmod(0o755)
    said = run_in(
        engine,
        component,
        f"python3 -m pip install --quiet /wheels/{tiny_wheel.name} && "
        "python3 -c 'import tinypackage; print(tinypackage.VALUE)'",
        volumes={str(tiny_wheel.parent): {"bind": "/wheels", "mode": "ro"}},
        network_mode="none",
        **READ_ONLY,
    )
    assert said == "42\n"


def test_a_notebook_server_answers_below_its_prefix_for_any_origin(notebook_server):
    container = notebook_server()
    answer = ask(container, "/notebook/me/lessons/api/status")
    assert answer["status"] == 200 and answer["headers"]["Access-Control-Allow-Origin"] == "*"
    assert ask(container, "/notebook/me/lessons/lab")["status"] == 200  # no login: Kubeflow checks the user
    assert ask(container, "/api/status")["status"] == 404
    assert inside(container, "id").startswith("uid=1000(jovyan) gid=100(users)")


def test_lessons_appear_in_an_empty_home_and_a_second_start_keeps_the_readers_changes(notebook_server):
    container = notebook_server()
    ask(container, "/notebook/me/lessons/api/status")
    lessons = inside(container, "ls", f"{LESSONS}/notebooks").split()
    assert "00_start_here.ipynb" in lessons and "toc.yml" in lessons
    inside(container, "sh", "-c", f"echo mine >{LESSONS}/notebooks/00_start_here.ipynb; rm {LESSONS}/README.md")
    second = notebook_server()
    ask(second, "/notebook/me/lessons/api/status")
    assert inside(second, "cat", f"{LESSONS}/notebooks/00_start_here.ipynb") == "mine\n"
    assert "README.md" not in inside(second, "ls", LESSONS)


def test_an_interrupted_copy_of_the_lessons_is_repeated(notebook_server):
    container = notebook_server(command=["sh", "-c", f"mkdir {LESSONS}.part && touch {LESSONS}.part/half"])
    container.wait()
    second = notebook_server()
    ask(second, "/notebook/me/lessons/api/status")
    assert "half" not in inside(second, "ls", LESSONS) and "pipelines" in inside(second, "ls", LESSONS)
    assert inside(second, "ls", "/home/jovyan") == "first-kubeflow-pipeline\n"


def test_a_notebook_imports_the_readers_copy_of_the_project_and_pip_works(notebook_server):
    container = notebook_server()
    ask(container, "/notebook/me/lessons/api/status")
    source = """
import nbclient, nbformat
cell = nbformat.v4.new_code_cell("import kfp, pipelines.components, workshop; print(workshop.__file__)")
book = nbformat.v4.new_notebook(cells=[cell])
nbclient.execute(book, kernel_name="python3")
print(book.cells[0].outputs[0].text)
"""
    assert inside(container, "python3", "-c", source).split()[-1] == f"{LESSONS}/workshop/__init__.py"
    assert inside(container, "workshop", "--help")
    assert "Writable" in inside(
        container, "sh", "-c", "python3 -m pip --version >/dev/null && test -w /opt/venv && echo Writable"
    )
