"""The RecurringRun service, and the firing of what is due."""

import logging
from time import time as now
from uuid import uuid4

from fastapi import APIRouter
from sqlmodel import Session, func, select

from workshop.sandbox.pipelines_api import experiments, messages, runs
from workshop.sandbox.pipelines_api.dispatcher import Dispatcher
from workshop.sandbox.pipelines_api.errors import ApiError, invalid
from workshop.sandbox.pipelines_api.listing import list_page
from workshop.sandbox.pipelines_api.queries import ListQuery, belonging_to, find, named
from workshop.sandbox.pipelines_api.schedules import LONGEST_INTERVAL, NEVER, cron_problem, next_moment
from workshop.sandbox.pipelines_api.states import ENDED
from workshop.sandbox.pipelines_api.tables import RecurringRun, Run, Store, keep_manifest, manifest

MOST_AT_ONCE = 10
LOOK_AGAIN_SECONDS = 60.0  # the clock may be set
LOOK_AGAIN_SOON_SECONDS = 0.1
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


def fire_due(store: Store, moment: float | None = None, runner: str = "subprocess") -> float:
    """Make the runs that are due, and return how many seconds there are until the next look.

    Args:
        store: the database.
        moment: seconds since the epoch; the time now, by default.
        runner: what tasks are run with.
    """
    moment = now() if moment is None else moment
    with store.reading() as session:
        enabled = session.exec(select(RecurringRun.recurring_run_id).where(RecurringRun.enabled)).all()
    return min([*(_fire_one(store, identifier, moment, runner) for identifier in enabled), LOOK_AGAIN_SECONDS])


def router(store: Store, dispatcher: Dispatcher) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/recurringruns")

    @routes.get("")
    def list_recurring_runs(query: ListQuery, experiment_id: str = "") -> dict:
        with store.reading() as session:
            of_it = belonging_to(session, RecurringRun, experiment_id)
            page = list_page(session, RecurringRun, FIELDS, query, *of_it)
            return messages.page("recurringRuns", page, [_shown(session, row) for row in page.rows])

    @routes.post("")
    def create_recurring_run(body: messages.RecurringRunBody) -> dict:
        name = named(body.display_name, "Recurring run's name cannot be empty")
        config = body.runtime_config or messages.RuntimeConfig()
        parameters = config.parameters or {}
        trigger = _trigger(body.trigger)
        concurrency = body.max_concurrency or 0
        if not 1 <= concurrency <= MOST_AT_ONCE:
            raise invalid(
                "Max concurrency of a recurring run must be at least 1 and at most "
                f"{MOST_AT_ONCE}. Received {concurrency}"
            )
        with store.reading() as session:
            package, version = runs.resolve_source(session, body)
        runs.check_runnable(package, parameters, dispatcher.runner)
        reference = body.pipeline_version_reference
        with store.writing() as session:
            made = RecurringRun(
                recurring_run_id=str(uuid4()),
                experiment_id=experiments.for_new_run(session, body.experiment_id or "").experiment_id,
                display_name=name,
                description=body.description or "",
                service_account=body.service_account or runs.SERVICE_ACCOUNT,
                pipeline_id=version.pipeline_id if version else "",
                # Left open, it means the latest version at the time of each run.
                pipeline_version_id=(reference.pipeline_version_id or "") if version else "",
                manifest="" if version else keep_manifest(session, package.document),
                parameters=parameters,
                pipeline_root=runs.checked_root(config.pipeline_root),
                max_concurrency=concurrency,
                trigger=trigger,
                no_catchup=bool(body.no_catchup),
                enabled=body.mode in ("ENABLE", 1),
                created_at=int(now()),
                updated_at=int(now()),
            )
            session.add(made)
            session.flush()
            shown = _shown(session, made)
        dispatcher.wake()
        return shown

    @routes.post("/{recurring_run_id}:enable")
    def enable_recurring_run(recurring_run_id: str) -> dict:
        return _set_enabled(recurring_run_id, True)

    @routes.post("/{recurring_run_id}:disable")
    def disable_recurring_run(recurring_run_id: str) -> dict:
        return _set_enabled(recurring_run_id, False)

    @routes.get("/{recurring_run_id}")
    def get_recurring_run(recurring_run_id: str) -> dict:
        with store.reading() as session:
            return _shown(session, find(session, RecurringRun, recurring_run_id))

    @routes.delete("/{recurring_run_id}")
    def delete_recurring_run(recurring_run_id: str) -> dict:
        """Delete a recurring run; the runs that it has made stay."""
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


def _shown(session: Session, row: RecurringRun) -> dict:
    return messages.recurring_run(row, manifest(session, row.manifest) if row.manifest else None)


def _trigger(body: messages.Trigger | None) -> dict:
    """Check a trigger and return it as it is kept."""
    if body is None or bool(body.cron_schedule) == bool(body.periodic_schedule):
        raise invalid("a recurring run needs a trigger: one of cron_schedule and periodic_schedule")
    if body.cron_schedule:
        cron = body.cron_schedule.cron or ""
        if problem := cron_problem(cron):
            raise invalid(
                "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). "
                f"Error: {cron!r}: {problem}"
            )
    elif not 1 <= (body.periodic_schedule.interval_second or 0) <= LONGEST_INTERVAL:
        raise invalid(
            f"Found invalid period schedule interval {body.periodic_schedule.interval_second}. "
            "Set at interval to least 1 second"
        )
    return messages.trigger(body)


def _fire_one(store: Store, identifier: str, moment: float, runner: str) -> float:
    """Make the runs of one recurring run that are due; return the seconds until its next one. It stops no other."""
    try:
        for _ in range(MOST_AT_ONCE):
            wait = _fire(store, identifier, moment, runner)
            if wait:
                return wait
        return LOOK_AGAIN_SOON_SECONDS
    except Exception:
        log.exception("recurring run %s", identifier)
        return NEVER


def _fire(store: Store, identifier: str, moment: float, runner: str) -> float:
    """Make one run, if it is due, and return 0; else return the seconds until there is something to do."""
    with store.writing() as session:
        row = session.exec(select(RecurringRun).where(RecurringRun.recurring_run_id == identifier)).first()
        if row is None or not row.enabled:
            return NEVER
        due = next_moment(row.trigger, row.last_scheduled, row.created_at, moment, not row.no_catchup)
        if due > moment:
            return due - moment
        unfinished = select(func.count()).select_from(Run)
        unfinished = unfinished.where(Run.recurring_run_id == identifier, Run.state.not_in(ENDED))
        if session.exec(unfinished).one() >= row.max_concurrency:
            return NEVER  # the end of a run is a reason to look again
        row.last_scheduled, row.fired = int(due), row.fired + 1
        try:
            _make_run(session, row, runner)
        except ApiError as error:
            log.warning("recurring run %s makes no run: %s", row.display_name, error)
            # What was missed will fail for the same reason.
            latest = next_moment(row.trigger, due, row.created_at, moment, catch_up=False)
            row.last_scheduled = int(min(latest, moment))
        return 0.0


def _make_run(session: Session, row: RecurringRun, runner: str) -> None:
    reference = {"pipeline_id": row.pipeline_id, "pipeline_version_id": row.pipeline_version_id}
    source = {"pipeline_spec": manifest(session, row.manifest)} if row.manifest else {}
    body = messages.Source(pipeline_version_reference=None if source else reference, **source)
    package, version = runs.resolve_source(session, body)
    warnings = runs.check_runnable(package, row.parameters, runner)
    runs.add(
        session,
        experiments.for_new_run(session, row.experiment_id),
        recurring_run_id=row.recurring_run_id,
        display_name=f"{row.display_name}-{row.fired}",
        service_account=row.service_account,
        pipeline_id=version.pipeline_id if version else "",
        pipeline_version_id=version.pipeline_version_id if version else "",
        inline=version is None,
        manifest=version.manifest if version else row.manifest,
        parameters=row.parameters,
        pipeline_root=row.pipeline_root,
        scheduled_at=row.last_scheduled,
        warnings=warnings,
    )
