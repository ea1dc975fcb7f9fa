"""The contract of the API for tests: every operation, and the shapes of messages.

The shapes are those of kfp-server-api, the client that is generated from the server's own OpenAPI document.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import kfp_server_api
from kfp_server_api import models

LISTS = ("page_token", "page_size", "sort_by", "filter", "namespace")
EMPTY = "object"


@dataclass(frozen=True)
class Operation:
    """One operation: its method and path, and the types of its request and its response."""

    name: str
    method: str
    path: str
    query: tuple[str, ...] = ()
    body: str = ""
    answer: str = EMPTY

    @property
    def unsupported(self) -> bool:
        return self.name.startswith(("AuthService", "ReportService", "VisualizationService"))


OPERATIONS = [
    Operation("AuthService_Authorize", "GET", "/auth", ("namespace", "resources", "verb")),
    Operation("HealthzService_GetHealthz", "GET", "/healthz", answer="V2beta1GetHealthzResponse"),
    Operation("ExperimentService_ListExperiments", "GET", "/experiments", LISTS, "", "V2beta1ListExperimentsResponse"),
    Operation(
        "ExperimentService_CreateExperiment", "POST", "/experiments", (), "V2beta1Experiment", "V2beta1Experiment"
    ),
    Operation("ExperimentService_GetExperiment", "GET", "/experiments/{experiment}", answer="V2beta1Experiment"),
    Operation("ExperimentService_DeleteExperiment", "DELETE", "/experiments/{experiment}"),
    Operation("ExperimentService_ArchiveExperiment", "POST", "/experiments/{experiment}:archive"),
    Operation("ExperimentService_UnarchiveExperiment", "POST", "/experiments/{experiment}:unarchive"),
    Operation("PipelineService_ListPipelines", "GET", "/pipelines", LISTS, "", "V2beta1ListPipelinesResponse"),
    Operation("PipelineService_CreatePipeline", "POST", "/pipelines", (), "V2beta1Pipeline", "V2beta1Pipeline"),
    Operation(
        "PipelineService_CreatePipelineAndVersion",
        "POST",
        "/pipelines/create",
        (),
        "V2beta1CreatePipelineAndVersionRequest",
        "V2beta1Pipeline",
    ),
    Operation(
        "PipelineService_GetPipelineByName", "GET", "/pipelines/names/{name}", ("namespace",), "", "V2beta1Pipeline"
    ),
    Operation("PipelineService_GetPipeline", "GET", "/pipelines/{pipeline}", answer="V2beta1Pipeline"),
    Operation("PipelineService_DeletePipeline", "DELETE", "/pipelines/{pipeline}", ("cascade",)),
    Operation(
        "PipelineService_ListPipelineVersions",
        "GET",
        "/pipelines/{pipeline}/versions",
        LISTS[:-1],
        "",
        "V2beta1ListPipelineVersionsResponse",
    ),
    Operation(
        "PipelineService_CreatePipelineVersion",
        "POST",
        "/pipelines/{pipeline}/versions",
        (),
        "V2beta1PipelineVersion",
        "V2beta1PipelineVersion",
    ),
    Operation(
        "PipelineService_GetPipelineVersion",
        "GET",
        "/pipelines/{pipeline}/versions/{version}",
        answer="V2beta1PipelineVersion",
    ),
    Operation("PipelineService_DeletePipelineVersion", "DELETE", "/pipelines/{pipeline}/versions/{version}"),
    Operation(
        "UploadPipeline",
        "POST",
        "/pipelines/upload",
        ("name", "display_name", "description", "namespace"),
        "FILE",
        "V2beta1Pipeline",
    ),
    Operation(
        "UploadPipelineVersion",
        "POST",
        "/pipelines/upload_version",
        ("name", "display_name", "pipelineid", "description"),
        "FILE",
        "V2beta1PipelineVersion",
    ),
    Operation(
        "RecurringRunService_ListRecurringRuns",
        "GET",
        "/recurringruns",
        (*LISTS, "experiment_id"),
        "",
        "V2beta1ListRecurringRunsResponse",
    ),
    Operation(
        "RecurringRunService_CreateRecurringRun",
        "POST",
        "/recurringruns",
        (),
        "V2beta1RecurringRun",
        "V2beta1RecurringRun",
    ),
    Operation("RecurringRunService_GetRecurringRun", "GET", "/recurringruns/{recurring}", answer="V2beta1RecurringRun"),
    Operation(
        "RecurringRunService_DeleteRecurringRun", "DELETE", "/recurringruns/{recurring}", ("propagation_policy",)
    ),
    Operation("RecurringRunService_DisableRecurringRun", "POST", "/recurringruns/{recurring}:disable"),
    Operation("RecurringRunService_EnableRecurringRun", "POST", "/recurringruns/{recurring}:enable"),
    Operation("ReportService_ReportScheduledWorkflow", "POST", "/scheduledworkflows", (), "TEXT"),
    Operation("ReportService_ReportWorkflow", "POST", "/workflows", (), "TEXT"),
    Operation("RunService_ListRuns", "GET", "/runs", (*LISTS, "experiment_id"), "", "V2beta1ListRunsResponse"),
    Operation("RunService_CreateRun", "POST", "/runs", ("experiment_id",), "V2beta1Run", "V2beta1Run"),
    Operation("RunService_GetRun", "GET", "/runs/{run}", ("experiment_id",), "", "V2beta1Run"),
    Operation("RunService_DeleteRun", "DELETE", "/runs/{run}", ("experiment_id",)),
    Operation("RunService_ArchiveRun", "POST", "/runs/{run}:archive", ("experiment_id",)),
    Operation("RunService_RetryRun", "POST", "/runs/{run}:retry", ("experiment_id",)),
    Operation("RunService_TerminateRun", "POST", "/runs/{run}:terminate", ("experiment_id",)),
    Operation("RunService_UnarchiveRun", "POST", "/runs/{run}:unarchive", ("experiment_id",)),
    Operation(
        "VisualizationService_CreateVisualizationV1", "POST", "/visualizations/{name}", (), "V2beta1Visualization"
    ),
]
# Fields of the real server's healthz response that its OpenAPI document does not name.
UNNAMED = {"V2beta1GetHealthzResponse": {"commit_sha", "tag_name"}}


def generated_operations() -> set[str]:
    """Return the names of the operations in the generated client, as `service_operation` in lower case."""
    found = set()
    for name in dir(kfp_server_api):
        if name.endswith("ServiceApi"):
            methods = (method for method in dir(getattr(kfp_server_api, name)) if not method.startswith("_"))
            found |= {method.replace("_", "") for method in methods if not method.endswith("_with_http_info")}
    return found


def problems(kind: str, data: Any, where: str = "answer") -> list[str]:
    """Return the differences between a response and the type that the contract gives it.

    Args:
        kind: a type as kfp-server-api writes it, such as `V2beta1Run` or `list[str]`.
        data: the response, parsed from JSON.
        where: the name of the response in the messages.
    """
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(data, list):
            return [f"{where} is not a list"]
        return [found for n, item in enumerate(data) for found in problems(inner[1], item, f"{where}[{n}]")]
    if inner := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(data, dict):
            return [f"{where} is not an object"]
        return [found for key, item in data.items() for found in problems(inner[1], item, f"{where}.{key}")]
    if kind in ("str", "int", "bool", "object", "datetime"):
        return [] if _is(kind, data) else [f"{where} is {data!r}, which is not a {kind}"]
    model = getattr(models, kind)
    if values := getattr(model, "allowable_values", None) or _enum(model):
        return [] if data in values else [f"{where} is {data!r}, not one of {values}"]
    return _problems_of_message(kind, model, data, where)


def _problems_of_message(kind: str, model, data: Any, where: str) -> list[str]:
    if not isinstance(data, dict):
        return [f"{where} is not an object"]
    known = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
    strange = set(data) - set(known) - UNNAMED.get(kind, set())
    found = [f"{where} has a field {name}, which {kind} does not have" for name in strange]
    return found + [
        more for name in known if name in data for more in problems(known[name], data[name], f"{where}.{name}")
    ]


def _enum(model) -> list[str]:
    if model.openapi_types:
        return []
    return [value for name, value in vars(model).items() if name.isupper() and isinstance(value, str)]


def _is(kind: str, data: Any) -> bool:
    if kind == "datetime":
        return isinstance(data, str) and data.endswith("Z") and bool(datetime.fromisoformat(data))
    if kind == "object":
        return isinstance(data, (dict, list, str, int, float, bool, type(None)))
    return isinstance(data, {"str": str, "int": int, "bool": bool}[kind])
