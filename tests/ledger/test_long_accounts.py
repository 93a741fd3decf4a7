"""An account with many entries is read page by page: what a page costs does not grow with the account."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.ledger.books import Books, move
from tests.ledger.stage import through_lane

from dumont.bookkeeping.reading import entries_of_account
from dumont.db import Database, set_team
from dumont.http import Page
from dumont.ledger import get_account

pytestmark = pytest.mark.requires_postgres

ENTRIES = 2_000
_READ = text("SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'ledger_transfer'")


@pytest.mark.parametrize("down", [True, False])
async def test_a_page_reads_its_own_transfers(books: Books, database: Database, down: bool) -> None:
    """The first page and the one behind it are in order, and of the transfers few more than they show are read."""
    team, one, two = books.pair(funds=ENTRIES)
    for _ in range(ENTRIES // 500):
        through_lane(books, [move(team, one, two, 1) for _ in range(500)])
    books.run("ANALYZE")
    page = Page(50, (("seq", down), ("id", down)))
    async with database.begin() as session:
        await set_team(session, team)
        account = await get_account(session, one)
        first = await entries_of_account(session, account, page, None, None)
        after = (str(first[-2].seq), str(first[-2].id))
        second = await entries_of_account(session, account, Page(50, page.sort, after), None, None)
        read = await _rows_read(session)
    expected = list(range(1, ENTRIES + 2))[:: -1 if down else 1]
    assert [row.seq for row in first] == expected[:51] and [row.seq for row in second] == expected[50:101]
    assert {row.account_id for row in first} == {one}
    assert read <= ENTRIES / 8


async def _rows_read(session: AsyncSession) -> int:
    return int((await session.execute(_READ)).scalar_one())
