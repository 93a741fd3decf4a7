"""A writer with two lanes: batches at once, and still each posting once, each account in its order."""

import asyncio
import random

import pytest
from tests.ledger.books import Books, move

pytestmark = pytest.mark.requires_postgres
COUNT = 400


def connections(books: Books) -> list[int]:
    """The connections of the writers of this database."""
    found = books.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'dumont-ledger' AND datname = current_database() "
        "ORDER BY pid"
    )
    return [int(pid) for (pid,) in found]


async def test_two_lanes_post_everything_once(books: Books) -> None:
    """Postings on one hot account and on others, a third of them given twice at once: each stands once."""
    team = books.team()
    hot = books.account(team, funds=COUNT)
    others = [books.account(team, funds=COUNT) for _ in range(5)]
    chance = random.Random(5)
    given = [move(team, hot, chance.choice(others), 1, key=f"hot {number}") for number in range(COUNT // 2)]
    given += [move(team, *chance.sample(others, 2), 1, key=f"spread {number}") for number in range(COUNT // 2)]
    twice = given + chance.sample(given, COUNT // 3)
    chance.shuffle(twice)
    async with books.writer(lanes=2, most=40, lock_timeout_ms=20_000) as writer:
        outcomes = await asyncio.gather(*(writer.post(one) for one in twice))
        assert len(connections(books)) == 2, "both lanes were used"
        assert writer.tally.faults == {}
    assert all(outcome.problem is None for outcome in outcomes)
    assert sum(outcome.replayed for outcome in outcomes) == len(twice) - len(given)
    assert books.transfers(*(one.id for one in given)) == COUNT
    assert books.balance(hot) == COUNT // 2
    assert books.deadlocks() == 0


async def test_two_lanes_keep_the_order_of_what_was_answered(books: Books) -> None:
    """Beside others in flight on the same account: what was given after an answer has the higher number."""
    team = books.team()
    hot, other = books.account(team, funds=COUNT), books.account(team)
    async with books.writer(lanes=2) as writer:

        async def one_after_the_other(name: int) -> list[str]:
            ids = []
            for number in range(10):
                posting = move(team, hot, other, 1, key=f"{name} {number}")
                (await writer.post(posting)).stands()
                ids.append(posting.id)
            return ids

        chains = await asyncio.gather(*(one_after_the_other(name) for name in range(30)))
    numbers = dict(
        books.rows(
            "SELECT replace(transfer_id::text, '-', ''), seq FROM ledger_account_entry WHERE account_id = %s", hot
        )
    )
    for ids in chains:
        found = [numbers[id_.replace("-", "")] for id_ in ids]
        assert found == sorted(found)


async def test_one_lane_that_is_cut_off_costs_no_posting(books: Books) -> None:
    """The server ends one of two connections in the middle of the work: everything is answered, and stands once."""
    team = books.team()
    hot, other = books.account(team, funds=10 * COUNT), books.account(team)
    given = [move(team, hot, other, 1, key=f"cut {number}") for number in range(COUNT)]
    async with books.writer(lanes=2, most=20) as writer:
        answers = asyncio.gather(*(writer.post(one) for one in given))
        for _ in range(3):
            while not (found := connections(books)):
                await asyncio.sleep(0)
            await asyncio.to_thread(books.run, "SELECT pg_terminate_backend(%s)", found[-1])
        outcomes = await answers
    assert all(outcome.problem is None for outcome in outcomes)
    assert books.transfers(*(one.id for one in given)) == COUNT
    assert books.balance(hot) == 9 * COUNT


async def test_few_postings_are_parted_by_their_accounts(books: Books) -> None:
    """Sixteen at once go in two batches where they touch other accounts, in one where they all share one."""
    team = books.team()
    accounts = [books.account(team, funds=1) for _ in range(17)]
    sinks = [books.account(team) for _ in range(16)]
    apart = [move(team, *pair, 1) for pair in zip(accounts, sinks, strict=False)]
    hot = [move(team, sink, accounts[16], 1) for sink in sinks]
    for postings, batches in ((apart, 2), (hot, 1)):
        async with books.writer(lanes=2, lock_timeout_ms=20_000) as writer:
            outcomes = await asyncio.gather(*(writer.post(one) for one in postings))
            assert all(outcome.problem is None for outcome in outcomes)
            assert (writer.tally.batches, writer.tally.postings) == (batches, 16)
    assert books.balance(accounts[16]) == 17
    assert books.deadlocks() == 0
