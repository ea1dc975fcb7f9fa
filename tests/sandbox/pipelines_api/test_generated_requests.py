"""Generated valid and invalid requests to every operation cause no server error, and every response is well formed."""

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kfp_server_api import models

from tests.support.contract import OPERATIONS, problems
from tests.support.sampling import sample

REQUESTS_PER_OPERATION = {"test": 40, "gate": 40, "all": 300}
TRIGGER = {"periodic_schedule": {"interval_second": 99999}}
# Hardly any random request to these operations is valid; test_contract.py checks their responses.
RARELY_RIGHT = (
    "PipelineService_CreatePipelineAndVersion",
    "PipelineService_CreatePipelineVersion",
    "RunService_RetryRun",
    "RunService_TerminateRun",
    "PipelineService_DeletePipeline",
    "AuthService_Authorize",
)
# Valid and invalid texts for requests.
texts = st.one_of(st.text(max_size=8), st.just("\ud800"))
words = st.one_of(
    st.sampled_from(
        ["", "name", "created_at desc", "name asc", "kubeflow", "VIEWERS", "GET", "1", "-1", "true", "0", "🙂"]
    ),
    st.text(max_size=30),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
predicates = st.fixed_dictionaries(
    {"operation": st.one_of(st.integers(-1, 10), st.sampled_from(["EQUALS", "IN", "IS_SUBSTRING", "x"]))},
    optional={
        "key": st.sampled_from(["name", "created_at", "storage_state", "x", ""]),
        "string_value": texts,
        "int_value": st.integers(),
        "long_value": st.one_of(st.integers().map(str), st.text(max_size=3)),
        "timestamp_value": st.one_of(st.datetimes().map(lambda d: d.isoformat() + "Z"), st.text(max_size=3)),
        "string_values": st.one_of(
            st.fixed_dictionaries({"values": st.lists(st.text(max_size=3), max_size=2)}), anything
        ),
        "long_values": st.fixed_dictionaries({"values": st.lists(st.integers(), max_size=2)}),
    },
)
filters = st.one_of(st.lists(predicates, max_size=3).map(lambda found: json.dumps({"predicates": found})), words)


def messages(kind: str, known: dict, depth: int = 0) -> st.SearchStrategy:
    """Generate a request body: fields of the message with values that mostly have the right type."""
    model = getattr(models, kind)
    fields = {
        model.attribute_map[name]: st.one_of(values(of, known, depth), anything)
        for name, of in model.openapi_types.items()
    }
    return st.fixed_dictionaries({}, optional=fields | {"colour": anything})


def values(kind: str, known: dict, depth: int) -> st.SearchStrategy:
    if kind == "object":
        return st.one_of(st.just(known["spec"]), anything)
    if kind in ("str", "datetime"):
        return st.one_of(st.sampled_from(known["texts"]), words, st.datetimes().map(lambda d: d.isoformat() + "Z"))
    if kind in ("int", "bool"):
        return st.integers() if kind == "int" else st.booleans()
    if kind.startswith(("list[", "dict(")) or depth > 2:
        return anything
    model = getattr(models, kind)
    if not model.openapi_types:
        return st.sampled_from([value for name, value in vars(model).items() if name.isupper()])
    return messages(kind, known, depth + 1)


@pytest.fixture
def known(api, echo, client, echo_file, unique) -> dict:
    """The ids of existing objects, so that requests pass the first check."""
    pipeline = client.upload_pipeline(echo_file, pipeline_name=unique)
    version = client.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions[0]
    experiment = client.create_experiment(unique)
    recurring = {"display_name": unique, "pipeline_spec": echo, "trigger": TRIGGER, "max_concurrency": 1}
    found = {
        "experiment": experiment.experiment_id,
        "pipeline": pipeline.pipeline_id,
        "version": version.pipeline_version_id,
        "name": unique,
        "run": api.run(echo)["run_id"],
        "recurring": api.call("POST", "/recurringruns", json=recurring)["recurring_run_id"],
    }
    return found | {"spec": echo, "texts": [*found.values(), "ENABLE", "3600", "0 0 9 ? * 2-6", "s3://b/p"]}


@pytest.mark.parametrize("operation", sample(OPERATIONS, test=15, name=lambda operation: operation.name))
@pytest.mark.slow
def test_no_request_makes_the_server_fail(api, known, operation, pytestconfig):
    queries = st.fixed_dictionaries(
        {},
        optional={
            name: filters if name == "filter" else st.one_of(words, st.sampled_from(known["texts"]))
            for name in operation.query
        },
    )
    if operation.name == "UploadPipelineVersion":
        right = {"pipelineid": st.just(known["pipeline"]), "name": st.uuids().map(str)}
        queries = st.one_of(queries, st.fixed_dictionaries(right))
    places = {name: st.one_of(st.just(known[name]), words) for name in known if f"{{{name}}}" in operation.path}
    bodies = st.none()
    if operation.body.startswith("V2beta1"):
        right = {"display_name": "right", "pipeline_spec": known["spec"], "trigger": TRIGGER, "max_concurrency": 1}
        bodies = st.one_of(messages(operation.body, known), anything, st.just(right))
    elif operation.body == "TEXT":
        bodies = anything
    files = st.one_of(
        st.just(json.dumps(known["spec"]).encode()), st.binary(max_size=50), anything.map(repr).map(str.encode)
    )

    @settings(
        max_examples=REQUESTS_PER_OPERATION[pytestconfig.getoption("tier")],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.fixed_dictionaries(places), queries, bodies, files)
    def send(place, query, body, file):
        nonlocal answered
        path = operation.path
        for name, value in place.items():
            path = path.replace(f"{{{name}}}", quote(value.encode("utf-8", "replace"), safe=""))
        options = {"params": {name: value.encode("utf-8", "replace") for name, value in query.items()}}
        if operation.body == "FILE":
            options["files"] = {"uploadfile": ("pipeline.yaml", file)}
        elif operation.body:
            options |= {"data": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        answer = api.session.request(operation.method, api.base + path, timeout=60, **options)
        check(operation, answer)
        answered += answer.status_code == 200

    answered = 0
    send()
    assert answered or operation.unsupported or operation.name in RARELY_RIGHT, "no request got through to an answer"


def check(operation, answer) -> None:
    assert answer.headers["content-type"] == "application/json"
    if answer.status_code == 200:
        assert problems(operation.answer, answer.json()) == []
        return
    allowed = (400, 404, 405, 409, 501) if operation.unsupported else (400, 404, 405, 409)
    assert answer.status_code in allowed, f"{answer.status_code}: {answer.text}"
    assert set(answer.json()) == {"error", "code", "message", "details"}
