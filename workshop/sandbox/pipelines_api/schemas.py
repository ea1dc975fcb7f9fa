"""The types of the messages that requests contain, with all their fields.

Source: `backend/api/v2beta1/*.proto` of kubeflow/pipelines. A client may send a message as it got the message from the
server, so fields that only answers fill in are here too.
"""

from workshop.sandbox.pipelines_api.protojson import Field, Schema

API = "kubeflow.pipelines.backend.api.v2beta1"
OPERATIONS = (
    "OPERATION_UNSPECIFIED",
    "EQUALS",
    "NOT_EQUALS",
    "GREATER_THAN",
    "GREATER_THAN_EQUALS",
    "LESS_THAN",
    "LESS_THAN_EQUALS",
    "IN",
    "IS_SUBSTRING",
)
_TEXT, _TIME, _INT32, _INT64 = Field(), Field("timestamp"), Field("int32"), Field("int64")


def _texts(*names: str) -> dict[str, Field]:
    return dict.fromkeys(names, _TEXT)


def _times(*names: str) -> dict[str, Field]:
    return dict.fromkeys(names, _TIME)


def _message(schema: Schema, choice: str = "", repeated: bool = False) -> Field:
    return Field("message", schema, choice=choice, repeated=repeated)


def _enum(*values: str) -> Field:
    return Field("enum", values=values)


STATUS = Schema({"code": _INT32, "message": _TEXT, "details": Field("struct", repeated=True)})
_ERROR = {"error": _message(STATUS)}
_STORAGE = {"storage_state": _enum("STORAGE_STATE_UNSPECIFIED", "AVAILABLE", "ARCHIVED")}
_STATE = _enum(
    "RUNTIME_STATE_UNSPECIFIED",
    "PENDING",
    "RUNNING",
    "SUCCEEDED",
    "SKIPPED",
    "FAILED",
    "CANCELING",
    "CANCELED",
    "PAUSED",
)
EXPERIMENT = Schema(
    _texts("experiment_id", "display_name", "description", "namespace")
    | _times("created_at", "last_run_created_at")
    | _STORAGE
)
PIPELINE = Schema(
    _texts("pipeline_id", "display_name", "name", "description", "namespace") | _times("created_at") | _ERROR
)
URL = Schema(_texts("pipeline_url"))
PIPELINE_VERSION = Schema(
    _texts("pipeline_id", "pipeline_version_id", "display_name", "name", "description", "code_source_url")
    | _times("created_at")
    | _ERROR
    | {"package_url": _message(URL), "pipeline_spec": Field("struct")}
)
PIPELINE_AND_VERSION = Schema({"pipeline": _message(PIPELINE), "pipeline_version": _message(PIPELINE_VERSION)})
VERSION_REFERENCE = Schema(_texts("pipeline_id", "pipeline_version_id"))
RUNTIME_CONFIG = Schema(_texts("pipeline_root") | {"parameters": Field("values")})
RUNTIME_STATUS = Schema(_times("update_time") | _ERROR | {"state": _STATE})
_HISTORY = {"state_history": _message(RUNTIME_STATUS, repeated=True)}
CHILD_TASK = Schema(_texts("task_id", "pod_name"))
EXECUTOR_DETAIL = Schema(
    _texts("main_job", "pre_caching_check_job")
    | {
        "failed_main_jobs": Field(repeated=True),
        "failed_pre_caching_check_jobs": Field(repeated=True),
    }
)
TASK_DETAIL = Schema(
    _texts("run_id", "task_id", "display_name", "parent_task_id", "pod_name")
    | _times("create_time", "start_time", "end_time")
    | _ERROR
    | _HISTORY
    | {
        "executor_detail": _message(EXECUTOR_DETAIL),
        "state": _STATE,
        "execution_id": _INT64,
        "inputs": Field("values"),
        "outputs": Field("values"),
        "child_tasks": _message(CHILD_TASK, repeated=True),
    }
)
RUN_DETAILS = Schema(
    {
        "pipeline_context_id": _INT64,
        "pipeline_run_context_id": _INT64,
        "task_details": _message(TASK_DETAIL, repeated=True),
    }
)


def _source(message: str) -> dict[str, Field]:
    choice = f"{API}.{message}.pipeline_source"
    return {
        "pipeline_version_id": Field(choice=choice),
        "pipeline_spec": Field("struct", choice=choice),
        "pipeline_version_reference": _message(VERSION_REFERENCE, choice),
        "runtime_config": _message(RUNTIME_CONFIG),
    }


RUN = Schema(
    _texts("experiment_id", "run_id", "display_name", "description", "service_account", "recurring_run_id")
    | _times("created_at", "scheduled_at", "finished_at")
    | _ERROR
    | _STORAGE
    | _HISTORY
    | _source("Run")
    | {"state": _STATE, "run_details": _message(RUN_DETAILS)}
)
CRON_SCHEDULE = Schema(_texts("cron") | _times("start_time", "end_time"))
PERIODIC_SCHEDULE = Schema(_times("start_time", "end_time") | {"interval_second": _INT64})
TRIGGER = Schema(
    {
        "cron_schedule": _message(CRON_SCHEDULE, f"{API}.Trigger.trigger"),
        "periodic_schedule": _message(PERIODIC_SCHEDULE, f"{API}.Trigger.trigger"),
    }
)
RECURRING_RUN = Schema(
    _texts("recurring_run_id", "display_name", "description", "service_account", "namespace", "experiment_id")
    | _times("created_at", "updated_at")
    | _ERROR
    | _source("RecurringRun")
    | {
        "max_concurrency": _INT64,
        "trigger": _message(TRIGGER),
        "mode": _enum("MODE_UNSPECIFIED", "ENABLE", "DISABLE"),
        "status": _enum("STATUS_UNSPECIFIED", "ENABLED", "DISABLED"),
        "no_catchup": Field("bool"),
    }
)
_VALUE = f"{API}.Predicate.value"
PREDICATE = Schema(
    _texts("key")
    | {
        "operation": _enum(*OPERATIONS),
        "int_value": Field("int32", choice=_VALUE),
        "long_value": Field("int64", choice=_VALUE),
        "string_value": Field(choice=_VALUE),
        "timestamp_value": Field("timestamp", choice=_VALUE),
        "int_values": _message(Schema({"values": Field("int32", repeated=True)}), _VALUE),
        "long_values": _message(Schema({"values": Field("int64", repeated=True)}), _VALUE),
        "string_values": _message(Schema({"values": Field(repeated=True)}), _VALUE),
    }
)
FILTER = Schema({"predicates": _message(PREDICATE, repeated=True)})
