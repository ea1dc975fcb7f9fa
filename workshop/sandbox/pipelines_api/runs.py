"""The Run service."""

import re
from collections.abc import Mapping
from time import time as now
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from sqlalchemy import delete
from sqlmodel import Session, col, select
from starlette.responses import JSONResponse

from workshop.sandbox.pipelines_api import access as access_rules
from workshop.sandbox.pipelines_api import argo, engine, experiments, messages, pipelines, schemas
from workshop.sandbox.pipelines_api.access import Access
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.contract import Runner
from workshop.sandbox.pipelines_api.errors import (
    ApiError,
    conflict,
    during,
    exists,
    internal,
    internally,
    invalid,
    precondition,
)
from workshop.sandbox.pipelines_api.listing import Listable, list_page, options
from workshop.sandbox.pipelines_api.package import Package, check_arguments, from_database, read_document
from workshop.sandbox.pipelines_api.queries import (
    ExperimentParameter,
    ListQuery,
    body_of,
    experiment_condition,
    find,
    namespace_condition,
    namespace_of_experiment,
    parameters,
    too_long,
)
from workshop.sandbox.pipelines_api.run_details import tasks_of
from workshop.sandbox.pipelines_api.states import ENDED, change, retry
from workshop.sandbox.pipelines_api.tables import (
    ARCHIVED,
    AVAILABLE,
    Experiment,
    PipelineVersion,
    RecurringRun,
    Run,
    Store,
    TaskRecord,
    manifest,
    store_manifest,
)

SERVICE_ACCOUNT = "pipeline-runner"  # the service account of a standalone installation
NO_SOURCE = "Failed to fetch a template with an empty pipeline spec manifest"
OWN_ID = re.compile(r"[A-Za-z0-9-]{1,64}")  # an id becomes the name of a folder
LIST = Listable(
    "Run",
    Run,
    {
        "id": Run.run_id,
        "run_id": Run.run_id,
        "name": Run.display_name,
        "display_name": Run.display_name,
        "description": Run.description,
        "created_at": Run.created_at,
        "scheduled_at": Run.scheduled_at,
        "finished_at": Run.finished_at,
        "storage_state": Run.storage_state,
        "state": Run.state,
        "status": Run.state,
        "experiment_id": Run.experiment_id,
        "recurring_run_id": Run.recurring_run_id,
        "namespace": Run.namespace,
        "state_history": Run.state_history,
        "runtime_details": Run.manifest,
    },
)
Body = Annotated[messages.RunBody, Depends(body_of(messages.RunBody, schemas.RUN))]


def resolve_source(session: Session, body: messages.Source) -> tuple[Package, PipelineVersion | None]:
    """Return the pipeline that a request names: by its spec, or by a pipeline version.

    The server checks a spec once, when the spec arrives: in an upload or in this request. A spec from the database is
    known to be valid.

    Returns:
        The pipeline, and its version (None if the request contains a spec).

    Raises:
        ApiError: the request names no pipeline, the spec is not valid, or the version does not exist.
    """
    reference = body.pipeline_version_reference
    if body.pipeline_spec:
        with during("Failed to fetch a template with an invalid pipeline spec manifest"):
            return _read_spec(body.pipeline_spec), None
    with during("Failed to fetch a template due to error retrieving pipeline version"):
        if reference.pipeline_version_id:
            named = reference.pipeline_version_id
            with during(f"Failed to fetch a pipeline version and its manifest from pipeline version {named}"):
                version = pipelines.find_version(session, named)
        elif reference.pipeline_id:
            named = reference.pipeline_id
            with during(f"Failed to fetch a pipeline version and its manifest from pipeline {named}"):
                version = pipelines.latest_version(session, named)
        else:
            version = None
        if version and reference.pipeline_id and version.pipeline_id != reference.pipeline_id:
            raise invalid(
                f"the pipeline version {version.pipeline_version_id} belongs to the pipeline {version.pipeline_id}, "
                f"not to {reference.pipeline_id}"
            )
    if version is None:
        raise invalid(NO_SOURCE)
    return from_database(manifest(session, version.manifest)), version


def check_runnable(package: Package, parameters: Mapping[str, Any], runner: Runner) -> list[str]:
    """Check that the sandbox can run a pipeline with these arguments.

    Args:
        package: the pipeline.
        parameters: the arguments by name.
        runner: how tasks are executed.

    Returns:
        Warnings, one sentence each.

    Raises:
        ApiError: the sandbox cannot run the pipeline.
    """
    with during("invalid pipeline job inputs"):
        warnings = check_arguments(package.spec, parameters)
    if argo.is_workflow(package.spec):
        return warnings
    errors, ignored = engine.check(package.spec, package.platform, runner)
    if errors:
        raise invalid(f"the sandbox cannot run the pipeline {package.name!r}: {'; '.join(errors)}")
    return [*warnings, *ignored]


def add(session: Session, experiment: Experiment, **fields: Any) -> Run:
    """Add a run in the state PENDING.

    Args:
        session: a session that writes.
        experiment: the experiment of the run.
        fields: the other fields of `Run`.
    """
    identifier = fields.pop("run_id", "") or str(uuid4())
    made = Run(
        run_id=identifier,
        experiment_id=experiment.experiment_id,
        namespace=experiment.namespace,
        created_at=int(now()),
        **fields,
    )
    if not made.scheduled_at:  # the history of a recurring run's run begins when the run does, as on a cluster
        change(made, "PENDING", " ".join(made.warnings))
    made.scheduled_at = made.scheduled_at or made.created_at
    experiment.last_run_created_at = made.created_at
    session.add(made)
    session.flush()
    return made


def router(store: Store, dispatcher: Dispatcher, access: Access) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/runs")

    def allow(session: Session, run_id: str, verb: str) -> None:
        if access.multi_user:
            with during("Failed to authorize the request"):
                with during(f"Failed to authorize with the run ID {run_id}"):
                    found = find_run(session, run_id)
                access.check("runs", verb, found.namespace, "", _no_access(found.namespace, run_id))

    @routes.get("")
    def list_runs(request: Request, query: ListQuery, experiment_id: ExperimentParameter) -> dict:
        chosen = options(LIST, query)
        with during("Failed to list runs"), store.reading() as session:
            conditions = experiment_condition(session, Run, experiment_id)
            namespace = parameters(request, "namespace")["namespace"]
            if experiment_id:
                namespace = namespace_of_experiment(session, experiment_id)
            with during(
                f"Failed to list runs due to authorization error. Check if you have permission to access namespace "
                f"{namespace}"
            ):
                access.check("runs", "list", namespace, step=_no_access(namespace))
            conditions += namespace_condition(Run, access, namespace)
            page = list_page(session, LIST, chosen, *conditions)
            return messages.page("runs", page, _to_messages(session, page.rows))

    @routes.post("")
    def create_run(body: Body) -> dict:
        with (
            during("CreateJob(job.ToV2())Failed to create a run due to conversion error"),
            internally("Failed to convert a API run detail to its internal representation"),
        ):
            _check(body)
        with during("Failed to create a new run"):
            with store.reading() as session:
                namespace = check_experiment(session, body.experiment_id, "run", access)
                with during(
                    "Failed to create a run due to authorization error. Check if you have write permissions to "
                    f"namespace {namespace}"
                ):
                    access.check("runs", "create", namespace, "", _no_access(namespace))
                package, version = _source(session, body)
            with during("Failed to generate the ExecutionSpec"):
                warnings = check_runnable(package, body.runtime_config.parameters, dispatcher.runner)
            with store.writing() as session:
                made = _add(session, body, package, version, warnings, access)
        dispatcher.wake()
        return messages.run(made, [], package.document if made.inline else None)

    @routes.post("/{run_id}:archive")
    def archive_run(run_id: str) -> dict:
        step = f"Failed to archive run {run_id} as it does not exist"
        with during("Failed to archive a run"), store.writing() as session, during(step):
            allow(session, run_id, "archive")
            find_run(session, run_id).storage_state = ARCHIVED
        return {}

    @routes.post("/{run_id}:unarchive")
    def unarchive_run(run_id: str) -> dict:
        with during("Failed to unarchive a run"), store.writing() as session:
            allow(session, run_id, "unarchive")
            with during(f"Failed to unarchive run {run_id} as it does not exist"):
                found = find_run(session, run_id)
            experiment = session.exec(select(Experiment).where(Experiment.experiment_id == found.experiment_id)).first()
            if experiment and experiment.storage_state == ARCHIVED:
                raise precondition(
                    f"Failed to unarchive run {run_id} as experiment {found.experiment_id} must be un-archived first",
                    "Unarchive the experiment first to allow the run to be restored",
                )
            found.storage_state = AVAILABLE
        return {}

    @routes.post("/{run_id}:terminate")
    def terminate_run(run_id: str) -> dict:
        """Stop a run and the processes of its tasks. A run that has not started ends at once."""
        with during("Failed to terminate a run"), store.writing() as session:
            allow(session, run_id, "terminate")
            found = _changeable(session, run_id, "terminate")
            if found.state in (*ENDED, "CANCELING"):
                with during(f"Failed to terminate run {run_id}"):
                    raise invalid(f"Failed to terminate a run {run_id}. Row not found")
            has_not_started = found.state == "PENDING"
            change(found, "CANCELING")
            if has_not_started:
                change(found, "CANCELED")
        dispatcher.cancel(run_id)
        return {}

    @routes.post("/{run_id}:retry")
    def retry_run(run_id: str) -> dict:
        """Execute a failed run again. Tasks that have succeeded are not executed again."""
        with during("Failed to retry a run"), store.writing() as session:
            allow(session, run_id, "retry")
            found = _changeable(session, run_id, "retry")
            if found.state != "FAILED":
                with during(f"Failed to retry run {run_id}"):
                    raise conflict("Workflow must be Failed/Error to retry", "workflow cannot be retried")
            retry(found, tasks_of(session, [run_id]))
        dispatcher.wake()
        return {}

    @routes.get("/{run_id}")
    def get_run(run_id: str) -> JSONResponse:
        with during("Failed to get a run"), store.reading() as session:
            allow(session, run_id, "get")
            # A loop can have thousands of tasks, so the framework must not copy the message.
            return JSONResponse(_to_messages(session, [find_run(session, run_id)])[0])

    @routes.delete("/{run_id}")
    def delete_run(run_id: str) -> dict:
        """Delete a run. A run in progress is stopped first. The artifacts in S3 stay."""
        with during("Failed to delete a run"), store.writing() as session:
            allow(session, run_id, "delete")
            found = _changeable(session, run_id, "delete")
            session.exec(delete(TaskRecord).where(col(TaskRecord.run_id) == run_id))
            session.delete(found)
        dispatcher.discard(run_id)
        return {}

    return routes


def find_run(session: Session, run_id: str) -> Run:
    """Return a run.

    Raises:
        ApiError: the run does not exist.
    """
    with during(f"Failed to fetch run {run_id}"):
        return find(session, Run, run_id)


def service_account(access: Access) -> str:
    """Return the service account of a run that names none."""
    return access_rules.SERVICE_ACCOUNT if access.multi_user else SERVICE_ACCOUNT


def _no_access(namespace: str, run_id: str = "") -> str:
    return f"Failed to access run {run_id}. Check if you have access to namespace {namespace}"


def check_experiment(session: Session, experiment_id: str, kind: str, access: Access) -> str:
    """Check that the experiment of a new run or recurring run exists, and return its namespace.

    Args:
        session: a session.
        experiment_id: the experiment; "" for the default experiment.
        kind: `run` or `recurring run`.
        access: a server with several users has no default experiment.

    Raises:
        ApiError: the experiment does not exist, or it is missing on a server with several users.
    """
    if not experiment_id and not access.multi_user:
        return ""
    with during(f"Failed to create a {kind} due to invalid experimentId and namespace combination"):
        if not experiment_id:
            raise invalid("Experiment id can not be empty in multi-user mode")
        with during(f"Failed to fetch namespace for experiment {experiment_id}"):
            return namespace_of_experiment(session, experiment_id)


def _changeable(session: Session, run_id: str, verb: str) -> Run:
    """Return a run whose experiment exists. As in the real server, a run of a deleted experiment
    cannot be changed."""
    with during(f"Failed to {verb} run {run_id} due to error fetching the run"):
        found = find_run(session, run_id)
    with (
        during(f"Failed to {verb} run {run_id} due to error fetching its namespace"),
        during(f"Failed to fetch namespace from run {run_id}"),
    ):
        namespace_of_experiment(session, found.experiment_id)
    return found


def _check(body: messages.RunBody) -> None:
    if not body.display_name:
        raise invalid("Run name cannot be empty")
    if body.run_id and not OWN_ID.fullmatch(body.run_id):
        raise invalid(f"run_id is {body.run_id[:80]!r}; it may have at most 64 letters, digits and hyphens")


def _source(session: Session, body: messages.RunBody) -> tuple[Package, PipelineVersion | None]:
    if body.recurring_run_id:
        known = select(RecurringRun).where(RecurringRun.recurring_run_id == body.recurring_run_id)
        if session.exec(known).first() is None:
            raise internal(
                "Failed to create a run due to invalid recurring run id",
                f"Invalid input error: RecurringRunId doesn't exist: {body.recurring_run_id}",
            )
    with internally("Failed to create a run due to error fetching manifest"):
        return resolve_source(session, body)


def _read_spec(document: Mapping[str, Any]) -> Package:
    try:
        return read_document(document)
    except ApiError as error:
        if error.by_sandbox:
            raise
        reason = "unknown template format: pipeline spec is invalid"
        raise ApiError(error.code, reason, message=f"InvalidInputError: {reason}: {error.reason}") from None


def _add(
    session: Session,
    body: messages.RunBody,
    package: Package,
    version: PipelineVersion | None,
    warnings: list[str],
    access: Access,
) -> Run:
    if problem := too_long([("DisplayName", body.display_name), ("Description", body.description)]):
        raise internal("Failed to store run", problem)
    if body.run_id and session.exec(select(Run).where(Run.run_id == body.run_id)).first():
        raise exists(f"Failed to create a new run. The id {body.run_id} already exists")
    return add(
        session,
        experiments.for_new_run(session, body.experiment_id),
        run_id=body.run_id,
        recurring_run_id=body.recurring_run_id,
        display_name=body.display_name,
        description=body.description,
        service_account=body.service_account or service_account(access),
        pipeline_id=version.pipeline_id if version else "",
        pipeline_version_id=version.pipeline_version_id if version else "",
        inline=version is None,
        manifest=version.manifest if version else store_manifest(session, package.document),
        parameters=body.runtime_config.parameters,
        pipeline_root=body.runtime_config.pipeline_root,
        warnings=warnings,
    )


def _to_messages(session: Session, rows: list[Run]) -> list[dict]:
    tasks: dict[str, list[TaskRecord]] = {row.run_id: [] for row in rows}
    for task in tasks_of(session, list(tasks)):
        tasks[task.run_id].append(task)
    documents = {row.manifest: manifest(session, row.manifest) for row in rows if row.inline}
    return [messages.run(row, tasks[row.run_id], documents.get(row.manifest) if row.inline else None) for row in rows]
