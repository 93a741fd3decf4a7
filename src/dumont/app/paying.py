"""The payment service that the settings name, or the sandbox's; and today's rate as the operator states it."""

import asyncio
from datetime import date, datetime, time, timezone
from decimal import Decimal, InvalidOperation

import structlog

from dumont.app.home import StartError
from dumont.billing import Rate, TopupDesk
from dumont.core import Settings, derive_key
from dumont.payments import PaymentRefused, PaymentUnreachable, PixService

log = structlog.get_logger()
CALLBACK = "/api/v1/wallet/pix/callback"
_SANDBOX_RATE_MICRO = 5_000_000
_MICRO = 1_000_000
_PIX = ("pix_client_id", "pix_client_secret", "pix_webhook_secret", "pix_key")
_LONGEST_PAUSE_SECONDS = 60.0


def build_desk(settings: Settings, sandbox: tuple[str, str] | None) -> tuple[TopupDesk, PixService | None]:
    """Build what top-ups need; `sandbox` is the URL and key of our own marketplace.

    Errors: StartError for settings that do not belong together.
    """
    service = _service(settings, sandbox)
    rate = todays_rate(settings)
    if rate is None and service is not None and service.simulated:
        rate = Rate(_SANDBOX_RATE_MICRO, "sandbox", settings.clock.now())
    return TopupDesk(service, rate, settings.clock), service


async def watch_payments(service: PixService, public_url: str) -> None:
    """Tell the payment service where our callback is, again and again until it knows; a refusal is left to a person."""
    pause = 1.0
    while True:
        try:
            await service.watch(public_url.rstrip("/") + CALLBACK)
            return
        except PaymentUnreachable:
            log.warning("the payment service does not answer; its notices are read back meanwhile")
        except PaymentRefused as problem:
            log.warning("the payment service takes no callback address from us; set it there", problem=problem.detail)
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _service(settings: Settings, sandbox: tuple[str, str] | None) -> PixService | None:
    if settings.pix_url is None:
        if sandbox is None:
            return None
        url, key = sandbox
        return PixService(
            f"{url}/_psp",
            client_id="dumont",
            client_secret=key,
            webhook_secret=derive_key(key.encode(), "pix-webhook").hex(),
            key="pix@dumont.localhost",
            receiver=settings.pix_receiver,
            city=settings.pix_city,
            simulated=True,
        )
    values = {name.removeprefix("pix_"): getattr(settings, name) for name in _PIX}
    missing = [f"DUMONT_{name.upper()}" for name in _PIX if not getattr(settings, name)]
    if missing:
        raise StartError(f"DUMONT_PIX_URL is set, and these are not: {', '.join(missing)}.")
    return PixService(settings.pix_url, receiver=settings.pix_receiver, city=settings.pix_city, **values)


def todays_rate(settings: Settings) -> Rate | None:
    """Return the rate that the operator states, None where he states none. Errors: StartError for what is no rate."""
    if settings.fx_brl_per_usd is None:
        return None
    try:
        micro = int(Decimal(settings.fx_brl_per_usd) * _MICRO)
        day = date.fromisoformat(settings.fx_date or "")
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise StartError(
            "DUMONT_FX_BRL_PER_USD is what a dollar costs in reais, such as 5.4321, and DUMONT_FX_DATE the day of that "
            "rate, such as 2026-12-31. Set both."
        ) from error
    if not _MICRO // 1000 <= micro <= 1000 * _MICRO:
        raise StartError("DUMONT_FX_BRL_PER_USD must be between 0.001 and 1000.")
    return Rate(micro, "operator", datetime.combine(day, time(), timezone.utc))
