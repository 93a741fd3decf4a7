"""Lists: limits, sort orders and cursors that neither repeat nor lose a row while a person turns pages."""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import ColumnElement, Select, and_, literal_column, or_
from sqlalchemy.orm import InstrumentedAttribute

from dumont.http import problems

Column = InstrumentedAttribute[Any] | ColumnElement[Any]


@dataclass(frozen=True)
class Page:
    """One page that a caller asked for.

    Shapes: `sort` is (name, descending) pairs that end with `id`; `after` holds one value for each of them, as text.
    """

    limit: int
    sort: tuple[tuple[str, bool], ...]
    after: tuple[str, ...] | None = None

    def select(self, statement: Select[Any], columns: Mapping[str, Column]) -> Select[Any]:
        """Order a statement and narrow it to the rows of this page, and one more to know whether there is a next.

        The limit stands in the text: for one that it does not know, PostgreSQL plans to read a tenth of the table.
        `columns` gives the column of each sort name and of `id`; sorted columns must not be null.
        Errors: InvalidRequest for a cursor whose values are not of the columns' types.
        """
        if self.after is not None:
            values = [_parse(text, columns[name]) for (name, _), text in zip(self.sort, self.after, strict=True)]
            statement = statement.where(self._beyond(columns, values))
        order = [columns[name].desc() if down else columns[name].asc() for name, down in self.sort]
        return statement.order_by(*order).limit(literal_column(str(self.limit + 1)))

    def _beyond(self, columns: Mapping[str, Column], values: Sequence[Any]) -> ColumnElement[bool]:
        """Say "after the row with these values": equal in the first n keys and further in the next one."""
        cases: list[ColumnElement[bool]] = []
        for place, (name, down) in enumerate(self.sort):
            equal = [columns[earlier] == values[i] for i, (earlier, _) in enumerate(self.sort[:place])]
            further = columns[name] < values[place] if down else columns[name] > values[place]
            cases.append(and_(*equal, further))
        return or_(*cases)

    def cursor(self, row: Any) -> str:
        """Return the opaque cursor that continues after a row."""
        content = [self._sort_text(), *(_format(getattr(row, name)) for name, _ in self.sort)]
        return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")

    def _sort_text(self) -> str:
        return ",".join(("-" if down else "") + name for name, down in self.sort)


def page_params(*sortable: str, default: str = "-created_at", limit: int = 50) -> Callable[..., Awaitable[Page]]:
    """Return a dependency that reads `limit`, `cursor` and `sort` from the query.

    Example: `page: Annotated[Page, Depends(page_params("created_at", "name"))]`. `id` breaks every tie.
    Errors: InvalidRequest for an unknown sort name or a cursor that this API did not make for this order.
    """
    names = {*sortable, default.lstrip("-"), "id"}
    usual = limit

    async def read(
        limit: Annotated[int, Query(ge=1, le=100)] = usual,
        cursor: Annotated[str | None, Query(max_length=2000)] = None,
        sort: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Page:
        page = Page(limit, _read_sort(sort or default, names))
        if cursor is None:
            return page
        return Page(limit, page.sort, _read_cursor(cursor, page))

    return read


def list_document(
    name: str,
    rows: Sequence[Any],
    page: Page,
    show: Callable[[Any], Any],
    *,
    total: int | None = None,
) -> dict[str, Any]:
    """Show the rows that `Page.select` found as `{"<name>": [...], "count", "total", "next_cursor"}`.

    The sort names and `id` must be attributes of the rows.
    """
    shown = rows[: page.limit]
    following = page.cursor(shown[-1]) if len(rows) > page.limit else None
    return {name: [show(row) for row in shown], "count": len(shown), "total": total, "next_cursor": following}


def _read_sort(text: str, names: set[str]) -> tuple[tuple[str, bool], ...]:
    sort: list[tuple[str, bool]] = []
    for part in text.split(","):
        name = part.strip().removeprefix("-")
        if name not in names or any(name == earlier for earlier, _ in sort):
            detail = f"Must be a list of: {', '.join(sorted(names))}; each at most once, a minus sign for descending."
            raise problems.InvalidRequest([problems.field_error("/query/sort", detail, "unknown-sort")])
        sort.append((name, part.strip().startswith("-")))
    if all(name != "id" for name, _ in sort):
        sort.append(("id", sort[-1][1]))
    return tuple(sort)


def _read_cursor(text: str, page: Page) -> tuple[str, ...]:
    try:
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _bad_cursor() from error
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise _bad_cursor()
    if len(content) != len(page.sort) + 1 or content[0] != page._sort_text() or "\x00" in "".join(content):
        raise _bad_cursor()
    return tuple(content[1:])


def _bad_cursor() -> problems.InvalidRequest:
    detail = "Must be the next_cursor of the page before, with the same sort."
    return problems.InvalidRequest([problems.field_error("/query/cursor", detail, "invalid-cursor")])


def _format(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    return str(value)


def _parse(text: str, column: Column) -> Any:
    kind = column.type.python_type
    try:
        if kind is datetime:
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        if kind is date:
            return date.fromisoformat(text)
        if kind in (int, float, Decimal):
            value = kind(text)
            if abs(value) >= 2**63 or value != value:
                raise ValueError("out of range")
            return value
        return text
    except (ValueError, InvalidOperation) as error:
        raise _bad_cursor() from error
