"""The judge of a history: what was asked and answered, beside what the rows say afterwards.

"Balance = sum" does not notice a transfer that was posted twice, nor one that was answered and lost: only the history
does.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.ledger.books import Books

from dumont.ledger import Posting

STANDS, REFUSED = "posted", "balance-too-low"
NEVER = {"transfer-not-found", "already-reversed"}
"""What a definite answer may be beside these two; it leaves no row."""


@dataclass
class History:
    """What programs asked and were told: by posting when it was sent first, the answers, and when the first came."""

    asked: dict[str, Posting]
    sent: dict[str, float] = field(default_factory=dict)
    told: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    at: dict[str, float] = field(default_factory=dict)
    reads: list[dict[str, Any]] = field(default_factory=list)

    def take(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take in the log of one program."""
        for line in lines:
            if "sent" in line:
                self.sent[line["sent"]] = min(line["at"], self.sent.get(line["sent"], line["at"]))
            elif "done" in line:
                self.told[line["done"]].add(line["said"])
                self.at[line["done"]] = min(line["at"], self.at.get(line["done"], line["at"]))
            elif "read" in line:
                self.reads.append(line)

    @property
    def counts(self) -> Counter[str]:
        """How many of each answer; `unanswered` for those that were sent and never answered."""
        said = Counter("/".join(sorted(answers)) for answers in self.told.values())
        said["unanswered"] = len(self.sent.keys() - self.told.keys())
        return said


@dataclass
class Rows:
    """What the ledger holds of a team, as its rows say."""

    transfers: dict[str, bool]
    entries: dict[str, list[tuple[str, int, int]]]
    accounts: dict[str, tuple[int, int]]
    chains: dict[str, list[tuple[str, int]]]


def read_rows(books: Books, team: str) -> Rows:
    """Read a team's transfers (whether each stands), entries by transfer, accounts and chains."""
    transfers = {
        str(id_): stands
        for id_, stands in books.rows(
            "SELECT replace(id::text, '-', ''), refusal IS NULL FROM ledger_transfer WHERE team_id = %s "
            "AND kind <> 'opening'",
            team,
        )
    }
    entries: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    chains: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for account, seq, id_, amount, after in books.rows(
        "SELECT account_id, seq, replace(transfer_id::text, '-', ''), amount, balance_after FROM ledger_account_entry "
        "WHERE team_id = %s ORDER BY account_id, seq",
        team,
    ):
        chains[account].append((id_, after))
        entries[id_].append((account, seq, amount))
    accounts = {
        account: (balance, version)
        for account, balance, version in books.rows(
            "SELECT id, balance, version FROM ledger_account WHERE team_id = %s", team
        )
    }
    return Rows(transfers, entries, accounts, chains)


def judge(history: History, rows: Rows) -> list[str]:
    """Return what is wrong: nothing, where every answer is true and every row was asked for."""
    return [
        *_answers(history, rows),
        *_strangers(history, rows),
        *_balances(rows),
        *_orders(history, rows),
        *_reads(history, rows),
    ]


def _answers(history: History, rows: Rows) -> Iterable[str]:
    """Each acknowledged transfer stands once with its legs, refused ones do not, unanswered ones at most once."""
    for id_ in history.sent:
        answers, stands = history.told.get(id_, set()), rows.transfers.get(id_)
        legs = sorted((leg.account_id, leg.amount) for leg in history.asked[id_].legs)
        there = sorted((account, amount) for account, _, amount in rows.entries.get(id_, []))
        decided = answers - NEVER
        if decided - {STANDS, REFUSED} or len(decided) > 1:
            yield f"{id_} was answered {answers}"
        elif decided == {STANDS} and not stands:
            yield f"{id_} was acknowledged and does not stand"
        elif decided == {REFUSED} and stands is not False:
            yield f"{id_} was refused, and no refusal stands"
        elif answers and not decided and stands is not None:
            yield f"{id_} was answered {answers} and left a row"
        if there != (legs if stands else []):
            yield f"{id_} has the entries {there}, asked were {legs}"


def _strangers(history: History, rows: Rows) -> Iterable[str]:
    """Nothing stands that nobody sent."""
    opening = {id_ for chain in rows.chains.values() for id_, _ in chain} - rows.transfers.keys()
    if len(opening) > len(rows.accounts):
        yield "entries that no transfer has"
    yield from (f"nobody asked for {id_}" for id_ in rows.transfers.keys() - history.sent.keys())


def _balances(rows: Rows) -> Iterable[str]:
    """Balance = sum = head, without a gap, and everything sums to zero."""
    totals: Counter[str] = Counter()
    for legs in rows.entries.values():
        for account, _, amount in legs:
            totals[account] += amount
    for account, (balance, version) in rows.accounts.items():
        chain = rows.chains.get(account, [])
        if (balance, version) != (totals[account], len(chain)) or (chain and chain[-1][1] != balance):
            yield f"{account} has {balance} at {version}, its entries say {totals[account]} at {len(chain)}"
    if sum(totals.values()):
        yield f"the books sum to {sum(totals.values())}"


def _orders(history: History, rows: Rows) -> Iterable[str]:
    """Who was answered before another was sent comes before him on each account that both touch."""
    for account, chain in rows.chains.items():
        earliest = float("inf")
        for id_, _ in reversed(chain):
            if history.sent.get(id_, 0.0) > earliest:
                yield f"{id_} on {account} was sent after a later entry had been answered"
            if history.told.get(id_) == {STANDS}:
                earliest = min(earliest, history.at[id_])


def _reads(history: History, rows: Rows) -> Iterable[str]:
    """Each read saw a state that was: not older than what was answered before it, not newer than what was sent."""
    known: dict[str, tuple[list[float], list[int]]] = {}
    for account, chain in rows.chains.items():
        answered = sorted((history.at[id_], seq) for seq, (id_, _) in enumerate(chain, 1) if history.told.get(id_))
        known[account] = [at for at, _ in answered], [seq for _, seq in answered]
    for read in history.reads:
        chain = rows.chains[read["read"]]
        times, seqs = known[read["read"]]
        least = max(seqs[: bisect_left(times, read["from"])], default=0)
        if not least <= read["version"] <= len(chain):
            yield f"a read of {read['read']} saw {read['version']}, answered before it was {least}"
        elif read["version"] and chain[read["version"] - 1][1] != read["balance"]:
            yield f"a read of {read['read']} saw a balance that never was"
        elif read["version"] and history.sent.get(chain[read["version"] - 1][0], 0.0) > read["to"]:
            yield f"a read of {read['read']} saw what nobody had sent"
