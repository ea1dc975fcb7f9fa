"""`scripts/build_image.sh`: its calls of Docker. Real builds are in tests/docker."""

import shutil
import subprocess

import pytest

from workshop.project import PROGRAMS, ROOT, versions

ENGINE = ("^version --format", "28.2.2\n")
ABSENT = ("^image inspect", "Error: No such image\n", 1)
OLD = ("^--version", "Docker version 20.10.24+dfsg1, build 297e128\n")
NEW = ("^--version", "Docker version 28.2.2, build e6534b4\n")
WITH_BUILDX = ("^buildx version", "github.com/docker/buildx v0.24.0\n")
TIME = "1767225600"


@pytest.fixture
def shell(shell):
    """A shell with a Docker that can build and has no image, and without settings."""
    shell.stand_in("docker", ENGINE, ABSENT, NEW, WITH_BUILDX)
    for name in ("PIP_CERT", "PIP_CONFIG_FILE", "SOURCE_DATE_EPOCH", "COMPONENT_BASE_IMAGE", "COMPONENT_REPOSITORY"):
        shell.environment.pop(name, None)
    return shell


def name_of(shell, *arguments: str, **variables: str) -> str:
    done = shell.run("build_image.sh", "--name", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def builds(shell) -> list[str]:
    return [call for call in shell.calls if call.startswith("docker build ")]


def build_command(
    kind: str,
    image: str,
    *more: str,
    base: str | None = None,
    time: str = TIME,
    file: str = "",
    platform: str = "linux/amd64",
) -> str:
    words = [
        *("docker", "build", "--platform", platform, "--tag", image, "--file", file or f"docker/{kind}/Dockerfile"),
        *("--build-arg", f"BASE_IMAGE={base or versions()['COMPONENT_BASE_IMAGE']}"),
        *("--build-arg", f"SOURCE_DATE_EPOCH={time}", "--build-arg", f"VERSION={image.partition(':')[2]}"),
    ]
    return " ".join([*words, *more, "."])


@pytest.mark.parametrize(
    "kind, repository", [("component", "python-components"), ("notebook", "python-components-notebook")]
)
def test_the_tag_is_a_checksum_and_the_name_is_the_last_line(shell, kind, repository):
    image = name_of(shell, kind)
    name, _, tag = image.partition(":")
    assert name == repository and len(tag) == 12 and int(tag, 16) >= 0
    shell.forget_calls()
    done = shell.run("build_image.sh", kind)
    assert done.returncode == 0, done.stderr
    assert builds(shell) == [build_command(kind, image)]
    assert done.stdout.splitlines()[-1] == image


def test_the_component_image_is_the_default(shell):
    assert name_of(shell) == name_of(shell, "component")


def test_an_existing_image_is_not_built_again(shell):
    shell.stand_in("docker", ENGINE, ("^image inspect", "[{}]\n"), NEW, WITH_BUILDX)
    done = shell.run("build_image.sh")
    assert done.returncode == 0 and "there already; nothing to do" in done.stderr
    assert builds(shell) == [] and done.stdout.strip() == name_of(shell)


def test_another_platform_gives_another_image(shell):
    arm = name_of(shell, IMAGE_PLATFORM="linux/arm64")
    assert arm != name_of(shell)
    shell.forget_calls()
    assert shell.run("build_image.sh", IMAGE_PLATFORM="linux/arm64").returncode == 0
    assert builds(shell) == [build_command("component", arm, platform="linux/arm64")]
    assert shell.run("build_image.sh", IMAGE_PLATFORM="windows").returncode == 2


def test_another_dockerfile_gets_another_tag(shell, tmp_path):
    mine = tmp_path / "Dockerfile"
    mine.write_text((ROOT / "docker" / "component" / "Dockerfile").read_text())
    assert name_of(shell, "--file", str(mine)) == name_of(shell), "the same content gives the same tag"
    mine.write_text(mine.read_text() + "ENV MINE=yes\n")
    image = name_of(shell, "--file", "Dockerfile")
    assert image != name_of(shell)
    shell.forget_calls()
    assert shell.run("build_image.sh", "--file", "Dockerfile").returncode == 0
    assert builds(shell) == [build_command("component", image, file=str(mine))]
    assert shell.run("build_image.sh", "--file", "missing").returncode == 2


def test_another_base_image_or_time_gives_another_tag(shell):
    names = {
        name_of(shell),
        name_of(shell, COMPONENT_BASE_IMAGE="debian:12"),
        name_of(shell, SOURCE_DATE_EPOCH="1"),
    }
    assert len(names) == 3


@pytest.mark.slow
def test_only_files_of_the_image_change_its_tag(shell, project_copy):
    def name(kind: str) -> str:
        command = ["bash", str(project_copy / "scripts" / "build_image.sh"), "--name", kind]
        return subprocess.run(command, env=shell.environment, capture_output=True, text=True, check=True).stdout

    assert {name("component"), name("notebook")} == {name_of(shell, kind) + "\n" for kind in ("component", "notebook")}
    component, notebook = name("component"), name("notebook")
    (project_copy / "settings.env").write_text("AWS_DEFAULT_REGION=us-east-1\n")
    (project_copy / "pipelines" / "__pycache__").mkdir(exist_ok=True)
    (project_copy / "pipelines" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (project_copy / "notebooks" / "mine.ipynb").write_text("{}")
    assert (name("component"), name("notebook")) == (component, notebook)
    (project_copy / "README.md").write_text("other")
    assert name("component") == component and name("notebook") != notebook
    (project_copy / "pipelines" / "components.py").write_text("other")
    assert name("component") != component


@pytest.mark.slow
def test_uncommitted_files_of_the_image_are_reported(shell, project_copy):
    def build() -> str:
        command = ["bash", str(project_copy / "scripts" / "build_image.sh")]
        done = subprocess.run(command, env=shell.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    git = ["git", "-C", str(project_copy), "-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"]
    assert "not committed" not in build()  # no git here: nothing to compare with
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=m"]):
        subprocess.run([*git, *words], check=True)
    assert "not committed" not in build()
    (project_copy / "README.md").write_text("does not go into this image")
    assert "not committed" not in build()
    (project_copy / "pipelines" / "components.py").write_text("other")
    assert "not committed" in build()


def test_settings_and_options_after_two_dashes_reach_docker(shell, tmp_path):
    mirrors, certificates = tmp_path / "pip.conf", tmp_path / "ca.pem"
    for file in (mirrors, certificates):
        file.write_text("x")
    done = shell.run(
        "build_image.sh",
        *("--tag", "v1", "--", "--network", "host"),
        COMPONENT_BASE_IMAGE="python@sha256:" + "0" * 64,
        COMPONENT_REPOSITORY="team/parts",
        SOURCE_DATE_EPOCH="7",
        PIP_CONFIG_FILE=str(mirrors),
        PIP_CERT=str(certificates),
    )
    assert done.returncode == 0, done.stderr
    more = f"--secret id=pip.conf,src={mirrors} --secret id=ca.crt,src={certificates} --network host"
    base = "python@sha256:" + "0" * 64
    assert builds(shell) == [build_command("component", "team/parts:v1", more, base=base, time="7")]


@pytest.mark.slow
def test_a_dry_run_builds_nothing_and_its_pasted_command_does_the_same(shell):
    dry = shell.run("build_image.sh", "--dry-run", "notebook", "--", "--label", "of=my own")
    assert dry.returncode == 0 and builds(shell) == []
    pasted = shell.paste(dry.stdout)
    assert pasted.returncode == 0, pasted.stderr
    from_paste = builds(shell)
    shell.forget_calls()
    shell.run("build_image.sh", "notebook", "--", "--label", "of=my own")
    assert from_paste == builds(shell) and len(from_paste) == 1


def test_a_dry_run_needs_no_docker(shell):
    (shell.programs / "docker").unlink()
    dry = shell.run("build_image.sh", "--dry-run")
    assert dry.returncode == 0 and "docker build --platform linux/amd64 --tag python-components:" in dry.stdout


def test_a_missing_docker_exits_with_3_and_says_how_to_install_it(shell):
    (shell.programs / "docker").unlink()
    done = shell.run("build_image.sh")
    assert done.returncode == 3 and "https://docs.docker.com/engine/install/" in done.stderr


def test_an_engine_that_does_not_answer_exits_with_3_and_shows_its_error(shell):
    shell.stand_in("docker", ("^version --format", "Cannot connect to the Docker daemon\n", 1), NEW)
    done = shell.run("build_image.sh")
    assert done.returncode == 3 and "Cannot connect to the Docker daemon" in done.stderr and builds(shell) == []


def test_only_a_new_client_needs_buildx_and_exits_with_3_without_it(shell):
    shell.stand_in("docker", ENGINE, ABSENT, NEW, ("^buildx version", "unknown command\n", 1))
    done = shell.run("build_image.sh")
    assert done.returncode == 3 and "buildx" in done.stderr and builds(shell) == []
    shell.stand_in("docker", ENGINE, ABSENT, OLD, ("^buildx version", "unknown command\n", 1))
    assert shell.run("build_image.sh").returncode == 0


def test_a_failed_build_exits_with_1_and_prints_no_name(shell):
    shell.stand_in("docker", ENGINE, ABSENT, NEW, WITH_BUILDX, ("^build ", "no space left on device\n", 17))
    done = shell.run("build_image.sh")
    assert done.returncode == 1 and "no space left on device" in done.stderr and "python-components" not in done.stdout


def test_a_base_image_that_cannot_be_pulled_exits_with_3_and_advice(shell):
    shell.stand_in("docker", ENGINE, ABSENT, NEW, WITH_BUILDX, ("^build ", "no\n", 1), ("^pull ", "no such host\n", 1))
    done = shell.run("build_image.sh", COMPONENT_BASE_IMAGE="r.io/base:1")
    assert done.returncode == 3 and "r.io/base:1" in done.stderr and "no such host" in done.stderr
    assert "COMPONENT_BASE_IMAGE" in done.stderr


@pytest.mark.parametrize(
    "arguments, variables, said",
    [
        (["--wrong"], {}, "unknown option"),
        (["database"], {}, "there is no image database"),
        (["component", "notebook"], {}, "one image at a time"),
        (["--tag"], {}, "--tag needs a value"),
        (["--tag", "latest"], {}, "or name a version"),
        (["--tag", "a b"], {}, 'the tag is "a b"'),
        (["--tag", "-x"], {}, 'the tag is "-x"'),
        ([], {"COMPONENT_REPOSITORY": "Upper"}, 'COMPONENT_REPOSITORY is "Upper"'),
        ([], {"COMPONENT_BASE_IMAGE": "--privileged"}, 'COMPONENT_BASE_IMAGE is "--privileged"'),
        ([], {"SOURCE_DATE_EPOCH": "today"}, 'SOURCE_DATE_EPOCH is "today"'),
    ],
    ids=str,
)
def test_invalid_arguments_and_settings_exit_with_2_before_any_call(shell, arguments, variables, said):
    done = shell.run("build_image.sh", *arguments, **variables)
    assert done.returncode == 2 and said in done.stderr and shell.calls == []


def test_a_missing_file_for_pip_is_named(shell):
    done = shell.run("build_image.sh", PIP_CONFIG_FILE="/nowhere/pip.conf")
    assert done.returncode == 1 and "/nowhere/pip.conf" in done.stderr and builds(shell) == []


def test_the_content_of_pip_conf_is_in_no_output_and_on_no_command_line(shell, tmp_path):
    mirrors = tmp_path / "pip.conf"
    mirrors.write_text("[global]\nindex-url = https://me:very-private@mirror.example.com/simple\n")
    done = shell.run("build_image.sh", trace=True, PIP_CONFIG_FILE=str(mirrors))
    assert done.returncode == 0 and "very-private" not in done.stdout + done.stderr + "".join(shell.calls)


@pytest.mark.skipif(not shutil.which("shasum"), reason="no shasum on this machine; to run it: install perl")
def test_shasum_of_macos_gives_the_same_tag_as_sha256sum(shell):
    name = name_of(shell)
    (shell.programs / "sha256sum").unlink()
    shell.provide("shasum")
    shell.provide("perl")
    assert name_of(shell) == name


def test_the_dockerfiles_use_the_base_image_of_versions_env_and_pass_hadolint():
    files = sorted((ROOT / "docker").glob("*/Dockerfile"))
    assert len(files) == 2
    for file in files:
        assert f"ARG BASE_IMAGE={versions()['COMPONENT_BASE_IMAGE']}\n" in file.read_text()
        assert "HEALTHCHECK" not in file.read_text()
    done = subprocess.run([PROGRAMS / "hadolint", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
