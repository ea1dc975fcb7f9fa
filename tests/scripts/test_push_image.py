"""`scripts/push_image.sh`: recorded calls of Docker, a real AWS CLI and an emulated ECR. Real pushes: tests/docker."""

import json
import subprocess
from pathlib import Path

import pytest

from workshop.project import ROOT

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ENGINE = ("^version --format", "28.2.2\n")
ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
ABSENT = ("^manifest inspect", "no such manifest: somewhere\n", 1)
TOKEN = "123456789012-auth-token"  # the token of the emulated account


def described(digest: str) -> str:
    """The output of `docker manifest inspect --verbose` for an image."""
    descriptor = {"mediaType": "m", "digest": digest, "size": 1}
    config = {"mediaType": "m", "size": 1, "digest": OTHER}
    return json.dumps({"Ref": "r", "Descriptor": descriptor, "SchemaV2Manifest": {"config": config}}, indent=1)


def digests(*names: str) -> tuple[str, str]:
    return "^image inspect --format", "\n".join(names) + "\n"


@pytest.fixture
def shell(shell):
    for name in ("PIP_CERT", "SOURCE_DATE_EPOCH", "COMPONENT_BASE_IMAGE", "COMPONENT_REPOSITORY", "DOCKER_CONFIG"):
        shell.environment.pop(name, None)
    return shell


@pytest.fixture
def image(shell) -> str:
    """The name of the component image."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/build_image.sh"), "--name"], env=shell.environment, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def ecr(shell, account, unique):
    """An ECR repository in the emulated account, and Docker with the image."""
    del shell.environment["WORKSHOP_TARGET"], shell.environment["REGISTRY"]
    shell.environment["COMPONENT_REPOSITORY"] = unique
    shell.stand_in("docker", ENGINE, digests(f"{ECR}/{unique}@{DIGEST}"))
    aws(shell, "ecr", "create-repository", "--repository-name", unique, "--image-tag-mutability", "IMMUTABLE")
    return unique


def aws(shell, *arguments: str) -> str:
    command = [str(shell.programs / "aws"), *arguments, "--output", "json"]
    environment = {name: value for name, value in shell.environment.items() if value}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def changing(shell) -> list[str]:
    return [call for call in shell.calls if call.split()[1] in ("login", "tag", "push", "logout")]


def test_another_registry_gets_the_image_and_the_digest_is_the_last_line(shell, image):
    name = image.partition(":")[0]
    shell.stand_in("docker", ENGINE, ABSENT, digests(f"other/{name}@{OTHER}", f"127.0.0.1:5000/{name}@{DIGEST}"))
    done = shell.run("push_image.sh", REGISTRY="127.0.0.1:5000")
    assert done.returncode == 0, done.stderr
    assert changing(shell) == [f"docker tag {image} 127.0.0.1:5000/{image}", f"docker push 127.0.0.1:5000/{image}"]
    assert f"docker manifest inspect --verbose --insecure 127.0.0.1:5000/{image}" in shell.calls
    assert done.stdout.splitlines()[-1] == f"127.0.0.1:5000/{name}@{DIGEST}"


def test_a_registry_outside_loopback_is_read_with_encryption(shell, image):
    shell.stand_in("docker", ENGINE, ABSENT, digests(f"ghcr.io/team/python-components@{DIGEST}"))
    done = shell.run("push_image.sh", REGISTRY="ghcr.io/team")
    assert done.returncode == 0, done.stderr
    assert f"docker manifest inspect --verbose ghcr.io/team/{image}" in shell.calls
    assert done.stdout.splitlines()[-1] == f"ghcr.io/team/python-components@{DIGEST}"


def test_an_image_of_the_registry_is_not_pushed_again(shell, image):
    shell.stand_in("docker", ENGINE, ("^manifest inspect", described(DIGEST)))
    done = shell.run("push_image.sh", REGISTRY="localhost:5000")
    assert done.returncode == 0 and "there already; nothing to do" in done.stderr
    assert changing(shell) == [] and done.stdout == f"localhost:5000/python-components@{DIGEST}\n"


@pytest.mark.slow
def test_a_given_tag_is_never_moved(shell):
    shell.stand_in(
        "docker", ENGINE, ("^manifest inspect", described(DIGEST)), digests(f"r.io/python-components@{OTHER}")
    )
    done = shell.run("push_image.sh", "--tag", "v1", REGISTRY="r.io")
    assert done.returncode == 1 and "never moved" in done.stderr and DIGEST in done.stderr and changing(shell) == []
    shell.stand_in(
        "docker", ENGINE, ("^manifest inspect", described(DIGEST)), digests(f"r.io/python-components@{DIGEST}")
    )
    assert shell.run("push_image.sh", "--tag", "v1", REGISTRY="r.io").returncode == 0


@pytest.mark.parametrize(
    "said, status, advice",
    [
        ("unauthorized: authentication required", 3, "docker login r.io"),
        ("denied: access forbidden", 3, "docker login r.io"),
        ("connection refused", 1, "does not answer as a registry"),
    ],
)
def test_an_error_of_the_registry_is_shown_with_advice(shell, said, status, advice):
    shell.stand_in("docker", ENGINE, ("^manifest inspect", f"{said}\n", 1))
    done = shell.run("push_image.sh", REGISTRY="r.io/team")
    assert done.returncode == status and said in done.stderr and advice in done.stderr and changing(shell) == []


@pytest.mark.slow
def test_private_ecr_gets_a_token_from_aws_then_the_image(shell, ecr):
    done = shell.run("push_image.sh")
    assert done.returncode == 0, done.stderr
    login, tag, push = changing(shell)
    assert login == f"docker login --username AWS --password-stdin {ECR}"
    assert tag.split()[2].startswith(f"{ecr}:") and tag.split()[3] == f"{ECR}/{tag.split()[2]}"
    assert push == f"docker push {tag.split()[3]}"
    assert [given for given in shell.inputs if given] == [f"{TOKEN}\n"]
    assert done.stdout.splitlines()[-1] == f"{ECR}/{ecr}@{DIGEST}"


@pytest.mark.slow
def test_an_image_of_private_ecr_is_not_pushed_again(shell, ecr):
    tag = shell.run("build_image.sh", "--name").stdout.strip().partition(":")[2]
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": {"digest": OTHER}, "layers": []})
    put = aws(shell, "ecr", "put-image", "--repository-name", ecr, "--image-tag", tag, "--image-manifest", manifest)
    there = json.loads(put)["image"]["imageId"]["imageDigest"]
    done = shell.run("push_image.sh")
    assert done.returncode == 0, done.stderr
    assert "there already; nothing to do" in done.stderr and changing(shell) == []
    assert done.stdout == f"{ECR}/{ecr}@{there}\n"


@pytest.mark.slow
def test_a_missing_repository_is_named_with_the_command_that_creates_it(shell, ecr):
    done = shell.run("push_image.sh", "notebook")
    assert done.returncode == 1 and f"COMPONENT_REPOSITORY={ecr}-notebook scripts/create_registry.sh" in done.stderr
    assert changing(shell) == []


def test_public_ecr_is_read_in_us_east_1(shell, image):
    missing = "\nAn error occurred (ImageNotFoundException) when calling the DescribeImages operation: none\n"
    shell.stand_in("aws", ("describe-images", missing, 254), ("get-login-password", "public-token\n"))
    shell.stand_in("docker", ENGINE, digests(f"public.ecr.aws/a1b2/python-components@{DIGEST}"))
    done = shell.run("push_image.sh", REGISTRY="public.ecr.aws/a1b2")
    assert done.returncode == 0, done.stderr
    tag = image.partition(":")[2]
    assert [call for call in shell.calls if call.startswith("aws ")] == [
        "aws ecr-public describe-repositories --region us-east-1 --repository-names python-components",
        "aws ecr-public describe-images --region us-east-1 --repository-name python-components "
        f"--image-ids imageTag={tag} --query 'imageDetails[0].imageDigest' --output text",
        "aws ecr-public get-login-password --region us-east-1",
    ]
    assert changing(shell) == [
        "docker login --username AWS --password-stdin public.ecr.aws",
        f"docker tag {image} public.ecr.aws/a1b2/{image}",
        f"docker push public.ecr.aws/a1b2/{image}",
    ]
    assert "public-token\n" in shell.inputs
    assert done.stdout.splitlines()[-1] == f"public.ecr.aws/a1b2/python-components@{DIGEST}"


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(shell, ecr):
    dry = shell.run("push_image.sh", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert changing(shell) == [] and TOKEN not in dry.stdout + dry.stderr
    pasted = shell.paste(dry.stdout)
    assert pasted.returncode == 0, pasted.stderr
    from_paste = changing(shell)
    shell.forget_calls()
    shell.run("push_image.sh")
    assert from_paste == changing(shell) and len(from_paste) == 3


@pytest.mark.slow
def test_a_dry_run_needs_neither_docker_nor_a_repository(shell, ecr):
    (shell.programs / "docker").unlink()
    dry = shell.run("push_image.sh", "--dry-run", "notebook")
    assert dry.returncode == 0 and f"docker push {ECR}/{ecr}-notebook:" in dry.stdout
    assert "docker is not installed" in dry.stderr and "has no repository" in dry.stderr


@pytest.mark.slow
def test_the_token_is_in_no_output_on_no_command_line_and_in_no_file_afterwards(shell, ecr):
    done = shell.run("push_image.sh", trace=True)
    assert done.returncode == 0
    assert TOKEN not in done.stdout + done.stderr + "".join(shell.calls)
    home = Path(shell.environment["HOME"])
    holding = [
        path for path in home.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 10**6
    ]
    assert not [path for path in holding if path.name != "calls.jsonl" and TOKEN in path.read_text(errors="replace")]


def login_settings(shell, config: dict | None, **folders: str) -> dict:
    """Push with these settings of Docker. Return the settings that `docker login` used."""
    home = Path(shell.environment["HOME"]) / ".docker"
    home.mkdir()
    if config is not None:
        (home / "config.json").write_text(json.dumps(config, indent=1))
    for folder, file in folders.items():
        (home / folder).mkdir()
        (home / folder / file).write_text("kept")
    report = home.parent / "report.json"
    docker = shell.programs / "docker"
    recorder = docker.rename(shell.programs / "docker.recorder")
    docker.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = login ]; then\n'
        "  settings=${DOCKER_CONFIG:-$HOME/.docker}\n"
        f'  {{ cd "$settings" && pwd && ls && cat contexts/meta config.json; }} >{report} 2>&1\n'
        '  echo left-by-login >"$settings/left"\n'
        "fi\n"
        f'exec {recorder} "$@"\n'
    )
    docker.chmod(0o755)
    done = shell.run("push_image.sh")
    assert done.returncode == 0, done.stderr
    text = report.read_text() if report.exists() else ""
    return {"folder": text.partition("\n")[0], "text": text, "home": str(home), "kept": (home / "left").exists()}


@pytest.mark.slow
def test_without_a_credential_helper_the_login_is_deleted_and_contexts_and_plugins_still_work(shell, ecr):
    found = login_settings(
        shell, {"currentContext": "mine", "auths": {}}, contexts="meta", **{"cli-plugins": "docker-buildx"}
    )
    assert found["folder"] != found["home"] and not Path(found["folder"]).exists() and not found["kept"]
    assert '"currentContext": "mine"' in found["text"] and "kept" in found["text"] and "cli-plugins" in found["text"]


@pytest.mark.slow
def test_a_credential_helper_keeps_the_login(shell, ecr):
    found = login_settings(shell, {"credsStore": "osxkeychain"})
    assert found["folder"] == found["home"] and found["kept"]


@pytest.mark.slow
def test_a_credential_helper_of_the_registry_needs_no_login(shell, ecr):
    found = login_settings(shell, {"credHelpers": {ECR: "ecr-login"}})
    assert found["text"] == "" and [call.split()[1] for call in changing(shell)] == ["tag", "push"]


def test_a_missing_image_is_named_with_the_command_that_builds_it(shell):
    shell.stand_in("docker", ENGINE, ABSENT, ("^image inspect", "No such image\n", 1))
    done = shell.run("push_image.sh", "--tag", "v1", "notebook", REGISTRY="r.io")
    assert done.returncode == 1 and "scripts/build_image.sh --tag v1 notebook" in done.stderr and changing(shell) == []


def test_the_emulated_account_of_the_sandbox_refuses_images_with_advice(shell, account):
    shell.stand_in("docker", ENGINE)
    done = shell.run("push_image.sh", REGISTRY=ECR)
    assert done.returncode == 3 and "docker-registry" in done.stderr and changing(shell) == []
    dry = shell.run("push_image.sh", "--dry-run", REGISTRY=ECR)
    assert dry.returncode == 0 and f"docker push {ECR}/python-components:" in dry.stdout


def test_a_missing_docker_exits_with_3(shell):
    done = shell.run("push_image.sh", REGISTRY="r.io")
    assert done.returncode == 3 and "https://docs.docker.com/engine/install/" in done.stderr


def test_an_engine_that_does_not_answer_exits_with_3(shell):
    shell.stand_in("docker", ("^version --format", "Cannot connect to the Docker daemon\n", 1))
    done = shell.run("push_image.sh", REGISTRY="r.io")
    assert done.returncode == 3 and "Cannot connect to the Docker daemon" in done.stderr


@pytest.mark.slow
def test_missing_aws_credentials_exit_with_3(shell, ecr):
    done = shell.run("push_image.sh", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert done.returncode == 3 and "aws sso login" in done.stderr and changing(shell) == []


def test_a_denial_of_aws_exits_with_1_and_is_shown(shell):
    denied = "\nAn error occurred (AccessDeniedException) when calling the DescribeRepositories operation: not you\n"
    shell.stand_in("aws", ("ecr ", denied, 254))
    shell.stand_in("docker", ENGINE)
    done = shell.run("push_image.sh", REGISTRY=ECR, AWS_DEFAULT_REGION="us-east-1")
    assert (
        done.returncode == 1 and "not you" in done.stderr and "administrator" in done.stderr and changing(shell) == []
    )


def test_a_failed_push_exits_with_1_and_prints_no_digest(shell):
    shell.stand_in("docker", ENGINE, ABSENT, ("^push", "received unexpected HTTP status: 507\n", 1))
    done = shell.run("push_image.sh", REGISTRY="r.io")
    assert done.returncode == 1 and "507" in done.stderr and "sha256:" not in done.stdout


@pytest.mark.parametrize(
    "arguments, variables, said",
    [
        (["--wrong"], {}, "unknown option"),
        (["database"], {}, "there is no image database"),
        (["component", "notebook"], {}, "one image at a time"),
        (["--tag"], {}, "--tag needs a value"),
        (["--tag", "latest"], {}, "the tag latest"),
        ([], {"REGISTRY": "https://r.io"}, "without https://"),
        ([], {"REGISTRY": "r.io/"}, "without a / at its end"),
        ([], {"REGISTRY": "-r.io"}, 'REGISTRY is "-r.io"'),
        ([], {"REGISTRY": "r.io;id"}, 'REGISTRY is "r.io;id"'),
        ([], {"REGISTRY": "public.ecr.aws"}, "public.ecr.aws/ALIAS"),
        ([], {"REGISTRY": "r.io", "COMPONENT_REPOSITORY": "Upper"}, 'COMPONENT_REPOSITORY is "Upper"'),
    ],
    ids=str,
)
def test_invalid_arguments_and_settings_exit_with_2_before_any_call(shell, arguments, variables, said):
    shell.stand_in("docker")
    shell.stand_in("aws")
    done = shell.run("push_image.sh", *arguments, **variables)
    assert done.returncode == 2 and said in done.stderr and shell.calls == []
