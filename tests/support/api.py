"""A client that calls a Pipelines API over plain HTTP and checks the shape of its responses."""

import time
from collections.abc import Callable

import requests

from tests.support.contract import problems

WITHIN_SECONDS = 60
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


class Api:
    """Calls a server over plain HTTP.

    Args:
        endpoint: the value of `KF_PIPELINES_ENDPOINT`.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.base = f"{endpoint}/apis/v2beta1"
        self.session = requests.Session()
        self.session.trust_env = False

    def call(self, method: str, path: str, kind: str = "", **options) -> dict:
        """Send a request, check that it succeeds and that the response has the type `kind`, and return the response."""
        answer = self.session.request(method, self.base + path, **{"timeout": 60} | options)
        assert answer.status_code == 200, answer.text
        if kind:
            assert problems(kind, answer.json()) == []
        return answer.json()

    def refused(self, status: int, method: str, path: str, **options) -> str:
        """Send a request, check that it is refused with this status and a valid error body, and return the message."""
        answer = self.session.request(method, self.base + path, timeout=60, **options)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
        body = answer.json()
        assert set(body) == {"error", "code", "message", "details"}
        assert body["error"] == body["message"] and isinstance(body["code"], int) and isinstance(body["details"], list)
        return body["message"]

    def run(self, spec: dict, parameters: dict | None = None, **fields) -> dict:
        """Create a run of a compiled pipeline."""
        body = {"display_name": "a run", "pipeline_spec": spec, "runtime_config": {"parameters": parameters or {}}}
        return self.call("POST", "/runs", "V2beta1Run", json=body | fields)

    def get(self, run_id: str) -> dict:
        """Return a run."""
        return self.call("GET", f"/runs/{run_id}", "V2beta1Run")

    def await_state(self, run_id: str, *states: str) -> dict:
        """Wait until a run is in one of these states (ended, by default), and return it."""
        return await_that(lambda: self._in_state(run_id, states or ENDED), f"run {run_id} is in none of {states}")

    def _in_state(self, run_id: str, states: tuple[str, ...]) -> dict | None:
        run = self.get(run_id)
        return run if run["state"] in states else None

    def tasks(self, run_id: str) -> dict[str, dict]:
        """Return the records of a run's tasks, by path."""
        found, token = {}, ""
        while True:
            page = self.call("GET", f"/runs/{run_id}/tasks", params={"page_token": token})
            found |= {task["path"]: task for task in page["tasks"]}
            if not (token := page.get("next_page_token", "")):
                return found

    def log(self, run_id: str, path: str) -> str:
        """Return a task's log."""
        node = self.tasks(run_id)[path]["node_id"]
        answer = self.session.get(f"{self.endpoint}/apis/v1alpha1/runs/{run_id}/nodes/{node}/log", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.text


def await_that(condition: Callable, otherwise: str, seconds: float = WITHIN_SECONDS):
    """Wait until a condition returns a true value, and return that value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
    return found
