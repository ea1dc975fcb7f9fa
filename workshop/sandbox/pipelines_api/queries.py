"""Helpers for requests that several services share."""

from typing import Annotated, TypeVar

from fastapi import Depends
from sqlalchemy import ColumnElement
from sqlmodel import Session, SQLModel, col, select

from workshop.sandbox.pipelines_api.errors import invalid, not_found
from workshop.sandbox.pipelines_api.listing import Query
from workshop.sandbox.pipelines_api.messages import MAX_NAME
from workshop.sandbox.pipelines_api.tables import Experiment, Pipeline, RecurringRun, Run

Row = TypeVar("Row", bound=SQLModel)
IDENTIFIERS = {
    Experiment: Experiment.experiment_id,
    Pipeline: Pipeline.pipeline_id,
    RecurringRun: RecurringRun.recurring_run_id,
    Run: Run.run_id,
}


def find(session: Session, table: type[Row], identifier: str) -> Row:
    """Return the row with an id.

    Args:
        session: a session.
        table: a table of `IDENTIFIERS`.
        identifier: the id.

    Raises:
        ApiError: there is no such row.
    """
    found = session.exec(select(table).where(IDENTIFIERS[table] == identifier)).first()
    if found is None:
        raise not_found(table.__name__, identifier)
    return found


def experiment_condition(
    session: Session, table: type[Run] | type[RecurringRun], experiment_id: str
) -> list[ColumnElement[bool]]:
    """Return the condition that limits a list to one experiment; an empty list if there is no limit.

    Args:
        session: a session.
        table: runs or recurring runs.
        experiment_id: the experiment, or "".

    Raises:
        ApiError: the experiment does not exist.
    """
    if not experiment_id:
        return []
    find(session, Experiment, experiment_id)
    return [col(table.experiment_id) == experiment_id]


def list_query(page_token: str = "", page_size: int = 0, sort_by: str = "", filter: str = "") -> Query:
    """Return the query of a list request."""
    return Query(page_token, page_size, sort_by, filter)


ListQuery = Annotated[Query, Depends(list_query)]


def checked_name(name: str | None, if_empty: str) -> str:
    """Check a name and return it.

    Args:
        name: the name.
        if_empty: the message about an empty name.

    Raises:
        ApiError: the name is empty or too long.
    """
    if not name or name.isspace():
        raise invalid(if_empty)
    if len(name) > MAX_NAME:
        raise invalid(f"the name {name[:40]!r}... has {len(name)} characters; {MAX_NAME} is the limit")
    return name
