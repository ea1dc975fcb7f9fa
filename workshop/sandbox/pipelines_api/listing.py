"""Implements the pages, the order and the filters of lists, by the rules of the Pipelines API server.

Sources: `backend/src/apiserver/list/list.go` and `backend/src/apiserver/filter/filter.go` of kubeflow/pipelines.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from sqlalchemy import ColumnElement, and_, func, or_
from sqlmodel import Session, select

from workshop.sandbox.pipelines_api.errors import invalid

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 20, 200
# The range of integers in SQLite.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# A query in SQLite has limits too.
MAX_PREDICATES, MAX_VALUES = 100, 1_000
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
MAX_TEXT = 10_000  # letters; SQLite compares patterns of at most 50,000 bytes
_SURROGATE = re.compile("[\ud800-\udfff]")
VALUES = ("int_value", "long_value", "string_value", "timestamp_value", "int_values", "long_values", "string_values")


@dataclass(frozen=True)
class Query:
    """The query of a list request, unchecked.

    Attributes:
        page_token: the end of the previous page; "" for the first page.
        page_size: the maximum number of rows, at most 200; 0 means 20.
        sort_by: a field, optionally with `asc` or `desc`; "" for the time of creation.
        filter: a `Filter` in JSON, possibly URL-encoded a second time; "" for none.
    """

    page_token: str
    page_size: int
    sort_by: str
    filter: str


@dataclass(frozen=True)
class Page:
    """One page of a list.

    Attributes:
        rows: the rows of the page.
        next_page_token: the token of the next page; "" on the last page.
        total_size: the number of rows in the whole list.
    """

    rows: list
    next_page_token: str
    total_size: int


def list_page(
    session: Session, table: Any, fields: Mapping[str, Any], query: Query, *conditions: ColumnElement[bool]
) -> Page:
    """Return a page of a table.

    Args:
        session: a session.
        table: a table with a column `sequence`. Rows with equal sort values are ordered by `sequence`.
        fields: the columns that can be sorted and filtered, by their API names.
        query: the query of the request.
        conditions: further conditions.

    Raises:
        ApiError: the query is not valid.
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


def parse_filter(filter_text: str, fields: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """Translate a filter into a list of conditions. A row must satisfy all conditions.

    Args:
        filter_text: the filter in JSON.
        fields: the columns that can be filtered, by their API names.

    Raises:
        ApiError: the filter is not valid, is too long, or names an unknown field or operation.
    """
    if not filter_text:
        return []
    document = _filter_document(filter_text)
    predicates = document.get("predicates", [])
    if not isinstance(predicates, list) or not all(isinstance(one, dict) for one in predicates):
        raise invalid(f"failed to parse valid filter from {filter_text!r}: predicates must be a list of objects")
    if len(predicates) > MAX_PREDICATES:
        raise invalid(f"the filter has {len(predicates):,} predicates; {MAX_PREDICATES} is the limit")
    return [_condition(predicate, fields, filter_text) for predicate in predicates]


def is_valid_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8. JSON texts can contain lone surrogates, which UTF-8 cannot
    encode."""
    return text.isascii() or _SURROGATE.search(text) is None


def _filter_document(filter_text: str) -> dict:
    for candidate in (filter_text, unquote_plus(filter_text)):
        try:
            document = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    raise invalid(f"failed to parse valid filter from {filter_text!r}: it must be the JSON of an object")


def _condition(predicate: dict, fields: Mapping[str, Any], filter_text: str) -> ColumnElement[bool]:
    operation = _operation(predicate.get("operation", predicate.get("op", 0)))
    key = predicate.get("key", "")
    given = [name for name in VALUES if _value_of(predicate, name) is not None]
    if len(given) != 1:
        raise invalid(f"failed to parse valid filter from {filter_text!r}: a predicate needs one value, of {VALUES}")
    value = _read_value(given[0], _value_of(predicate, given[0]))
    if not isinstance(key, str) or not key:
        raise invalid(f"Predicate key cannot be empty for operation {operation} and value {value}")
    if key not in fields:
        raise invalid(
            f"no support for filtering on unrecognized field {key!r}; known fields: {', '.join(sorted(fields))}"
        )
    return _compare(operation, fields[key], value)


def _compare(operation: str, column: Any, value: Any) -> ColumnElement[bool]:
    if operation == "IN":
        if not isinstance(value, list):
            raise invalid(f"cannot use IN operator with scalar type {type(value).__name__}")
        texts = any(isinstance(one, str) for one in value)
        return (func.lower(column) if texts else column).in_([_lower(one) for one in value])
    if isinstance(value, list):
        raise invalid(f"cannot use scalar operator {operation} on array type {type(value).__name__}")
    if operation == "IS_SUBSTRING":
        if not isinstance(value, str):
            raise invalid(f"cannot use non string value type {type(value).__name__} with operator {operation}")
        return column.icontains(value, autoescape=True)
    # The comparison of texts ignores case, as in the real server.
    left, right = func.lower(column) if isinstance(value, str) else column, _lower(value)
    return {
        "EQUALS": left == right,
        "NOT_EQUALS": left != right,
        "GREATER_THAN": left > right,
        "GREATER_THAN_EQUALS": left >= right,
        "LESS_THAN": left < right,
        "LESS_THAN_EQUALS": left <= right,
    }[operation]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _operation(given: Any) -> str:
    if isinstance(given, int) and not isinstance(given, bool) and 0 < given < len(OPERATIONS):
        return OPERATIONS[given]
    if isinstance(given, str) and given in OPERATIONS[1:]:
        return given
    raise invalid(f"invalid predicate operation: {given}; it must be one of: {', '.join(OPERATIONS[1:])}")


def _value_of(predicate: dict, name: str) -> Any:
    first, *rest = name.split("_")
    camel = first + "".join(part.capitalize() for part in rest)
    return predicate.get(name, predicate.get(camel))


def _read_value(name: str, given: Any) -> Any:
    if name.endswith("_values"):
        values = given.get("values", []) if isinstance(given, dict) else None
        if not isinstance(values, list):
            raise invalid(f'{name} must be like {{"values": [...]}}, not {given!r}')
        if len(values) > MAX_VALUES:
            raise invalid(f"{name} holds {len(values):,} values; {MAX_VALUES:,} is the limit")
        return [_read_scalar(name.removesuffix("s"), one) for one in values]
    return _read_scalar(name, given)


def _read_scalar(name: str, given: Any) -> str | int:
    if name == "string_value":
        if isinstance(given, str) and len(given) > MAX_TEXT:
            raise invalid(f"{name} has {len(given):,} letters; {MAX_TEXT:,} is the limit")
        if isinstance(given, str) and is_valid_unicode(given):
            return given
    elif name == "timestamp_value":
        return _read_timestamp(given)
    elif isinstance(given, (int, str)) and not isinstance(given, bool):
        try:
            number = int(given)
        except ValueError:
            number = MAX_INTEGER + 1
        if MIN_INTEGER <= number <= MAX_INTEGER:
            return number
    raise invalid(f"{name} cannot be {given!r}")


def _read_timestamp(given: Any) -> int:
    try:
        return int(datetime.fromisoformat(given).timestamp())
    except (ValueError, TypeError, OverflowError):
        raise invalid(f"timestamp_value cannot be {given!r}; it must be like 2026-01-31T12:00:00Z") from None


def _page_size(asked: int) -> int:
    if asked < 0:
        raise invalid(f"The page size should be greater than 0. Got {asked}")
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _order(sort_by: str, fields: Mapping[str, Any]) -> tuple[Any, bool]:
    words = sort_by.lower().split()
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise invalid(
            f'Received invalid sort by format {sort_by!r}. Supported format: "field_name", "field_name desc", '
            'or "field_name asc"'
        )
    name = words[0] if words else "created_at"
    if name not in fields:
        raise invalid(f"Invalid sorting field: {name!r}; known fields: {', '.join(sorted(fields))}")
    return fields[name], words[1:] == ["desc"]


def _after(column: Any, sequence: Any, descending: bool, token: dict) -> ColumnElement[bool]:
    value, last = token["value"], token["sequence"]
    if descending:
        return or_(column < value, and_(column == value, sequence < last))
    return or_(column > value, and_(column == value, sequence > last))


def _write_token(sort_by: str, filter_text: str, value: Any, sequence: int) -> str:
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
            and not any(isinstance(part, bool) for part in token.values())
            and all(is_valid_unicode(part) for part in token.values() if isinstance(part, str))
            and all(not isinstance(number, int) or MIN_INTEGER <= number <= MAX_INTEGER for number in token.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise invalid("Invalid package token: a page token must come from an earlier response")
    return token
