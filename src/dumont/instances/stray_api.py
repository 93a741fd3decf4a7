"""The route of strays: machines under the team's labels that no row owned, and what was done about them."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Depends
from pydantic import BaseModel, Field

from dumont.http import CallerDep, MoneyDocument, Page, Router, list_document, money, page_params, permit
from dumont.instances import watch_queries

router = Router(prefix="/api/v1/strays", tags=["instances"])


class StrayDocument(BaseModel):
    """A machine that was found by a label of ours and belonged to no row."""

    id: str
    provider: str
    provider_machine_id: str
    label: str | None
    rental_id: str | None
    kind: Literal["late", "twin", "unfinished", "superseded", "other-installation", "foreign"]
    action: Literal["destroyed", "left", "reported"]
    state: str = Field(description="What the provider said of it when it was last seen.")
    price_hour: MoneyDocument | None
    first_seen_at: datetime
    last_seen_at: datetime


class StraysDocument(BaseModel):
    """A page of strays."""

    strays: list[StrayDocument]
    count: int
    total: int | None
    next_cursor: str | None


@router.get("", **permit("gpu.view"))
async def list_strays(
    caller: CallerDep, page: Annotated[Page, Depends(page_params("first_seen_at", default="-first_seen_at"))]
) -> StraysDocument:
    """List machines that appeared under the team's labels without a row that owned them, newest first."""
    rows = await watch_queries.strays_of_team(caller.session, page)
    return StraysDocument(**list_document("strays", rows, page, _shown))


def _shown(row: "watch_queries.StrayRow") -> StrayDocument:
    values = dict(row._mapping)
    price = values.pop("price_hour_nano")
    return StrayDocument(**values, price_hour=None if price is None else money(price))
