"""The RecurringRun service, and the creation of the runs that are due."""

import logging
from time import time as now
from uuid import uuid4

from fastapi import APIRouter
from sqlmodel import Session, col, func, select

from workshop.sandbox.pipelines_api import experiments, messages, pipelines, runs
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.engine.contract import ENDED, Runner
from workshop.sandbox.pipelines_api.errors import ApiError, invalid
from workshop.sandbox.pipelines_api.listing import list_page
from workshop.sandbox.pipelines_api.package import from_database
from workshop.sandbox.pipelines_api.queries import ListQuery, checked_name, experiment_condition, find
from workshop.sandbox.pipelines_api.schedules import MAX_INTERVAL, NEVER, cron_problem, next_moment
from workshop.sandbox.pipelines_api.tables import RecurringRun, Run, Store, manifest, store_manifest

MAX_CONCURRENCY = 10
CHECK_SECONDS = 60.0  # the longest time between two checks: a changed clock makes runs due earlier
CHECK_SOON_SECONDS = 0.1
log = logging.getLogger("uvicorn.error")
FIELDS = {
    "id": RecurringRun.recurring_run_id,
    "recurring_run_id": RecurringRun.recurring_run_id,
    "name": RecurringRun.display_name,
    "display_name": RecurringRun.display_name,
    "description": RecurringRun.description,
    "created_at": RecurringRun.created_at,
    "updated_at": RecurringRun.updated_at,
    "pipeline_id": RecurringRun.pipeline_id,
    "experiment_id": RecurringRun.experiment_id,
}


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


def router(store: Store, dispatcher: Dispatcher) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/recurringruns")

    @routes.get("")
    def list_recurring_runs(query: ListQuery, experiment_id: str = "") -> dict:
        with store.reading() as session:
            conditions = experiment_condition(session, RecurringRun, experiment_id)
            page = list_page(session, RecurringRun, FIELDS, query, *conditions)
            return messages.page("recurringRuns", page, [_to_message(session, row) for row in page.rows])

    @routes.post("")
    def create_recurring_run(body: messages.RecurringRunBody) -> dict:
        name = checked_name(body.display_name, "Recurring run's name cannot be empty")
        config = body.runtime_config or messages.RuntimeConfig()
        parameters = config.parameters or {}
        trigger = _trigger(body.trigger)
        concurrency = body.max_concurrency or 0
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise invalid(
                "Max concurrency of a recurring run must be at least 1 and at most "
                f"{MAX_CONCURRENCY}. Received {concurrency}"
            )
        with store.reading() as session:
            package, version = runs.resolve_source(session, body)
        runs.check_runnable(package, parameters, dispatcher.runner)
        reference = body.pipeline_version_reference
        with store.writing() as session:
            created = RecurringRun(
                recurring_run_id=str(uuid4()),
                experiment_id=experiments.for_new_run(session, body.experiment_id or "").experiment_id,
                display_name=name,
                description=body.description or "",
                service_account=body.service_account or runs.SERVICE_ACCOUNT,
                pipeline_id=version.pipeline_id if version else "",
                # An empty id means the latest version at the time of each run.
                pipeline_version_id=(reference.pipeline_version_id or "") if reference and version else "",
                manifest="" if version else store_manifest(session, package.document),
                parameters=parameters,
                pipeline_root=runs.checked_root(config.pipeline_root),
                max_concurrency=concurrency,
                trigger=trigger,
                no_catchup=bool(body.no_catchup),
                enabled=body.mode in ("ENABLE", 1),
                created_at=int(now()),
                updated_at=int(now()),
            )
            session.add(created)
            session.flush()
            message = _to_message(session, created)
        dispatcher.wake()
        return message

    @routes.post("/{recurring_run_id}:enable")
    def enable_recurring_run(recurring_run_id: str) -> dict:
        return _set_enabled(recurring_run_id, True)

    @routes.post("/{recurring_run_id}:disable")
    def disable_recurring_run(recurring_run_id: str) -> dict:
        return _set_enabled(recurring_run_id, False)

    @routes.get("/{recurring_run_id}")
    def get_recurring_run(recurring_run_id: str) -> dict:
        with store.reading() as session:
            return _to_message(session, find(session, RecurringRun, recurring_run_id))

    @routes.delete("/{recurring_run_id}")
    def delete_recurring_run(recurring_run_id: str) -> dict:
        """Delete a recurring run. The runs that it has created stay."""
        with store.writing() as session:
            session.delete(find(session, RecurringRun, recurring_run_id))
        return {}

    def _set_enabled(recurring_run_id: str, enabled: bool) -> dict:
        with store.writing() as session:
            found = find(session, RecurringRun, recurring_run_id)
            found.enabled = enabled
            found.updated_at = int(now())
        dispatcher.wake()
        return {}

    return routes


def _to_message(session: Session, row: RecurringRun) -> dict:
    return messages.recurring_run(row, manifest(session, row.manifest) if row.manifest else None)


def _trigger(body: messages.Trigger | None) -> dict:
    """Check a trigger, and return it in the form of the database."""
    if body is None or bool(body.cron_schedule) == bool(body.periodic_schedule):
        raise invalid("a recurring run needs a trigger: one of cron_schedule and periodic_schedule")
    if body.cron_schedule:
        cron = body.cron_schedule.cron or ""
        if problem := cron_problem(cron):
            raise invalid(
                "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). "
                f"Error: {cron!r}: {problem}"
            )
    elif body.periodic_schedule and not 1 <= (body.periodic_schedule.interval_second or 0) <= MAX_INTERVAL:
        raise invalid(
            f"Found invalid period schedule interval {body.periodic_schedule.interval_second}. "
            "Set at interval to least 1 second"
        )
    return messages.trigger(body)


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
        due = next_moment(row.trigger, row.last_scheduled, row.created_at, moment, not row.no_catchup)
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
            latest = next_moment(row.trigger, due, row.created_at, moment, catch_up=False)
            row.last_scheduled = int(min(latest, moment))
        return 0.0


def _create_run(session: Session, row: RecurringRun, runner: Runner) -> None:
    if row.manifest:
        version, digest = None, row.manifest
    else:
        version = pipelines.find_version(session, row.pipeline_id, row.pipeline_version_id)
        digest = version.manifest
    warnings = runs.check_runnable(from_database(manifest(session, digest)), row.parameters, runner)
    runs.add(
        session,
        experiments.for_new_run(session, row.experiment_id),
        recurring_run_id=row.recurring_run_id,
        display_name=f"{row.display_name}-{row.fired}",
        service_account=row.service_account,
        pipeline_id=version.pipeline_id if version else "",
        pipeline_version_id=version.pipeline_version_id if version else "",
        inline=version is None,
        manifest=digest,
        parameters=row.parameters,
        pipeline_root=row.pipeline_root,
        scheduled_at=row.last_scheduled,
        warnings=warnings,
    )
