"""Passwords: argon2id in a small pool of threads, because each check takes 64 MiB and tens of milliseconds."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from dumont.identity.model import SignInBusy

MAX_PASSWORD_LENGTH = 128
_THREADS = 2
_MAX_WAITING = 64
_COMMON = frozenset(
    """
    password password1 password123 passw0rd 12345678 123456789 1234567890 qwertyui qwertyuiop qwerty123
    iloveyou abcd1234 abc12345 letmein1 admin123 adminadmin administrator welcome1
    sunshine princess football baseball superman trustno1 senha123 mudar123
    """.split()  # noqa: SIM905 - a list of words reads better as words
)


class Passwords:
    """Hash and check passwords off the event loop.

    Guarantees: an unknown account costs the same work as a known one; at most two checks at a time, 64 waiting.
    """

    def __init__(self) -> None:
        self._hasher = PasswordHash((Argon2Hasher(),))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dumont-passwords")
        self._waiting = 0
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """Return the argon2id hash of a password, with its salt and parameters."""
        return await self._run(password, None)

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Tell whether a password is the one that was hashed; None (no such account) is never, and takes as long.

        Errors: SignInBusy where too many checks wait already.
        """
        if self._decoy is None:
            self._decoy = await self._run(secrets.token_urlsafe(16), None)
        fits = await self._run(password[:MAX_PASSWORD_LENGTH], hashed or self._decoy)
        return bool(fits) and hashed is not None and len(password) <= MAX_PASSWORD_LENGTH

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, password: str, hashed: str | None) -> str:
        """Hash a password, or check it against a hash: then "yes" or ""."""
        if self._waiting >= _MAX_WAITING:
            raise SignInBusy(retry_after=2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, password, hashed)
        finally:
            self._waiting -= 1

    def _work(self, password: str, hashed: str | None) -> str:
        if hashed is None:
            return self._hasher.hash(password)
        return "yes" if self._hasher.verify(password, hashed) else ""


def is_weak(password: str, email: str) -> bool:
    """Tell whether a password would be guessed first: a common one, the address, or hardly any characters."""
    lowered = password.lower()
    own = {email.lower(), email.lower().partition("@")[0]}
    return lowered in _COMMON or lowered in own or len(set(lowered)) < 4
