#!/usr/bin/env python3
"""Uploads a compiled pipeline to Kubeflow Pipelines, as a new pipeline or as a new version of an existing one."""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from project_python import use_project_python

use_project_python("kfp")

import yaml
from steps import MISSING, WRONG_USAGE, ScriptError, Step, call, run, say, show

from workshop import settings
from workshop.errors import WorkshopError

ABOUT = """\
Uploads FILE, the YAML that `kfp dsl compile` wrote. If no pipeline has that name, FILE becomes a new pipeline and its
first version. Otherwise FILE becomes a new version. If a version already has the content of FILE, nothing is uploaded,
so a second call changes nothing. A version is never replaced.
"""
ENDING = """\
settings, from the environment or settings.env:
  KF_PIPELINES_ENDPOINT   address of Kubeflow Pipelines. A Kubeflow notebook server does not need it.
                          For the sandbox: eval "$(workshop sandbox env)"

exit status: 0 done, 1 failed, 2 wrong usage, 3 the kfp package is missing, or Kubeflow Pipelines does not answer
"""


def main() -> None:
    arguments = parse_arguments()
    name, content = read_pipeline(arguments.file)
    try:
        os.environ.update(settings.read().environment())
    except WorkshopError as error:
        raise ScriptError(str(error), WRONG_USAGE) from None
    name = arguments.name or name
    version = arguments.version or f"v-{hashlib.sha256(arguments.file.read_bytes()).hexdigest()[:12]}"
    client = connect()
    pipeline_id = ask(lambda: find_pipeline(client, name))
    if not pipeline_id:
        step = creation(client, arguments, name)
    else:
        versions = ask(lambda: list(list_versions(client, pipeline_id)))
        same = next((found.display_name for found in versions if found.pipeline_spec == content), None)
        if same is not None:
            say(f"the pipeline {name} has this as its version {same} already; nothing to do")
            return
        if version in [found.display_name for found in versions]:
            raise ScriptError(
                f"the pipeline {name} has a version {version} already, made from another file. Choose another "
                "--version, or leave --version out: the name then comes from the content."
            )
        step = new_version(client, arguments, name, pipeline_id, version)
    (show if arguments.dry_run else run)([step])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=ENDING, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="compiled pipeline")
    parser.add_argument("--name", type=text, help="the pipeline's name (default: the name in FILE)")
    parser.add_argument(
        "--version",
        type=text,
        help="name of a new version (default: v- and the first 12 digits of the file's SHA-256 checksum)",
    )
    parser.add_argument("--description", type=text, metavar="TEXT", help="description of the version")
    parser.add_argument("--dry-run", action="store_true", help="print the command that would upload; upload nothing")
    return parser.parse_args()


def text(value: str) -> str:
    if not value:
        raise argparse.ArgumentTypeError("needs a value")
    return value


def read_pipeline(file: Path) -> tuple[str, Any]:
    """Return the name of a compiled pipeline, and its content in the form in which the server gives it back."""
    try:
        spec, *platform = yaml.safe_load_all(file.read_bytes())
        name = spec["pipelineInfo"]["name"]
    except OSError as error:
        raise ScriptError(
            f"{file} cannot be read ({error.strerror}); compile it first: kfp dsl compile --py X.py --output X.yaml"
        ) from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        raise ScriptError(
            f"{file} is not a compiled pipeline: it has no pipelineInfo.name. See: kfp dsl compile --help"
        ) from None
    return name, {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec


def connect() -> Any:
    """Return a client of Kubeflow Pipelines. The import of kfp takes a second, so the script first looks for wrong
    usage."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    # In the sandbox, the path of the endpoint is a secret, and the log of retries shows it.
    logging.disable(logging.CRITICAL)
    from kfp.client import Client

    return ask(Client)


def find_pipeline(client: Any, name: str) -> str:
    """Return the id of a pipeline, or ""."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    found = client.list_pipelines(filter=json.dumps({"predicates": [predicate]})).pipelines or []
    return next((pipeline.pipeline_id for pipeline in found if pipeline.display_name.lower() == name.lower()), "")


def list_versions(client: Any, pipeline_id: str) -> Iterator[Any]:
    """Yield every version of a pipeline, the newest first."""
    token: str | None = ""
    while token is not None:
        page = client.list_pipeline_versions(pipeline_id, page_token=token, page_size=100, sort_by="created_at desc")
        yield from page.pipeline_versions or []
        token = page.next_page_token or None


def creation(client: Any, arguments: argparse.Namespace, name: str) -> Step:
    return Step(
        ("kfp", "pipeline", "create", f"--pipeline-name={name}", *description(arguments), *file_words(arguments)),
        lambda: upload(
            arguments.file,
            lambda: client.upload_pipeline(str(arguments.file), name, arguments.description),
        ),
        after=f"uploaded {arguments.file} as the new pipeline {name}",
    )


def new_version(client: Any, arguments: argparse.Namespace, name: str, pipeline_id: str, version: str) -> Step:
    words = (f"--pipeline-id={pipeline_id}", f"--pipeline-version={version}", *description(arguments))
    return Step(
        ("kfp", "pipeline", "create-version", *words, *file_words(arguments)),
        lambda: upload(
            arguments.file,
            lambda: client.upload_pipeline_version(
                str(arguments.file), version, pipeline_id, description=arguments.description
            ),
        ),
        after=f"uploaded {arguments.file} as the version {version} of the pipeline {name}",
    )


def description(arguments: argparse.Namespace) -> list[str]:
    return [f"--description={arguments.description}"] if arguments.description else []


def file_words(arguments: argparse.Namespace) -> list[str]:
    return ["--", str(arguments.file)]


def upload(file: Path, change: Callable[[], object]) -> None:
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    try:
        quietly(change)
    except (ApiException, HTTPError, ValueError) as error:
        raise ScriptError(f"{file} was not uploaded: {reason(error)}") from None


def ask(question: Callable[[], Any]) -> Any:
    """Return an answer of Kubeflow Pipelines; without one, end with status 3."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return quietly(question)
    except (ApiException, HTTPError, OSError, ValueError) as error:
        raise ScriptError(
            f"Kubeflow Pipelines does not answer as it should: {reason(error)}\n"
            "Is KF_PIPELINES_ENDPOINT right, and the server up?",
            MISSING,
        ) from None


def quietly(action: Callable[[], Any]) -> Any:
    """Call the SDK without its prints, which show the secret address of the sandbox."""
    with contextlib.redirect_stdout(io.StringIO()):
        return action()


def reason(error: Exception) -> str:
    """Return the server's message, without the secret path of the endpoint."""
    said = getattr(error, "body", None) or str(error)
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        answer = json.loads(said)
        said = answer.get("message") or answer.get("error_details") or answer.get("error_message") or said
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    said = said.strip() or type(error).__name__
    path = urlsplit(os.environ.get("KF_PIPELINES_ENDPOINT", "")).path.strip("/")
    return said.replace(f"/{path}", "/...") if path else said


if __name__ == "__main__":
    call(main)
