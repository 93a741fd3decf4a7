"""What every provider can be asked, in our own words, and the few ways in which an answer can fail."""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from dumont.core import NANO

HOURS_IN_MONTH = 720


class ProviderError(Exception):
    """A provider did not do what was asked; `detail` is for people and holds no secret.

    `code` is the provider's own word for it, where it gave one. `machine_id` names a machine that exists in spite of
    the error.
    """

    def __init__(self, detail: str, *, code: str | None = None, machine_id: str | None = None) -> None:
        self.detail = detail
        self.code = code
        self.machine_id = machine_id
        super().__init__(detail)


class ProviderUnreachable(ProviderError):
    """The outcome is unknown: time-out, reset, 5xx, HTML or an incomplete listing.

    `not_sent` is true where the request certainly never left us.
    """

    def __init__(
        self, detail: str, *, code: str | None = None, machine_id: str | None = None, not_sent: bool = False
    ) -> None:
        super().__init__(detail, code=code, machine_id=machine_id)
        self.not_sent = not_sent


class ProviderRefused(ProviderError):
    """A definite no: a mistake of ours, or something that the account may not do."""


class MachineAbsent(ProviderRefused):
    """The provider answered that it has no such machine; one such answer is not yet proof of absence."""


class OfferGone(ProviderError):
    """The offer was rented by somebody else or withdrawn; the next candidate may still be there."""


class NoCapacity(ProviderError):
    """The start was accepted and queued, because the GPU is taken; it may start later by itself until cancelled."""


class BadCredentials(ProviderError):
    """The provider does not accept the key, or the key lacks a permission."""


class RateLimited(ProviderError):
    """The call was refused for coming too soon; nothing was carried out. `retry_after` is in seconds."""

    def __init__(self, detail: str, *, retry_after: float | None = None, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do, so that nobody above needs to know its name."""

    stop_keeps_disk: bool
    interruptible: bool
    attach_key_to_running: bool
    states_charges: bool
    whole_market: bool = False
    """Whether all offers may be asked for again and again, without coming too often."""


@dataclass(frozen=True, slots=True)
class OfferQuery:
    """What an offer must fulfil; `None`, `False` and `()` ask for nothing.

    `gpu_name` is one exact name. `gpu_names` are several, of which one must match: as whole consecutive words of the
    offer's name, or as the name itself where `gpu_exact`.
    Units: GB are 1000^3 bytes; prices are nano-dollars per hour, all GPUs and `disk_gb` included.
    """

    gpu_name: str | None = None
    gpu_names: tuple[str, ...] = ()
    gpu_exact: bool = False
    num_gpus: int | None = None
    min_gpu_ram_gb: float | None = None
    max_gpu_ram_gb: float | None = None
    min_cpu_cores: float | None = None
    min_cpu_ram_gb: float | None = None
    min_disk_gb: float | None = None
    min_inet_down_mbps: float | None = None
    min_inet_up_mbps: float | None = None
    min_cuda: str | None = None
    static_ip: bool | None = None
    min_price_hour_nano: int | None = None
    max_price_hour_nano: int | None = None
    min_reliability: float | None = None
    verified_only: bool = False
    countries: tuple[str, ...] = ()
    disk_gb: float = 20
    machine_type: str = "on-demand"
    machine_id: str | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer of a marketplace as it was seen in one search; its number may be stale a minute later.

    Units: `price_hour_nano` is the total with the disk that the query asked for; `gpu_memory_mib` is of one GPU;
    cores and memory are the share that comes with the offer.
    """

    provider: str
    provider_offer_id: str
    machine_id: str
    host_id: str | None
    gpu_name: str
    num_gpus: int
    gpu_memory_mib: int
    cpu_cores: float | None
    cpu_name: str | None
    cpu_ram_gb: float | None
    disk_gb: float | None
    inet_down_mbps: float | None
    inet_up_mbps: float | None
    price_hour_nano: int
    gpu_hour_nano: int
    disk_hour_nano: int
    storage_gb_month_nano: int | None
    machine_type: str
    min_bid_hour_nano: int | None
    geolocation: str | None
    country: str | None
    reliability: float | None
    verified: bool
    static_ip: bool
    cuda_version: str | None
    driver_version: str | None
    dlperf: float | None
    tflops: float | None
    available_until: datetime | None
    inet_down_gb_nano: int | None = None
    inet_up_gb_nano: int | None = None

    @property
    def gpu_ram_gb(self) -> int:
        """Memory of one GPU as its maker states it, in whole GB."""
        return round(self.gpu_memory_mib / 1024)

    @property
    def shown_price_nano(self) -> int:
        """The price as people see it: to the micro-dollar, half to even."""
        return round(self.price_hour_nano, -3)

    @property
    def performance_per_usd(self) -> float | None:
        """The marketplace's benchmark for each dollar of an hour."""
        price = self.shown_price_nano
        return None if self.dlperf is None or price <= 0 else round(self.dlperf * NANO / price, 3)

    def with_disk(self, gigabytes: float) -> "Offer":
        """Return the offer with the price of that much disk; unchanged where the marketplace states no rate for disk.

        Source: a month has 720 hours; total = GPU part + rate x GB / 720.
        """
        if self.storage_gb_month_nano is None:
            return self
        disk = round(self.storage_gb_month_nano * gigabytes / HOURS_IN_MONTH)
        total = self.gpu_hour_nano + disk
        if (self.disk_hour_nano, self.price_hour_nano) == (disk, total):
            return self
        return replace(self, disk_hour_nano=disk, price_hour_nano=total)


class MachineState(str, Enum):
    """What a provider's answer says about a machine; only a login proves `running`."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    WAITING_FOR_GPU = "waiting_for_gpu"
    PREEMPTED = "preempted"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Address:
    """One way to a machine's SSH server: host and port belong together."""

    host: str
    port: int
    user: str = "root"


@dataclass(frozen=True, slots=True)
class Machine:
    """One rented machine as the provider describes it; addresses come direct first, then through a proxy.

    `ports` are the other ports that can be reached from outside, such as `8080/tcp`.
    Units: `price_hour_nano` is what it costs while running, disk included; `disk_hour_nano` is billed in every state.
    """

    id: str
    label: str | None
    state: MachineState
    raw_status: str | None
    detail: str | None
    addresses: tuple[Address, ...]
    workspace_root: str
    gpu_name: str | None
    num_gpus: int | None
    gpu_memory_mib: int | None
    machine_id: str | None
    price_hour_nano: int | None
    gpu_hour_nano: int | None
    disk_hour_nano: int | None
    started_at: datetime | None
    public_ip: str | None
    disk_gb: float | None
    geolocation: str | None
    country: str | None
    interruptible: bool = False
    ports: Mapping[str, "Address"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RentRequest:
    """What to rent; `label` is unique per attempt and was written down before asking.

    `ports` of the machine shall be reachable from outside; `bid_hour_nano` is for the GPUs of an interruptible offer,
    and its lowest winning bid where not given.
    """

    label: str
    offer: Offer
    image: str
    disk_gb: float
    env: Mapping[str, str]
    onstart: str | None
    ports: tuple[int, ...] = ()
    bid_hour_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the provider's own bill for a machine; `kind` is gpu, disk, bandwidth or other."""

    kind: str
    amount_nano: int
    start: datetime
    end: datetime
    description: str


@dataclass(frozen=True, slots=True)
class Account:
    """The account behind a key; `credit_nano` is what it can still spend, `None` when not told."""

    email: str | None
    credit_nano: int | None


class Provider(Protocol):
    """A marketplace that rents machines.

    Guarantees: each call asks the provider, never a cache; nothing is asked twice except where a method says so.
    Errors: every failure is a ProviderError; ProviderUnreachable means that the outcome is unknown.
    """

    @property
    def name(self) -> str:
        """The provider's name in our records."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def offers(self, query: OfferQuery) -> builtins.list[Offer]:
        """Search the market, cheapest first; each filter is checked again on the reply and repeats are dropped.

        Guarantees: fewer than `query.limit` are all that fit.
        """
        ...

    async def rent(self, request: RentRequest) -> str:
        """Rent one machine and return its id.

        Guarantees: idempotent by label: an existing machine under it is adopted, and after doubt the label is looked
        for instead of asking again.
        Errors: OfferGone; ProviderUnreachable while a machine may or may not exist under the label.
        """
        ...

    async def find_by_label(self, label: str) -> builtins.list[Machine]:
        """List the machines with exactly this label, oldest first.

        Errors: ProviderUnreachable unless the listing was complete.
        """
        ...

    async def list(self) -> builtins.list[Machine]:
        """List all machines of the account, oldest first.

        Errors: ProviderUnreachable unless the listing was complete.
        """
        ...

    async def get(self, machine_id: str) -> Machine | None:
        """Read one machine; `None` = absent in a call that worked, to be believed only when seen twice."""
        ...

    async def stop(self, machine_id: str) -> None:
        """Ask for a stop that keeps the disk; it takes effect later. May be repeated."""
        ...

    async def start(self, machine_id: str) -> None:
        """Ask for a start. May be repeated. NoCapacity leaves a queued start behind: see `cancel_start`."""
        ...

    async def cancel_start(self, machine_id: str) -> None:
        """Take a queued start back, so that the machine never starts and bills by itself."""
        ...

    async def reboot(self, machine_id: str) -> None:
        """Ask a running machine to go down and come up again with its disk; a second call may do it a second time."""
        ...

    async def logs(self, machine_id: str, *, tail: int) -> builtins.list[str]:
        """Read the last lines that a machine's container wrote, oldest first.

        Errors: ProviderUnreachable also where the provider did not have them ready in time.
        """
        ...

    async def destroy(self, machine_id: str) -> None:
        """Ask for destruction; fine when it is gone already. Says nothing about absence."""
        ...

    async def ensure_key(self, public_key: str) -> None:
        """Make the account know an SSH key, for machines rented later. Idempotent."""
        ...

    async def attach_key(self, machine_id: str, public_key: str) -> None:
        """Make one machine accept an SSH key. Idempotent."""
        ...

    async def charges(self, machine_id: str, start: datetime, end: datetime) -> builtins.list[Charge]:
        """Read the provider's own charges of a machine that overlap a span of time, oldest first."""
        ...

    async def account(self) -> Account:
        """Read the account; the cheapest test of a key."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
