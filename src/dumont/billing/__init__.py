"""Wallets of teams and meters of what runs: what is charged, kept ahead, and refused."""

from dumont.billing.api import hold_routes, usage_routes, wallet_routes
from dumont.billing.holding import Dry, Holding, dry_teams
from dumont.billing.meter_queries import following as following_stretches
from dumont.billing.metering import Metering, follow_stretch
from dumont.billing.model import CURRENCY, Mode, SpendLimit, Stretch, Wallet, WalletInUse
from dumont.billing.service import runway
from dumont.billing.spending import admit
from dumont.billing.suspense import Suspended, begin_return, credit_suspended, suspended
from dumont.billing.topups_api import topup_routes
from dumont.billing.topups_model import Rate, TopupDesk
from dumont.billing.topups_workflows import keep_topups, topups_turn
from dumont.billing.true_up import EndedRental, Stated, true_up
from dumont.billing.wallets import ensure_account, ensure_wallet

routers = (wallet_routes, usage_routes, hold_routes, topup_routes)
"""The routers of this room, for `http.create_app`."""

__all__ = [
    "CURRENCY",
    "Dry",
    "EndedRental",
    "Holding",
    "Metering",
    "Mode",
    "Rate",
    "SpendLimit",
    "Stated",
    "Stretch",
    "Suspended",
    "TopupDesk",
    "Wallet",
    "WalletInUse",
    "admit",
    "begin_return",
    "credit_suspended",
    "dry_teams",
    "ensure_account",
    "ensure_wallet",
    "follow_stretch",
    "following_stretches",
    "keep_topups",
    "routers",
    "runway",
    "suspended",
    "topups_turn",
    "true_up",
]
