"""The chaos run: whatever breaks, what was answered is true, once, in order, and nothing else stands."""

from collections.abc import Iterator, Sequence

import pytest
from tests.ledger.chaos import FAULTS, Chaos, describe
from tests.ledger.conftest import expect_sound
from tests.ledger.history import REFUSED, STANDS, History, judge, read_rows
from tests.ledger.proxy import Cut, Proxy
from tests.ledger.wreck import Wreck, wreck

pytestmark = pytest.mark.requires_postgres
SECONDS, LONG_SECONDS = 20.0, 60.0


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wreck]:
    """A server of this module alone, which is killed."""
    with wreck(tmp_path_factory.mktemp("child")) as child:
        yield child


@pytest.mark.checklist("PIX-02", "PIX-04", "PIX-05", "PIX-16")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_chaos(child: Wreck, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Two programs post through all of it for twenty seconds; then every answer and every row is judged."""
    _judged(child, tmp_path_factory, seed, SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_long_chaos(child: Wreck, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """The same for a minute each, by more seeds."""
    _judged(child, tmp_path_factory, seed, LONG_SECONDS)


def test_the_run_notices(child: Wreck, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Over a ledger that lets a key post twice the run finds doubles, though every balance is a sum of entries.

    Which requests lose their answers is chance, so a run without any double is followed by another, up to twelve.
    """
    with child.copy() as broken:
        [(source,)] = broken.books.rows("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'ledger_post'")
        broken.books.run(source.replace("ON CONFLICT (id) DO NOTHING", ""))
        broken.books.run("ALTER TABLE ledger_transfer DROP CONSTRAINT pk_ledger_transfer")
        for seed in range(4, 16):
            chaos, history = _run(broken, tmp_path_factory, seed, 2.0, ["lock", "terminate"])
            wrong = judge(history, read_rows(broken.books, chaos.team))
            if found := any("has the entries" in line for line in wrong):
                break
        assert found, describe(chaos, history)
        assert not any("its entries say" in line or "sum to" in line for line in wrong)


def _run(
    child: Wreck, folders: pytest.TempPathFactory, seed: int, seconds: float, faults: Sequence[str] = ()
) -> tuple[Chaos, History]:
    with Proxy(child.urls.app).running() as proxy:
        proxy.silence_seconds = 1.2
        chaos = Chaos(child, proxy, folders.mktemp("programs"), seed, seconds, faults)
        return chaos, chaos.run()


def _judged(child: Wreck, folders: pytest.TempPathFactory, seed: int, seconds: float) -> None:
    chaos, history = _run(child, folders, seed, seconds)
    said = describe(chaos, history)
    assert judge(history, read_rows(child.books, chaos.team)) == [], said
    expect_sound(child.urls)
    assert history.counts[STANDS] > 60 and history.counts[REFUSED] > 0 and history.reads, said
    cuts = chaos.proxy.done
    assert set(chaos.done) == set(FAULTS) and cuts[Cut.DELAY] and cuts[Cut.MIDST] and cuts[Cut.ANSWER], said
