"""Plays exchanges at a server, compares the answers with the expected ones, and deletes what it has made."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

DETAIL = "type.googleapis.com/google.rpc.Status"
SECONDS = 60
MISSING = "11111111-2222-3333-4444-555555555555"
# How an object of each list is deleted. Runs come before their experiments: without its experiment, a run stays.
DELETE = {
    "run_id": "/apis/v2beta1/runs/{}",
    "recurring_run_id": "/apis/v2beta1/recurringruns/{}",
    "pipeline_id": "/apis/v2beta1/pipelines/{}?cascade=true",
    "experiment_id": "/apis/v2beta1/experiments/{}",
}


@dataclass(frozen=True)
class Exchange:
    """A request, and the answer of a real server.

    Texts may contain `{PRE}`, a prefix for names, `{MISSING}`, an id that does not exist, and the ids that earlier
    exchanges kept.

    Attributes:
        name: a name for the exchange.
        method, path: of the request; the path comes after the base URL.
        status: the expected status.
        query: the query parameters.
        body: the body, to be sent as JSON.
        raw: the body as it is, instead of `body`.
        file: name and content of an upload.
        code: the gRPC code of an expected error.
        reason: the expected `details[0].message` of an error of a service.
        refused: the expected `message` of an error of the gateway, which has no details.
        fields: the expected names of the fields of an object.
        equals: fields of the answer and their expected values; a dot goes inside.
        keep: names for ids of the answer, by the field that holds the id.
        made: the field with the id of the object that the request creates; "" for none.
    """

    name: str
    method: str
    path: str
    status: int = 200
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    raw: str | None = None
    file: tuple[str, str] | None = None
    code: int = 0
    reason: str = ""
    refused: str = ""
    fields: tuple[str, ...] = ()
    equals: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    made: str = ""


class Player:
    """Plays exchanges in their order. As a context manager, it deletes what the exchanges have made.

    Args:
        base: the base URL of the server.
    """

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._words = {"PRE": f"contract-{secrets.token_hex(4)}", "MISSING": MISSING}
        self._made: list[tuple[str, str]] = []

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *_error: object) -> None:
        for kind, address in DELETE.items():
            for made, identifier in self._made:
                if made == kind:
                    self._session.delete(self._base + address.format(identifier), timeout=SECONDS)

    def play(self, exchange: Exchange) -> list[str]:
        """Send the request, and return the differences between the answer and the expected one."""
        options: dict[str, Any] = {"params": self._filled(exchange.query)}
        if exchange.file:
            name, content = exchange.file
            options["files"] = {"uploadfile": (self._filled(name), content.encode())}
        elif exchange.raw is not None or exchange.body is not None:
            text = self._filled(exchange.raw) if exchange.raw is not None else json.dumps(self._filled(exchange.body))
            options |= {"data": text.encode(), "headers": {"Content-Type": "application/json"}}
        answer = self._session.request(
            exchange.method, self._base + self._filled(exchange.path), timeout=SECONDS, **options
        )
        content = _content(answer)
        if answer.status_code == 200 and exchange.made and isinstance(content, dict):
            self._made.append((exchange.made, content[exchange.made]))
        if answer.status_code != exchange.status:
            return [f"expected status {exchange.status}, got {answer.status_code}: {answer.text[:300]}"]
        if isinstance(content, dict):
            self._words |= {word: content[name] for name, word in exchange.keep.items() if name in content}
        return self._problems(exchange, content)

    def _problems(self, exchange: Exchange, content: Any) -> list[str]:
        expected: dict[str, Any] = dict(self._filled(exchange.equals))
        found = []
        if exchange.refused:
            expected = {"code": exchange.code or 3, "message": self._filled(exchange.refused)}
            found += _keys(content, ("code", "message"))
        elif exchange.code:
            expected |= {
                "code": exchange.code,
                "details.0.@type": DETAIL,
                "details.0.message": self._filled(exchange.reason),
            }
            found += _keys(content, ("code", "message", "details"))
        elif exchange.fields:
            found += _keys(content, exchange.fields)
        for place, value in expected.items():
            if (given := _inside(content, place)) != value:
                found.append(f"{place}: expected {value!r}, got {given!r}")
        return found

    def _filled(self, value: Any) -> Any:
        """Return a value with the words in all its texts."""
        if isinstance(value, str):
            for word, text in self._words.items():
                value = value.replace(f"{{{word}}}", text)
            return value
        if isinstance(value, Mapping):
            return {name: self._filled(one) for name, one in value.items()}
        return [self._filled(one) for one in value] if isinstance(value, list) else value


def _content(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _keys(content: Any, expected: tuple[str, ...]) -> list[str]:
    given = sorted(content) if isinstance(content, dict) else content
    return [] if given == sorted(expected) else [f"expected the fields {sorted(expected)}, got {given}"]


def _inside(content: Any, place: str) -> Any:
    for part in place.split("."):
        try:
            content = content[int(part)] if part.isdigit() else content[part]
        except (KeyError, IndexError, TypeError):
            return None
    return content
