"""Lists: pages, order and filters, by the rules of the Pipelines API server.

Sources: `backend/src/apiserver/list/list.go` and `backend/src/apiserver/filter/filter.go` of kubeflow/pipelines.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from sqlalchemy import ColumnElement, and_, func, or_
from sqlmodel import Session, select

from workshop.sandbox.pipelines_api.errors import invalid

DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE = 20, 200
# Whole numbers of SQLite.
SMALLEST, LARGEST = -(2**63), 2**63 - 1
# What a query of SQLite can hold has bounds, too.
MOST_PREDICATES, MOST_VALUES = 100, 1_000
OPERATIONS = (
    "OPERATION_UNSPECIFIED",
    "EQUALS",
    "NOT_EQUALS",
    "GREATER_THAN",
    "GREATER_THAN_EQUALS",
    "LESS_THAN",
    "LESS_THAN_EQUALS",
    "IN",
    "IS_SUBSTRING",
)
VALUES = ("int_value", "long_value", "string_value", "timestamp_value", "int_values", "long_values", "string_values")


@dataclass(frozen=True)
class Query:
    """What a list request asks for, as it came.

    Attributes:
        page_token: where the last page ended; "" for the first page.
        page_size: how many at most; 0 for 20, and 200 at most.
        sort_by: a field, and perhaps `asc` or `desc`; "" for the time of creation.
        filter: JSON of a `Filter`, perhaps URL-encoded once more; "" for none.
    """

    page_token: str
    page_size: int
    sort_by: str
    filter: str


@dataclass(frozen=True)
class Page:
    """One page of a list, with the token for the next one ("" at the end) and the size of the whole list."""

    rows: list
    next_page_token: str
    total_size: int


def list_page(session: Session, table: type, fields: Mapping[str, Any], query: Query, *conditions) -> Page:
    """Return a page of a table.

    Args:
        session: to read with.
        table: with a `sequence`, which breaks ties in the order in which rows were made.
        fields: the column behind each name by which may be sorted and filtered.
        query: what was asked for.
        conditions: what besides the filter must hold.

    Raises:
        ApiError: the query makes no sense.
    """
    size = _page_size(query.page_size)
    column, descending = _order(query.sort_by, fields)
    token = _read_token(query.page_token) if query.page_token else None
    if token:
        if (query.sort_by and token["sort_by"] != query.sort_by) or (query.filter and token["filter"] != query.filter):
            raise invalid(
                "page token does not match the supplied sort by and/or filtering criteria. Either specify the same "
                "criteria or leave the latter empty if page token is specified."
            )
        column, descending = _order(token["sort_by"], fields)
    sort_by, filter_text = (token["sort_by"], token["filter"]) if token else (query.sort_by, query.filter)
    wanted = [*conditions, *parse_filter(filter_text, fields)]
    total = session.exec(select(func.count()).select_from(table).where(*wanted)).one()
    after = [_after(column, table.sequence, descending, token)] if token else []
    ordered = (column.desc(), table.sequence.desc()) if descending else (column.asc(), table.sequence.asc())
    rows = list(session.exec(select(table).where(*wanted, *after).order_by(*ordered).limit(size + 1)).all())
    more = len(rows) > size
    rows = rows[:size]
    next_token = _write_token(sort_by, filter_text, getattr(rows[-1], column.key), rows[-1].sequence) if more else ""
    return Page(rows, next_token, total)


def parse_filter(filter_text: str, fields: Mapping[str, Any]) -> list[ColumnElement]:
    """Translate a filter into conditions, all of which must hold.

    Raises:
        ApiError: it is no filter, is longer than any, or names a field or an operation that does not exist.
    """
    if not filter_text:
        return []
    document = _filter_document(filter_text)
    predicates = document.get("predicates", [])
    if not isinstance(predicates, list) or not all(isinstance(one, dict) for one in predicates):
        raise invalid(f"failed to parse valid filter from {filter_text!r}: predicates must be a list of objects")
    if len(predicates) > MOST_PREDICATES:
        raise invalid(f"the filter has {len(predicates):,} predicates; {MOST_PREDICATES} is the most")
    return [_condition(predicate, fields, filter_text) for predicate in predicates]


def is_whole(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: JSON can hold half of a character (a lone surrogate)."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _filter_document(filter_text: str) -> dict:
    for candidate in (filter_text, unquote_plus(filter_text)):
        try:
            document = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    raise invalid(f"failed to parse valid filter from {filter_text!r}: it must be the JSON of an object")


def _condition(predicate: dict, fields: Mapping[str, Any], filter_text: str) -> ColumnElement:
    operation = _operation(predicate.get("operation", predicate.get("op", 0)))
    key = predicate.get("key", "")
    given = [name for name in VALUES if _value_of(predicate, name) is not None]
    if len(given) != 1:
        raise invalid(f"failed to parse valid filter from {filter_text!r}: a predicate needs one value, of {VALUES}")
    value = _read_value(given[0], _value_of(predicate, given[0]))
    if not isinstance(key, str) or not key:
        raise invalid(f"Predicate key cannot be empty for operation {operation} and value {value}")
    if key not in fields:
        raise invalid(f"no support for filtering on unrecognized field {key!r}; there are: {', '.join(sorted(fields))}")
    return _compare(operation, fields[key], value)


def _compare(operation: str, column, value) -> ColumnElement:
    if operation == "IN":
        if not isinstance(value, list):
            raise invalid(f"cannot use IN operator with scalar type {type(value).__name__}")
        texts = any(isinstance(one, str) for one in value)
        return (func.lower(column) if texts else column).in_([_plain(one) for one in value])
    if isinstance(value, list):
        raise invalid(f"cannot use scalar operator {operation} on array type {type(value).__name__}")
    if operation == "IS_SUBSTRING":
        if not isinstance(value, str):
            raise invalid(f"cannot use non string value type {type(value).__name__} with operator {operation}")
        return column.icontains(value, autoescape=True)
    # Text is compared without regard to upper and lower case, as the server does.
    left, right = func.lower(column) if isinstance(value, str) else column, _plain(value)
    return {
        "EQUALS": left == right,
        "NOT_EQUALS": left != right,
        "GREATER_THAN": left > right,
        "GREATER_THAN_EQUALS": left >= right,
        "LESS_THAN": left < right,
        "LESS_THAN_EQUALS": left <= right,
    }[operation]


def _plain(value):
    return value.lower() if isinstance(value, str) else value


def _operation(given) -> str:
    if isinstance(given, int) and not isinstance(given, bool) and 0 < given < len(OPERATIONS):
        return OPERATIONS[given]
    if isinstance(given, str) and given in OPERATIONS[1:]:
        return given
    raise invalid(f"invalid predicate operation: {given}; it must be one of: {', '.join(OPERATIONS[1:])}")


def _value_of(predicate: dict, name: str):
    first, *rest = name.split("_")
    camel = first + "".join(part.capitalize() for part in rest)
    return predicate.get(name, predicate.get(camel))


def _read_value(name: str, given):
    if name.endswith("_values"):
        values = given.get("values", []) if isinstance(given, dict) else None
        if not isinstance(values, list):
            raise invalid(f'{name} must be like {{"values": [...]}}, not {given!r}')
        if len(values) > MOST_VALUES:
            raise invalid(f"{name} holds {len(values):,} values; {MOST_VALUES:,} is the most")
        return [_read_scalar(name.removesuffix("s"), one) for one in values]
    return _read_scalar(name, given)


def _read_scalar(name: str, given):
    if name == "string_value":
        if isinstance(given, str) and is_whole(given):
            return given
    elif name == "timestamp_value":
        return _read_timestamp(given)
    elif isinstance(given, (int, str)) and not isinstance(given, bool):
        try:
            number = int(given)
        except ValueError:
            number = LARGEST + 1
        if SMALLEST <= number <= LARGEST:
            return number
    raise invalid(f"{name} cannot be {given!r}")


def _read_timestamp(given) -> int:
    try:
        return int(datetime.fromisoformat(given).timestamp())
    except (ValueError, TypeError, OverflowError):
        raise invalid(f"timestamp_value cannot be {given!r}; it must be like 2026-01-31T12:00:00Z") from None


def _page_size(asked: int) -> int:
    if asked < 0:
        raise invalid(f"The page size should be greater than 0. Got {asked}")
    return min(asked or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE)


def _order(sort_by: str, fields: Mapping[str, Any]) -> tuple[Any, bool]:
    words = sort_by.lower().split()
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise invalid(
            f'Received invalid sort by format {sort_by!r}. Supported format: "field_name", "field_name desc", '
            'or "field_name asc"'
        )
    name = words[0] if words else "created_at"
    if name not in fields:
        raise invalid(f"Invalid sorting field: {name!r}; there are: {', '.join(sorted(fields))}")
    return fields[name], words[1:] == ["desc"]


def _after(column, sequence, descending: bool, token: dict) -> ColumnElement:
    value, last = token["value"], token["sequence"]
    if descending:
        return or_(column < value, and_(column == value, sequence < last))
    return or_(column > value, and_(column == value, sequence > last))


def _write_token(sort_by: str, filter_text: str, value, sequence: int) -> str:
    content = {"sort_by": sort_by, "filter": filter_text, "value": value, "sequence": sequence}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def _read_token(text: str) -> dict:
    try:
        token = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
        fits = (
            isinstance(token["sort_by"], str)
            and isinstance(token["filter"], str)
            and isinstance(token["value"], (str, int, float))
            and isinstance(token["sequence"], int)
            and all(is_whole(part) for part in token.values() if isinstance(part, str))
            and all(not isinstance(number, int) or SMALLEST <= number <= LARGEST for number in token.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise invalid("Invalid package token: a page token must be one that an earlier answer held")
    return token
