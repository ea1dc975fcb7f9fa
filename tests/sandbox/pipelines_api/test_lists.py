"""Lists: pages, order and filters. Rules of archiving and deleting."""

import json

import pytest

LISTS = {
    "experiments": ("/experiments", "experiments"),
    "pipelines": ("/pipelines", "pipelines"),
    "runs": ("/runs", "runs"),
    "recurring runs": ("/recurringruns", "recurringRuns"),
}


def where(*predicates: dict) -> dict:
    return {"filter": json.dumps({"predicates": list(predicates)}), "page_size": 200}


def names(api, path, field, **query) -> list[str]:
    return [item["display_name"] for item in api.call("GET", path, params=query).get(field, [])]


@pytest.fixture
def seven(api, unique) -> list[str]:
    """Seven experiments. The order of these objects by name differs from their order of creation."""
    made = [f"{unique}-{letter}" for letter in "cagbfde"]
    for name in made:
        api.call("POST", "/experiments", json={"display_name": name, "description": f"about {name[-1]}"})
    return made


def of_this_test(unique):
    return {"operation": "IS_SUBSTRING", "key": "display_name", "string_value": unique}


def test_pages_contain_every_row_once_in_order_while_rows_are_added(api, seven, unique):
    query = where(of_this_test(unique)) | {"page_size": 3, "sort_by": "name desc"}
    found, token = [], ""
    while True:
        page = api.call("GET", "/experiments", "V2beta1ListExperimentsResponse", params=query | {"page_token": token})
        found += [item["display_name"] for item in page["experiments"]]
        api.call("POST", "/experiments", json={"display_name": f"{unique}-z{len(found)}"})
        if not (token := page.get("next_page_token", "")):
            break
    assert found == sorted(seven, reverse=True)


def test_a_token_contains_order_and_filter_and_refuses_others(api, seven, unique):
    query = where(of_this_test(unique)) | {"page_size": 3, "sort_by": "name"}
    token = api.call("GET", "/experiments", params=query)["next_page_token"]
    alone = names(api, "/experiments", "experiments", page_token=token, page_size=200)
    assert alone == sorted(seven)[3:]
    message = api.refused(400, "GET", "/experiments", params={"page_token": token, "sort_by": "name desc"})
    assert "does not match" in message


@pytest.mark.parametrize("token", ["x", "e30=", "W10=", "eyJNb2RlbE5hbWUiOjF9", "%00"])
def test_an_invented_token_is_refused(api, token):
    assert "Invalid package token" in api.refused(400, "GET", "/runs", params={"page_token": token})


def test_by_default_the_oldest_comes_first_and_a_page_has_20_rows(api, seven, unique):
    assert names(api, "/experiments", "experiments", **where(of_this_test(unique))) == seven
    assert len(api.call("GET", "/experiments", params={"page_size": 0})["experiments"]) <= 20


@pytest.mark.parametrize("path", [path for path, _ in LISTS.values()], ids=LISTS)
def test_invalid_orders_are_refused(api, path):
    for sort_by in ("colour", "name up", "name desc please"):
        api.refused(400, "GET", path, params={"sort_by": sort_by})
    for page_size in ("-1", "x"):
        api.refused(400, "GET", path, params={"page_size": page_size})


@pytest.mark.parametrize(
    ("operation", "value", "expected"),
    [
        ("EQUALS", {"string_value": "{}-a"}, "a"),
        ("EQUALS", {"stringValue": "{}-A"}, "a"),
        (1, {"string_value": "{}-a"}, "a"),
        ("NOT_EQUALS", {"string_value": "{}-a"}, "cgbfde"),
        ("GREATER_THAN", {"string_value": "{}-e"}, "gf"),
        ("GREATER_THAN_EQUALS", {"string_value": "{}-e"}, "gfe"),
        ("LESS_THAN", {"string_value": "{}-c"}, "ab"),
        ("LESS_THAN_EQUALS", {"string_value": "{}-c"}, "cab"),
        ("IN", {"string_values": {"values": ["{}-a", "{}-g", "nothing"]}}, "ag"),
        ("IN", {"string_values": {"values": []}}, ""),
        ("IS_SUBSTRING", {"string_value": "{}-B"}, "b"),
        ("IS_SUBSTRING", {"string_value": "test-%-b"}, "b"),
        ("IS_SUBSTRING", {"string_value": "test_%-b"}, "b"),
        ("IS_SUBSTRING", {"string_value": "test\\_"}, ""),
        ("EQUALS", {"string_value": "{}-a "}, "a"),
        (9, {"string_value": "{}-B"}, "b"),
    ],
)
def test_every_operation_of_a_filter_works(api, seven, unique, operation, value, expected):
    value = json.loads(json.dumps(value).replace("{}-", f"{unique}-"))
    predicate = {"operation": operation, "key": "name"} | value
    found = names(api, "/experiments", "experiments", **where(of_this_test(unique), predicate))
    assert "".join(name[-1] for name in found) == expected


def test_times_and_numbers_are_compared_by_value(api, seven, unique):
    def count(operation, **value) -> int:
        predicate = {"operation": operation, "key": "created_at"} | value
        return len(names(api, "/experiments", "experiments", **where(of_this_test(unique), predicate)))

    assert count("GREATER_THAN", timestamp_value="2020-01-01T00:00:00Z") == 7
    assert count("LESS_THAN", timestamp_value="2020-01-01T00:00:00Z") == 0
    assert count("GREATER_THAN", long_value="1577836800") == 7
    assert count("EQUALS", int_value=0) == 0
    assert count("IN", long_values={"values": ["1", "2"]}) == 0


def test_states_and_ids_are_compared_like_names(api, seven, unique):
    for key, value, count in (("storage_state", "available", 7), ("storage_state", "ARCHIVED", 0), ("id", "x", 0)):
        predicate = {"operation": "EQUALS", "key": key, "string_value": value}
        assert len(names(api, "/experiments", "experiments", **where(of_this_test(unique), predicate))) == count
        predicate = {"operation": "IN", "key": key, "string_values": {"values": [value]}}
        assert len(names(api, "/experiments", "experiments", **where(of_this_test(unique), predicate))) == count


def test_a_filter_may_be_encoded_twice(api, seven, unique):
    from urllib.parse import quote

    once = json.dumps({"predicates": [{"operation": "EQUALS", "key": "name", "stringValue": f"{unique}-a"}]})
    assert names(api, "/experiments", "experiments", filter=quote(once)) == [f"{unique}-a"]


@pytest.mark.parametrize(
    ("predicate", "said"),
    [
        ({"operation": "EQUALS", "key": "colour", "string_value": "x"}, 'unrecognized field "colour"'),
        ({"operation": "EQUALS", "key": "", "string_value": "x"}, "key cannot be empty"),
        ({"operation": "LIKE", "key": "name", "string_value": "x"}, 'invalid value for enum field operation: "LIKE"'),
        ({"operation": 0, "key": "name", "string_value": "x"}, "Filter.Predicate.Operation"),
        ({"operation": 4, "key": "name", "string_value": "x"}, "Filter.Predicate.Operation"),
        ({"operation": "EQUALS", "key": "name"}, "Filter.Predicate.Value with <nil>"),
        ({"operation": "EQUALS", "key": "name", "string_value": "x", "int_value": 1}, "Predicate.value is already set"),
        ({"op": "EQUALS", "key": "name", "string_value": "x"}, 'unknown field "op"'),
        ({"operation": "EQUALS", "key": "created_at", "timestamp_value": "2031-01-01"}, "2031-01-01"),
        ({"operation": "IN", "key": "name", "string_value": "x"}, "IN operator with scalar"),
        ({"operation": "EQUALS", "key": "name", "string_values": {"values": ["x"]}}, "scalar operator"),
        ({"operation": "IS_SUBSTRING", "key": "created_at", "int_value": 1}, "non string value"),
        ({"operation": "EQUALS", "key": "created_at", "timestamp_value": "yesterday"}, "yesterday"),
        ({"operation": "EQUALS", "key": "created_at", "long_value": "9" * 30}, "longValue"),
        ({"operation": "EQUALS", "key": "name", "string_value": "\ud800"}, "unexpected EOF"),
        ({"operation": "EQUALS", "key": "\ud800", "string_value": "x"}, "invalid escape code"),
        ({"operation": "IN", "key": "created_at", "int_values": {"values": [1] * 1_001}}, "holds 1,001 values"),
    ],
)
def test_an_invalid_filter_is_refused_with_the_reason(api, predicate, said):
    assert said in api.refused(400, "GET", "/experiments", params=where(predicate))


def test_a_filter_has_no_more_predicates_than_a_query_can_hold(api):
    predicate = {"operation": "EQUALS", "key": "created_at", "int_value": 1}
    assert names(api, "/experiments", "experiments", **where(*[predicate] * 100)) == []
    assert "has 101 predicates; 100 is the limit" in api.refused(
        400, "GET", "/experiments", params=where(*[predicate] * 101)
    )


@pytest.mark.parametrize("filter_text", ["x", "[]", "{", '{"predicates": 1}', '{"predicates": [1]}', "[" * 100_000])
def test_a_text_that_is_not_a_filter_is_refused(api, filter_text):
    answer = api.session.get(f"{api.base}/experiments", params={"filter": filter_text[:5_000]})
    assert answer.status_code == 400


def test_names_are_unique_regardless_of_case(api, seven, unique, echo_file):
    assert "already exists" in api.refused(409, "POST", "/experiments", json={"display_name": seven[0].upper()})
    api.call("POST", "/pipelines", json={"name": unique})
    assert "already exist" in api.refused(409, "POST", "/pipelines", json={"name": unique.upper()})


@pytest.mark.parametrize(
    ("name", "experiment", "pipeline"),
    [("", 500, 400), (None, 500, 400), (5, 400, 400), ("x" * 129, 500, 500), ("ü" * 65, 500, 500)],
)
def test_invalid_names_are_refused_with_the_status_of_the_server(api, name, experiment, pipeline):
    api.refused(experiment, "POST", "/experiments", json={"display_name": name})
    api.refused(pipeline, "POST", "/pipelines", json={"name": name})


def test_archiving_an_experiment_archives_its_runs_and_disables_its_recurring_runs(api, echo, unique):
    experiment = api.call("POST", "/experiments", json={"display_name": unique})["experiment_id"]
    run = api.run(echo, experiment_id=experiment)["run_id"]
    schedule = {"trigger": {"periodic_schedule": {"interval_second": 9999}}, "max_concurrency": 1, "mode": "ENABLE"}
    body = {"display_name": "r", "experiment_id": experiment, "pipeline_spec": echo} | schedule
    recurring = api.call("POST", "/recurringruns", "V2beta1RecurringRun", json=body)["recurring_run_id"]
    api.call("POST", f"/experiments/{experiment}:archive")
    assert api.call("GET", f"/experiments/{experiment}")["storage_state"] == "ARCHIVED"
    assert api.get(run)["storage_state"] == "ARCHIVED"
    assert api.call("GET", f"/recurringruns/{recurring}")["status"] == "DISABLED"
    assert "must be un-archived first" in api.refused(400, "POST", f"/runs/{run}:unarchive")
    own = {name: body[name] for name in ("display_name", "experiment_id", "pipeline_spec")}
    assert api.call("POST", "/runs", "V2beta1Run", json=own)["storage_state"] == "AVAILABLE"
    api.call("POST", f"/experiments/{experiment}:unarchive")
    assert api.get(run)["storage_state"] == "ARCHIVED", "runs stay archived"
    api.call("POST", f"/runs/{run}:unarchive")
    assert api.get(run)["storage_state"] == "AVAILABLE"
    api.call("DELETE", f"/recurringruns/{recurring}")


def test_deleting_an_experiment_leaves_its_runs(api, echo, unique):
    experiment = api.call("POST", "/experiments", json={"display_name": unique})["experiment_id"]
    run = api.run(echo, experiment_id=experiment)["run_id"]
    api.call("DELETE", f"/experiments/{experiment}")
    assert api.get(run)["experiment_id"] == experiment
    assert experiment in api.refused(404, "GET", f"/experiments/{experiment}")
    assert experiment in api.refused(404, "GET", "/runs", params={"experiment_id": experiment})


def test_a_run_without_an_experiment_uses_the_default_experiment_which_cannot_be_deleted(api, echo):
    first = api.run(echo)["experiment_id"]
    assert api.call("GET", f"/experiments/{first}")["display_name"] == "Default"
    assert "cannot be deleted" in api.refused(409, "DELETE", f"/experiments/{first}")


def test_a_pipeline_with_versions_is_deleted_only_with_cascade(api, client, echo_file, unique):
    pipeline = client.upload_pipeline(echo_file, pipeline_name=unique).pipeline_id
    assert "cascade=true" in api.refused(400, "DELETE", f"/pipelines/{pipeline}")
    api.call("DELETE", f"/pipelines/{pipeline}", params={"cascade": "true"})
    assert pipeline in api.refused(404, "GET", f"/pipelines/{pipeline}/versions")


def test_a_run_uses_the_latest_version_by_default(api, client, echo_file, unique):
    pipeline = client.upload_pipeline(echo_file, pipeline_name=unique).pipeline_id
    latest = client.upload_pipeline_version(echo_file, "two", pipeline_id=pipeline).pipeline_version_id
    body = {"display_name": "r", "pipeline_version_reference": {"pipeline_id": pipeline}}
    run = api.call("POST", "/runs", "V2beta1Run", json=body)
    assert run["pipeline_version_reference"]["pipeline_version_id"] == latest
    assert "pipeline_spec" not in run


@pytest.mark.parametrize("kind", ["experiments", "pipelines", "runs", "recurringruns"])
def test_a_missing_object_is_named(api, kind):
    api.refused(501, "PATCH", f"/{kind}/no-such-id")
    assert "no-such-id" in api.refused(404, "GET", f"/{kind}/no-such-id")
    assert "no-such-id" in api.refused(404, "DELETE", f"/{kind}/no-such-id")


def test_an_experiment_that_is_not_there_can_be_archived_as_on_a_cluster(api):
    assert api.call("POST", "/experiments/no-such-id:archive") == {}
    assert api.call("POST", "/experiments/no-such-id:unarchive") == {}


def test_the_second_page_of_a_filter_with_a_time_can_be_asked_for_with_the_filter(api, seven, unique):
    query = where(
        of_this_test(unique),
        {"operation": "GREATER_THAN", "key": "created_at", "timestamp_value": "2020-01-01T00:00:00Z"},
    ) | {"page_size": 4}
    token = api.call("GET", "/experiments", params=query)["next_page_token"]
    assert len(names(api, "/experiments", "experiments", **query | {"page_token": token})) == 3


def test_a_token_of_another_list_is_an_internal_error(api, seven, unique):
    token = api.call("GET", "/experiments", params=where(of_this_test(unique)) | {"page_size": 1})["next_page_token"]
    assert "page token" in api.refused(500, "GET", "/runs", params={"page_token": token})


@pytest.mark.parametrize(
    ("path", "known", "unknown"),
    [
        ("/runs", "namespace state_history runtime_details metric:x", "pipeline_id service_account pipeline_root"),
        ("/recurringruns", "updated_at description", "pipeline_id experiment_id status"),
        ("/experiments", "namespace last_run_created_at", "updated_at"),
        ("/pipelines", "namespace pipeline_id", "code_source_url"),
    ],
)
def test_lists_are_sorted_by_the_keys_of_the_server(api, path, known, unknown):
    for key in known.split():
        api.call("GET", path, params={"sort_by": key})
    for key in unknown.split():
        assert "Invalid sorting field" in api.refused(400, "GET", path, params={"sort_by": key})


def test_query_parameters_may_be_in_camel_case_and_come_once(api, seven, unique):
    query = where(of_this_test(unique))
    assert (
        names(api, "/experiments", "experiments", filter=query["filter"], pageSize=2, sortBy="name")
        == sorted(seven)[:2]
    )
    message = api.refused(400, "GET", "/experiments", params={"page_size": [1, 2]})
    assert message == 'too many values for field "page_size": 1, 2'
    assert "value out of range" in api.refused(400, "GET", "/experiments", params={"page_size": "9999999999"})
