"""What several services take from a request."""

from typing import Annotated

from fastapi import Depends

from workshop.sandbox.pipelines_api.errors import invalid
from workshop.sandbox.pipelines_api.listing import Query
from workshop.sandbox.pipelines_api.messages import LONGEST_NAME


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
