"""Helpers for requests that several services share."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from sqlalchemy import ColumnElement
from sqlmodel import Session, SQLModel, col, func, select

from workshop.sandbox.pipelines_api.access import Access
from workshop.sandbox.pipelines_api.errors import during, invalid, not_found, unreadable
from workshop.sandbox.pipelines_api.listing import Query
from workshop.sandbox.pipelines_api.messages import Message
from workshop.sandbox.pipelines_api.protojson import ProtoError, Schema, camel_case, read_body
from workshop.sandbox.pipelines_api.tables import Experiment, Pipeline, RecurringRun, Run

Row = TypeVar("Row", bound=SQLModel)
Body = TypeVar("Body", bound=Message)
IDENTIFIERS = {
    Experiment: Experiment.experiment_id,
    Pipeline: Pipeline.pipeline_id,
    RecurringRun: RecurringRun.recurring_run_id,
    Run: Run.run_id,
}
NAMES: dict[type[SQLModel], str] = {RecurringRun: "Job"}  # the server's messages use this name
# The largest lengths in bytes. Source: `backend/src/apiserver/validation/length.go` of kubeflow/pipelines.
LENGTHS = {
    "Experiment.Name": 128,
    "Experiment.Namespace": 63,
    "Pipeline.Name": 128,
    "Pipeline.Namespace": 63,
    "PipelineVersion.Name": 127,
}
MAX_TEXT_BYTES = 65_535  # the size of a text column in the real server's database
MAX_DISPLAY_NAME = 255
EVERY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
NUMBER = re.compile(r"[-+]?\d+")
BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


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
        raise not_found(NAMES.get(table, table.__name__), identifier)
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
    kind = "runs" if table is Run else "recurring runs"
    with during(
        f"Failed to list {kind} due to error fetching namespace for experiment {experiment_id}. "
        "Try filtering based on namespace"
    ):
        namespace_of_experiment(session, experiment_id)
    return [col(table.experiment_id) == experiment_id]


def namespace_condition(table: Any, access: Access, namespace: str) -> list[ColumnElement[bool]]:
    """Return the condition that limits a list to a namespace; an empty list on a server for one user."""
    return [col(table.namespace) == namespace] if access.multi_user else []


def namespace_of_experiment(session: Session, experiment_id: str) -> str:
    """Return the namespace of an experiment.

    Raises:
        ApiError: the experiment does not exist.
    """
    with during(f"Failed to fetch namespace from experiment {experiment_id}"):
        return find(session, Experiment, experiment_id).namespace


def same_text(column: Any, text: str) -> ColumnElement[bool]:
    """Return the condition that a name is taken. As in the real server's database, the case of letters and spaces at
    the end do not count."""
    found: ColumnElement[bool] = func.rtrim(func.lower(column)) == text.lower().rstrip(" ")
    return found


def parameters(request: Request, *names: str) -> dict[str, str]:
    """Return some query parameters. Each one may have its name in snake_case or camelCase.

    Args:
        request: the request.
        names: the names in snake_case. Other parameters are ignored, as in the real server.

    Raises:
        ApiError: a parameter is there twice, or its name has a dot after it.
    """
    found = {}
    for name in names:
        spellings = {name, camel_case(name)}
        values = [value for key, value in request.query_params.multi_items() if key in spellings]
        if len(values) > 1:
            raise unreadable(f'too many values for field "{name}": {", ".join(values)}')
        if any(key.split(".")[0] in spellings and "." in key for key in request.query_params):
            raise unreadable(f'invalid path: "{name}" is not a message')
        found[name] = values[0] if values else ""
    return found


def list_query(request: Request) -> Query:
    """Return the query of a list request.

    Raises:
        ApiError: the gateway of the real server would refuse the query.
    """
    given = parameters(request, "page_token", "sort_by", "filter")
    return Query(given["page_token"], number(request, "page_size"), given["sort_by"], given["filter"])


ListQuery = Annotated[Query, Depends(list_query)]


def experiment_parameter(request: Request) -> str:
    """Return the query parameter `experiment_id`."""
    return parameters(request, "experiment_id")["experiment_id"]


ExperimentParameter = Annotated[str, Depends(experiment_parameter)]


def flag(request: Request, name: str) -> bool:
    """Return a query parameter that is true or false.

    Raises:
        ApiError: its value is neither.
    """
    given = parameters(request, name)[name]
    if name not in request.query_params and not given:
        return False
    if given not in BOOLEANS:
        raise unreadable(f'parsing field "{name}": strconv.ParseBool: parsing {_quoted(given)}: invalid syntax')
    return BOOLEANS[given]


def number(request: Request, name: str) -> int:
    """Return a query parameter that is a whole number; 0 if the parameter is missing.

    Raises:
        ApiError: its value is no whole number.
    """
    if not request.query_params.keys() & {name, camel_case(name)}:
        return 0
    return _integer(name, parameters(request, name)[name])


def body_of(kind: type[Body], schema: Schema) -> Callable[[Request], Awaitable[Body]]:
    """Return a dependency that reads the body of a request.

    Args:
        kind: the class of the message.
        schema: the fields that the message may have.
    """

    async def read(request: Request) -> Body:
        try:
            return kind.model_validate(read_body(await request.body(), schema))
        except ProtoError as error:
            raise unreadable(str(error)) from None

    return read


def check_length(field: str, text: str) -> None:
    """Check the length of a text.

    Args:
        field: a key of `LENGTHS`.
        text: the text.

    Raises:
        ApiError: the text is too long.
    """
    if len(text.encode()) > LENGTHS[field]:
        raise invalid(f"{field} length cannot exceed {LENGTHS[field]}")


def too_long(texts: Sequence[tuple[str, str]]) -> str:
    """Return what the real server's database says about the first text that does not fit; "" if all texts fit.

    Args:
        texts: columns and their texts. A column whose name ends with `Name` holds 255 characters; the others hold
            65,535 bytes.
    """
    for column, text in texts:
        is_name = column.endswith("Name")
        if len(text) > MAX_DISPLAY_NAME if is_name else len(text.encode()) > MAX_TEXT_BYTES:
            problem = f"Error 1406 (22001): Data too long for column '{column}' at row 1"
            return f"{problem}: {problem}"
    return ""


def _integer(name: str, text: str) -> int:
    problem = "" if NUMBER.fullmatch(text) else "invalid syntax"
    if not problem and (len(text) > 20 or not -(2**31) <= int(text) < 2**31):
        problem = "value out of range"
    if problem:
        raise unreadable(f'parsing field "{name}": strconv.ParseInt: parsing {_quoted(text)}: {problem}')
    return int(text)


def _quoted(text: str) -> str:
    return f'"{text}"'
