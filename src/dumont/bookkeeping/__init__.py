"""What people do with money: accounts, categories, transactions, and their corrections, all posted to the ledger."""

from dumont.bookkeeping.accounts import DEFAULT_CATEGORIES, give_categories
from dumont.bookkeeping.api import router as accounts_router
from dumont.bookkeeping.holds_api import router as holds_router
from dumont.bookkeeping.imports_api import router as imports_router
from dumont.bookkeeping.insight_service import also_ask
from dumont.bookkeeping.insights import Insight, wallet_dry
from dumont.bookkeeping.insights_api import router as insights_router
from dumont.bookkeeping.model import AccountType, Category, Change, Facts, Key, Transaction, TransactionType, Who
from dumont.bookkeeping.reports_api import router as reports_router
from dumont.bookkeeping.service import Recorded, edit, record, reverse, reverse_many
from dumont.bookkeeping.transactions_api import router as transactions_router
from dumont.bookkeeping.workflows import expire_all, refresh_insights

routers = (accounts_router, transactions_router, reports_router, holds_router, imports_router, insights_router)
"""The routers of this room, for `http.create_app`."""

__all__ = [
    "DEFAULT_CATEGORIES",
    "AccountType",
    "Category",
    "Change",
    "Facts",
    "Insight",
    "Key",
    "Recorded",
    "Transaction",
    "TransactionType",
    "Who",
    "also_ask",
    "edit",
    "expire_all",
    "give_categories",
    "record",
    "refresh_insights",
    "reverse",
    "reverse_many",
    "routers",
    "wallet_dry",
]
