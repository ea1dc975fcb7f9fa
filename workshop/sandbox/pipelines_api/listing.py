"""Implements the pages, the order and the filters of lists, by the rules of the Pipelines API server.

Sources: `backend/src/apiserver/list/list.go` and `backend/src/apiserver/filter/filter.go` of kubeflow/pipelines.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from sqlalchemy import ColumnElement, Float, Integer, and_, cast, func, or_
from sqlmodel import Session, select

from workshop.sandbox.pipelines_api.errors import ApiError, during, internal, invalid, invalid_because, unknown_version
from workshop.sandbox.pipelines_api.protojson import ProtoError, read_text
from workshop.sandbox.pipelines_api.schemas import FILTER

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 20, 200
# The range of integers in SQLite.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# A query in SQLite has limits too.
MAX_PREDICATES, MAX_VALUES = 100, 1_000
MAX_TEXT = 10_000  # letters; SQLite compares patterns of at most 50,000 bytes
# The numbers of the operations in the contract; 4 is not used.
OPERATIONS = {
    1: "EQUALS",
    2: "NOT_EQUALS",
    3: "GREATER_THAN",
    5: "GREATER_THAN_EQUALS",
    6: "LESS_THAN",
    7: "LESS_THAN_EQUALS",
    8: "IN",
    9: "IS_SUBSTRING",
}
# The types of values, by the field of a predicate that holds the value, as the server's messages name the types.
VALUES = {
    "int_value": "int32",
    "long_value": "int64",
    "string_value": "string",
    "timestamp_value": "int64",
    "int_values": "[]int32",
    "long_values": "[]int64",
    "string_values": "[]string",
}
METRIC = "metric:"  # runs can be sorted by a metric, and no run of version 2 has one
_SURROGATE = re.compile("[\ud800-\udfff]")
LEADING_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")


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
class Listable:
    """What can be listed.

    Attributes:
        name: the name of the type in the server's messages.
        table: a table with a column `sequence`. Rows with equal sort values are ordered by `sequence`.
        fields: the columns that can be sorted and filtered, by their API names.
    """

    name: str
    table: Any
    fields: Mapping[str, Any]


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


@dataclass(frozen=True)
class Predicate:
    """One condition of a filter: a key, an operation, and a value with its type."""

    key: str
    operation: str
    kind: str
    value: Any


@dataclass(frozen=True)
class Options:
    """The checked query of a list request.

    Attributes:
        size: the maximum number of rows.
        sort_by: the field that sorts the list.
        descending: whether the largest value comes first.
        filter: the text of the filter.
        predicates: the conditions of the filter.
        after: the sort value and the `sequence` of the last row of the previous page; None for the first page.
    """

    size: int
    sort_by: str
    descending: bool
    filter: str
    predicates: tuple[Predicate, ...]
    after: tuple[Any, int] | None = None


def options(of: Listable, query: Query, step: str = "Failed to create list options") -> Options:
    """Check the query of a list request.

    Args:
        of: what is listed.
        query: the query.
        step: the words in front of the message of an error.

    Raises:
        ApiError: the query is not valid.
    """
    with during(step):
        if not query.page_token:
            return _new_options(of, query)
        found = _from_token(of, query)
        if query.sort_by or query.filter:
            asked = _new_options(of, query)
            if (asked.sort_by, asked.descending, asked.predicates) != (
                found.sort_by,
                found.descending,
                found.predicates,
            ):
                raise invalid(
                    "page token does not match the supplied sort by and/or filtering criteria. Either specify the "
                    "same criteria or leave the latter empty if page token is specified"
                )
        return found


def list_page(session: Session, of: Listable, chosen: Options, *conditions: ColumnElement[bool]) -> Page:
    """Return a page of a table.

    Args:
        session: a session.
        of: what is listed.
        chosen: the checked query of the request.
        conditions: further conditions.
    """
    table = of.table
    column = table.sequence if chosen.sort_by.startswith(METRIC) else of.fields[chosen.sort_by]
    wanted = [*conditions, *(_compare(of.fields[one.key], one) for one in chosen.predicates)]
    total = session.exec(select(func.count()).select_from(table).where(*wanted)).one()
    after = [_after(column, table.sequence, chosen.descending, chosen.after)] if chosen.after else []
    ordered = (column.desc(), table.sequence.desc()) if chosen.descending else (column.asc(), table.sequence.asc())
    rows = list(session.exec(select(table).where(*wanted, *after).order_by(*ordered).limit(chosen.size + 1)).all())
    more = len(rows) > chosen.size
    rows = rows[: chosen.size]
    next_token = _write_token(of, chosen, getattr(rows[-1], column.key), rows[-1].sequence) if more else ""
    return Page(rows, next_token, total)


def is_valid_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8. JSON texts can contain lone surrogates, which UTF-8 cannot
    encode."""
    return text.isascii() or _SURROGATE.search(text) is None


def _new_options(of: Listable, query: Query) -> Options:
    predicates = _read_filter(query.filter)
    size = _page_size(query.page_size)
    sort_by, descending = _order(of, query.sort_by)
    for predicate in predicates:
        if predicate.key not in of.fields:
            raise invalid(f"no support for filtering on unrecognized field {_quoted(predicate.key)}")
    return Options(size, sort_by, descending, query.filter, predicates)


def _read_filter(filter_text: str) -> tuple[Predicate, ...]:
    if not filter_text:
        return ()
    # A filter may be URL-encoded a second time, as kfp 1.x does. The real server always decodes the filter, so a `+`
    # or `%` in a name is lost there.
    text = filter_text if filter_text.lstrip()[:1] == "{" else unquote_plus(filter_text)
    try:
        document = read_text(text, FILTER)
    except ProtoError as error:
        raise invalid(f"failed to parse valid filter from {_quoted(filter_text)}: {error}") from None
    given = document.get("predicates", [])
    if len(given) > MAX_PREDICATES:
        raise invalid(f"the filter has {len(given):,} predicates; {MAX_PREDICATES} is the limit")
    predicates = tuple(map(_predicate, given))
    for predicate in predicates:
        _check_type(predicate)
    return predicates


def _predicate(given: dict) -> Predicate:
    operation = given.get("operation", 0)
    operation = OPERATIONS.get(operation) if isinstance(operation, int) else operation
    if operation in (None, "OPERATION_UNSPECIFIED"):
        raise unknown_version("Error using Filter.Predicate.Operation with go_client.Predicate_Operation")
    name = next((name for name in VALUES if name in given), None)
    if name is None:
        raise unknown_version("Error using Filter.Predicate.Value with <nil>")
    value = given[name]
    if isinstance(value, datetime):
        value = int(value.timestamp())
    elif isinstance(value, dict):
        value = tuple(value.get("values", ()))
        if len(value) > MAX_VALUES:
            raise invalid(f"{name} holds {len(value):,} values; {MAX_VALUES:,} is the limit")
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and len(text) > MAX_TEXT:
            raise invalid(f"{name} has {len(text):,} letters; {MAX_TEXT:,} is the limit")
    key = given.get("key", "")
    if not key:
        raise invalid(f"Predicate key cannot be empty for operation {operation} and value {_shown(value)}")
    return Predicate(key, operation, VALUES[name], value)


def _check_type(predicate: Predicate) -> None:
    is_list = isinstance(predicate.value, tuple)
    if predicate.operation == "IN":
        if not is_list:
            raise invalid(f"cannot use IN operator with scalar type {predicate.kind}")
    elif predicate.operation == "IS_SUBSTRING":
        if predicate.kind != "string":
            # The server's message has the type and the operation in this order.
            raise invalid(f"cannot use non string value type string with operator {_shown(predicate.value)}")
    elif is_list:
        raise invalid(f"cannot use scalar operator {predicate.operation} on array type {predicate.kind}")


def _compare(column: Any, predicate: Predicate) -> ColumnElement[bool]:
    """Return the condition of a predicate, which compares as the real server's database does."""
    if predicate.operation == "IS_SUBSTRING":
        return func.lower(column).like(f"%{predicate.value.lower()}%", escape="\\")
    numeric = isinstance(column.type, (Integer, Float))
    if predicate.kind.endswith("string"):
        left = column if numeric else func.rtrim(func.lower(column))
    else:
        left = column if numeric else cast(column, Float)
    values = predicate.value if isinstance(predicate.value, tuple) else (predicate.value,)
    right = [_comparable(value, numeric) for value in values]
    if predicate.operation == "IN":
        return left.in_(right)
    return {
        "EQUALS": left == right[0],
        "NOT_EQUALS": left != right[0],
        "GREATER_THAN": left > right[0],
        "GREATER_THAN_EQUALS": left >= right[0],
        "LESS_THAN": left < right[0],
        "LESS_THAN_EQUALS": left <= right[0],
    }[predicate.operation]


def _comparable(value: Any, numeric: bool) -> Any:
    """Return a value for a comparison. A text that is compared with a number counts as its leading digits."""
    if not isinstance(value, str):
        return value
    if not numeric:
        return value.lower().rstrip(" ")
    found = LEADING_NUMBER.match(value)
    return float(found[0]) if found else 0.0


def _shown(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _page_size(asked: int) -> int:
    if asked < 0:
        raise invalid(f"The page size should be greater than 0. Got {asked}")
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _order(of: Listable, sort_by: str) -> tuple[str, bool]:
    words = sort_by.lower().split()
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise invalid(
            f'Received invalid sort by format {_quoted(sort_by)}. Supported format: "field_name", "field_name desc", '
            'or "field_name asc"'
        )
    name = words[0] if words else "created_at"
    if name not in of.fields and not (of.name == "Run" and name.startswith(METRIC)):
        raise invalid(f"Invalid sorting field: {_quoted(name)} on listable type {of.name}")
    return name, words[1:] == ["desc"]


def _after(column: Any, sequence: Any, descending: bool, last: tuple[Any, int]) -> ColumnElement[bool]:
    value, number = last
    if descending:
        return or_(column < value, and_(column == value, sequence < number))
    return or_(column > value, and_(column == value, sequence > number))


def _write_token(of: Listable, chosen: Options, value: Any, sequence: int) -> str:
    content = {
        "ModelName": of.name,
        "SortByFieldName": chosen.sort_by,
        "SortByFieldValue": value,
        "IsDesc": chosen.descending,
        "KeyFieldValue": sequence,
        "Filter": chosen.filter,
    }
    return base64.b64encode(json.dumps(content).encode()).decode()


def _from_token(of: Listable, query: Query) -> Options:
    size = _page_size(query.page_size)
    token = _read_token(query.page_token)
    if token["ModelName"] != of.name:
        raise internal(
            f"Failed to list the {of.name} objects", f"the page token comes from a list of {token['ModelName']} objects"
        )
    order = f"{token['SortByFieldName']} {'desc' if token['IsDesc'] else 'asc'}"
    found = _new_options(of, Query("", size, order, token["Filter"]))
    after = (token["SortByFieldValue"], token["KeyFieldValue"])
    return Options(size, found.sort_by, found.descending, found.filter, found.predicates, after)


def _read_token(text: str) -> dict:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _not_a_token(f"illegal base64 data at input byte {_first_wrong_byte(text)}") from None
    try:
        token = json.loads(content)
    except (ValueError, RecursionError):
        first = content[:1].decode("latin-1")
        cause = (
            f"invalid character {first!r} looking for beginning of value" if first else "unexpected end of JSON input"
        )
        raise _not_a_token(cause) from None
    if not _fits(token):
        raise _not_a_token("it must come from an earlier response")
    return dict(token)


def _first_wrong_byte(text: str) -> int:
    wrong = re.search(r"[^A-Za-z0-9+/]", text.rstrip("="))
    return wrong.start() if wrong else len(text) // 4 * 4


def _fits(token: Any) -> bool:
    try:
        texts = [token[name] for name in ("ModelName", "SortByFieldName", "Filter")]
        value, number = token["SortByFieldValue"], token["KeyFieldValue"]
        return (
            all(isinstance(one, str) and is_valid_unicode(one) for one in texts)
            and isinstance(token["IsDesc"], bool)
            and isinstance(value, (str, int, float))
            and not isinstance(value, bool)
            and (not isinstance(value, str) or is_valid_unicode(value))
            and isinstance(number, int)
            and not isinstance(number, bool)
            and all(not isinstance(one, int) or MIN_INTEGER <= one <= MAX_INTEGER for one in (value, number))
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _not_a_token(cause: str) -> ApiError:
    return invalid_because("Invalid package token", cause)
