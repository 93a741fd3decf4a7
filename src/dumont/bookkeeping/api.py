"""The routes of accounts and categories."""

from hashlib import blake2b
from typing import Annotated

from fastapi import Header, Query, Request, Response

from dumont.bookkeeping import accounts, queries, reading
from dumont.bookkeeping.bodies import (
    AccountBody,
    AccountChangeBody,
    CategoryBody,
    CategoryChangeBody,
    key_of,
    units_of,
    versions,
    who,
)
from dumont.bookkeeping.documents import (
    AccountDocument,
    AccountsDocument,
    CategoriesDocument,
    CategoryDocument,
    DoneDocument,
    account_document,
    category_document,
)
from dumont.bookkeeping.model import (
    AccountNotPostable,
    AccountType,
    CategoryNotFound,
    CategoryType,
    NameTaken,
    VersionMismatch,
)
from dumont.http import CallerDep, Router, permit, raises
from dumont.ledger import (
    AccountClosed,
    AccountInUse,
    AccountNotEmpty,
    AccountNotFound,
    BalanceTooLow,
    LedgerAccount,
    get_account,
)

router = Router(prefix="/api/v1", tags=["accounts"])
_KINDS = f"^({'|'.join([*(kind.value for kind in AccountType), 'wallet', 'system'])})$"
_CHANGED = raises(
    AccountNotFound, AccountNotPostable, NameTaken, AccountInUse, AccountClosed, BalanceTooLow, VersionMismatch
)


@router.get("/accounts", **permit("ledger.view"))
async def list_accounts(
    caller: CallerDep,
    account_type: Annotated[str | None, Query(alias="type", pattern=_KINDS)] = None,
    include_inactive: bool = False,
) -> AccountsDocument:
    """List the team's accounts by type and name; those of the system only when asked for."""
    found = await reading.list_accounts(caller.session, caller.team_id, include_inactive)
    shown = [account_document(account) for account in found]
    kept = [one for one in shown if (one.type == account_type if account_type else one.type != "system")]
    return AccountsDocument(accounts=kept, count=len(kept))


@router.post("/accounts", status_code=201, **permit("ledger.post", keyed=True), responses=raises(NameTaken))
async def open_account(request: Request, response: Response, body: AccountBody, caller: CallerDep) -> AccountDocument:
    """Open an account; an opening balance is posted to it in the same commit."""
    currency = accounts.known_currency(body.currency)
    wish = accounts.Wish(
        body.name,
        body.type,
        currency,
        opening=units_of(body.opening_balance, currency),
        overdraft=units_of(body.overdraft_limit, currency),
    )
    account_id = await accounts.open_own(caller.session, who(request, caller), wish, key_of(request, caller))
    return _shown(await get_account(caller.session, account_id), response)


@router.get("/accounts/{account_id}", **permit("ledger.view"), responses=raises(AccountNotFound))
async def show_account(account_id: str, response: Response, caller: CallerDep) -> AccountDocument:
    """Show an account as it stands now."""
    return _shown(await accounts.own_account(caller.session, account_id), response)


@router.put("/accounts/{account_id}", **permit("ledger.post"), responses=_CHANGED, name="put_account")
@router.patch("/accounts/{account_id}", **permit("ledger.post"), responses=_CHANGED)
async def change_account(
    account_id: str,
    request: Request,
    response: Response,
    body: AccountChangeBody,
    caller: CallerDep,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
) -> AccountDocument:
    """Change name, overdraft limit, or, before its first entry, the type of an account; never its balance."""
    account = await accounts.postable_account(caller.session, account_id)
    _expect(account, if_match)
    limit = None if body.overdraft_limit is None else units_of(body.overdraft_limit, account.currency)
    changed = await accounts.change_own(
        caller.session,
        who(request, caller),
        account,
        name=body.name,
        account_type=body.type,
        overdraft=limit,
    )
    return _shown(changed, response)


@router.delete(
    "/accounts/{account_id}",
    **permit("ledger.post"),
    responses=raises(AccountNotFound, AccountNotPostable, AccountNotEmpty, VersionMismatch),
)
async def close_account(
    account_id: str,
    request: Request,
    caller: CallerDep,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
) -> DoneDocument:
    """Close an empty account: it takes no more entries and keeps those it has. Again changes nothing."""
    account = await accounts.postable_account(caller.session, account_id)
    _expect(account, if_match)
    await accounts.close_own(caller.session, who(request, caller), account)
    return DoneDocument(message="The account is closed.")


@router.get("/categories", **permit("ledger.view"))
async def list_categories(
    caller: CallerDep,
    category_type: Annotated[CategoryType | None, Query(alias="type")] = None,
    include_inactive: bool = False,
) -> CategoriesDocument:
    """List the team's categories by type and name."""
    kind = category_type.value if category_type else None
    found = await queries.list_categories(caller.session, kind, include_inactive)
    return CategoriesDocument(categories=[category_document(one) for one in found], count=len(found))


@router.post("/categories", status_code=201, **permit("ledger.post"), responses=raises(NameTaken))
async def add_category(request: Request, body: CategoryBody, caller: CallerDep) -> CategoryDocument:
    """Make a category of income or expenses."""
    values = {**body.model_dump(), "type": body.type.value}
    return category_document(await accounts.add_category(caller.session, who(request, caller), **values))


@router.get("/categories/{category_id}", **permit("ledger.view"), responses=raises(CategoryNotFound))
async def show_category(category_id: str, caller: CallerDep) -> CategoryDocument:
    """Show a category."""
    return category_document(await accounts.own_category(caller.session, category_id))


@router.put(
    "/categories/{category_id}",
    **permit("ledger.post"),
    responses=raises(CategoryNotFound, NameTaken),
    name="put_category",
)
@router.patch("/categories/{category_id}", **permit("ledger.post"), responses=raises(CategoryNotFound, NameTaken))
async def change_category(category_id: str, body: CategoryChangeBody, caller: CallerDep) -> CategoryDocument:
    """Change name, color or icon of a category; its type stays."""
    category = await accounts.own_category(caller.session, category_id)
    values = body.model_dump(exclude_none=True)
    return category_document(await accounts.change_category(caller.session, category, values))


@router.delete("/categories/{category_id}", **permit("ledger.post"), responses=raises(CategoryNotFound))
async def delete_category(category_id: str, request: Request, caller: CallerDep) -> DoneDocument:
    """Take a category out of use; what was recorded under it stays. Again changes nothing."""
    category = await accounts.own_category(caller.session, category_id)
    await accounts.close_category(caller.session, who(request, caller), category)
    return DoneDocument(message="The category takes no new transactions.")


def _shown(account: LedgerAccount, response: Response) -> AccountDocument:
    response.headers["ETag"] = f'"{_tag(account)}"'
    return account_document(account)


def _tag(account: LedgerAccount) -> str:
    """Name the state of what people may change of an account; its balance is not among it."""
    state = (account.name, account.type, account.floor, account.closed_at)
    return blake2b(repr(state).encode(), digest_size=8).hexdigest()


def _expect(account: LedgerAccount, if_match: str | None) -> None:
    wanted = versions(if_match)
    if "*" not in wanted and _tag(account) not in wanted:
        detail = "The account has changed since you read it. Read it again and decide anew."
        raise VersionMismatch(detail, version=account.version)
