"""What is on offer now, and the renting of it."""

import math
import secrets
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any

from dumont.core import nanousd
from dumont.sandbox.billing import MICRO, credit, span_rates
from dumont.sandbox.catalogue import Offer, boxes
from dumont.sandbox.documents import hardware
from dumont.sandbox.faults import Faults
from dumont.sandbox.settings import SandboxSettings
from dumont.sandbox.store import Rental, Store

# Below the range from which the system takes ports for outgoing connections, so that a port is rarely lost meanwhile.
_PORTS = range(20_000, 32_000)
_HOLDS_GPU = ("created", "loading", "running", "rebooting")


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


class Market:
    """The catalogue minus what is rented or dark."""

    def __init__(self, settings: SandboxSettings, store: Store, faults: Faults) -> None:
        self._settings = settings
        self._store = store
        self._faults = faults
        self._boxes = boxes()
        self._granted = nanousd(settings.credit_usd)

    def now_us(self) -> int:
        """Return product time in microseconds."""
        return int(self._settings.clock.seconds() * MICRO)

    def offers(self) -> list[Offer]:
        """Return what can be rented; a slice has a new number after each rental that touched it."""
        taken = [(r.box_id, r.gpus) for r in self._store.rentals() if r.phase in _HOLDS_GPU]
        dead = self._store.dead_boxes()
        past: Counter[tuple[int, int]] = Counter()
        for number, gpus in self._store.rental_gpus():
            past.update((number, at) for at in gpus)
        found = []
        for row, box in enumerate(self._boxes):
            for column, gpus in enumerate(box.slices()):
                free = not any(b == box.id and set(g) & set(gpus) for b, g in taken)
                if free and box.id not in dead:
                    turn = sum(past[box.id, at] for at in gpus)
                    found.append(Offer(21_400_000 + row * 100 + column + 10_000 * turn, box, gpus))
        return found

    def is_free(self, rental: Rental) -> bool:
        """Tell whether nobody else holds the GPUs of a stopped rental, and its box has power."""
        others = [r for r in self._store.rentals() if r.id != rental.id and r.phase in _HOLDS_GPU]
        clash = any(r.box_id == rental.box_id and set(r.gpus) & set(rental.gpus) for r in others)
        return not clash and rental.box_id not in self._store.dead_boxes()

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

    def _find(self, offer_id: int, wish: Wish) -> Offer:
        if self.credit() <= 0:
            raise Refused(400, "insufficient_credit", "The account has no credit left.")
        if len(self._store.rentals()) >= self._settings.max_machines:
            raise Refused(400, "spend_rate_limit", f"The sandbox keeps at most {self._settings.max_machines} machines.")
        offer = next((offer for offer in self.offers() if offer.id == offer_id), None)
        if offer is None or self._faults.take("sold_between"):
            message = f"error 404/3603: no_such_ask Instance type by id {offer_id} is not available."
            raise Refused(404, "no_such_ask", message)
        if wish.disk > offer.box.disk * len(offer.gpus) / offer.box.gpus:
            raise Refused(400, "invalid_args", "The offer has less disk than was asked for.")
        return offer

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
            "disk_rate": offer.disk_rate(wish.disk),
            "created_us": now,
            "phase": phase,
            "intended": "stopped" if stopped else "running",
            "status_msg": "" if stopped else None,
            "port": free_port(self._settings.host, {r.port for r in self._store.rentals()}),
            "api_key": secrets.token_hex(32),
            "hardware": hardware(offer, now / MICRO),
        }
        with self._store.transaction():
            number = self._store.add_rental(values)
            rental = self._store.rental(number)
            if rental is None:
                raise RuntimeError(f"rental {number} was not written")
            self._store.turn_span(number, phase, *span_rates(rental, phase), now)
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
