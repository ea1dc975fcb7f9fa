"""Reads the file of an upload or of an address: YAML, JSON, or an archive that contains YAML.

Source: `ReadPipelineFile` in `backend/src/apiserver/server/util.go` of kubeflow/pipelines.
"""

import io
import tarfile
import zipfile
import zlib

from workshop.sandbox.pipelines_api.errors import ApiError, during, invalid, invalid_because
from workshop.sandbox.pipelines_api.package import MAX_BYTES

PLAIN = (".yaml", ".yml", ".json")
YAML = (".yaml", ".yml")
WANTED = "pipeline.yaml"
ZIP, GZIP = b"PK", b"\x1f\x8b"
MAX_MEMBERS = 1_000
NOT_A_TARBALL = "Error extracting pipeline from the tarball file. Not a valid tarball file"
NOT_A_ZIP = "Error extracting pipeline from the zip file. Not a valid zip file"


def pipeline_file(content: bytes, name: str) -> bytes:
    """Return the pipeline in a file. The name decides for plain files, and the content decides for archives.

    Args:
        content: the file.
        name: its name.

    Raises:
        ApiError: the file is of no known format, or it is an archive without a pipeline.
    """
    if name.endswith(PLAIN) or len(content) > MAX_BYTES:
        return content  # the reader of packages refuses a large file
    with during("Error decompress the pipeline file"):
        if len(content) > 2 and content.startswith(ZIP):
            return _from_zip(content)
        if len(content) > 2 and content.startswith(GZIP):
            return _from_tarball(content)
    raise invalid(
        f"Unexpected pipeline file format. Support .zip, .tar.gz, .json or YAML. The name of the file is {name!r}"
    )


def _from_zip(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()[:MAX_MEMBERS]
            if not members:
                raise invalid("Error extracting pipeline from the zip file. Empty zip file")
            chosen = next((one for one in members if one.filename == WANTED), members[0])
            if not chosen.filename.endswith(YAML):
                raise _no_yaml("zip", chosen.filename)
            with archive.open(chosen) as file:
                return _limited(file.read(MAX_BYTES + 1), chosen.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise invalid_because(NOT_A_ZIP, str(error)) from None


def _from_tarball(content: bytes) -> bytes:
    try:
        # A large archive is read as a stream, so its size in memory stays small.
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as archive:
            first: tuple[str, bytes] | None = None
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS or member.offset > MAX_BYTES:
                    break
                if member.name == WANTED or first is None:
                    file = archive.extractfile(member) if member.isfile() else None
                    data = _limited(file.read(MAX_BYTES + 1), member.name) if file else b""
                    if member.name == WANTED:
                        return data
                    first = (member.name, data)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise invalid_because(NOT_A_TARBALL, str(error)) from None
    if first is None:
        raise invalid_because(NOT_A_TARBALL, "EOF")
    if not first[0].endswith(YAML):
        raise _no_yaml("tarball", first[0])
    return first[1]


def _limited(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise invalid(f"{name} has more than {MAX_BYTES:,} bytes, which is the limit")
    return data


def _no_yaml(kind: str, found: str) -> ApiError:
    return invalid(
        f"Error extracting pipeline from the {kind} file. Expecting a {WANTED} file inside the {kind}. Got: {found}"
    )
