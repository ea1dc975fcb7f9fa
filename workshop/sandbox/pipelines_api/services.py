"""The small services: Healthz and Auth, and those that have no meaning on one machine."""

from typing import Literal

from fastapi import APIRouter

from workshop.project import versions
from workshop.sandbox.pipelines_api.errors import ApiError, Code, invalid

RESOURCES = ("UNASSIGNED_RESOURCES", "VIEWERS")
VERBS = ("UNASSIGNED_VERB", "CREATE", "GET", "DELETE")


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.get("/healthz")
    def get_healthz() -> dict:
        return {
            "commit_sha": "unknown",  # the server's own default, too
            "tag_name": versions()["KUBEFLOW_PIPELINES_VERSION"],
            "multi_user": False,
            "pipeline_store": "database",
        }

    @routes.get("/auth")
    def authorize(
        namespace: str = "",
        resources: Literal[RESOURCES] = "UNASSIGNED_RESOURCES",
        verb: Literal[VERBS] = "UNASSIGNED_VERB",
    ) -> dict:
        """Allow everything that is asked for properly, as an installation for one user does."""
        if not namespace:
            raise invalid("Namespace is empty. Please specify a valid namespace.")
        if resources == "UNASSIGNED_RESOURCES":
            raise invalid("Resources not specified. Please specify a valid resources.")
        if verb == "UNASSIGNED_VERB":
            raise invalid("Verb not specified. Please specify a valid verb.")
        return {}

    @routes.post("/workflows")
    def report_workflow() -> dict:
        raise _unsupported("ReportService.ReportWorkflow", "there is no Argo that would report workflows")

    @routes.post("/scheduledworkflows")
    def report_scheduled_workflow() -> dict:
        raise _unsupported("ReportService.ReportScheduledWorkflow", "there is no controller that would report them")

    @routes.post("/visualizations/{namespace}")
    def create_visualization(namespace: str) -> dict:
        raise _unsupported("VisualizationService.CreateVisualizationV1", "there is no visualization server")

    return routes


def _unsupported(operation: str, reason: str) -> ApiError:
    return ApiError(Code.UNIMPLEMENTED, f"{operation} is not supported by the sandbox: {reason}.")
