"""Commands about who is calling: login, logout, whoami."""

import getpass
import os
import sys
from dataclasses import replace

import click

from dumont.cli.exit import CliError, ends_well
from dumont.cli.keys import register_key
from dumont.cli.options import as_json as json_option
from dumont.cli.profile import Profile, find_place, load_profile, save_profile
from dumont.cli.session import Signed, make_client, sign_in, with_session
from dumont.cli.tables import show_facts, show_json
from dumont.cli.words import text
from dumont.client import ApiError, Session


@click.command()
@click.option("--url", help="Address of the server.")
@click.option("--user", help="E-mail address or user name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.option("--register", is_flag=True, help="Create the account first.")
@click.option("--remember", is_flag=True, help="Keep the password, to sign in again alone.")
@json_option
@ends_well
def login(
    url: str | None, user: str | None, password_stdin: bool, register: bool, remember: bool, as_json: bool
) -> None:
    """Sign in and remember the session in a private file."""
    place = find_place()
    known = load_profile(place)
    if url and url.rstrip("/") != known.url.rstrip("/"):
        known = Profile(url=url)
    who = user or known.user or _ask("E-mail or user name: ")
    kept = known.password if who == known.user and not register else None
    password = _password(kept, from_stdin=password_stdin)
    client = make_client(known.url)
    session = client.register(who, password) if register else client.login(who, password)
    profile = with_session(replace(known, user=who, url=client.url), session)
    profile = replace(profile, password=password if remember or password == kept else None)
    save_profile(place, profile)
    signed = Signed(place, profile)
    try:
        register_key(signed)
    except ApiError as error:
        print(f"Signed in, but the SSH key is not registered yet: {error}", file=sys.stderr)
    _show_session(session, profile.url, as_json=as_json)


@click.command()
@click.option("--forget", is_flag=True, help="Delete the kept password too.")
@json_option
@ends_well
def logout(forget: bool, as_json: bool) -> None:
    """End the session, here and on the server."""
    place = find_place()
    if os.environ.get("DUMONT_TOKEN"):
        raise CliError("DUMONT_TOKEN says who is calling. Unset it, then `dumont logout` ends the kept session.")
    profile = load_profile(place)
    _end_on_server(profile)
    left = replace(profile, access_token=None, expires_at=None, refresh_token=None, signed_out=True)
    if forget:
        left = replace(left, password=None)
    save_profile(place, left)
    if as_json:
        show_json({"signed_out": True, "url": profile.url, "password_kept": left.password is not None})
        return
    stays = f" The password stays in {place.profile}; --forget deletes it." if left.password else ""
    print(f"Signed out of {profile.url}.{stays}")


@click.command()
@json_option
@ends_well
def whoami(as_json: bool) -> None:
    """Show who is signed in, where, and in which team."""
    signed = sign_in()
    me = signed.client.me()
    if as_json:
        show_json(me)
        return
    user, team, session = (_part(me, name) for name in ("user", "team", "session"))
    show_facts(
        [
            ("user", text(user.get("email") or user.get("username"))),
            ("team", text(team.get("name"))),
            ("role", text(team.get("role"))),
            ("server", text(signed.client.url)),
            ("session ends", text(session.get("expires_at"))),
        ]
    )


def _end_on_server(profile: Profile) -> None:
    token = profile.live_token
    if token is None and profile.refresh_token is None:
        return
    try:
        if token is None and profile.refresh_token is not None:
            token = make_client(profile.url).refresh(profile.refresh_token).access_token
        make_client(profile.url, token).logout()
    except ApiError as error:
        if getattr(error, "status", None) != 401:
            print(f"The session is forgotten here, but the server was not told: {error}", file=sys.stderr)


def _show_session(session: Session, url: str, *, as_json: bool) -> None:
    if as_json:
        hidden = ("access_token", "refresh_token", "token")
        show_json({name: value for name, value in session.raw.items() if name not in hidden})
    else:
        print(f"Signed in at {url} as {text(session.email or session.user_id)} ({text(session.role)}).")


def _password(kept: str | None, *, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if kept is not None:
        return kept
    if not sys.stdin.isatty():
        raise CliError("No password was given. Pipe it in with --password-stdin.")
    return getpass.getpass("Password: ")


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        raise CliError("No user was given. Name one with --user.")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def _part(document: dict[str, object], name: str) -> dict[str, object]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}
