"""The RecurringRun service, and the creation of the runs that are due."""

import logging
import re
import zlib
from time import time as now
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from sqlmodel import Session, col, func, select

from workshop.sandbox.pipelines_api import experiments, messages, pipelines, runs, schemas
from workshop.sandbox.pipelines_api.access import Access
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.contract import ENDED, Runner
from workshop.sandbox.pipelines_api.errors import (
    ApiError,
    during,
    internal,
    internally,
    invalid,
    unclassified,
)
from workshop.sandbox.pipelines_api.listing import Listable, list_page, options
from workshop.sandbox.pipelines_api.package import Package, from_database
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
from workshop.sandbox.pipelines_api.schedules import MAX_INTERVAL, NEVER, cron_problem, next_moment
from workshop.sandbox.pipelines_api.tables import (
    PipelineVersion,
    RecurringRun,
    Run,
    Store,
    manifest,
    store_manifest,
)

AUTHORIZING = "failed to authorize with API"
NAMESPACE = "kubeflow"  # the namespace of a standalone installation
MAX_CONCURRENCY = 10
CHECK_SECONDS = 60.0  # the longest time between two checks: a changed clock makes runs due earlier
CHECK_SOON_SECONDS = 0.1
log = logging.getLogger("uvicorn.error")
LIST = Listable(
    "Job",
    RecurringRun,
    {
        "id": RecurringRun.recurring_run_id,
        "recurring_run_id": RecurringRun.recurring_run_id,
        "name": RecurringRun.display_name,
        "display_name": RecurringRun.display_name,
        "description": RecurringRun.description,
        "created_at": RecurringRun.created_at,
        "updated_at": RecurringRun.updated_at,
    },
)
Body = Annotated[messages.RecurringRunBody, Depends(body_of(messages.RecurringRunBody, schemas.RECURRING_RUN))]


def fire_due(store: Store, moment: float | None = None, runner: Runner = "subprocess") -> float:
    """Create the runs that are due.

    Args:
        store: the database.
        moment: the time in seconds since the epoch; the current time by default.
        runner: how tasks are executed.

    Returns:
        The seconds until the next call.
    """
    moment = now() if moment is None else moment
    with store.reading() as session:
        enabled = session.exec(select(RecurringRun.recurring_run_id).where(col(RecurringRun.enabled))).all()
    return min([*(_fire_one(store, identifier, moment, runner) for identifier in enabled), CHECK_SECONDS])


def router(store: Store, dispatcher: Dispatcher, access: Access) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/recurringruns")

    def allow(session: Session, recurring_run_id: str, verb: str) -> None:
        if access.multi_user:
            with during("Failed to authorize the request"):
                with during("failed to authorize with the recurring run ID"):
                    found = find(session, RecurringRun, recurring_run_id)
                access.check("jobs", verb, found.namespace, found.display_name, AUTHORIZING)

    @routes.get("")
    def list_recurring_runs(request: Request, query: ListQuery, experiment_id: ExperimentParameter) -> dict:
        chosen = options(LIST, query, "Failed to list recurring runs due to error parsing the listing options")
        with during("Failed to list jobs"), store.reading() as session:
            conditions = experiment_condition(session, RecurringRun, experiment_id)
            namespace = parameters(request, "namespace")["namespace"]
            if experiment_id:
                namespace = namespace_of_experiment(session, experiment_id)
            with during(
                "Failed to list recurring runs due to authorization error. Check if you have permission to access "
                f"namespace {namespace}"
            ):
                access.check("jobs", "list", namespace, step=AUTHORIZING)
            conditions += namespace_condition(RecurringRun, access, namespace)
            page = list_page(session, LIST, chosen, *conditions)
            return messages.page("recurringRuns", page, [_to_message(session, row) for row in page.rows])

    @routes.post("")
    def create_recurring_run(body: Body) -> dict:
        with during("Failed to create a recurring run due to conversion error"):
            trigger = _checked(body)
        with during("Failed to create a recurring run"):
            with store.reading() as session:
                namespace = _check_namespace(session, body, access)
                with during(
                    "Failed to create a recurring run due to authorization error. Check if you have write permission "
                    f"to namespace {namespace}"
                ):
                    access.check("jobs", "create", namespace, body.display_name, AUTHORIZING)
                package, version = _source(session, body)
            with during("Failed to create a recurring run during scheduled workflow creation"):
                runs.check_runnable(package, body.runtime_config.parameters, dispatcher.runner)
            with store.writing() as session:
                message = _to_message(session, _add(session, body, trigger, package, version, access))
        dispatcher.wake()
        return message

    @routes.post("/{recurring_run_id}:enable")
    def enable_recurring_run(recurring_run_id: str) -> dict:
        with during("Failed to enable a recurring run"):
            return _set_enabled(recurring_run_id, True)

    @routes.post("/{recurring_run_id}:disable")
    def disable_recurring_run(recurring_run_id: str) -> dict:
        with during("Failed to disable a recurring run"):
            return _set_enabled(recurring_run_id, False)

    @routes.get("/{recurring_run_id}")
    def get_recurring_run(recurring_run_id: str) -> dict:
        with during("Failed to fetch a recurring run"), store.reading() as session:
            allow(session, recurring_run_id, "get")
            return _to_message(session, find(session, RecurringRun, recurring_run_id))

    @routes.delete("/{recurring_run_id}")
    def delete_recurring_run(recurring_run_id: str) -> dict:
        """Delete a recurring run. The runs that it has created stay."""
        step = f"Failed to delete recurring run {recurring_run_id}. Check if exists"
        with during("Failed to delete a recurring run"), store.writing() as session:
            allow(session, recurring_run_id, "delete")
        with during("Failed to delete a recurring run"), during(step), store.writing() as session:
            session.delete(find(session, RecurringRun, recurring_run_id))
        return {}

    def _set_enabled(recurring_run_id: str, enabled: bool) -> dict:
        with store.reading() as session:
            allow(session, recurring_run_id, "enable" if enabled else "disable")
        step = f"Failed to change recurring run's mode to enable:{str(enabled).lower()}. "
        with during(f"{step}Check if recurring run {recurring_run_id} exists"), store.writing() as session:
            found = find(session, RecurringRun, recurring_run_id)
            found.enabled = enabled
            found.updated_at = int(now())
        dispatcher.wake()
        return {}

    return routes


def _to_message(session: Session, row: RecurringRun) -> dict:
    return messages.recurring_run(row, manifest(session, row.manifest) if row.manifest else None)


def _checked(body: messages.RecurringRunBody) -> dict | None:
    """Check the fields of a new recurring run, and return its trigger in the form of the database."""
    if not body.display_name:
        raise internal(
            "Failed to convert a API recurring run to its internal representation",
            "Invalid input error: Recurring run's name cannot be empty",
        )
    if not 1 <= body.max_concurrency <= MAX_CONCURRENCY:
        raise invalid(
            "Max concurrency of a recurring run must be at least 1 and at most "
            f"{MAX_CONCURRENCY}. Received {body.max_concurrency}"
        )
    return _trigger(body.trigger)


def _trigger(trigger: messages.Trigger | None) -> dict | None:
    if trigger is None:
        return None
    if trigger.cron_schedule and (problem := cron_problem(trigger.cron_schedule.cron)):
        raise invalid(
            f"Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: {problem}"
        )
    if trigger.periodic_schedule:
        interval = trigger.periodic_schedule.interval_second
        if interval < 1:
            raise invalid(f"Found invalid period schedule interval {interval}. Set at interval to least 1 second")
        if interval > MAX_INTERVAL:
            # The real server accepts the interval. Then its controller starts no run of any recurring run any more.
            raise invalid(f"Found invalid period schedule interval {interval}. The limit is {MAX_INTERVAL} seconds")
    return messages.trigger(trigger)


def _check_namespace(session: Session, body: messages.RecurringRunBody, access: Access) -> str:
    """Return the namespace of a new recurring run."""
    of_experiment = runs.check_experiment(session, body.experiment_id, "recurring run", access) or NAMESPACE
    if body.namespace and body.namespace != of_experiment:
        with during("Failed to create a recurring run due to invalid experimentId and namespace combination"):
            raise invalid(
                f"Experiment {body.experiment_id} belongs to namespace '{of_experiment}' instead of '{body.namespace}'"
            )
    return of_experiment


def _source(session: Session, body: messages.RecurringRunBody) -> tuple[Package, PipelineVersion | None]:
    reference = body.pipeline_version_reference
    if not body.pipeline_spec and not reference.pipeline_id and not reference.pipeline_version_id:
        raise unclassified("Cannot create a job with an empty pipeline ID")
    if not body.pipeline_spec and not reference.pipeline_version_id:
        find(session, pipelines.Pipeline, reference.pipeline_id)
    with internally("Failed to create a recurring run with an invalid pipeline spec manifest"):
        return runs.resolve_source(session, body)


def _add(
    session: Session,
    body: messages.RecurringRunBody,
    trigger: dict | None,
    package: Package,
    version: PipelineVersion | None,
    access: Access,
) -> RecurringRun:
    if problem := too_long([("DisplayName", body.display_name), ("Description", body.description)]):
        raise internal("Failed to add job to job table", problem)
    experiment = experiments.for_new_run(session, body.experiment_id)
    version_id = body.pipeline_version_reference.pipeline_version_id if version else ""
    created = RecurringRun(
        recurring_run_id=str(uuid4()),
        experiment_id=experiment.experiment_id,
        namespace=experiment.namespace or NAMESPACE,
        display_name=body.display_name,
        description=body.description,
        # The server takes its own account, and shows the account only if it knows the pipeline's text.
        service_account=runs.service_account(access) if version_id or not version else "",
        pipeline_id=version.pipeline_id if version else "",
        pipeline_version_id=version_id,  # an empty id means the latest version at the time of each run
        manifest="" if version else store_manifest(session, package.document),
        parameters=body.runtime_config.parameters,
        pipeline_root=body.runtime_config.pipeline_root,
        max_concurrency=body.max_concurrency,
        trigger=trigger,
        no_catchup=body.no_catchup,
        enabled=body.mode in ("ENABLE", 1),
        created_at=int(now()),
        updated_at=int(now()),
    )
    session.add(created)
    session.flush()
    return created


def name_of_run(row: RecurringRun) -> str:
    """Return the name of the latest run of a recurring run.

    On a cluster, it is the name of the workflow: the recurring run's name without other letters than a to z and
    digits, five letters, the number of the run, and a hash.

    Args:
        row: the recurring run.
    """
    readable = re.sub(r"[^a-z0-9]+", "", row.display_name.lower())[:200]
    suffix = five_letters(row.recurring_run_id)
    name = f"{readable}{suffix}-{row.fired}"
    return f"{name}-{zlib.crc32(f'{row.recurring_run_id} {name}'.encode())}"


def five_letters(identifier: str) -> str:
    """Return five letters and digits as Kubernetes adds them to a name; equal ids have equal letters."""
    alphabet = "bcdfghjklmnpqrstvwxz2456789"
    number = zlib.crc32(identifier.encode())
    return "".join(alphabet[number // len(alphabet) ** place % len(alphabet)] for place in range(5))


def _fire_one(store: Store, identifier: str, moment: float, runner: Runner) -> float:
    """Create the due runs of one recurring run, and return the seconds until its next run. This function raises no
    exception."""
    try:
        for _ in range(MAX_CONCURRENCY):
            wait = _fire(store, identifier, moment, runner)
            if wait:
                return wait
        return CHECK_SOON_SECONDS
    except Exception:
        log.exception("recurring run %s", identifier)
        return NEVER


def _fire(store: Store, identifier: str, moment: float, runner: Runner) -> float:
    """Create one run if it is due, and return 0. Otherwise return the seconds until the next run."""
    with store.writing() as session:
        row = session.exec(select(RecurringRun).where(RecurringRun.recurring_run_id == identifier)).first()
        if row is None or not row.enabled:
            return NEVER
        due = next_moment(row.trigger or {}, row.last_scheduled, row.created_at, moment, not row.no_catchup)
        if due > moment:
            return due - moment
        unfinished = select(func.count()).select_from(Run)
        unfinished = unfinished.where(Run.recurring_run_id == identifier, col(Run.state).not_in(ENDED))
        if session.exec(unfinished).one() >= row.max_concurrency:
            return NEVER  # the end of a run triggers the next check
        row.last_scheduled, row.fired = int(due), row.fired + 1
        try:
            _create_run(session, row, runner)
        except ApiError as error:
            log.warning("recurring run %s creates no run: %s", row.display_name, error)
            # The missed runs would fail for the same reason.
            latest = next_moment(row.trigger or {}, due, row.created_at, moment, catch_up=False)
            row.last_scheduled = int(min(latest, moment))
        return 0.0


def _create_run(session: Session, row: RecurringRun, runner: Runner) -> None:
    if row.manifest:
        version, digest = None, row.manifest
    else:
        version = (
            pipelines.find_version(session, row.pipeline_version_id)
            if row.pipeline_version_id
            else pipelines.latest_version(session, row.pipeline_id)
        )
        digest = version.manifest
    warnings = runs.check_runnable(from_database(manifest(session, digest)), row.parameters, runner)
    runs.add(
        session,
        experiments.for_new_run(session, row.experiment_id),
        recurring_run_id=row.recurring_run_id,
        display_name=name_of_run(row),
        pipeline_id=version.pipeline_id if version else "",
        pipeline_version_id=version.pipeline_version_id if version else "",
        inline=version is None,
        manifest=digest,
        parameters=row.parameters,
        pipeline_root=row.pipeline_root,
        scheduled_at=row.last_scheduled,
        warnings=warnings,
    )
