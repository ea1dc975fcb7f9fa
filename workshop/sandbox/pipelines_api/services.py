"""The Healthz and Auth services, and the services that the sandbox does not support."""

from typing import Literal

from fastapi import APIRouter

from workshop.project import versions
from workshop.sandbox.pipelines_api.errors import ApiError, Code, invalid

Resource = Literal["UNASSIGNED_RESOURCES", "VIEWERS"]
Verb = Literal["UNASSIGNED_VERB", "CREATE", "GET", "DELETE"]


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.get("/healthz")
    def get_healthz() -> dict:
        return {
            "commit_sha": "unknown",  # the default of the real server
            "tag_name": versions()["KUBEFLOW_PIPELINES_VERSION"],
            "multi_user": False,
            "pipeline_store": "database",
        }

    @routes.get("/auth")
    def authorize(
        namespace: str = "",
        resources: Resource = "UNASSIGNED_RESOURCES",
        verb: Verb = "UNASSIGNED_VERB",
    ) -> dict:
        """Allow every valid request, like an installation for a single user."""
        if not namespace:
            raise invalid("Namespace is empty. Please specify a valid namespace.")
        if resources == "UNASSIGNED_RESOURCES":
            raise invalid("Resources not specified. Please specify a valid resources.")
        if verb == "UNASSIGNED_VERB":
            raise invalid("Verb not specified. Please specify a valid verb.")
        return {}

    @routes.post("/workflows")
    def report_workflow() -> dict:
        raise _unsupported("ReportService.ReportWorkflow", "it runs no Argo Workflows")

    @routes.post("/scheduledworkflows")
    def report_scheduled_workflow() -> dict:
        raise _unsupported("ReportService.ReportScheduledWorkflow", "it runs no ScheduledWorkflow controller")

    @routes.post("/visualizations/{namespace}")
    def create_visualization(namespace: str) -> dict:
        raise _unsupported("VisualizationService.CreateVisualizationV1", "it runs no visualization server")

    return routes


def _unsupported(operation: str, reason: str) -> ApiError:
    return ApiError(Code.UNIMPLEMENTED, f"{operation} is not supported by the sandbox: {reason}.")
