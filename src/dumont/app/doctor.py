"""`dumont doctor`: what this installation stands on, each looked at for real, with what to do where it is not right."""

import asyncio
import json
import math
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from dumont.app.home import StartError, read_secret
from dumont.cli import Column, show_json, show_table
from dumont.core import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from dumont.instances import WatchReport
    from dumont.providers import Provider
    from dumont.snapshots import Verdicts

SHOWN = 8
"""How many orphans are named one by one."""


@dataclass(frozen=True)
class Finding:
    """What one look found. `state` is ok, warning or broken."""

    name: str
    state: str
    detail: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
def doctor(as_json: bool) -> None:
    """Look at settings, server, database, the watch, marketplaces and store; exit code 1 when one is broken."""
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
    looks: list[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]]] = [
        ("server", _server),
        ("database", _database),
        ("marketplace", _marketplaces),
        ("sandbox", _sandbox_state),
        ("store", _store),
    ]
    found: list[Finding] = []
    for name, look in looks:
        try:
            found += await look(settings)
        except Exception as error:  # noqa: BLE001 - whatever a look meets is what it has to report
            found.append(Finding(name, "broken", f"{error} ({type(error).__name__})"))
    return found


async def _server(settings: Settings) -> list[Finding]:
    from dumont.web import Broken, Unsent, Web

    url = f"http://{settings.host}:{settings.port}"
    server = Web(url, headers={}, lanes=1, call_seconds=5)
    try:
        answer = await server.ask("GET", "/health")
    except (Unsent, Broken):
        return [Finding("server", "broken", f"Nothing answers at {url}. Start it with ./run.")]
    finally:
        await server.close()
    if answer.status == 200:
        return [Finding("server", "ok", url)]
    return [Finding("server", "broken", f"{url} answers {answer.status}: {json.loads(answer.body).get('detail')}")]


async def _database(settings: Settings) -> list[Finding]:
    """Look at the database, and at what the watch over machines has written there."""
    from dumont.db import has_cluster, visit_database

    secret, _ = read_secret(settings)
    if settings.database_url is not None:
        return await _owned(settings, secret, settings.database_url)
    if not has_cluster(settings.home):
        return [Finding("database", "broken", "There is none yet; ./run makes it.")]
    visit = visit_database(settings.home, secret)
    owner = await asyncio.to_thread(visit.__enter__)
    try:
        return await _owned(settings, secret, owner)
    finally:
        await asyncio.to_thread(visit.__exit__, None, None, None)


async def _owned(settings: Settings, secret: bytes, owner: str) -> list[Finding]:
    from dumont.db import Database, resolve_urls, set_sweep
    from dumont.instances import watch_report
    from dumont.snapshots import verdicts

    kind = "your own" if settings.database_url else "embedded"
    urls = await asyncio.to_thread(resolve_urls, settings, secret, owner)
    found = [Finding("database", "ok", f"{kind}; the API has a role of its own")]
    if not urls.second_wall:
        advice = "The API connects as the owner, so row-level security is not the second wall."
        found = [Finding("database", "warning", f"{kind}. {advice} Set DUMONT_DATABASE_APP_URL.")]
    database = Database(urls.owner, pool_size=1, application_name="dumont-doctor")
    try:
        async with database.begin() as session:
            await set_sweep(session)
            report = await watch_report(session)
            known = await verdicts(session)
    finally:
        await database.close()
    return [*found, watch_finding(settings, report), orphans_finding(report), snapshots_finding(known)]


def snapshots_finding(known: "Verdicts") -> Finding:
    """Say what reading snapshots back has found."""
    if known.damaged:
        named = ", ".join(known.damaged[:SHOWN]) + (" ..." if len(known.damaged) > SHOWN else "")
        advice = "`dumont snapshots checks` names their files; save those workspaces again where they still run."
        return Finding("snapshots", "broken", f"{len(known.damaged)} are damaged: {named}. {advice}")
    if known.unknown:
        detail = f"{known.unknown} of {known.snapshots} could not be read back; the store did not answer"
        return Finding("snapshots", "warning", detail)
    if known.oldest_hours is None:
        return Finding("snapshots", "ok", "none yet")
    return Finding("snapshots", "ok", f"{known.snapshots}, each read back within {known.oldest_hours:.0f} hours")


def watch_finding(settings: Settings, report: "WatchReport") -> Finding:
    """Say whether somebody watches over the machines, and what he could not see."""
    periods = {"losses": settings.loss_seconds, "sweep": settings.sweep_seconds}
    late = [name for name, period in periods.items() if report.ended_seconds.get(name, math.inf) > 3 * period + 30]
    if late:
        detail = f"Nobody has looked for a while ({', '.join(late)}). Is a worker running? ./run starts one."
        return Finding("watch", "warning", detail)
    ago = ", ".join(f"{name} {report.ended_seconds[name]:.0f} s ago" for name in periods)
    if report.sweep["unknown"]:
        blind = ", ".join(report.sweep["unknown"])
        return Finding("watch", "warning", f"{ago}; {blind} gave no complete listing, so its machines are unknown")
    machines = ", ".join(f"{name} lists {number}" for name, number in report.sweep["machines"].items())
    return Finding("watch", "ok", f"{ago}; {machines}")


def orphans_finding(report: "WatchReport") -> Finding:
    """Say which machines no row owns, and which failed instances still have one."""
    words = [
        f"{stray['provider']} {stray['provider_machine_id']} ({stray['label'] or 'no label'}, {stray['kind']}, "
        f"{stray['state']}): {stray['action']}"
        for stray in report.strays
    ]
    words += [f"{name} failed and still has a machine; destroy it" for name in report.failed_with_machine]
    if not words:
        return Finding("orphans", "ok", "every machine of the account is one of ours")
    more = f"; and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return Finding("orphans", "warning", "; ".join(words[:SHOWN]) + more)


async def _marketplaces(settings: Settings) -> list[Finding]:
    """Ask every configured provider for its account; the first is the one that launches use."""
    from dumont.app.wiring import build_providers

    providers = build_providers(settings, _sandbox(settings))
    found = []
    try:
        for name in sorted(providers, key=lambda name: name != settings.provider):
            found.append(await _account(name, providers[name], chosen=name == settings.provider))
    finally:
        for provider in providers.values():
            await provider.close()
    return found


async def _account(name: str, provider: "Provider", *, chosen: bool) -> Finding:
    title = "marketplace" if chosen else f"marketplace {name}"
    try:
        account = await provider.account()
    except Exception as error:  # noqa: BLE001 - whatever the look meets is what it has to report
        return Finding(title, "broken", f"{name}: {error} ({type(error).__name__})")
    credit = "unknown" if account.credit_nano is None else f"${account.credit_nano / 1e9:.2f}"
    return Finding(title, "ok", f"{name}: {account.email}, credit {credit}")


async def _sandbox_state(settings: Settings) -> list[Finding]:
    """Look inside the sandbox of this home, where it runs here."""
    token = settings.home / "sandbox" / "control.token"
    if settings.provider != "sandbox" or settings.sandbox_url is not None or not token.exists():
        return []
    from dumont.sandbox import SandboxControl

    control = SandboxControl(f"http://127.0.0.1:{settings.sandbox_port}", token.read_text().strip(), timeout=5)
    state = await asyncio.to_thread(control.state)
    phases = Counter(machine["phase"] for machine in state["machines"])
    machines = ", ".join(f"{number} {phase}" for phase, number in sorted(phases.items())) or "none"
    faults = len(state["faults"])
    return [Finding("sandbox", "warning" if faults else "ok", f"machines: {machines}; faults asked for: {faults}")]


def _sandbox(settings: Settings) -> tuple[str, str] | None:
    if settings.provider != "sandbox":
        return None
    if settings.sandbox_url is not None:
        return settings.sandbox_url, settings.sandbox_key or ""
    key = settings.home / "sandbox" / "api.key"
    if not key.exists():
        raise StartError("The sandbox was never started; ./run does it.")
    return f"http://127.0.0.1:{settings.sandbox_port}", key.read_text().strip()


async def _store(settings: Settings) -> list[Finding]:
    """Write an object, read it back and take it away again."""
    from dumont.app.storing import trial_store

    store, where = trial_store(settings)

    def try_out() -> int:
        name, data = f"check/{secrets.token_hex(16)}", secrets.token_bytes(1 << 20)
        store.put(name, data)
        try:
            return len(data) if store.get(name) == data else 0
        finally:
            store.delete(name)

    size = await asyncio.to_thread(try_out)
    if size:
        return [Finding("store", "ok", f"{where}: {size >> 20} MiB written, read back and removed")]
    detail = f"{where} gave back other bytes than were written. Do not keep snapshots there."
    return [Finding("store", "broken", detail)]
