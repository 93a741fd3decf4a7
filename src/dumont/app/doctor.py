"""`dumont doctor`: what this installation stands on, each looked at for real, with what to do where it is not right."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from dumont.app.home import StartError, read_secret
from dumont.cli import Column, show_json, show_table
from dumont.core import Settings, SettingsError, load_settings


@dataclass(frozen=True)
class Finding:
    """What one look found. `state` is ok, warning or broken."""

    name: str
    state: str
    detail: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
def doctor(as_json: bool) -> None:
    """Look at settings, server, database, marketplace and snapshot store; exit code 1 when one is broken."""
    try:
        settings = load_settings()
    except SettingsError as error:
        findings = [Finding("settings", "broken", str(error))]
    else:
        where = f"home {settings.home}" + (f", file {settings.env_file}" if settings.env_file else "")
        findings = [Finding("settings", "ok", where), *asyncio.run(_look(settings))]
    if as_json:
        show_json({"findings": [asdict(finding) for finding in findings], "count": len(findings)})
    else:
        rows = [[finding.name, finding.state, finding.detail] for finding in findings]
        show_table([Column("WHAT"), Column("STATE"), Column("DETAIL")], rows, empty="-")
    if any(finding.state == "broken" for finding in findings):
        raise click.exceptions.Exit(1)


async def _look(settings: Settings) -> list[Finding]:
    looks: list[tuple[str, Callable[[Settings], Awaitable[Finding]]]] = [
        ("server", _server),
        ("database", _database),
        ("marketplace", _marketplace),
        ("store", _store),
    ]
    found = []
    for name, look in looks:
        try:
            found.append(await look(settings))
        except Exception as error:  # noqa: BLE001 - whatever a look meets is what it has to report
            found.append(Finding(name, "broken", f"{error} ({type(error).__name__})"))
    return found


async def _server(settings: Settings) -> Finding:
    import httpx

    url = f"http://{settings.host}:{settings.port}"
    try:
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"{url}/health")
    except httpx.HTTPError:
        return Finding("server", "broken", f"Nothing answers at {url}. Start it with ./run.")
    if answer.status_code == 200:
        return Finding("server", "ok", url)
    return Finding("server", "broken", f"{url} answers {answer.status_code}: {answer.json().get('detail')}")


async def _database(settings: Settings) -> Finding:
    from dumont.db import has_cluster, resolve_urls, visit_database

    secret, _ = read_secret(settings)
    if settings.database_url is None and not has_cluster(settings.home):
        return Finding("database", "broken", "There is none yet; ./run makes it.")

    def ask() -> bool:
        if settings.database_url is not None:
            return resolve_urls(settings, secret, settings.database_url).second_wall
        with visit_database(settings.home, secret) as owner:
            return resolve_urls(settings, secret, owner).second_wall

    kind = "your own" if settings.database_url else "embedded"
    if await asyncio.to_thread(ask):
        return Finding("database", "ok", f"{kind}; the API has a role of its own")
    advice = "The API connects as the owner, so row-level security is not the second wall. Set DUMONT_DATABASE_APP_URL."
    return Finding("database", "warning", f"{kind}. {advice}")


async def _marketplace(settings: Settings) -> Finding:
    from dumont.app.wiring import build_providers

    providers = build_providers(settings, _sandbox(settings))
    try:
        account = await providers[settings.provider].account()
    finally:
        for provider in providers.values():
            await provider.close()
    credit = "unknown" if account.credit_nano is None else f"${account.credit_nano / 1e9:.2f}"
    return Finding("marketplace", "ok", f"{settings.provider}: {account.email}, credit {credit}")


def _sandbox(settings: Settings) -> tuple[str, str] | None:
    if settings.provider != "sandbox":
        return None
    if settings.sandbox_url is not None:
        return settings.sandbox_url, settings.sandbox_key or ""
    key = settings.home / "sandbox" / "api.key"
    if not key.exists():
        raise StartError("The sandbox was never started; ./run does it.")
    return f"http://127.0.0.1:{settings.sandbox_port}", key.read_text().strip()


async def _store(settings: Settings) -> Finding:
    """Write an object, read it back and take it away again."""
    from dumont.vault import LocalStore

    root = Path(settings.store) if settings.store else settings.home / "vault"

    def try_out() -> int:
        store = LocalStore(root / "doctor")
        name, data = f"check/{secrets.token_hex(16)}", secrets.token_bytes(1 << 20)
        store.put(name, data)
        try:
            return len(data) if store.get(name) == data else 0
        finally:
            store.delete(name)

    size = await asyncio.to_thread(try_out)
    if size:
        return Finding("store", "ok", f"{root}: {size >> 20} MiB written, read back and removed")
    return Finding("store", "broken", f"{root} gave back other bytes than were written. Do not keep snapshots there.")
