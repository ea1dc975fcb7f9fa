"""The Experiment service."""

from time import time as now
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from sqlalchemy import update
from sqlmodel import Session, col, select

from workshop.sandbox.pipelines_api import messages, schemas
from workshop.sandbox.pipelines_api.access import Access
from workshop.sandbox.pipelines_api.errors import conflict, during, exists, internal, internally, invalid
from workshop.sandbox.pipelines_api.listing import Listable, list_page, options
from workshop.sandbox.pipelines_api.queries import (
    ListQuery,
    body_of,
    check_length,
    find,
    namespace_condition,
    parameters,
    same_text,
    too_long,
)
from workshop.sandbox.pipelines_api.tables import ARCHIVED, AVAILABLE, Experiment, RecurringRun, Run, Store

DEFAULT = "Default"
AUTHORIZING = "Failed to authorize with API"
LIST = Listable(
    "Experiment",
    Experiment,
    {
        "id": Experiment.experiment_id,
        "experiment_id": Experiment.experiment_id,
        "name": Experiment.display_name,
        "display_name": Experiment.display_name,
        "description": Experiment.description,
        "created_at": Experiment.created_at,
        "last_run_created_at": Experiment.last_run_created_at,
        "namespace": Experiment.namespace,
        "storage_state": Experiment.storage_state,
    },
)
Body = Annotated[messages.ExperimentBody, Depends(body_of(messages.ExperimentBody, schemas.EXPERIMENT))]


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


def router(store: Store, access: Access) -> APIRouter:
    """Return the service's routes."""
    routes = APIRouter(prefix="/experiments")

    def allow(session: Session, experiment_id: str, verb: str) -> None:
        if access.multi_user:
            with during("Failed to authorize the request"):
                with during("Failed to authorize with the experiment ID"):
                    found = find(session, Experiment, experiment_id)
                access.check("experiments", verb, found.namespace, found.display_name, AUTHORIZING)

    @routes.get("")
    def list_experiments(request: Request, query: ListQuery) -> dict:
        chosen = options(LIST, query)
        namespace = access.namespace(parameters(request, "namespace")["namespace"])
        with during("List experiments failed"), during(AUTHORIZING):
            access.check("experiments", "list", namespace, step=AUTHORIZING)
        with store.reading() as session:
            page = list_page(session, LIST, chosen, *namespace_condition(Experiment, access, namespace))
            return messages.page("experiments", page, [messages.experiment(row) for row in page.rows])

    @routes.post("")
    def create_experiment(body: Body) -> dict:
        with (
            during("[ExperimentServer]: Failed to create a experiment due to conversion error"),
            internally("Failed to convert API experiment to model experiment"),
        ):
            _check(body)
        namespace = access.namespace(body.namespace)
        with during("Failed to create a experiment"):
            with during("Failed to authorize the request"):
                access.check("experiments", "create", namespace, body.display_name, AUTHORIZING)
            with store.writing() as session:
                return messages.experiment(_add(session, body, namespace))

    @routes.post("/{experiment_id}:archive")
    def archive_experiment(experiment_id: str) -> dict:
        """Archive an experiment and its runs, and disable its recurring runs."""
        with during("Failed to archive experiment"), store.writing() as session:
            allow(session, experiment_id, "archive")
            _set_state(session, experiment_id, ARCHIVED)
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
        with during("Failed to unarchive experiment"), store.writing() as session:
            allow(session, experiment_id, "unarchive")
            _set_state(session, experiment_id, AVAILABLE)
        return {}

    @routes.get("/{experiment_id}")
    def get_experiment(experiment_id: str) -> dict:
        with during("Failed to fetch experiment"), store.reading() as session:
            allow(session, experiment_id, "get")
            return messages.experiment(find(session, Experiment, experiment_id))

    @routes.delete("/{experiment_id}")
    def delete_experiment(experiment_id: str) -> dict:
        """Delete an experiment. The experiment's runs and recurring runs stay."""
        with during("Failed to delete experiment"), store.writing() as session:
            allow(session, experiment_id, "delete")
            found = _deletable(session, experiment_id)
            session.delete(found)
        return {}

    return routes


def for_new_run(session: Session, experiment_id: str) -> Experiment:
    """Return the experiment of a new run.

    Args:
        session: a session that writes.
        experiment_id: the experiment; "" for the default experiment.

    Raises:
        ApiError: the experiment does not exist.
    """
    return find(session, Experiment, experiment_id) if experiment_id else default(session)


def _check(body: messages.ExperimentBody) -> None:
    if not body.display_name:
        raise invalid("Experiment must have a non-empty name")
    check_length("Experiment.Name", body.display_name)


def _add(session: Session, body: messages.ExperimentBody, namespace: str) -> Experiment:
    if problem := too_long([("Description", body.description)]):
        raise internal("Failed to add experiment to experiment table", problem)
    same = (Experiment.namespace == namespace, same_text(Experiment.display_name, body.display_name))
    if session.exec(select(Experiment).where(*same)).first():
        raise exists(
            f"Failed to create a new experiment. The name {body.display_name} already exists. Please specify a new name"
        )
    created = Experiment(
        experiment_id=str(uuid4()),
        namespace=namespace,
        display_name=body.display_name,
        description=body.description,
        created_at=int(now()),
    )
    session.add(created)
    session.flush()
    return created


def _set_state(session: Session, experiment_id: str, state: str) -> None:
    """Set the storage state of an experiment. As in the real server, a missing experiment is no error."""
    session.exec(update(Experiment).where(col(Experiment.experiment_id) == experiment_id).values(storage_state=state))


def _deletable(session: Session, experiment_id: str) -> Experiment:
    with during(f"Failed to delete experiment {experiment_id} due to error fetching it"):
        found = find(session, Experiment, experiment_id)
    if found.display_name == DEFAULT:
        raise conflict(
            f"Failed to delete experiment {experiment_id}. The default experiment cannot be deleted",
            f"Invalid input error: Experiment id cannot be equal to the default id {experiment_id}",
        )
    return found
