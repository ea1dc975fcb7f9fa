"""Every way in which a login at AWS ends gives exit status 3 and says how to log in: in scripts, lessons, connect()."""

import subprocess

import pytest
from botocore import exceptions

from workshop.aws_logins import login_advice
from workshop.connect import LoginError, connect
from workshop.project import ROOT
from workshop.sandbox import apply

CALL = "when calling the GetCallerIdentity operation"
ENDINGS = [
    (
        f"An error occurred (ExpiredToken) {CALL}: The security token included in the request is expired",
        "aws sso login",
    ),
    (f"An error occurred (ExpiredTokenException) {CALL}: The security token is expired", "aws sso login"),
    (f"An error occurred (InvalidClientTokenId) {CALL}: The security token is invalid.", "aws sso login"),
    (f"An error occurred (UnrecognizedClientException) {CALL}: invalid", "aws sso login"),
    ("An error occurred (AuthFailure) when calling the DescribeVolumes operation: not able", "aws sso login"),
    (f"An error occurred (SignatureDoesNotMatch) {CALL}: The request signature we calculated", "aws sso login"),
    (f"An error occurred (SignatureDoesNotMatch) {CALL}: Signature expired: 2 is now earlier than 3", "clock"),
    (f"An error occurred (SignatureDoesNotMatch) {CALL}: Signature not yet current: 3 is still later than 2", "clock"),
    ("An error occurred (RequestTimeTooSkewed) when calling the ListBuckets operation: too large", "clock"),
    ("An error occurred (AccessDenied) when calling the AssumeRole operation: MultiFactorAuthentication failed", "MFA"),
    (
        "An error occurred (AccessDenied) when calling the AssumeRole operation: User: x is not authorized",
        "source_profile",
    ),
    (
        "An error occurred (ForbiddenException) when calling the GetRoleCredentials operation: No access",
        "aws sso login",
    ),
    ("An error occurred (InvalidGrantException) when calling the CreateToken operation: ", "aws sso login"),
    ('Unable to locate credentials. You can configure credentials by running "aws configure".', "aws sso login"),
    ("Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY", "Export both"),
    ("Partial credentials found in shared-credentials-file, missing: aws_secret_access_key", "Export both"),
    ("The config profile (nobody) could not be found", "aws configure sso"),
    ("Error loading SSO Token: Token for my-sso does not exist", "aws sso login"),
    ("Error when retrieving token from sso: Token has expired and refresh failed", "aws sso login"),
    ("The SSO session associated with this profile has expired or is otherwise invalid.", "aws sso login"),
    ("Your session has expired. Please reauthenticate using 'aws login'.", "`aws login`"),
    ("Credentials were refreshed, but the refreshed credentials are still expired.", "aws sso login"),
    ("Error when retrieving credentials from custom-process: \nplease log in\n", "credential_process"),
    ("Error when retrieving credentials from iam-role: Credential refresh failed, response did not contain: x", "role"),
    ("Unable to parse config file: /home/x/.aws/config", "~/.aws/config"),
    ("EOF when reading a line", "MFA"),
]
NO_LOGINS = [
    "An error occurred (AccessDenied) when calling the ListRoles operation: User: x is not authorized to perform: y",
    "An error occurred (NoSuchBucket) when calling the ListObjectsV2 operation: The specified bucket does not exist",
    'Could not connect to the endpoint URL: "http://127.0.0.1:1/"',
    "An error occurred (Throttling) when calling the DescribeClusters operation: Rate exceeded",
]


@pytest.mark.parametrize(("said", "advice"), ENDINGS)
def test_python_says_how_to_log_in(said, advice):
    assert advice in login_advice(said)


@pytest.mark.parametrize("said", NO_LOGINS)
def test_other_errors_are_not_taken_for_a_login(said):
    assert login_advice(said) == ""


def test_the_scripts_give_the_same_advice(shell):
    code = 'usage() { :; }; . "$1/scripts/lib.sh"; shift; for said; do ws_print_login_advice "$said" || echo none; done'
    texts = [said for said, _ in ENDINGS] + NO_LOGINS
    done = subprocess.run(["bash", "-c", code, "-", str(ROOT), *texts], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [login_advice(text) or "none" for text in texts]


@pytest.mark.parametrize("said", [ENDINGS[0][0], ENDINGS[-4][0]])
def test_a_script_exits_with_3(shell, said):
    shell.stand_in("aws", ("sts", f"\n{said}\n", 255))
    done = shell.run("create_registry.sh", AWS_DEFAULT_REGION="us-east-1")
    assert done.returncode == 3 and login_advice(said) in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        exceptions.NoCredentialsError(),
        exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        exceptions.CredentialRetrievalError(provider="custom-process", error_msg="no"),
        exceptions.ProfileNotFound(profile="x"),
        exceptions.SSOTokenLoadError(error_msg="Token for x does not exist"),
        exceptions.TokenRetrievalError(provider="sso", error_msg="Token has expired and refresh failed"),
        exceptions.UnauthorizedSSOTokenError(),
        exceptions.RefreshWithMFAUnsupportedError(),
        exceptions.InfiniteLoopConfigError(source_profile="a", visited_profiles=["a"]),
        exceptions.ConfigParseError(path="~/.aws/config", error="no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_of_botocore_about_a_login_is_known(error):
    assert login_advice(error)


def profile(tmp_path, lines: str) -> dict[str, str]:
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = us-east-1\n[profile mine]\nregion = us-east-1\n{lines}\n")
    return {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_PROFILE": "mine",
    }


@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        ("credential_process = false", "credential_process"),
        ("sso_session = s\nsso_account_id = 1\nsso_role_name = r\n[sso-session s]\nsso_region = us-east-1\n"
         "sso_start_url = https://x.example", "aws sso login"),
        ("role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = nobody", "source_profile"),
        ("aws_access_key_id = x", "Export both"),
    ],
    ids=["process", "sso", "source_profile", "partial"],
)  # fmt: skip
def test_connect_raises_a_login_error_with_status_3(tmp_path, lines, advice):
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_EC2_METADATA_DISABLED": "true"})
    apply(profile(tmp_path, lines) | {"HOME": str(tmp_path)})
    with pytest.raises(LoginError, match=advice) as caught:
        connect()
    assert caught.value.exit_status == 3


def test_the_command_connect_exits_with_3_and_a_cluster_without_settings_does_not(tmp_path, workshop_command):
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_EC2_METADATA_DISABLED": "true"})
    apply(profile(tmp_path, "credential_process = false") | {"HOME": str(tmp_path)})
    done = workshop_command("connect")
    assert done.returncode == 3 and "AWS does not accept your credentials" in done.stderr
    apply({"WORKSHOP_BUCKET": ""})
    assert workshop_command("connect").returncode == 1


@pytest.mark.slow
def test_a_lesson_that_fails_for_a_login_exits_with_3(tmp_path, workshop_command):
    apply({"WORKSHOP_TARGET": "eks", "WORKSHOP_BUCKET": "my-bucket", "AWS_EC2_METADATA_DISABLED": "true"})
    apply(profile(tmp_path, "credential_process = false") | {"HOME": str(tmp_path)})
    done = workshop_command("run", "03", "--output", str(tmp_path / "out"))
    assert done.returncode == 3 and "credential_process" in done.stdout
