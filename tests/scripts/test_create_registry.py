"""`scripts/create_registry.sh`, against the emulated account."""

import json

import pytest

from tests.support.account import client

TAG = {"Key": "project", "Value": "first-kubeflow-pipeline"}


@pytest.fixture
def ecr(account):
    return client(account, "ecr")


@pytest.fixture(autouse=True)
def credentials(account, monkeypatch):
    for name, value in account.environment().items():
        monkeypatch.setenv(name, value or "")


@pytest.fixture
def create(shell, unique):
    return lambda *arguments, **options: shell.run(
        "create_registry.sh", *arguments, **{"COMPONENT_REPOSITORY": unique} | options
    )


def state(ecr, name) -> dict:
    found = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    return {
        "tags cannot move": found["imageTagMutability"],
        "scans": found["imageScanningConfiguration"],
        "encryption": found["encryptionConfiguration"],
        "lifecycle": json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"]),
        "tags": ecr.list_tags_for_resource(resourceArn=found["repositoryArn"])["tags"],
    }


def test_the_first_run_makes_the_repository_and_the_second_changes_nothing(create, ecr, unique):
    first = create()
    assert first.returncode == 0, first.stderr
    address = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{unique}"
    assert first.stdout.splitlines()[-1] == address
    made = state(ecr, unique)
    assert made["tags cannot move"] == "IMMUTABLE" and made["scans"] == {"scanOnPush": True}
    assert made["encryption"] == {"encryptionType": "AES256"} and made["tags"] == [TAG]
    untagged, tagged = made["lifecycle"]["rules"]
    assert untagged["selection"]["countNumber"] == 7 and tagged["selection"]["countNumber"] == 20

    second = create()
    assert second.returncode == 0 and state(ecr, unique) == made
    assert second.stdout.splitlines() == [f"the repository {unique} has the right settings; nothing to do", address]


@pytest.mark.slow
def test_other_settings_of_a_repository_are_corrected_and_each_change_is_printed(create, ecr, unique):
    ecr.create_repository(repositoryName=unique, imageTagMutability="MUTABLE")
    done = create("--keep", "3", "--untagged-days", "1")
    assert done.returncode == 0, done.stderr
    for change in (
        "as a repository of this project",
        "IMMUTABLE (before: MUTABLE)",
        "now scans each image",
        "the newest 3 images",
    ):
        assert change in done.stdout
    assert state(ecr, unique)["lifecycle"]["rules"][0]["selection"]["countNumber"] == 1


@pytest.mark.slow
def test_a_repository_with_images_of_another_project_is_not_changed(create, ecr, unique):
    ecr.create_repository(repositoryName=unique, imageTagMutability="MUTABLE")
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "0" * 64, "size": 1}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}
    ecr.put_image(repositoryName=unique, imageTag="mine", imageManifest=json.dumps(manifest))
    done = create()
    assert done.returncode == 1 and "was not made by this project" in done.stderr
    found = ecr.describe_repositories(repositoryNames=[unique])["repositories"][0]
    assert found["imageTagMutability"] == "MUTABLE"


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_its_pasted_commands_do_the_same(create, shell, ecr, unique):
    shown = create("--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert unique not in [found["repositoryName"] for found in ecr.describe_repositories()["repositories"]]
    pasted = shell.paste(shown.stdout)
    assert pasted.returncode == 0, pasted.stderr
    assert "nothing to do" in create().stdout


def test_a_public_repository_is_created_in_us_east_1(create, shell, unique):
    shell.programs.joinpath("aws").unlink()
    missing = "An error occurred (RepositoryNotFoundException) when calling the DescribeRepositories operation: none"
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("describe-repositories", missing, 254))
    shown = create("--public", "--dry-run")
    assert shown.stdout == (
        f"aws ecr-public create-repository --region us-east-1 --repository-name {unique} "
        "--tags Key=project,Value=first-kubeflow-pipeline\n"
    )
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("describe-repositories", "public.ecr.aws/a/b\n"))
    again = create("--public")
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == "public.ecr.aws/a/b"


def test_a_denial_of_aws_exits_with_1_and_is_shown(create, shell):
    shell.programs.joinpath("aws").unlink()
    said = "An error occurred (AccessDeniedException) when calling the DescribeRepositories operation: no"
    shell.stand_in("aws", ("get-caller-identity", "123456789012\n"), ("ecr", said, 254))
    done = create()
    assert done.returncode == 1 and said in done.stderr and "administrator" in done.stderr


def test_missing_credentials_exit_with_3(create):
    done = create(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert done.returncode == 3 and "aws sso login" in done.stderr


def test_a_missing_aws_cli_exits_with_3(create, shell):
    shell.programs.joinpath("aws").unlink()
    done = create()
    assert done.returncode == 3 and "aws is not installed" in done.stderr


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["--keep"], ["--untagged-days", "x"], ["extra"]], ids=str)
def test_wrong_usage_exits_with_2(create, arguments):
    assert create(*arguments).returncode == 2


@pytest.mark.parametrize("name", ["Upper", "a", "a//b", "x; id"])
def test_a_bad_name_exits_with_2_before_any_call(create, shell, name):
    shell.programs.joinpath("aws").unlink()
    shell.stand_in("aws")
    assert create(COMPONENT_REPOSITORY=name).returncode == 2
    assert shell.calls == []
