"""The Healthz service, and the services that the sandbox does not support."""

import json

from fastapi import APIRouter, Request

from workshop.project import versions
from workshop.sandbox.pipelines_api.errors import ApiError, Code, during, invalid, unreadable
from workshop.sandbox.pipelines_api.queries import EVERY_METHOD


def health_router(multi_user: bool = False) -> APIRouter:
    """Return the route of the Healthz service, which every version of the API has.

    Args:
        multi_user: whether the server has several users.
    """
    routes = APIRouter()

    @routes.api_route("/healthz", methods=EVERY_METHOD)
    def healthz() -> dict:
        return {
            "commit_sha": "unknown",  # the default of the real server
            "tag_name": versions()["KUBEFLOW_PIPELINES_VERSION"],
            "multi_user": multi_user,
            "pipeline_store": "database",
        }

    return routes


def report_router() -> APIRouter:
    """Return the routes of the Report service. On a cluster, the controllers of workflows use the service."""
    routes = APIRouter()

    @routes.post("/workflows")
    async def report_workflow(request: Request) -> dict:
        with during("Report workflow failed"):
            _check_document(await request.body(), "workflow")
        raise _unsupported("ReportService.ReportWorkflow", "it runs no Argo Workflows")

    @routes.post("/scheduledworkflows")
    async def report_scheduled_workflow(request: Request) -> dict:
        with during("Report scheduled workflow failed"):
            _check_document(await request.body(), "scheduled workflow")
        raise _unsupported("ReportService.ReportScheduledWorkflow", "it runs no ScheduledWorkflow controller")

    return routes


def _check_document(body: bytes, kind: str) -> None:
    """Check that a body is a text in JSON, and that the text holds an object in JSON."""
    try:
        text = json.loads(body or b'""')
    except (ValueError, RecursionError):
        raise unreadable("the body must be a text in JSON") from None
    if not isinstance(text, str):
        raise unreadable(f"json: cannot unmarshal {type(text).__name__} into Go value of type string")
    try:
        if isinstance(json.loads(text), dict):
            return
        cause = "it is no object"
    except (ValueError, RecursionError):
        cause = f"invalid character {text[0]!r} looking for beginning of value" if text else "unexpected end of input"
    raise invalid(f"Could not unmarshal {kind}: {cause}: {text}")


def _unsupported(operation: str, reason: str) -> ApiError:
    return ApiError(Code.UNIMPLEMENTED, f"{operation} is not supported by the sandbox: {reason}.")
