"""The API's bookkeeping as calls: accounts, categories, transactions, statements, files; documents as they come."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from dumont.client.problems import ApiUnreadable
from dumont.client.wire import Request

Document = dict[str, Any]


class Books:
    """A team's books, reached through a client.

    `send` sends a request and returns its document; `fetch` returns the text behind a path; `new_key` makes an
    Idempotency-Key, under which each call is repeated until it is answered.
    Errors: as for the client.
    """

    def __init__(
        self, api: str, send: Callable[[Request], Any], fetch: Callable[[str], str], new_key: Callable[[], str]
    ) -> None:
        self._api = api
        self._send = send
        self._fetch = fetch
        self._new_key = new_key

    def accounts(self, *, include_inactive: bool = False) -> list[Document]:
        """Return the team's accounts."""
        return self._list("/accounts", "accounts", {"include_inactive": include_inactive or None})

    def open_account(self, **members: Any) -> Document:
        """Open an account: `name`, `type`, `currency`, `opening_balance`, `overdraft_limit`."""
        return self._call("POST", "/accounts", members)

    def change_account(self, account_id: str, **members: Any) -> Document:
        """Change `name`, `type` or `overdraft_limit` of an account."""
        return self._call("PATCH", f"/accounts/{_part(account_id)}", members)

    def close_account(self, account_id: str) -> Document:
        """Close an empty account."""
        return self._call("DELETE", f"/accounts/{_part(account_id)}")

    def categories(self) -> list[Document]:
        """Return the team's categories."""
        return self._list("/categories", "categories", {})

    def add_category(self, name: str, kind: str) -> Document:
        """Make a category of `income` or `expense`."""
        return self._call("POST", "/categories", {"name": name, "type": kind})

    def delete_category(self, category_id: str) -> Document:
        """Take a category out of use."""
        return self._call("DELETE", f"/categories/{_part(category_id)}")

    def iter_transactions(self, **filters: Any) -> Iterator[Document]:
        """Yield the transactions that fit, page after page; the filters are the query parameters of the endpoint."""
        cursor: str | None = None
        while True:
            page = _object(self._get("/transactions", {**filters, "cursor": cursor}))
            yield from _rows(page, "transactions")
            cursor = page.get("next_cursor")
            if not isinstance(cursor, str):
                return

    def transaction(self, transaction_id: str) -> Document:
        """Return a transaction with its entries."""
        return _object(self._get(f"/transactions/{_part(transaction_id)}"))

    def record(self, **members: Any) -> Document:
        """Record a transaction."""
        return self._call("POST", "/transactions", members)

    def transfer(self, **members: Any) -> Document:
        """Move money between two own accounts."""
        return self._call("POST", "/transfers", members)

    def edit(self, transaction_id: str, **members: Any) -> Document:
        """Change a transaction."""
        return self._call("PATCH", f"/transactions/{_part(transaction_id)}", members)

    def delete(self, transaction_id: str, reason: str | None = None) -> Document:
        """Delete a transaction, which reverses it."""
        return self._call("DELETE", f"/transactions/{_part(transaction_id)}", query={"reason": reason})

    def statement(self, account_id: str, first: str, last: str) -> Document:
        """Return an account's statement between two days."""
        return _object(self._get(f"/accounts/{_part(account_id)}/statement", {"from": first, "to": last}))

    def statement_file(self, account_id: str, first: str, last: str, form: str) -> str:
        """Return an account's statement as the text of a file: `csv`, `csv-br` or `ofx`."""
        query = urlencode({"from": first, "to": last, "format": form})
        return self._fetch(f"{self._api}/accounts/{_part(account_id)}/statement?{query}")

    def take_in(self, account_id: str, **members: Any) -> Document:
        """Take a bank's file in: `content_base64`, `format`, `dry_run`, and the categories for its movements."""
        return self._call("POST", f"/accounts/{_part(account_id)}/imports", members)

    def insights(self) -> Document:
        """Return what is worth knowing about the present month."""
        return _object(self._get("/insights"))

    def ignore_insight(self, kind: str, insight_hash: str) -> None:
        """Leave an insight out for 30 days."""
        said = {"insight_type": kind, "insight_hash": insight_hash, "status": "ignored"}
        self._send(Request("POST", f"{self._api}/insights/feedback", body=said, key=self._new_key()))

    def notifications(self, *, unread_only: bool = False, limit: int = 50) -> Document:
        """Return what the caller was told, latest first."""
        return _object(self._get("/notifications", {"unread_only": "true" if unread_only else None, "limit": limit}))

    def read_notification(self, notification_id: str) -> Document:
        """Mark something that the caller was told as read."""
        return self._call("PATCH", f"/notifications/{_part(notification_id)}/read")

    def read_notifications(self) -> Document:
        """Mark everything that the caller was told as read."""
        return self._call("POST", "/notifications/mark-all-read")

    def set_budget(self, category_id: str, amount: str, currency: str) -> Document:
        """Set what may be spent in a month under a category."""
        return self._call("PUT", f"/categories/{_part(category_id)}/budget", {"amount": amount, "currency": currency})

    def drop_budget(self, category_id: str) -> Document:
        """Take a category's budget away."""
        return self._call("DELETE", f"/categories/{_part(category_id)}/budget")

    def _call(
        self,
        method: str,
        path: str,
        members: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Document:
        body = None if members is None else {name: value for name, value in members.items() if value is not None}
        return _object(self._send(Request(method, self._api + path, query=query, body=body, key=self._new_key())))

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._send(Request("GET", self._api + path, query=query))

    def _list(self, path: str, plural: str, query: Mapping[str, Any]) -> list[Document]:
        return _rows(_object(self._get(path, query)), plural)


def _object(document: Any) -> Document:
    if not isinstance(document, dict):
        raise ApiUnreadable("The server sent no object where the API promises one.")
    return document


def _rows(page: Document, plural: str) -> list[Document]:
    rows = page.get(plural)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ApiUnreadable(f"The server sent no list of {plural}.")
    return rows


def _part(text: str) -> str:
    return quote(text, safe="")
