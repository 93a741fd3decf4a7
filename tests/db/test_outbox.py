"""The outbox and its bell: news exists if and only if its transaction did, and reaches everyone at least once."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import (
    Database,
    DatabaseUrls,
    Event,
    Listener,
    Notice,
    Subscription,
    Subscriptions,
    prune,
    psycopg_url,
    publish,
    set_sweep,
    set_team,
)

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
async def app(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = Database(database_urls.app)
    yield database
    await database.close()


@pytest.fixture
async def worker(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = Database(database_urls.worker)
    yield database
    await database.close()


@pytest.fixture
async def listener(database_urls: DatabaseUrls) -> AsyncIterator[Listener]:
    listener = Listener(database_urls.app, poll_seconds=60)
    await listener.start()
    yield listener
    await listener.close()


async def tell(session: AsyncSession, topic: str = "t", operation_id: str | None = None, **data: object) -> int:
    await set_team(session, "team_a")
    return await publish(
        session,
        topic=topic,
        resource_type="instance",
        resource_id="ins_1",
        data=dict(data),
        team_id="team_a",
        operation_id=operation_id,
    )


async def commit(database: Database, topic: str = "t", operation_id: str | None = None, **data: object) -> int:
    async with database.begin() as session:
        return await tell(session, topic, operation_id, **data)


async def read(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.begin() as session:
        await set_sweep(session)
        return [tuple(row) for row in await session.execute(text(query))]


async def real_notice(waiter: Subscription) -> Notice:
    """Wait for a notice that names an event, past the "look again" of the beginning."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        notice = await waiter.wait(deadline - time.monotonic())
        if notice is not None and notice.event_id is not None:
            return notice
    raise AssertionError("no notice came")


async def test_an_event_arrives_whole_and_once(app: Database, worker: Database) -> None:
    got: list[Event] = []

    async def note(session: AsyncSession, event: Event) -> None:
        got.append(event)

    subscriptions = Subscriptions()
    subscriptions.subscribe("instance.started", note)
    subscriptions.subscribe("instance.started", note)
    number = await commit(app, "instance.started", "op_1", price={"amount": "0.41"}, words=["é", None])
    assert await subscriptions.deliver(worker) == 1
    assert await subscriptions.deliver(worker) == 0
    (event,) = got
    assert (event.id, event.topic, event.team_id, event.operation_id) == (number, "instance.started", "team_a", "op_1")
    assert (event.resource_type, event.resource_id, event.attempts) == ("instance", "ins_1", 0)
    assert event.data == {"price": {"amount": "0.41"}, "words": ["é", None]}
    assert event.at.tzinfo is not None


async def test_a_rolled_back_event_never_existed(app: Database, worker: Database, listener: Listener) -> None:
    async with listener.subscribe() as waiter:
        with pytest.raises(RuntimeError):
            async with app.begin() as session:
                await tell(session, lost=True)
                raise RuntimeError("on purpose")
        number = await commit(app, kept=True)
        assert (await real_notice(waiter)).event_id == number
    assert await read(worker, "SELECT data FROM outbox_event") == [({"kept": True},)]


async def test_the_bell_rings_at_the_commit_and_not_before(app: Database, listener: Listener) -> None:
    async with listener.subscribe("op_1") as mine, listener.subscribe("op_2") as other:
        async with app.begin() as session:
            number = await tell(session, operation_id="op_1")
            await session.flush()
            assert await mine.wait(0.2) is None
        assert await real_notice(mine) == Notice("op_1", number)
        assert await other.wait(0.1) is None


async def test_a_failing_handler_keeps_its_event_undoes_its_rows_and_holds_up_nobody(
    app: Database, worker: Database
) -> None:
    heard: list[object] = []
    broken = True

    async def fail(session: AsyncSession, event: Event) -> None:
        await tell(session, "echo", of=event.id)
        if broken and event.data["n"] == 1:
            raise RuntimeError("on purpose")
        heard.append((event.data["n"], event.attempts))

    subscriptions = Subscriptions()
    subscriptions.subscribe("t", fail)
    first = await commit(app, n=1)
    await commit(app, n=2)
    assert await subscriptions.deliver(worker, limit=2) == 1
    assert heard == [(2, 0)]
    query = f"SELECT attempts, delivered_at FROM outbox_event WHERE id = {first}"
    assert await read(worker, query) == [(1, None)]
    assert len(await read(worker, "SELECT 1 FROM outbox_event WHERE topic = 'echo'")) == 1
    broken = False
    assert await subscriptions.deliver(worker, limit=1) == 1
    assert heard == [(2, 0), (1, 1)]


async def test_an_event_that_keeps_failing_is_tried_less_and_less_often(app: Database, worker: Database) -> None:
    async def fail(session: AsyncSession, event: Event) -> None:
        raise RuntimeError("on purpose")

    subscriptions = Subscriptions()
    subscriptions.subscribe("t", fail)
    await commit(app)
    for _ in range(3):
        assert await subscriptions.deliver(worker) == 0
    assert await read(worker, "SELECT attempts, due_at > clock_timestamp() FROM outbox_event") == [(2, True)]


async def test_a_handler_that_breaks_the_transaction_does_not_lose_the_event(app: Database, worker: Database) -> None:
    async def fail(session: AsyncSession, event: Event) -> None:
        await session.execute(text("SELECT 1/0"))

    subscriptions = Subscriptions()
    subscriptions.subscribe("t", fail)
    await commit(app)
    assert await subscriptions.deliver(worker) == 0
    assert await read(worker, "SELECT attempts, delivered_at FROM outbox_event") == [(1, None)]


async def test_two_workers_share_the_events_without_handling_one_twice(
    database_urls: DatabaseUrls, app: Database, worker: Database
) -> None:
    seen: list[int] = []
    both = asyncio.Barrier(2)

    async def note(session: AsyncSession, event: Event) -> None:
        if not seen:
            await both.wait()  # each has an event in its hands, and none is done yet
        seen.append(event.id)

    subscriptions = Subscriptions()
    subscriptions.subscribe("t", note)
    made = [await commit(app, n=n) for n in range(30)]
    second = Database(database_urls.worker)
    async with asyncio.timeout(60):
        shares = await asyncio.gather(subscriptions.deliver(worker), subscriptions.deliver(second))
    await second.close()
    assert sorted(seen) == made and sum(shares) == 30
    assert min(shares) > 0


async def test_news_that_nobody_wants_is_done_with_and_can_be_pruned(app: Database, worker: Database) -> None:
    await commit(app)
    assert await Subscriptions().deliver(worker) == 1
    await commit(app)
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    async with worker.begin() as session:
        await set_sweep(session)
        assert await prune(session, later) == 1
    assert await read(worker, "SELECT delivered_at FROM outbox_event") == [(None,)]


async def test_the_listener_comes_back_and_says_look_again(
    database_urls: DatabaseUrls, app: Database, listener: Listener
) -> None:
    async with listener.subscribe("op_1") as waiter:
        with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name = 'dumont-listener' AND datname = current_database()"
            )
        assert await waiter.wait(60) == Notice(None, None)
        assert await waiter.wait(60) == Notice(None, None)
        number = await commit(app, operation_id="op_1")
        assert await real_notice(waiter) == Notice("op_1", number)


async def test_a_waiter_is_told_to_look_again_from_time_to_time(database_urls: DatabaseUrls) -> None:
    listener = Listener(database_urls.app, poll_seconds=0.05)
    await listener.start()
    async with listener.subscribe("op_1") as waiter:
        assert [await waiter.wait(60), await waiter.wait(60)] == [Notice(None, None)] * 2
    await listener.close()


async def test_a_slow_waiter_loses_no_news_only_its_detail(app: Database, worker: Database, listener: Listener) -> None:
    async with listener.subscribe() as slow, listener.subscribe("op_last") as quick:
        async with app.begin() as session:
            for number in range(300):
                await tell(session, operation_id=f"op_{number}")
        await commit(app, operation_id="op_last")
        await real_notice(quick)
        notices = []
        while (notice := await slow.wait(0.1)) is not None:
            notices.append(notice)
    assert Notice(None, None) in notices and len(notices) < 300
