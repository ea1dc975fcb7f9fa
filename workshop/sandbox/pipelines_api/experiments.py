"""The Experiment service."""

from time import time as now
from uuid import uuid4

from fastapi import APIRouter
from sqlalchemy import update
from sqlmodel import Session, col, select

from workshop.sandbox.pipelines_api import messages
from workshop.sandbox.pipelines_api.errors import exists, invalid
from workshop.sandbox.pipelines_api.listing import list_page
from workshop.sandbox.pipelines_api.queries import ListQuery, checked_name, find
from workshop.sandbox.pipelines_api.tables import ARCHIVED, AVAILABLE, Experiment, RecurringRun, Run, Store

DEFAULT = "Default"
FIELDS = {
    "id": Experiment.experiment_id,
    "experiment_id": Experiment.experiment_id,
    "name": Experiment.display_name,
    "display_name": Experiment.display_name,
    "description": Experiment.description,
    "created_at": Experiment.created_at,
    "last_run_created_at": Experiment.last_run_created_at,
    "storage_state": Experiment.storage_state,
}


def default(session: Session) -> Experiment:
    """Return the default experiment. Create the experiment if it does not exist."""
    found = session.exec(select(Experiment).where(Experiment.display_name == DEFAULT)).first()
    if found:
        return found
    description = "All runs created without specifying an experiment will be grouped here."
    created = Experiment(
        experiment_id=str(uuid4()), display_name=DEFAULT, description=description, created_at=int(now())
    )
    session.add(created)
    session.flush()
    return created


def router(store: Store) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/experiments")

    @routes.get("")
    def list_experiments(query: ListQuery) -> dict:
        with store.reading() as session:
            page = list_page(session, Experiment, FIELDS, query)
            return messages.page("experiments", page, [messages.experiment(row) for row in page.rows])

    @routes.post("")
    def create_experiment(body: messages.ExperimentBody) -> dict:
        name = checked_name(body.display_name, "The experiment name is empty. Please specify a valid name")
        with store.writing() as session:
            if session.exec(select(Experiment).where(Experiment.display_name == name)).first():
                raise exists(
                    f"Failed to create a new experiment. The name {name} already exists. Please specify a new name"
                )
            created = Experiment(
                experiment_id=str(uuid4()),
                display_name=name,
                description=body.description or "",
                created_at=int(now()),
            )
            session.add(created)
        return messages.experiment(created)

    @routes.post("/{experiment_id}:archive")
    def archive_experiment(experiment_id: str) -> dict:
        """Archive an experiment and its runs, and disable its recurring runs."""
        with store.writing() as session:
            find(session, Experiment, experiment_id).storage_state = ARCHIVED
            session.exec(update(Run).where(col(Run.experiment_id) == experiment_id).values(storage_state=ARCHIVED))
            session.exec(
                update(RecurringRun)
                .where(col(RecurringRun.experiment_id) == experiment_id)
                .values(enabled=False, updated_at=int(now()))
            )
        return {}

    @routes.post("/{experiment_id}:unarchive")
    def unarchive_experiment(experiment_id: str) -> dict:
        """Unarchive an experiment. The experiment's runs stay archived, and its recurring runs stay disabled."""
        with store.writing() as session:
            find(session, Experiment, experiment_id).storage_state = AVAILABLE
        return {}

    @routes.get("/{experiment_id}")
    def get_experiment(experiment_id: str) -> dict:
        with store.reading() as session:
            return messages.experiment(find(session, Experiment, experiment_id))

    @routes.delete("/{experiment_id}")
    def delete_experiment(experiment_id: str) -> dict:
        """Delete an experiment. The experiment's runs and recurring runs stay."""
        with store.writing() as session:
            session.delete(find(session, Experiment, experiment_id))
        return {}

    return routes


def for_new_run(session: Session, experiment_id: str) -> Experiment:
    """Return the experiment of a new run.

    Args:
        session: a session that writes.
        experiment_id: the experiment; "" for the default experiment.

    Raises:
        ApiError: the experiment does not exist or is archived.
    """
    found = find(session, Experiment, experiment_id) if experiment_id else default(session)
    if found.storage_state == ARCHIVED:
        raise invalid(f"the experiment {found.display_name!r} is archived: unarchive it, or name another experiment")
    return found
