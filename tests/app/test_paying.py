"""Which payment service and which rate the settings lead to, and what is said where they do not belong together."""

from pathlib import Path

import pytest

from dumont.app.home import StartError
from dumont.app.paying import build_desk
from dumont.core import load_settings

SANDBOX = ("http://127.0.0.1:9", "key")
REAL = {
    "DUMONT_PIX_URL": "https://pix.bank.example/v2",
    "DUMONT_PIX_CLIENT_ID": "id",
    "DUMONT_PIX_CLIENT_SECRET": "secret",
    "DUMONT_PIX_WEBHOOK_SECRET": "hook",
    "DUMONT_PIX_KEY": "pix@dumont.example",
}
RATE = {"DUMONT_FX_BRL_PER_USD": "5.4321", "DUMONT_FX_DATE": "2026-03-14"}


async def test_the_sandbox_pays_until_a_real_service_is_named(tmp_path: Path) -> None:
    """The sandbox's service and a rate of its own; a real one is not simulated, and has no rate that nobody stated."""
    home = {"DUMONT_HOME": str(tmp_path)}
    desk, service = build_desk(load_settings(home), SANDBOX)
    assert service is not None and service.simulated and desk.todays_rate().source == "sandbox"
    assert desk.todays_rate().credit(10_000) == 20_000_000
    real, bank = build_desk(load_settings({**home, **REAL}), SANDBOX)
    assert bank is not None and not bank.simulated and real.rate is None
    stated, other = build_desk(load_settings({**home, **REAL, **RATE}), None)
    assert stated.rate is not None and (stated.rate.brl_micro, stated.rate.source) == (5_432_100, "operator")
    assert stated.rate.quoted_at.isoformat() == "2026-03-14T00:00:00+00:00"
    nothing, none = build_desk(load_settings(home), None)
    assert none is None and nothing.payments is None and nothing.rate is None
    for made in (service, bank, other):
        assert made is not None
        await made.close()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({**REAL, "DUMONT_PIX_KEY": "", "DUMONT_PIX_WEBHOOK_SECRET": ""}, "DUMONT_PIX_WEBHOOK_SECRET, DUMONT_PIX_KEY"),
        ({**RATE, "DUMONT_FX_DATE": ""}, "DUMONT_FX_DATE"),
        ({**RATE, "DUMONT_FX_BRL_PER_USD": "five"}, "DUMONT_FX_BRL_PER_USD"),
        ({**RATE, "DUMONT_FX_BRL_PER_USD": "NaN"}, "DUMONT_FX_BRL_PER_USD"),
        ({**RATE, "DUMONT_FX_BRL_PER_USD": "0"}, "DUMONT_FX_BRL_PER_USD"),
        ({**RATE, "DUMONT_FX_DATE": "14/03/2026"}, "DUMONT_FX_DATE"),
    ],
)
def test_settings_that_do_not_belong_together_are_named(tmp_path: Path, changes: dict[str, str], named: str) -> None:
    with pytest.raises(StartError, match=named):
        build_desk(load_settings({"DUMONT_HOME": str(tmp_path), **changes}), None)
