"""A client for the person of the profile, who is signed in again without being asked where that is possible."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dumont.cli.exit import CliError
from dumont.cli.profile import (
    Place,
    Profile,
    find_place,
    load_profile,
    one_at_a_time,
    save_profile,
    token_is_given,
)
from dumont.client import ApiProblem, Client, Session


class Signed:
    """One command's way to the server: the client, the profile behind it and the place of its files."""

    def __init__(self, place: Place, profile: Profile) -> None:
        self.place = place
        self.profile = profile
        self.client = make_client(profile.url, profile.live_token, self)

    def keep(self, profile: Profile) -> None:
        """Take over a changed profile and write it down, unless the environment stands in for it."""
        self.profile = profile
        if not token_is_given():
            save_profile(self.place, profile)

    def renew(self) -> str | None:
        """Return a fresh token: by the refresh token, else by the kept password; None where neither is taken.

        Guarantees: of commands that run at the same time one renews, and the others use what it got.
        """
        if token_is_given() or not _can_renew(self.profile):
            return None
        with one_at_a_time(self.place):
            kept = load_profile(self.place)
            if kept.live_token not in (None, self.profile.access_token):
                self.profile = kept
                return kept.live_token
            return self._renew(kept) if _can_renew(kept) else None

    def _renew(self, profile: Profile) -> str | None:
        client = make_client(profile.url)
        session = None
        if profile.refresh_token:
            session = _unless_refused(partial(client.refresh, profile.refresh_token))
        if session is None and profile.user and profile.password:
            session = _unless_refused(partial(client.login, profile.user, profile.password))
        if session is None:
            return None
        self.keep(with_session(profile, session))
        return session.access_token


def make_client(url: str, token: str | None = None, signed: Signed | None = None) -> Client:
    """Make a client.

    Errors: CliError for an address that is none.
    """
    try:
        return Client(url, token, renew=signed.renew if signed else None)
    except ValueError as error:
        raise CliError(f"{error} Set it with DUMONT_URL or `dumont login --url`.") from error


def sign_in() -> Signed:
    """Return a client that is ready to be used.

    Errors: CliError when nobody is signed in and no password is kept.
    """
    place = find_place()
    signed = Signed(place, load_profile(place))
    if signed.profile.live_token is None:
        token = signed.renew()
        if token is None:
            raise CliError(_how_to_sign_in(signed.profile), code="missing-token")
        signed.client = make_client(signed.profile.url, token, signed)
    return signed


def with_session(profile: Profile, session: Session) -> Profile:
    """Return the profile with the tokens of a fresh session."""
    ends = None if session.expires_in is None else time.time() + session.expires_in
    fresh = replace(profile, access_token=session.access_token, expires_at=ends, signed_out=False)
    return replace(fresh, refresh_token=session.refresh_token)


def _can_renew(profile: Profile) -> bool:
    password = bool(profile.user and profile.password)
    return not profile.signed_out and (password or profile.refresh_token is not None)


def _unless_refused(ask: Callable[[], Session]) -> Session | None:
    try:
        return ask()
    except ApiProblem as problem:
        if problem.status == 401:
            return None
        raise


def _how_to_sign_in(profile: Profile) -> str:
    if profile.access_token and not profile.signed_out:
        return f"The session at {profile.url} has ended. Sign in again with `dumont login`."
    return f"Nobody is signed in at {profile.url}. Sign in with `dumont login`, or set DUMONT_TOKEN."
