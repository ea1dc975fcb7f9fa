"""What several services take from a request."""

from typing import Annotated, TypeVar

from fastapi import Depends
from sqlmodel import Session, SQLModel, select

from workshop.sandbox.pipelines_api.errors import invalid, not_found
from workshop.sandbox.pipelines_api.listing import Query
from workshop.sandbox.pipelines_api.messages import LONGEST_NAME
from workshop.sandbox.pipelines_api.tables import Experiment, Pipeline, RecurringRun, Run

Row = TypeVar("Row", bound=SQLModel)
IDENTIFIERS = {
    Experiment: Experiment.experiment_id,
    Pipeline: Pipeline.pipeline_id,
    RecurringRun: RecurringRun.recurring_run_id,
    Run: Run.run_id,
}


def find(session: Session, table: type[Row], identifier: str) -> Row:
    """Return the row of a table that has an id.

    Args:
        session: to read with.
        table: one of `IDENTIFIERS`.
        identifier: the id.

    Raises:
        ApiError: it is not there.
    """
    found = session.exec(select(table).where(IDENTIFIERS[table] == identifier)).first()
    if found is None:
        raise not_found(table.__name__, identifier)
    return found


def belonging_to(session: Session, table: type[Row], experiment_id: str) -> list:
    """Return the conditions by which a list holds only what belongs to an experiment; none for an empty id.

    Args:
        session: to read with.
        table: runs or recurring runs.
        experiment_id: the experiment, or "".

    Raises:
        ApiError: the experiment is not there.
    """
    if not experiment_id:
        return []
    find(session, Experiment, experiment_id)
    return [table.experiment_id == experiment_id]


def list_query(page_token: str = "", page_size: int = 0, sort_by: str = "", filter: str = "") -> Query:
    """Return the query of a list request."""
    return Query(page_token, page_size, sort_by, filter)


ListQuery = Annotated[Query, Depends(list_query)]


def named(name: str | None, otherwise: str) -> str:
    """Return a name that can be kept.

    Raises:
        ApiError: it is empty, with `otherwise` as message, or too long.
    """
    if not name or name.isspace():
        raise invalid(otherwise)
    if len(name) > LONGEST_NAME:
        raise invalid(f"the name {name[:40]!r}... has {len(name)} characters; {LONGEST_NAME} is the most")
    return name
