"""The file of the requests that changed the emulated account. The next start repeats them."""

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

from workshop.sandbox.aws_errors import protocol_of
from workshop.sandbox.aws_signature import WrongSignature, scope_of

# An operation of AWS that begins with one of these words changes nothing.
READING = ("Get", "List", "Describe", "BatchGet", "Head", "Simulate", "AssumeRole")


@dataclass(frozen=True)
class AwsRequest:
    """One request to the account.

    Attributes:
        method: the HTTP method.
        target: the path and the query, as they were sent.
        headers: value by name in lower case.
        body: the body.
    """

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def operation(self) -> str:
        """The operation that the request names; "" in the protocol that names it by method and path."""
        if named := self.headers.get("x-amz-target", "").rpartition(".")[2]:
            return named
        return self.parameters.get("Action", "")

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the query and of a form in the body."""
        text = self.target.partition("?")[2]
        if self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            text += f"&{self.body.decode(errors='replace')}"
        return {name: values[0] for name, values in parse_qs(text).items()}

    @property
    def service(self) -> str:
        """The name of the service for which the request is signed; "" if it is not signed."""
        try:
            return scope_of(self.headers.get("authorization", "")).service
        except WrongSignature:
            return ""

    @property
    def protocol(self) -> str:
        """The protocol of the client: "ec2", "query" or "json"."""
        return protocol_of(self.service, self.headers.get("content-type", ""))

    @property
    def changes(self) -> bool:
        """Whether the request may change the account."""
        return self.method not in ("GET", "HEAD") and not self.operation.startswith(READING)


class Journal:
    """The requests that changed something, one a line.

    The journal records a request before the account carries out the request, and deletes the record if the request
    fails. So a killed server loses no change that a client was told of.

    Args:
        path: the file; made when missing. Only this user can read it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(self._file, 0o600)
        self.count = 0

    def requests(self) -> Iterator[AwsRequest]:
        """Read all requests. A last line that a kill cut off is deleted from the file."""
        size = os.fstat(self._file).st_size
        lines = os.pread(self._file, size, 0).splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            os.ftruncate(self._file, size - len(lines.pop()))
        self.count = len(lines)
        for line in lines:
            kept = json.loads(line)
            yield AwsRequest(**kept | {"body": base64.b64decode(kept["body"])})

    def write(self, request: AwsRequest) -> int:
        """Write a request that begins, and return the size of the file before it.

        Raises:
            OSError: the disk is full; nothing was written.
        """
        before = os.fstat(self._file).st_size
        kept = asdict(request) | {"body": base64.b64encode(request.body).decode()}
        left = f"{json.dumps(kept)}\n".encode()
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, before)
            raise
        self.count += 1
        return before

    def delete_from(self, size: int) -> None:
        """Delete the last request, which failed.

        Args:
            size: the size of the file before the request.
        """
        os.ftruncate(self._file, size)
        self.count -= 1
