"""The catalogue of the contract test. Each answer is the answer of a real server 2.16.1."""

import json

from tests.contract.player import Exchange

API = "/apis/v2beta1"
ZERO = "1970-01-01T00:00:00Z"
INTERNAL = {"status": 500, "code": 13, "reason": "Internal Server Error"}
NOT_FOUND = {"status": 404, "code": 5}
INVALID = {"status": 400, "code": 3}
UNREADABLE = {"status": 400}
EXPERIMENT = ("experiment_id", "display_name", "created_at", "storage_state", "last_run_created_at")
PIPELINE = ("pipeline_id", "display_name", "name", "created_at")
VERSION = ("pipeline_id", "pipeline_version_id", "display_name", "name", "created_at", "pipeline_spec")
NEW_RUN = (
    "experiment_id",
    "run_id",
    "display_name",
    "storage_state",
    "pipeline_version_reference",
    "service_account",
    "created_at",
    "scheduled_at",
    "finished_at",
    "state",
    "state_history",
)
RECURRING = (
    "recurring_run_id",
    "display_name",
    "pipeline_version_reference",
    "service_account",
    "max_concurrency",
    "trigger",
    "mode",
    "created_at",
    "updated_at",
    "status",
    "namespace",
    "experiment_id",
)
SPEC = json.dumps(
    {
        "components": {
            "comp-say": {
                "executorLabel": "exec-say",
                "inputDefinitions": {
                    "parameters": {"text": {"parameterType": "STRING"}, "count": {"parameterType": "NUMBER_INTEGER"}}
                },
            }
        },
        "deploymentSpec": {
            "executors": {
                "exec-say": {
                    "container": {
                        "image": "python:3.12",
                        "command": ["python3", "-c", "print('kfp.dsl.executor_main is not needed')"],
                    }
                }
            }
        },
        "pipelineInfo": {"name": "contract"},
        "root": {
            "dag": {
                "tasks": {
                    "say": {
                        "componentRef": {"name": "comp-say"},
                        "inputs": {
                            "parameters": {
                                "text": {"componentInputParameter": "text"},
                                "count": {"componentInputParameter": "count"},
                            }
                        },
                        "taskInfo": {"name": "say"},
                    }
                }
            },
            "inputDefinitions": {
                "parameters": {
                    "text": {"parameterType": "STRING"},
                    "count": {"parameterType": "NUMBER_INTEGER", "defaultValue": 2, "isOptional": True},
                }
            },
        },
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.16.1",
    }
)


def _where(operation: object, key: str, **value: object) -> dict:
    return {"filter": json.dumps({"predicates": [{"operation": operation, "key": key} | value]})}


def _run(**fields: object) -> dict:
    return {"display_name": "{PRE}-run", "experiment_id": "{one}"} | fields


def _with(parameters: dict) -> dict:
    reference = {"pipeline_version_reference": {"pipeline_id": "{pipeline}", "pipeline_version_id": "{version}"}}
    return _run(runtime_config={"parameters": parameters}, **reference)


def _recurring(**fields: object) -> dict:
    return {
        "display_name": "{PRE}-recurring",
        "experiment_id": "{one}",
        "max_concurrency": 1,
        "mode": "DISABLE",
        "pipeline_version_reference": {"pipeline_id": "{pipeline}", "pipeline_version_id": "{version}"},
        "runtime_config": {"parameters": {"text": "x"}},
    } | fields


def _cron(expression: str) -> dict:
    return _recurring(trigger={"cron_schedule": {"cron": expression, "start_time": "2031-01-01T00:00:00Z"}})


CRON = "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: "

SERVICES = [
    Exchange("healthz", "GET", f"{API}/healthz", equals={"tag_name": "2.16.1", "pipeline_store": "database"}),
    Exchange("healthz of v1beta1", "GET", "/apis/v1beta1/healthz", equals={"multi_user": False}),
    Exchange("unknown path", "GET", f"{API}/nothing", 404, code=5, refused="Not Found"),
    Exchange("auth", "GET", f"{API}/auth", 404, code=5, refused="Not Found"),
    Exchange("tasks of a run", "GET", f"{API}/runs/{{MISSING}}/tasks", 404, code=5, refused="Not Found"),
    Exchange("wrong method", "PATCH", f"{API}/experiments", 501, code=12, refused="Method Not Allowed"),
    Exchange("unknown verb", "POST", f"{API}/runs/{{MISSING}}:stop", 501, code=12, refused="Method Not Allowed"),
    Exchange("OPTIONS", "OPTIONS", f"{API}/experiments", 501, code=12, refused="Method Not Allowed"),
]
BODIES = [
    Exchange("no body", "POST", f"{API}/experiments", raw="", **INTERNAL),
    Exchange(
        "list as body",
        "POST",
        f"{API}/experiments",
        raw="[]",
        refused="proto: syntax error (line 1:1): unexpected token [",
        **UNREADABLE,
    ),
    Exchange(
        "unknown field",
        "POST",
        f"{API}/experiments",
        raw='{"foo": 1}',
        refused='proto: (line 1:2): unknown field "foo"',
        **UNREADABLE,
    ),
    Exchange(
        "field twice",
        "POST",
        f"{API}/experiments",
        raw='{"display_name": "a", "displayName": "b"}',
        refused='proto: (line 1:23): duplicate field "displayName"',
        **UNREADABLE,
    ),
    Exchange(
        "wrong enumeration",
        "POST",
        f"{API}/experiments",
        raw='{"storage_state": "GONE"}',
        refused='proto: (line 1:19): invalid value for enum field storageState: "GONE"',
        **UNREADABLE,
    ),
    Exchange(
        "no JSON",
        "POST",
        f"{API}/experiments",
        raw="{'a': 1}",
        refused="invalid character '\\'' looking for beginning of object key string",
        **UNREADABLE,
    ),
]
EXPERIMENTS = [
    Exchange(
        "create an experiment",
        "POST",
        f"{API}/experiments",
        body={"display_name": "{PRE}-one"},
        fields=EXPERIMENT,
        equals={"storage_state": "AVAILABLE", "last_run_created_at": ZERO},
        keep={"experiment_id": "one"},
        made="experiment_id",
    ),
    Exchange(
        "create another experiment",
        "POST",
        f"{API}/experiments",
        raw='{"displayName": "{PRE}-under_score"} and more',
        keep={"experiment_id": "two"},
        made="experiment_id",
    ),
    Exchange(
        "name taken in other letters",
        "POST",
        f"{API}/experiments",
        409,
        body={"display_name": "{PRE}-ONE"},
        code=6,
        reason="Failed to create a new experiment. The name {PRE}-ONE already exists. Please specify a new name",
    ),
    Exchange("no name", "POST", f"{API}/experiments", body={}, **INTERNAL),
    Exchange("name of 129 bytes", "POST", f"{API}/experiments", body={"display_name": "x" * 129}, **INTERNAL),
    Exchange("name of 65 umlauts", "POST", f"{API}/experiments", body={"display_name": "ü" * 65}, **INTERNAL),
    Exchange(
        "missing experiment",
        "GET",
        f"{API}/experiments/{{MISSING}}",
        reason="Experiment {MISSING} not found",
        **NOT_FOUND,
    ),
    Exchange("archive a missing experiment", "POST", f"{API}/experiments/{{MISSING}}:archive", fields=()),
]
LISTS = [
    Exchange(
        "underscore in a filter",
        "GET",
        f"{API}/experiments",
        query=_where("IS_SUBSTRING", "name", string_value="{PRE}-o_e"),
        equals={"total_size": 1, "experiments.0.display_name": "{PRE}-one"},
    ),
    Exchange(
        "escaped underscore",
        "GET",
        f"{API}/experiments",
        query=_where("IS_SUBSTRING", "name", string_value="{PRE}-under\\_"),
        equals={"total_size": 1},
    ),
    Exchange(
        "space at the end of a name",
        "GET",
        f"{API}/experiments",
        query=_where(1, "name", string_value="{PRE}-ONE "),
        equals={"total_size": 1},
    ),
    Exchange("empty list", "GET", f"{API}/experiments", query=_where("IN", "name", string_values={"values": []})),
    Exchange(
        "first page",
        "GET",
        f"{API}/experiments",
        query=_where("IS_SUBSTRING", "name", string_value="{PRE}") | {"pageSize": 1, "sortBy": "name desc"},
        equals={"total_size": 2, "experiments.0.display_name": "{PRE}-under_score"},
        keep={"next_page_token": "token"},
    ),
    Exchange(
        "second page",
        "GET",
        f"{API}/experiments",
        query={"page_token": "{token}"},
        equals={"total_size": 2, "experiments.0.display_name": "{PRE}-one"},
    ),
    Exchange(
        "token with another order",
        "GET",
        f"{API}/experiments",
        query={"page_token": "{token}", "sort_by": "name"},
        reason="page token does not match the supplied sort by and/or filtering criteria. Either specify the same "
        "criteria or leave the latter empty if page token is specified",
        **INVALID,
    ),
    Exchange("token of another list", "GET", f"{API}/runs", 500, query={"page_token": "{token}"}),
    Exchange(
        "invented token",
        "GET",
        f"{API}/runs",
        query={"page_token": "Z2FyYmFnZQ=="},
        reason="Invalid package token",
        **INVALID,
    ),
    Exchange(
        "page size as text",
        "GET",
        f"{API}/runs",
        query={"page_size": "abc"},
        refused='parsing field "page_size": strconv.ParseInt: parsing "abc": invalid syntax',
        **UNREADABLE,
    ),
    Exchange(
        "negative page size",
        "GET",
        f"{API}/runs",
        query={"page_size": -1},
        reason="The page size should be greater than 0. Got -1",
        **INVALID,
    ),
    Exchange(
        "unknown key",
        "GET",
        f"{API}/runs",
        query=_where("EQUALS", "wrong", string_value="x"),
        reason='no support for filtering on unrecognized field "wrong"',
        **INVALID,
    ),
    Exchange(
        "no operation",
        "GET",
        f"{API}/runs",
        query=_where("OPERATION_UNSPECIFIED", "name", string_value="x"),
        reason="Error using Filter.Predicate.Operation with go_client.Predicate_Operation",
        **INVALID,
    ),
    Exchange(
        "list for a scalar operation",
        "GET",
        f"{API}/runs",
        query=_where("EQUALS", "name", string_values={"values": ["x"]}),
        reason="cannot use scalar operator EQUALS on array type []string",
        **INVALID,
    ),
    *(
        Exchange(f"sort {path} by {key}", "GET", f"{API}/{path}", query={"sort_by": key, "page_size": 1})
        for path, key in (("runs", "metric:x"), ("runs", "state_history"), ("pipelines", "namespace"))
    ),
    *(
        Exchange(
            f"sort {path} by {key}",
            "GET",
            f"{API}/{path}",
            query={"sort_by": key},
            reason=f'Invalid sorting field: "{key}" on listable type {kind}',
            **INVALID,
        )
        for path, key, kind in (
            ("runs", "pipeline_id", "Run"),
            ("recurringruns", "experiment_id", "Job"),
            ("experiments", "updated_at", "Experiment"),
        )
    ),
]
PIPELINES = [
    Exchange(
        "upload",
        "POST",
        f"{API}/pipelines/upload",
        query={"name": "{PRE}-pipeline"},
        file=("p.yaml", SPEC),
        fields=PIPELINE,
        keep={"pipeline_id": "pipeline"},
        made="pipeline_id",
    ),
    Exchange(
        "upload without a name",
        "POST",
        f"{API}/pipelines/upload",
        file=("{PRE}-file.json", SPEC),
        equals={"name": "{PRE}-file.json", "display_name": "{PRE}-file.json"},
        made="pipeline_id",
    ),
    Exchange(
        "upload a version",
        "POST",
        f"{API}/pipelines/upload_version",
        query={"pipelineid": "{pipeline}", "name": "{PRE}-v2"},
        file=("p.yaml", SPEC),
        fields=VERSION,
        equals={"pipeline_spec.root.inputDefinitions.parameters.count.defaultValue": 2},
        keep={"pipeline_version_id": "version"},
    ),
    Exchange(
        "version by another pipeline",
        "GET",
        f"{API}/pipelines/{{MISSING}}/versions/{{version}}",
        equals={"pipeline_id": "{pipeline}"},
    ),
    Exchange(
        "name of a pipeline taken",
        "POST",
        f"{API}/pipelines/upload",
        409,
        query={"name": "{PRE}-PIPELINE"},
        file=("p.yaml", SPEC),
        equals={"error_message": "Failed to create a pipeline and a pipeline version"},
    ),
    Exchange(
        "no pipeline in the file",
        "POST",
        f"{API}/pipelines/upload",
        500,
        query={"name": "{PRE}-bad"},
        file=("p.yaml", "just: text"),
        equals={"error_message": "Failed to create a pipeline and a pipeline version"},
    ),
    *(
        Exchange(
            f"upload as {name}",
            "POST",
            f"{API}/pipelines/upload",
            400,
            file=(name, SPEC),
            equals={"error_message": "Failed to read a pipeline spec file"},
        )
        for name in ("p.txt", "p.YAML", "p", "p.zip")
    ),
    Exchange(
        "version of a missing pipeline",
        "POST",
        f"{API}/pipelines/upload_version",
        400,
        query={"pipelineid": "{MISSING}", "name": "x"},
        file=("p.yaml", SPEC),
        equals={"error_message": "Failed to create a pipeline version"},
    ),
    Exchange(
        "version without an address",
        "POST",
        f"{API}/pipelines/{{pipeline}}/versions",
        body={"name": "x", "pipeline_id": "{pipeline}"},
        reason="Failed to create a pipeline version. Package URL is nil",
        **INVALID,
    ),
    Exchange(
        "pipeline with versions",
        "DELETE",
        f"{API}/pipelines/{{pipeline}}",
        400,
        equals={"code": 3},
    ),
    Exchange(
        "missing name",
        "GET",
        f"{API}/pipelines/names/{{PRE}}-nobody",
        reason="Namespace/Pipeline /{PRE}-nobody not found",
        **NOT_FOUND,
    ),
]
RUNS = [
    Exchange("run without a source", "POST", f"{API}/runs", body=_run(), **INTERNAL),
    Exchange("run without a name", "POST", f"{API}/runs", body=_with({"text": "x"}) | {"display_name": ""}, **INTERNAL),
    Exchange(
        "run of a missing pipeline",
        "POST",
        f"{API}/runs",
        body=_run(pipeline_version_reference={"pipeline_id": "{MISSING}"}),
        **INTERNAL,
    ),
    Exchange("run of no pipeline", "POST", f"{API}/runs", body=_run(pipeline_spec={"just": "text"}), **INTERNAL),
    Exchange(
        "missing argument",
        "POST",
        f"{API}/runs",
        body=_with({"nobody": 1}),
        reason="parameter text is not optional, yet has neither default value nor user provided value",
        **INVALID,
    ),
    Exchange(
        "unknown argument",
        "POST",
        f"{API}/runs",
        body=_with({"text": "x", "nobody": 1}),
        reason="parameter(s) provided are not required by pipeline: nobody",
        **INVALID,
    ),
    Exchange(
        "number for a text",
        "POST",
        f"{API}/runs",
        body=_with({"text": 1}),
        reason="input parameter text requires type string, but the input parameter is not of string value type",
        **INVALID,
    ),
    Exchange(
        "null for an optional number",
        "POST",
        f"{API}/runs",
        body=_with({"text": "x", "count": None}),
        reason="input parameter count requires type double or integer, but the parameter value is not of number value "
        "type",
        **INVALID,
    ),
    Exchange(
        "run",
        "POST",
        f"{API}/runs",
        body=_with({"text": "x", "count": 2.0}),
        fields=(*NEW_RUN, "runtime_config"),
        equals={"state": "PENDING", "finished_at": ZERO, "runtime_config.parameters": {"text": "x", "count": 2}},
        keep={"run_id": "run"},
        made="run_id",
    ),
    Exchange("archive a run", "POST", f"{API}/runs/{{run}}:archive"),
    Exchange("unarchive a run", "POST", f"{API}/runs/{{run}}:unarchive"),
    Exchange(
        "missing run",
        "GET",
        f"{API}/runs/{{MISSING}}",
        reason="Run {MISSING} not found",
        equals={
            "message": "Failed to get a run: Failed to fetch run {MISSING}: ResourceNotFoundError: Run {MISSING} "
            "not found"
        },
        **NOT_FOUND,
    ),
    *(
        Exchange(
            f"{verb} a missing run",
            "POST",
            f"{API}/runs/{{MISSING}}:{verb}",
            reason="Run {MISSING} not found",
            **NOT_FOUND,
        )
        for verb in ("archive", "unarchive", "terminate", "retry")
    ),
]
RECURRING_RUNS = [
    Exchange(
        "recurring run",
        "POST",
        f"{API}/recurringruns",
        body=_cron("0 30 9 * * 1-5"),
        fields=(*RECURRING, "runtime_config"),
        equals={"max_concurrency": "1", "status": "DISABLED", "trigger.cron_schedule.cron": "0 30 9 * * 1-5"},
        keep={"recurring_run_id": "recurring"},
        made="recurring_run_id",
    ),
    Exchange(
        "recurring run with an empty trigger",
        "POST",
        f"{API}/recurringruns",
        body=_recurring(trigger={}),
        equals={"trigger": {}},
        made="recurring_run_id",
    ),
    *(
        Exchange(f"cron {expression}", "POST", f"{API}/recurringruns", body=_cron(expression), made="recurring_run_id")
        for expression in ("* * * * *", "@every 1.5h", "@every 500ms", "0 */90 * * * *", "0 0 0 31 2 *")
    ),
    *(
        Exchange(
            f"cron {expression}",
            "POST",
            f"{API}/recurringruns",
            body=_cron(expression),
            reason=CRON + problem,
            **INVALID,
        )
        for expression, problem in (
            ("* * * *", "Expected 5 to 6 fields, found 4: * * * *"),
            ("0 0 0 * * 7", "End of range (7) above maximum (6): 7"),
            ("0 0 22-2 * * *", "Beginning of range (22) beyond end of range (2): 22-2"),
            ("@DAILY", "Unrecognized descriptor: @DAILY"),
            ("@every 1d", 'Failed to parse duration @every 1d: time: unknown unit "d" in duration "1d"'),
            ("0 H * * * *", 'Failed to parse int from H: strconv.Atoi: parsing "H": invalid syntax'),
        )
    ),
    Exchange(
        "interval of zero",
        "POST",
        f"{API}/recurringruns",
        body=_recurring(trigger={"periodic_schedule": {"interval_second": 0}}),
        reason="Found invalid period schedule interval 0. Set at interval to least 1 second",
        **INVALID,
    ),
    Exchange(
        "eleven at once",
        "POST",
        f"{API}/recurringruns",
        body=_recurring(max_concurrency=11),
        reason="Max concurrency of a recurring run must be at least 1 and at most 10. Received 11",
        **INVALID,
    ),
    Exchange("enable", "POST", f"{API}/recurringruns/{{recurring}}:enable"),
    Exchange("disable", "POST", f"{API}/recurringruns/{{recurring}}:disable"),
    Exchange(
        "missing recurring run",
        "GET",
        f"{API}/recurringruns/{{MISSING}}",
        reason="Job {MISSING} not found",
        **NOT_FOUND,
    ),
]
CATALOGUE = [*SERVICES, *BODIES, *EXPERIMENTS, *LISTS, *PIPELINES, *RUNS, *RECURRING_RUNS]
