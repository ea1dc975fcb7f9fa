"""One table of settings: both readers agree, and the generated files are up to date."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.settings import names, read_all_in_bash, read_in_bash, read_in_python
from workshop import settings, toc
from workshop.project import ROOT, versions

# Values for each setting, as they stand behind NAME=.
COMMON = [
    "",
    " ",
    "# a comment alone",
    " # a comment alone",
    "x",
    "2",
    "true",
    "1.34",
    "a b",
    "a-b # mine",
    "a-b\t# mine",
    "a-b#mine",
    "  a-b  ",
    "'a-b'",
    '"a-b"',
    "'a-b' # mine",
    '"a-b"   ',
    "'a-b\"",
    "'a-b",
    "'a'-'b'",
    "a-'b'",
    '""',
    "''",
    "'a-b' c",
    "'a # b'",
    "'a=b'",
    "a=b",
    "$(touch was-run)",
    "`touch was-run`",
    "$HOME",
    "${HOME}",
    "~/x",
    "a\\nb",
    "a\\ b",
    "a;b",
    "a|b",
    "a*",
    "[a-z]",
    "a\tb",
    "a\vb",
    "a\0b",
    "a\rb",
    "a-b\r",
    "a-b\r\r",
    "ärger",
    "日本",
    "éa",
    "a\u00a0b",
    "a\u2028b",
    "-a",
    "a-",
    ".a",
    "A",
    "-e",
    "a" * 63,
    "a" * 64,
    "a" * 300,
]
PARTICULAR = {
    "WORKSHOP_TARGET": ["sandbox", "kind", "eks", "in-cluster", "EKS", "eks # mine", "'eks'", "eks kind", "minikube"],
    "WORKSHOP_BUCKET": [
        "my-bucket",
        "my-bucket # mine",
        "my.bucket",
        "a.-b1",
        "a-.b1",
        "a..b",
        "192.168.1.1",
        "192.168.1.1a",
        "1.2.3",
        "1.2.3.4.5",
        "ab",
        "abc",
        "under_score",
        "My-Bucket",
        "xn--bucket",
        "sthree-bucket",
        "amzn-s3-demo-bucket",
        "bucket-s3alias",
        "bucket--ol-s3",
        "bucket.mrap",
        "bucket--x-s3",
        "bucket--table-s3",
        "bücket",
        "bucket-",
        "-bucket",
    ],
    "AWS_DEFAULT_REGION": [
        "us-east-1",
        "us-gov-west-1",
        "'us-east-1'",
        "us-east",
        "us-east-1a",
        "Virginia",
        "u-east-1",
    ],
    "AWS_PROFILE": ["default", "my profile", "Ünï", "a/b@c"],
    "AWS_ENDPOINT_URL_S3": [
        "http://localhost:8080",
        "https://s3.example.com",
        "https://s3.example.com/",
        "http://user:pass@host:1/path?x=y",
        "http://[::1]:80",
        "http://[::1",
        "http://",
        "http://host:0",
        "http://host:65535",
        "http://host:65536/",
        "http://host:99999",
        "http://host:abc",
        "HTTP://host",
        "ftp://host",
        "localhost:8080",
        "http://a b",
        "http://host#part",
        "http://host #mine",
        "http://münchen.de",
    ],
    "CLUSTER_NAME": ["kubeflow-demo", "1st", "a" * 100, "a" * 101, "a_b", "a.b", "*"],
    "NODE_TYPE": ["m6i.xlarge", "u-6tb1.metal", "large", "m6i.", "M6i.xlarge"],
    "NODE_COUNT": ["0", "1", "99", "100", "02", "+2", "2.0", "\u0661", "many"],
    "NODE_SPOT": ["false", "True", "yes", "'false'"],
    "KUBERNETES_VERSION": ["1.35", "v1.35", "1.35.1", "1"],
    "REGISTRY": [
        "r.io",
        "r.io:5000",
        "127.0.0.1:5000",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "public.ecr.aws",
        "public.ecr.aws/alias",
        "r.io/",
        "https://r.io",
        "-r.io",
        "r.io;id",
        "r.io:x",
    ],
    "COMPONENT_REPOSITORY": ["python-components", "team/a_b.c", "a//b", "Upper", "a--b", "/a", "a/"],
    "COMPONENT_IMAGE": [f"r.io:5000/a/b@sha256:{'0' * 64}", "a:latest", "--privileged", "a b"],
    "IMAGE_PLATFORM": ["linux/arm64", "linux/arm/v7", "windows", "linux/"],
    "SOURCE_DATE_EPOCH": ["0", "1767225600", "today", "-1", "1e9"],
    "PIP_CERT": ["/a b/c.pem", "'/a b/c.pem'", "/ärger.pem", "relative.pem"],
    "KUBEFLOW_NAMESPACE": ["kubeflow", "a_b", "a.b", "1a"],
    "WORKSHOP_DATA": ["/data", "/a b", "data", "~/data", "/日本/ä", "/"],
}
LINES = [
    "export CLUSTER_NAME=a",
    "CLUSTER_NAME",
    "CLUSTER_NAME =a",
    "CLUSTER_NAME: a",
    "cluster_name=a",
    "=a",
    "nonsense",
    "1A=b",
    "CLUSTER_NAME=a\nCLUSTER_NAME=b",
    "CLUSTER_NAME=a\n# between\nNODE_COUNT=3\nCLUSTER_NAME=a",
    "CLUSTER_NAME=\nCLUSTER_NAME=b",
    "NODE_COUNT=3\nNODE_COUNT_MAX=4",
    "  CLUSTER_NAME=a  ",
    "\tCLUSTER_NAME=a",
    "\u00a0CLUSTER_NAME=a",
    "\ufeffCLUSTER_NAME=a",
    "# a comment\n\n   \n  # another\nCLUSTER_NAME=a",
    "# a comment with a\0zero byte",
    "CLUSTER_NAME=a\r\nNODE_COUNT=3\r\n\r\n# end\r\n",
    "CLUSTER_NAME=a\rNODE_COUNT=3\r",
    "",
    "\n\n",
    "AWS_PROFILE=p",
    "LD_PRELOAD=/tmp/x.so",
    "PYTHONPATH=/tmp/x",
    "PATH=/tmp/x",
    "BASH_ENV=/tmp/x",
    "IFS=x",
    "HOME=/tmp/x",
    "PROJECT=/tmp/x",
    "LC_ALL=de_DE.UTF-8",
    "WORKSHOP_SETTINGS=/tmp/x",
    "WORKSHOP_SANDBOX_DIR=/tmp/x",
    "WORKSHOP_CONNECTED=sandbox",
    "AWS_REGION=us-east-1",
    "AWS_ACCESS_KEY_ID=x",
    "AWS_SECRET_ACCESS_KEY=x",
    "AWS_SESSION_TOKEN=x",
    "KAGGLE_KEY=x",
    "EKSCTL_VERSION=1",
    "KUBEFLOW_PIPELINES_VERSION=2.15.0",
]
# A set of characters in a pattern, such as [a-z0-9]: no [^...], no class such as [:alpha:], no backslash.
SETS = re.compile(r"\[[^\\\]\[^][^\\\]\[]*\]")
# WORKSHOP_TEST_BASH names another bash, such as bash 3.2, the oldest that the scripts support.
BASHES = sorted(
    {os.path.realpath(path) for path in (shutil.which("bash"), os.environ.get("WORKSHOP_TEST_BASH")) if path}
)


def contents() -> list[str]:
    """Return the text of one `settings.env` a case."""
    found = list(LINES)
    for name in names():
        values = [*(COMMON if name in ("WORKSHOP_BUCKET", "CLUSTER_NAME", "PIP_CERT") else COMMON[:12])]
        found += [f"{name}={value}" for value in [*values, *PARTICULAR.get(name, [])]]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("bash", BASHES)
def test_python_and_bash_read_every_file_alike(tmp_path, bash):
    texts = contents()
    files = [tmp_path / f"{number}.env" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode())
    in_python = [read_in_python(file, {}) for file in files]
    in_bash = read_all_in_bash([(file, "") for file in files], bash)
    for text, one, other in zip(texts, in_python, in_bash, strict=True):
        assert one == other, text
    refused = sum(isinstance(answer, str) for answer in in_python)
    assert len(texts) >= 200 and refused >= 100 and len(texts) - refused >= 100
    assert not Path("was-run").exists()


@pytest.mark.parametrize("bash", BASHES)
def test_python_and_bash_judge_the_environment_alike(tmp_path, bash):
    cases = [(name, value) for name, values in PARTICULAR.items() for value in values]
    cases += [("CLUSTER_NAME", value) for value in COMMON if "\0" not in value]
    cases += [("AWS_REGION", "us-west-2"), ("AWS_REGION", "nowhere"), ("CLUSTER_NAME", "a\n"), ("PIP_CERT", "/a\nb")]
    cases += [
        ("PIP_CERT", "/\udcff"),
        ("CLUSTER_NAME", "\udcff"),
        ("NODE_COUNT", "2\n"),
        ("DOCKER_VERSION", "nonsense"),
    ]
    files = [tmp_path / f"{number}.env" for number in range(len(cases))]
    in_bash = read_all_in_bash(
        [(file, f"{name}={value}") for file, (name, value) in zip(files, cases, strict=True)], bash
    )
    for file, (name, value), answer in zip(files, cases, in_bash, strict=True):
        assert read_in_python(file, {name: value}) == answer, (name, value)


def test_a_locale_changes_nothing_in_bash(tmp_path):
    file = tmp_path / "settings.env"
    for text in ("CLUSTER_NAME=ärger", "WORKSHOP_BUCKET=bücket", "PIP_CERT=/ä b", "NODE_COUNT=\u0661"):
        file.write_text(text)
        assert read_in_bash(file, {"LC_ALL": "C.UTF-8"}) == read_in_bash(file, {}) == read_in_python(file, {})


def test_the_environment_wins_over_the_file_and_an_empty_value_is_not_set(tmp_path):
    file = tmp_path / "settings.env"
    file.write_text("CLUSTER_NAME=from-the-file\nNODE_COUNT=3\nAWS_DEFAULT_REGION=eu-west-1\n")
    environment = {"CLUSTER_NAME": "from-the-environment", "NODE_COUNT": "", "AWS_REGION": "us-west-2"}
    found = read_in_python(file, environment)
    assert found == read_in_bash(file, environment)
    assert (found["CLUSTER_NAME"], found["NODE_COUNT"]) == ("from-the-environment", "3")
    assert found["AWS_DEFAULT_REGION"] == "us-west-2"


@pytest.mark.parametrize("text, value", [("WORKSHOP_BUCKET=my-bucket # mine", "my-bucket"), ("NODE_COUNT=", "2")])
def test_a_comment_ends_a_value(tmp_path, text, value):
    file = tmp_path / "settings.env"
    file.write_text(text)
    assert read_in_python(file, {})[text.partition("=")[0]] == value


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "BASH_ENV"])
def test_a_name_outside_the_table_reaches_no_process(tmp_path, name):
    file = tmp_path / "settings.env"
    file.write_text(f"{name}={tmp_path}/mine\n")
    expected = f"{file}, line 1: {name} is not a setting. Delete the line; docs/settings.md lists the settings."
    before = os.environ.get(name)
    assert read_in_python(file, {}) == read_in_bash(file, {}) == expected
    assert os.environ.get(name) == before
    # The script ends before it starts any program that could see the variable.
    seen = subprocess.run(
        ["bash", "-c", '. "$0/scripts/lib.sh"; usage() { env; }; ws_read_settings; env', str(ROOT)],
        env={"PATH": os.environ["PATH"], "WORKSHOP_SETTINGS": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.returncode == 2 and f"{tmp_path}/mine" not in seen.stdout + seen.stderr


def test_keys_do_not_belong_in_the_file(tmp_path):
    file = tmp_path / "settings.env"
    file.write_text("AWS_SECRET_ACCESS_KEY=topsecret\n")
    said = read_in_python(file, {})
    assert "AWS_SECRET_ACCESS_KEY does not belong in this file" in said and "aws configure sso" in said
    assert "topsecret" not in said


def test_a_process_connected_to_the_sandbox_takes_no_profile_from_the_file(tmp_path):
    file = tmp_path / "settings.env"
    file.write_text("AWS_PROFILE=production\n")
    connected = {"WORKSHOP_CONNECTED": "sandbox"}
    assert read_in_python(file, connected)["AWS_PROFILE"] == read_in_bash(file, connected)["AWS_PROFILE"] == ""
    assert read_in_python(file, {})["AWS_PROFILE"] == "production"


def test_a_folder_in_place_of_the_file_is_refused_and_a_missing_file_sets_nothing(tmp_path):
    assert read_in_python(tmp_path / "none", {}) == read_in_bash(tmp_path / "none", {})
    for said in (read_in_python(tmp_path, {}), read_in_bash(tmp_path, {})):
        assert said.startswith(f"{tmp_path} cannot be read") and said.endswith("it must be a text file.")


def test_every_row_of_the_table_is_a_typed_attribute_and_the_default_obeys_its_rule():
    assert [field.name.upper() for field in fields(settings.Settings)] == names()
    for setting in settings.table().values():
        assert setting.meaning.endswith("."), setting.name
        if setting.in_file:
            assert setting.must and setting.group
            assert all(setting.accepts(value) for value in (setting.default, setting.example) if value), setting.name


def test_the_patterns_hold_only_what_bash_and_python_read_alike():
    portable = re.compile(rf"\\[\[\]]|{SETS.pattern}|\{{[0-9]+(,[0-9]*)?\}}|[()|?*+^$.]|[A-Za-z0-9:/@%_,;=-]")
    for setting in settings.table().values():
        for pattern in (setting.accept, setting.refuse):
            assert portable.sub("", pattern) == "", f"{setting.name}: {pattern}"
            assert "(?" not in SETS.sub("x", pattern) and not re.search(r"[*+?}][*+?]", SETS.sub("x", pattern)), (
                f"{setting.name}: {pattern}"
            )


def test_defaults_come_from_versions_env():
    found = settings.Settings(**{field.name: "" for field in fields(settings.Settings)})
    assert found.environment() == {}
    for name in ("KUBERNETES_VERSION", "KUBEFLOW_VERSION", "KUBEFLOW_PIPELINES_VERSION", "COMPONENT_BASE_IMAGE"):
        assert settings.table()[name].default == versions()[name]


def test_reading_the_settings_imports_no_large_package():
    code = "import sys; from workshop import settings; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"boto3", "kfp", "pydantic", "yaml", "nbformat"} & set(done.stdout.split())


def test_every_setting_that_a_script_reads_is_in_the_table():
    read = set()
    for script in (ROOT / "scripts").glob("*.sh"):
        read |= set(re.findall(r"^ *ws_require_setting ([A-Z_]+)", script.read_text(), re.MULTILINE))
    assert read and read <= set(names())


def test_the_template_and_the_tables_of_the_docs_are_up_to_date():
    assert [path.name for path in toc.outdated_texts()] == [], "run `workshop generate`"
    assert all(f"`{name}`" in settings.documentation() for name in settings.table())
    assert all(re.search(f"^# {name}=", settings.template(), re.MULTILINE) for name in names())
