"""A server with several users: who they are, and what each one may do."""

import json
import warnings

import kfp
import pytest
from starlette.testclient import TestClient

from workshop.sandbox.pipelines_api import NAMESPACES, access
from workshop.sandbox.pipelines_api.app import make_app

ALICE, BOB = {access.HEADER: "alice@example.com"}, {access.HEADER: "bob@example.com"}
BASE = "http://127.0.0.1:8888"


class Server:
    """A server for alice and bob, in this process. It executes no runs."""

    def __init__(self, folder, prefix: str = "") -> None:
        users = access.profiles(*NAMESPACES)
        self.tokens = {
            account.rpartition("system:serviceaccount:")[2]: token for token, account in users.tokens.items()
        }
        users = access.Users(users.roles, users.tokens, prefix)
        folder.mkdir()
        self._client = TestClient(make_app(folder, "secret", folder, "subprocess", users), base_url=BASE)

    def ask(self, status: int, who: dict, method: str, path: str, **options) -> dict:
        answer = self._client.request(method, f"/secret/apis/v2beta1{path}", headers=who, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    def bearer(self, account: str) -> dict:
        return {"Authorization": f"Bearer {self.tokens[account]}"}


@pytest.fixture
def server(tmp_path) -> Server:
    return Server(tmp_path / "pipelines")


@pytest.fixture
def experiment(server) -> str:
    body = {"display_name": "one", "namespace": "alice"}
    return server.ask(200, ALICE, "POST", "/experiments", json=body)["experiment_id"]


def test_the_server_says_that_it_has_users(server):
    assert server.ask(200, {}, "GET", "/healthz")["multi_user"] is True


def test_without_an_identity_a_request_is_refused_with_401(server):
    said = server.ask(401, {}, "GET", "/experiments?namespace=alice")
    assert said["code"] == 16 and "User identity is empty in the request header" in said["details"][0]["message"]
    wrong = {"Authorization": server.tokens["alice:default-editor"]}
    assert "Expected prefix 'Bearer '" in server.ask(401, wrong, "GET", "/experiments?namespace=alice")["message"]
    invented = {"Authorization": "Bearer invented"}
    assert "invalid bearer token" in server.ask(401, invented, "GET", "/experiments?namespace=alice")["message"]


@pytest.mark.parametrize("user", ["nobody@example.com", "Alice@example.com", "bob@example.com"])
def test_a_user_without_a_role_in_the_namespace_is_refused_with_403(server, user):
    said = server.ask(403, {access.HEADER: user}, "GET", "/experiments?namespace=alice")
    assert said["code"] == 7 and f"User '{user}' is not authorized" in said["details"][0]["message"]
    assert "Namespace:alice,Verb:list" in said["message"] and "Resource:experiments" in said["message"]


def test_the_header_counts_before_a_token(server):
    wrong = {access.HEADER: "nobody@example.com"} | server.bearer("alice:default-editor")
    server.ask(403, wrong, "GET", "/experiments?namespace=alice")
    server.ask(200, server.bearer("alice:default-editor"), "GET", "/experiments?namespace=alice")


def test_a_prefix_of_the_header_is_needed_if_there_is_one(tmp_path):
    server = Server(tmp_path / "pipelines", "accounts.google.com:")
    server.ask(200, {access.HEADER: "accounts.google.com:alice@example.com"}, "GET", "/runs?namespace=alice")
    said = server.ask(401, ALICE, "GET", "/runs?namespace=alice")
    assert "Expected prefix 'accounts.google.com:'" in said["message"]


@pytest.mark.parametrize("kind", ["experiments", "runs", "recurringruns"])
def test_a_list_needs_a_namespace(server, kind):
    assert "cannot have an empty namespace" in server.ask(400, ALICE, "GET", f"/{kind}")["details"][0]["message"]
    server.ask(403, ALICE, "GET", f"/{kind}?namespace=bob")


def test_each_namespace_has_its_own_experiments(server, experiment):
    made = server.ask(200, BOB, "POST", "/experiments", json={"display_name": "one", "namespace": "bob"})
    assert made["namespace"] == "bob"
    server.ask(409, ALICE, "POST", "/experiments", json={"display_name": "one", "namespace": "alice"})
    server.ask(400, ALICE, "POST", "/experiments", json={"display_name": "two"})
    assert server.ask(200, ALICE, "GET", "/experiments?namespace=alice")["total_size"] == 1
    server.ask(403, ALICE, "GET", f"/experiments/{made['experiment_id']}")
    server.ask(404, ALICE, "GET", "/experiments/no-such-id")


def test_a_viewer_may_read_and_may_not_change(server, experiment):
    viewer = server.bearer("alice:default-viewer")
    server.ask(200, viewer, "GET", f"/experiments/{experiment}")
    server.ask(403, viewer, "POST", f"/experiments/{experiment}:archive")
    server.ask(403, viewer, "POST", "/experiments", json={"display_name": "two", "namespace": "alice"})


def test_a_run_needs_an_experiment_of_the_own_namespace(server, experiment, echo):
    body = {"display_name": "r", "pipeline_spec": echo}
    said = server.ask(400, ALICE, "POST", "/runs", json=body)
    assert said["details"][0]["message"] == "Experiment id can not be empty in multi-user mode"
    server.ask(403, BOB, "POST", "/runs", json=body | {"experiment_id": experiment})
    run = server.ask(200, ALICE, "POST", "/runs", json=body | {"experiment_id": experiment})
    assert run["service_account"] == "default-editor"
    for verb in ("terminate", "archive", "retry"):
        server.ask(403, BOB, "POST", f"/runs/{run['run_id']}:{verb}")
    server.ask(403, BOB, "DELETE", f"/runs/{run['run_id']}")
    assert server.ask(200, ALICE, "GET", f"/runs?experiment_id={experiment}&namespace=bob")["total_size"] == 1


def test_a_recurring_run_belongs_to_the_namespace_of_its_experiment(server, experiment, echo):
    body = {"display_name": "r", "pipeline_spec": echo, "max_concurrency": 1, "experiment_id": experiment}
    said = server.ask(400, ALICE, "POST", "/recurringruns", json=body | {"namespace": "bob"})
    assert "belongs to namespace 'alice' instead of 'bob'" in said["message"]
    made = server.ask(200, ALICE, "POST", "/recurringruns", json=body)
    assert made["namespace"] == "alice"
    server.ask(403, BOB, "POST", f"/recurringruns/{made['recurring_run_id']}:enable")


def test_pipelines_without_a_namespace_are_shared(server, echo):
    def upload(status, who, **query):
        files = {"uploadfile": ("p.json", json.dumps(echo))}
        return server.ask(status, who, "POST", "/pipelines/upload", params=query, files=files)

    upload(200, {}, name="shared")
    private = upload(200, ALICE, name="private", namespace="alice")
    assert private["namespace"] == "alice"
    for who in (BOB, {}, server.bearer("alice:default-viewer")):
        assert upload(400, who, name="other", namespace="alice")["error_message"] == "Failed to create a pipeline"
    assert [one["name"] for one in server.ask(200, {}, "GET", "/pipelines")["pipelines"]] == ["shared"]
    server.ask(403, BOB, "GET", "/pipelines?namespace=alice")
    server.ask(401, {}, "GET", f"/pipelines/{private['pipeline_id']}")
    server.ask(403, BOB, "DELETE", f"/pipelines/{private['pipeline_id']}?cascade=true")
    server.ask(403, ALICE, "POST", "/pipelines", json={"name": "shared-2"})


@pytest.mark.slow
def test_the_kfp_client_of_a_pod_works_with_the_token_of_its_service_account(sandbox, echo_file, tmp_path, monkeypatch):
    sandbox.up(multi_user=True)
    endpoint = sandbox.environment()["KF_PIPELINES_ENDPOINT"]
    token = sandbox.directory / "pipelines-api" / "tokens" / "alice-default-editor"
    assert token.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    warnings.simplefilter("ignore")
    credentials = kfp.client.ServiceAccountTokenVolumeCredentials(path=str(token))
    client = kfp.Client(host=endpoint, credentials=credentials)
    client.set_user_namespace("alice")
    run = client.create_run_from_pipeline_package(echo_file, {"text": "x"}, namespace="alice")
    assert client.wait_for_run_completion(run.run_id, 60, sleep_duration=0.2).state == "SUCCEEDED"
    assert client.list_experiments().experiments[0].namespace == "alice"
    with pytest.raises(kfp.client.client.kfp_server_api.ApiException):
        client.list_experiments(namespace="bob")
