"""The authorisation walk: every operation that OpenAPI names, called by those who may not."""

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.api.requests import Requests, marks, rows_of
from tests.support.whole_api import Furnished, WholeApi, furnish

from dumont.identity import ROLE_PERMISSIONS

pytestmark = pytest.mark.requires_postgres

PUBLIC = {
    *("GET /health", "GET /problems/{code}", "GET /openapi.json", "GET /api/v1/openapi.json"),
    *("POST /api/v1/auth/register", "POST /api/v1/auth/login", "POST /api/v1/auth/refresh"),
    *("GET /api/v1/invitations/{token}", "GET /api/v1/unsubscribe", "POST /api/v1/unsubscribe"),
    *("POST /api/v1/auth/email/verify", "POST /api/v1/auth/password/forgot", "POST /api/v1/auth/password/reset"),
    *("GET /api/v1/wake/{wake_token}", "POST /api/v1/wallet/pix/callback"),
}
"""The complete list of section 1.2 of the contract; anything else needs a token."""
SHARED = {"GET /api/v1/offers/{offer_id}"}
"""What is named by an id and belongs to nobody: offers are the marketplace's."""
FORGED = (
    "Bearer garbage",
    "Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJ1c3JfMSJ9.",
    "Basic YWRtaW46YWRtaW4=",
    "garbage",
)


@pytest.fixture
async def team(api: WholeApi) -> Furnished:
    return await furnish(api)


@pytest.fixture
async def requests(api: WholeApi, team: Furnished) -> AsyncIterator[Requests]:
    made = Requests(api, team)
    for op in api.operations():
        await made.path(op)
    yield made


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def test_the_public_list_is_the_contracts_and_no_longer(api: WholeApi) -> None:
    open_now = {op.name for op in api.operations() if op.public}
    assert open_now == {op.name for op in api.operations() if op.name in PUBLIC}
    assert {"GET /health", "POST /api/v1/auth/login", "POST /api/v1/auth/register"} <= open_now


@pytest.mark.checklist("AUTH-05")
async def test_without_a_token_nothing_is_told_and_nothing_changes(api: WholeApi, requests: Requests) -> None:
    closed = [op for op in api.operations() if not op.public]
    assert len(closed) >= 20
    before = await api.dump()
    for op in closed:
        answer = await requests.send(op, None)
        assert code(answer) == (401, "missing-token"), op.name
        assert answer.headers["www-authenticate"] == "Bearer"
    assert await api.dump() == before


@pytest.mark.checklist("AUTH-13")
async def test_a_forged_token_is_no_token(api: WholeApi, requests: Requests) -> None:
    before = await api.dump()
    for op in (op for op in api.operations() if not op.public):
        for forged in FORGED:
            answer = await requests.send(op, None, authorization=forged)
            assert code(answer) == (401, "invalid-token"), (op.name, forged)
    assert await api.dump() == before


async def test_a_stale_token_does_not_close_what_is_open_to_all(api: WholeApi, requests: Requests) -> None:
    for op in (op for op in api.operations() if op.public and op.method == "GET"):
        assert (await requests.send(op, None, authorization=FORGED[0])).status_code == 200, op.name


@pytest.mark.checklist("AUTH-15")
@pytest.mark.parametrize("role", ["viewer", "developer"])
async def test_a_role_is_refused_exactly_what_it_lacks(
    api: WholeApi, team: Furnished, requests: Requests, role: str
) -> None:
    wanted = {op.permission for op in api.operations()} - {None}
    assert wanted - ROLE_PERMISSIONS["viewer"] and wanted & ROLE_PERMISSIONS["viewer"]
    for op in (op for op in api.operations() if not op.public):
        member = await api.member(team.person.team_id, role)
        lacks = op.permission is not None and op.permission not in ROLE_PERMISSIONS[role]
        before = await api.dump() if lacks else None
        answer = await requests.send(op, member)
        assert (answer.status_code == 403) == lacks and answer.status_code != 401, (op.name, answer.text)
        if not lacks:
            assert answer.status_code != 422, f"{op.name}: the walk's body does not fit: {answer.text}"
            continue
        assert code(answer) == (403, "forbidden") and answer.json()["permission"] == op.permission
        assert await api.dump() == before, f"{op.name} was refused and changed something"


@pytest.mark.checklist("AUTH-14")
async def test_another_teams_ids_lead_nowhere(api: WholeApi, team: Furnished, requests: Requests) -> None:
    stranger = await api.person()
    for op in (op for op in api.operations() if not op.public):
        before = await api.dump()
        answer = await requests.send(op, stranger)
        after = await api.dump()
        assert answer.status_code not in (401, 403) and answer.status_code < 500, (op.name, answer.text)
        if op.path_parameters and op.name not in SHARED:
            assert answer.status_code == 404 and answer.json()["code"].endswith("-not-found"), (op.name, answer.text)
            assert after == before, f"{op.name} changed something"
        assert rows_of(after, team) == rows_of(before, team), f"{op.name} changed rows of another team"
        told = answer.text + str(answer.headers)
        assert [mark for mark in marks(before, team) if mark in told] == [], f"{op.name} told of another team"
        if op.path.endswith("/logout"):
            stranger = await api.person()


@pytest.mark.checklist("AUTH-14")
async def test_naming_another_team_in_the_header_does_not_open_it(
    api: WholeApi, team: Furnished, requests: Requests
) -> None:
    stranger = await api.person()
    before = await api.dump()
    for op in (op for op in api.operations() if not op.public):
        answer = await requests.send(op, stranger, **{"x-team-id": team.person.team_id})
        assert code(answer) == (404, "team-not-found"), op.name
        assert [mark for mark in marks(before, team) if mark in answer.text] == []
    assert await api.dump() == before


@pytest.mark.checklist("AUTH-14")
async def test_the_owner_himself_reads_all_of_it(api: WholeApi, team: Furnished, requests: Requests) -> None:
    """What the walk calls hidden is there: each reading route shows it to its owner."""
    for op in (op for op in api.operations() if not op.public and op.method == "GET"):
        answer = await requests.send(op, team.person)
        assert answer.status_code == 200 or answer.status_code == 409, (op.name, answer.text)
    for path in ("/api/v1/instances", "/api/v1/snapshots", "/api/v1/operations", "/api/v1/ssh-keys"):
        shown = (await api.http.get(path, headers=team.person.headers)).text
        assert [mark for mark in marks(await api.dump(), team) if mark in shown], path
