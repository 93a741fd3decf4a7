"""What is on offer now, and the renting of it."""

import json
import math
import secrets
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from dumont.core import nanousd
from dumont.sandbox.bids import Claim, holders
from dumont.sandbox.billing import MICRO, credit, span_rates
from dumont.sandbox.catalogue import Box, Offer, fixed
from dumont.sandbox.contest import Contest, Verdict
from dumont.sandbox.documents import hardware
from dumont.sandbox.generate import generate
from dumont.sandbox.rivals import Rivals
from dumont.sandbox.settings import SandboxRefused, SandboxSettings
from dumont.sandbox.store import Rental, Store
from dumont.sandbox.traces import BadTrace, Binding, bind
from dumont.sandbox.weather import PROFILES, Weather

# Below the range from which the system takes ports for outgoing connections, so that a port is rarely lost meanwhile.
_PORTS = range(20_000, 32_000)
_FIRST_OFFER = 21_400_000
_LISTINGS = 1 << 20
"""How many listings of a slice have numbers of their own; far more than a year has."""


class Refused(Exception):
    """A wish that the marketplace turns down, in its own words."""

    def __init__(self, status: int, error: str, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"success": False, "error": error, "msg": message, **extra}


@dataclass(frozen=True)
class Wish:
    """A checked body of PUT /asks. Units: disk in GB, bid in nano-dollars per hour."""

    image: str
    disk: float
    label: str | None
    env: dict[str, str]
    onstart: str | None
    runtype: str
    bid: int | None
    stopped: bool


class _Shelf(NamedTuple):
    """What is on offer of a box from one moment until another one, as long as the same claims hold its GPUs."""

    claims: list[Claim]
    since: float
    until: float
    offers: list[Offer]


class Market:
    """The catalogue minus what is rented, dark, or with somebody else."""

    def __init__(self, settings: SandboxSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        weather = Weather(settings.seed, PROFILES[settings.market])
        self.rivals = Rivals(weather)
        made = generate(settings.seed, settings.offers, weather.presence) if settings.offers else fixed()
        self.boxes = {box.id: box for box in made}
        slices = [(box, column) for box in made for column in range(len(box.slices()))]
        self._slices = slices
        self._first_slice = {box.id: at for at, (box, column) in enumerate(slices) if column == 0}
        self._past: Counter[tuple[int, int]] = Counter(
            (number, gpu) for number, gpus in store.rental_gpus() for gpu in gpus
        )
        self._shelves: dict[int, _Shelf] = {}
        self._recall_traces()
        self._granted = nanousd(settings.credit_usd)
        self._judged = self.now_s()

    def now_us(self) -> int:
        """Return product time in microseconds."""
        return int(self._settings.clock.seconds() * MICRO)

    def now_s(self) -> float:
        """Return product time in seconds."""
        return self.now_us() / MICRO

    def offers(self, *, bids: bool = False, only_box: int | None = None) -> list[Offer]:
        """Return what can be rented on demand, or with `bids` interruptibly; all of it, or what one box has.

        A slice has a new number after each rental that touched it and at each new listing. What bids hold can be
        rented on demand, and interruptibly by a higher bid.
        """
        now, claims, dead = self.now_s(), self._store.claims(), self._store.dead_boxes()
        holding: dict[int, list[Claim]] = {}
        for claim in claims:
            if claim.holds:
                holding.setdefault(claim.box_id, []).append(claim)
        found: list[Offer] = []
        wanted = self.boxes.values() if only_box is None else filter(None, [self.boxes.get(only_box)])
        for box in self.boxes.values() if self.rivals.traces else wanted:  # a trace leaves so many in all
            if box.id not in dead:
                found += self._shelf_of(box, holding.get(box.id, []), now).offers
        return self._capped(found, claims, now, bids=bids)

    def _shelf_of(self, box: Box, claims: list[Claim], at: float) -> _Shelf:
        """Return what is on offer of a box that these claims hold; looked up anew only when something has changed."""
        kept, plain = self._shelves.get(box.id), self.rivals.is_plain(box, at)
        if kept is not None and plain and kept.since <= at < kept.until and kept.claims == claims:
            return kept
        blocked, weather = self._blocked(box, claims, at), self.rivals.weather
        shown = weather.shown(box, at, blocked)
        offers = [self._offer(box, column, listing, claims, at) for column, listing in shown]
        found = _Shelf(claims, *weather.window(box, at, blocked), offers)
        if plain:
            self._shelves[box.id] = found
        return found

    def is_free(self, rental: Rental) -> bool:
        """Tell whether a stopped rental would get its GPUs now."""
        asking = Claim(rental.id, rental.box_id, rental.gpus, "queued", rental.gpu_rate if rental.is_bid else None)
        others = [claim for claim in self._store.claims() if claim.id != rental.id]
        return self._contest([*others, asking]).wins(rental.id, self.now_s())

    def judge(self) -> Verdict:
        """Return which rentals lost their GPUs to others since the last call, and which waiting ones get theirs now."""
        now = self.now_s()
        verdict = self._contest(self._store.claims()).judge(self._judged, now)
        self._judged = now
        return verdict

    def next_change(self) -> float:
        """Return the product time at which `judge` may have something new to say by itself."""
        claims = self._store.claims()
        return self._contest(claims).next_change(self.now_s()) if claims else math.inf

    def credit(self) -> int:
        """Return the account's money in nano-dollars."""
        return credit(self._store, self._granted, self.now_us())

    def rent(self, offer_id: int, wish: Wish) -> int:
        """Write a new rental and return its number.

        Errors: Refused when the offer is gone, the money or the machines are used up, or the bid is too low; in the
        last case a stopped instance exists all the same, as at the real marketplace.
        """
        offer = self._find(offer_id, wish)
        low = wish.bid is not None and wish.bid < offer.min_bid
        stopped = wish.stopped or low
        number = self._write(offer, wish, stopped)
        if low:
            raise Refused(400, "invalid_price", "The bid is below the lowest that would run.", new_contract=number)
        return number

    def lay(self, document: dict[str, Any]) -> Binding:
        """Let a part of the market follow a trace from now on, also after a restart.

        Errors: BadTrace.
        """
        document = {**document, "begins_at": document.get("begins_at", self.now_s())}
        trace = bind(document, self.now_s())
        self._store.set_meta("traces", json.dumps([*self._laid(), document]))
        self.rivals.traces.append(trace)
        return trace

    def lift(self) -> int:
        """Forget all traces; return how many there were."""
        gone = len(self.rivals.traces)
        self._store.set_meta("traces", "[]")
        self.rivals.traces.clear()
        return gone

    def begin_again(self) -> None:
        """Forget past rentals, sent renters and traces; the weather is as it was."""
        self._past.clear()
        self._shelves.clear()
        self.rivals.dismiss()
        self.lift()
        self._judged = self.now_s()

    def _laid(self) -> list[dict[str, Any]]:
        return list(json.loads(self._store.meta("traces") or "[]"))

    def _recall_traces(self) -> None:
        """Take the traces of the settings at the first start, and those that were laid at any later one."""
        try:
            if self._store.meta("traces") is None:
                for document in self._settings.traces:
                    self.lay(document)
            else:
                self.rivals.traces = [bind(document, self.now_s()) for document in self._laid()]
        except BadTrace as error:
            raise SandboxRefused(f"A trace cannot be used: {error}") from error

    def _contest(self, claims: list[Claim]) -> Contest:
        return Contest(self.boxes, self.rivals, claims, self._store.dead_boxes())

    def _blocked(self, box: Box, claims: list[Claim], at: float) -> frozenset[int]:
        ours = {gpu for claim in holders(claims, box.id, bids=False) for gpu in claim.gpus}
        return self.rivals.occupied(box, at) | ours

    def _offer(self, box: Box, column: int, listing: int, claims: list[Claim], at: float) -> Offer:
        gpus = box.slices()[column]
        turn = (listing + sum(self._past[box.id, gpu] for gpu in gpus)) % _LISTINGS
        number = _FIRST_OFFER + self._first_slice[box.id] + column + turn * len(self._slices)
        losing = [c.per_gpu for c in holders(claims, box.id, bids=True) if set(c.gpus).intersection(gpus)]
        highest = max([self.rivals.bid(box, gpus, at), *losing])
        least = max(float(self.rivals.floor(box, at)), highest * 1.01) * len(gpus)
        rate = self.rivals.weather.gpu_hour(box, at) * len(gpus)
        # The marketplace shows bids to a millionth of a dollar.
        return Offer(number, box, gpus, rate, math.ceil(least / 1000) * 1000)

    def _capped(self, offers: list[Offer], claims: list[Claim], at: float, *, bids: bool) -> list[Offer]:
        """Return what traces leave of the offers: the cheapest, as many as there is room for."""
        contest = self._contest(claims)
        for trace in self.rivals.traces:
            if trace.mode == "availability" or (trace.mode == "preemption" and bids):
                room = contest.room(trace, at, bids=trace.mode == "preemption")
                bound = [offer for offer in offers if trace.covers(offer.box)]
                bound.sort(key=lambda offer: (offer.gpu_rate / len(offer.gpus), offer.id))
                gone = {offer.id for offer in bound[room:]}
                offers = [offer for offer in offers if offer.id not in gone]
        return offers

    def _find(self, offer_id: int, wish: Wish) -> Offer:
        if self.credit() <= 0:
            raise Refused(400, "insufficient_credit", "The account has no credit left.")
        if len(self._store.claims()) >= self._settings.max_machines:
            raise Refused(400, "spend_rate_limit", f"The sandbox keeps at most {self._settings.max_machines} machines.")
        offer = self._named(offer_id, wish.bid is not None)
        if offer is None:
            message = f"error 404/3603: no_such_ask Instance type by id {offer_id} is not available."
            raise Refused(404, "no_such_ask", message)
        if wish.disk > offer.box.disk_of(offer.gpus):
            raise Refused(400, "invalid_args", "The offer has less disk than was asked for.")
        return offer

    def _named(self, offer_id: int, bids: bool) -> Offer | None:
        """Return the offer of a number that is on the market, or left it so shortly ago that a person still sees it."""
        if offer_id < _FIRST_OFFER:
            return None
        box, column = self._slices[(offer_id - _FIRST_OFFER) % len(self._slices)]
        now, claims = self.now_s(), self._store.claims()
        blocked = self._blocked(box, claims, now)
        if box.id in self._store.dead_boxes() or blocked.intersection(box.slices()[column]):
            return None
        grace = self.rivals.weather.profile.grace_real_s / self._settings.clock.real_delay(1.0)
        for look in self.rivals.weather.shown_lately(box, now, now - grace, blocked):
            offers = [self._offer(box, shown, listing, claims, now) for shown, listing in look if shown == column]
            if offers and offers[0].id == offer_id:
                return next(iter(self._capped(offers, claims, now, bids=bids)), None)
        return None

    def _write(self, offer: Offer, wish: Wish, stopped: bool) -> int:
        now = self.now_us()
        phase = "exited" if stopped else "created"
        values = {
            "offer_id": offer.id,
            "box_id": offer.box.id,
            "gpus": list(offer.gpus),
            "image": wish.image,
            "disk_gb": wish.disk,
            "label": wish.label,
            "env": wish.env,
            "onstart": wish.onstart,
            "runtype": wish.runtype,
            "is_bid": int(wish.bid is not None),
            "gpu_rate": offer.gpu_rate if wish.bid is None else wish.bid,
            "disk_rate": offer.box.disk_rate(wish.disk),
            "created_us": now,
            "phase": phase,
            "intended": "stopped" if stopped else "running",
            "status_msg": "" if stopped else None,
            "port": free_port(self._settings.host, self._store.ports()),
            "api_key": secrets.token_hex(32),
            "hardware": hardware(offer, now / MICRO),
        }
        with self._store.transaction():
            number = self._store.add_rental(values)
            rental = self._store.rental(number)
            if rental is None:
                raise RuntimeError(f"rental {number} was not written")
            self._store.turn_span(number, phase, *span_rates(rental, phase), now)
        self._past.update((offer.box.id, gpu) for gpu in offer.gpus)
        self._shelves.pop(offer.box.id, None)
        return number


def read_wish(body: dict[str, Any]) -> Wish:
    """Check the body of a create.

    Errors: Refused with invalid_args, invalid_price or label_too_long.
    """
    image, label, env = body.get("image"), body.get("label"), body.get("env") or {}
    if not (isinstance(image, str) and 0 < len(image) <= 1024):
        raise Refused(400, "invalid_args", "image is required.")
    if label is not None and not isinstance(label, str):
        raise Refused(400, "invalid_args", "label must be a text.")
    if label and len(label) > 256:
        raise Refused(400, "label_too_long", "A label has at most 256 characters.")
    if not isinstance(env, dict) or sum(len(str(k)) + len(str(v)) for k, v in env.items()) > 32_768:
        raise Refused(400, "invalid_args", "env must be an object of at most 32768 characters.")
    if body.get("target_state", "running") not in ("running", "stopped"):
        raise Refused(400, "invalid_args", "target_state must be running or stopped.")
    onstart = body.get("onstart")
    if onstart is not None and (not isinstance(onstart, str) or len(onstart) > 4096):
        raise Refused(400, "invalid_args", "onstart has at most 4096 characters.")
    return Wish(
        image=image,
        disk=_disk(body.get("disk", 10)),
        label=label,
        env={str(name): str(value) for name, value in env.items()},
        onstart=onstart,
        runtype=str(body.get("runtype") or "ssh"),
        bid=read_price(body.get("price")),
        stopped=body.get("target_state") == "stopped",
    )


def read_price(price: Any) -> int | None:
    """Read a bid in dollars per hour as nano-dollars; None stays None.

    Errors: Refused with invalid_price outside 0.001 to 128.
    """
    if price is None:
        return None
    try:
        bid = nanousd(price)
    except (ValueError, ArithmeticError) as error:
        raise Refused(400, "invalid_price", "price must be a number.") from error
    if not nanousd("0.001") <= bid <= nanousd(128):
        raise Refused(400, "invalid_price", "price must be between 0.001 and 128.")
    return bid


def free_port(host: str, taken: set[int]) -> int:
    """Return a port that nobody listens on and that is not in `taken`.

    Errors: OSError when a thousand tries found none.
    """
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port not in taken and _binds(probe, host, port):
                return port
    raise OSError("no free port for a machine")


def _binds(probe: socket.socket, host: str, port: int) -> bool:
    try:
        probe.bind((host, port))
    except OSError:
        return False
    return True


def _disk(value: Any) -> float:
    try:
        size = float(value)
    except (TypeError, ValueError) as error:
        raise Refused(400, "invalid_args", "disk must be a number of GB.") from error
    if not (math.isfinite(size) and size >= 8):
        raise Refused(400, "invalid_args", "disk must be at least 8 GB.")
    return size
