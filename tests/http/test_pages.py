"""Lists: turning pages neither repeats nor loses a row."""

import base64
import json

import pytest
from tests.support.api import Api, Person

pytestmark = pytest.mark.requires_postgres
NOTES = "/api/v1/notes"


async def write(api: Api, who: Person, *notes: tuple[str, int]) -> None:
    for title, rank in notes:
        answer = await api.http.post(NOTES, headers=who.headers, json={"title": title, "rank": rank})
        assert answer.status_code == 201


async def walk(api: Api, who: Person, **query: str | int) -> list[str]:
    found: list[str] = []
    params = dict(query)
    while True:
        page = (await api.http.get(NOTES, headers=who.headers, params=params)).json()
        assert page["count"] == len(page["notes"]) <= int(query["limit"]) and page["total"] is None
        found += [note["title"] for note in page["notes"]]
        if page["next_cursor"] is None:
            return found
        params = {**query, "cursor": page["next_cursor"]}


async def test_every_order_shows_each_row_once(api: Api) -> None:
    ana = await api.person()
    await write(api, ana, ("aa", 1), ("bb", 2), ("cc", 2), ("dd", 2), ("ee", 1))
    assert await walk(api, ana, limit=2, sort="-title") == ["ee", "dd", "cc", "bb", "aa"]
    assert await walk(api, ana, limit=2, sort="-rank,title") == ["bb", "cc", "dd", "aa", "ee"]
    assert await walk(api, ana, limit=2) == ["aa", "ee", "bb", "cc", "dd"]
    assert await walk(api, ana, limit=5) == ["aa", "ee", "bb", "cc", "dd"]


async def test_rows_that_come_and_go_disturb_nobody(api: Api) -> None:
    ana = await api.person()
    await write(api, ana, ("bb", 0), ("cc", 0), ("dd", 0))
    first = (await api.http.get(NOTES, headers=ana.headers, params={"limit": 2, "sort": "title"})).json()
    await write(api, ana, ("aa", 0), ("ee", 0))
    query = {"limit": 2, "sort": "title", "cursor": first["next_cursor"]}
    second = (await api.http.get(NOTES, headers=ana.headers, params=query)).json()
    assert [note["title"] for note in first["notes"]] == ["bb", "cc"]
    assert [note["title"] for note in second["notes"]] == ["dd", "ee"]


def packed(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


async def test_a_wrong_query_is_refused(api: Api) -> None:
    ana = await api.person()
    wrong = [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "SECRET"),
        ("sort", "SECRET"),
        ("sort", "rank,rank"),
        ("cursor", "SECRET"),
        ("cursor", "é"),
        ("cursor", packed(["rank,id", "1"])),
        ("cursor", packed(["-rank,-id", "1", "x"])),
        ("cursor", packed(["rank,id", "SECRET", "x"])),
        ("cursor", packed(["rank,id", "9" * 30, "x"])),
        ("cursor", packed(["rank,id", "1", "a\x00"])),
        ("cursor", packed({"rank": 1})),
    ]
    for name, value in wrong:
        answer = await api.http.get(NOTES, headers=ana.headers, params={name: value})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), (name, value)
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"/query/{name}"]
        assert "SECRET" not in answer.text
    assert (await api.http.get(NOTES, headers=ana.headers, params={"sort": ""})).status_code == 200
