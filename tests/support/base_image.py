"""Makes the images for the tests with Docker by debootstrap, without a registry. Run this file to make them.

Both images hold Debian 12 with its Python and pip. PLAIN is the base of other images; tasks run in WITH_KFP.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import docker

KFP = importlib.metadata.version("kfp")
RELEASE = "bookworm"
PLAIN = f"workshop-test-base:{RELEASE}"
WITH_KFP = f"workshop-test-base:kfp-{KFP}"
PROBE = "workshop-test-base:probe"


class CannotMakeImage(Exception):
    """An image does not exist and cannot be made."""


def ensure(client: docker.DockerClient) -> None:
    """Make the images that do not exist yet.

    Raises:
        CannotMakeImage: debootstrap or root is missing, or a package cannot be fetched.
    """
    missing = [image for image in (PLAIN, WITH_KFP) if not client.images.list(image)]
    if not missing:
        return
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        raise CannotMakeImage(
            f"there is no image {missing[0]}; to make it: install debootstrap and run this as root, or give this tag "
            "to an image of Python 3 with pip, and with kfp if the tag ends with its version"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        _import(client, root, PROBE)  # an engine that cannot import images fails here, a minute earlier
        client.images.remove(PROBE)
        packages = "--include=python3,python3-pip,ca-certificates"
        _call("debootstrap", "--variant=minbase", packages, RELEASE, str(root), *_mirror())
        python = next((root / "usr/lib").glob("python3.*"))
        (
            python / "EXTERNALLY-MANAGED"
        ).unlink()  # pip may install into the system's Python, as in the official image `python`
        _import(client, root, PLAIN)
        version, target = python.name.removeprefix("python"), root / "usr/local/lib" / python.name / "dist-packages"
        _call(
            *(sys.executable, "-m", "uv", "pip", "install", f"--python-version={version}"),
            *("--target", str(target), f"kfp=={KFP}"),
        )
        _import(client, root, WITH_KFP)


def client_that_builds() -> str:
    """Return the first `docker` on PATH that can build images. From version 23 on, this needs the plugin buildx.

    If no `docker` can build, the first one is returned, and its own error gives the reason.
    """
    clients = [path for folder in os.get_exec_path() if os.access(path := f"{folder}/docker", os.X_OK)]
    return next(filter(_builds, clients), clients[0] if clients else "docker")


def _builds(client: str) -> bool:
    version = subprocess.run([client, "--version"], capture_output=True, text=True).stdout
    if int(version.removeprefix("Docker version ").partition(".")[0] or 0) < 23:
        return True
    return subprocess.run([client, "buildx", "version"], capture_output=True).returncode == 0


def _mirror() -> list[str]:
    """Return the mirror of the release in the sources of apt; if there is none, debootstrap uses its default."""
    if not shutil.which("apt-get"):
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", f"Codename: {RELEASE}"]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split()
    return found[:1]


def _call(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        raise CannotMakeImage(f"cannot make the images for the tests: {Path(command[0]).name} failed: {said}")


def _import(client: docker.DockerClient, root: Path, image: str) -> None:
    repository, tag = image.split(":")
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        try:
            client.api.import_image_from_stream(tar.stdout, repository=repository, tag=tag)
        except docker.errors.APIError as error:  # for example, the engine may not have the rights to unpack an image
            tar.kill()
            raise CannotMakeImage(f"cannot make the images for the tests: Docker failed: {error.explanation}") from None


def main() -> None:
    """Make the images and print their names."""
    try:
        ensure(docker.from_env())
    except (CannotMakeImage, docker.errors.DockerException) as error:
        sys.exit(str(error))
    print(PLAIN, WITH_KFP)


if __name__ == "__main__":
    main()
