"""What people ask of instances: the bodies of requests and their limits."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dumont.http import Line, problems
from dumont.instances import service
from dumont.providers import Offer

LabelText = Annotated[Line, StringConstraints(min_length=1, max_length=128)]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,63}$")]
LabelValue = Annotated[Line, StringConstraints(max_length=128)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


class LaunchBody(BaseModel):
    """What to launch, and how hard to try.

    Where the offer fails, the next best ones with the same GPUs are tried, `attempts` machines in all, within the limit
    or, without one, up to a tenth above the price of the offer. `max_price` is another name of `price_hour_max`.
    Units: `disk_size` in GB; prices in USD per hour, of the limit with the disk, of the bid without.
    """

    model_config = ConfigDict(extra="ignore")

    offer_id: Annotated[str, Field(min_length=1, max_length=64)]
    image: Annotated[str, Field(min_length=1, max_length=255)] = service.DEFAULT_IMAGE
    disk_size: Annotated[float, Field(ge=8, le=10_000)] = 20
    label: LabelText | None = None
    labels: Labels = {}
    max_price: Annotated[float | None, Field(gt=0, le=10_000, allow_inf_nan=False)] = None
    price_hour_max: Annotated[float | None, Field(gt=0, le=10_000, allow_inf_nan=False)] = None
    env: Annotated[dict[EnvName, Annotated[str, Field(max_length=8000)]], Field(max_length=64)] = {}
    onstart_cmd: Annotated[str | None, Field(max_length=4000)] = None
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65_535)]], Field(max_length=20)] = []
    machine_type: Literal["on-demand", "interruptible"] | None = None
    bid_price_usd: Annotated[float | None, Field(ge=0.001, le=128, allow_inf_nan=False)] = None
    attempts: Annotated[int, Field(ge=1, le=10)] = service.ATTEMPTS
    start_timeout_minutes: Annotated[float | None, Field(ge=0.05, le=60)] = None


class ChangeBody(BaseModel):
    """What a person calls an instance, and whether it may be destroyed; what is absent stays as it is."""

    model_config = ConfigDict(extra="ignore")

    label: LabelText | None = None
    labels: Annotated[dict[LabelName, LabelValue | None], Field(max_length=32)] = {}
    protected: bool | None = None


class ResumeBody(BaseModel):
    """How long to wait for a GPU that somebody else has taken meanwhile."""

    model_config = ConfigDict(extra="ignore")

    wait_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 30


def check_fit(body: LaunchBody, offer: Offer) -> None:
    """Refuse what this offer cannot be. Errors: InvalidRequest."""
    if offer.disk_gb is not None and body.disk_size > offer.disk_gb:
        raise wrong("/disk_size", f"The offer has {offer.disk_gb:g} GB at most.", "too-large")
    if body.machine_type not in (None, offer.machine_type):
        raise wrong("/machine_type", f"The offer is {offer.machine_type}. Choose another offer.", "other-type")
    if body.bid_price_usd is not None and offer.machine_type != "interruptible":
        raise wrong("/bid_price_usd", "Only interruptible offers take bids.", "not-interruptible")


def wrong(pointer: str, detail: str, code: str) -> problems.InvalidRequest:
    """Make the problem of one field."""
    return problems.InvalidRequest([problems.field_error(pointer, detail, code)])
