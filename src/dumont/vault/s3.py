"""A store in a bucket of any S3-compatible service: AWS, Backblaze B2, Cloudflare R2, MinIO and the like."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Literal, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as Bucket

from dumont.vault.errors import StoreError, StoreExists, StoreMissing
from dumont.vault.gate import Gate
from dumont.vault.place import S3Place
from dumont.vault.store import Store, check_name

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.2
_REQUEST_SECONDS = 300
_CONNECT_SECONDS = 10
_ABSENT = (NotFoundError, FileNotFoundError)
_TAKEN = (AlreadyExistsError, PreconditionError, FileExistsError)
_REFUSED = (PermissionDeniedError, UnauthenticatedError, PermissionError)
_FAILED = (BaseError, OSError, NotImplementedError)
_DEFINITE = re.compile(r"status code: 4(?!08|29)\d\d")
_FULL = ("StorageFull", "QuotaExceeded", "507 Insufficient")

Found = TypeVar("Found")


class S3Store:
    """Keep the objects in a bucket.

    Guarantees: each request is tried again with growing pauses when its outcome is unknown (no answer, a cut body, a
    5xx answer, SlowDown), which is harmless because names are unique and objects never change. An object that is
    there is not overwritten: it is looked for first, and services that know `If-None-Match` refuse also at the last
    moment.
    """

    def __init__(
        self, place: S3Place, *, attempts: int = _ATTEMPTS, first_wait_seconds: float = _FIRST_WAIT_SECONDS
    ) -> None:
        self.place = place
        self._attempts = attempts
        self._first_wait = first_wait_seconds
        self._conditional = True
        self._bucket = Bucket(
            place.bucket,
            prefix=place.prefix or None,
            endpoint=place.endpoint,
            region=place.region,
            access_key_id=place.key_id,
            secret_access_key=place.secret,
            virtual_hosted_style_request=False,
            unsigned_payload=True,
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            },
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=0)},
        )

    def put(self, name: str, data: "bytes | bytearray | memoryview") -> None:
        """Store an object under a new name; durable on return."""
        if self.size(name) is not None:
            raise StoreExists(f"The store already has an object {name}.")
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            try:
                self._put_once(name, data)
            except _TAKEN:
                if tries == 1 or self.get(name) != data:
                    raise StoreExists(f"The store already has an object {name}.") from None

        self._patiently(f"write {name}", attempt)

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store an object that arrives in pieces; if the pieces raise, nothing is stored."""
        self.put(check_name(name), b"".join(pieces))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it; a range beyond the end is short."""
        check_name(name)
        if length == 0:
            return b""
        wanted: Any = {"offset": offset} if length is None else (offset, offset + length)

        def attempt() -> bytes:
            try:
                found = obstore.get(self._bucket, name, options={"range": wanted} if offset or length else None)
                return bytes(found.bytes())
            except _ABSENT:
                raise StoreMissing(f"The store has no object {name}.") from None
            except _FAILED as error:
                if offset and "416" in str(error):
                    return b""
                raise

        return self._patiently(f"read {name}", attempt)

    def size(self, name: str) -> int | None:
        """Return the size in bytes, None where there is no such object."""
        check_name(name)

        def attempt() -> int | None:
            try:
                return int(obstore.head(self._bucket, name)["size"])
            except _ABSENT:
                return None

        return self._patiently(f"look at {name}", attempt)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size of the objects below `prefix` (empty, or a folder name and a slash), by name."""
        if prefix:
            check_name(prefix[:-1])

        def attempt() -> list[tuple[str, int]]:
            pages = obstore.list(self._bucket, prefix=prefix or None)
            return sorted((str(item["path"]), int(item["size"])) for page in pages for item in page)

        yield from self._patiently(f"list {prefix}", attempt)

    def delete(self, name: str) -> None:
        """Delete an object; one that is already gone is fine."""

        def attempt() -> None:
            try:
                obstore.delete(self._bucket, name)
            except _FAILED:  # some services delete and answer in a form of their own
                if self.size(name) is not None:
                    raise

        if self.size(name) is not None:
            self._patiently(f"delete {name}", attempt)

    def sign(self, method: Literal["GET", "PUT"], name: str, expires_in: float) -> str:
        """Return a URL at which one object can be had or put without the key. Units: `expires_in` in seconds."""
        return obstore.sign(self._bucket, method, check_name(name), timedelta(seconds=expires_in))

    def _put_once(self, name: str, data: "bytes | bytearray | memoryview") -> None:
        if self._conditional:
            try:
                obstore.put(self._bucket, name, data, mode="create", use_multipart=False)
                return
            except (NotSupportedError, NotImplementedError):
                self._conditional = False
            except _FAILED as error:
                if "NotImplemented" not in str(error):
                    raise
                self._conditional = False
        obstore.put(self._bucket, name, data, mode="overwrite", use_multipart=False)

    def _patiently(self, action: str, attempt: Callable[[], Found]) -> Found:
        wait = self._first_wait
        for left in reversed(range(self._attempts)):
            try:
                return attempt()
            except _FAILED as error:
                if isinstance(error, (*_ABSENT, *_REFUSED)) or _DEFINITE.search(str(error)):
                    raise StoreError(_definite(action, error)) from error
                if any(word in str(error) for word in _FULL):
                    raise StoreError(f"The store has no space left to {action}.", full=True) from error
                if not left:
                    tried = f"{self._attempts} attempts"
                    raise StoreError(f"The store could not {action} in {tried}: {_brief(error)}.") from error
            time.sleep(wait)
            wait *= 2
        raise AssertionError("at least one attempt is made")


class BucketGate(Gate):
    """A gate whose paths are whole URLs of the service itself, so that packs do not pass through the control plane.

    The service does not know a limit of size: a pack that is too large is refused when it is taken in.
    """

    def __init__(self, store: Store, secret: bytes, *, host: str = "127.0.0.1") -> None:
        if not isinstance(store, S3Store):
            raise TypeError("a bucket's gate needs a bucket")
        super().__init__(store, secret, host=host)
        self._bucket = store

    def sign(self, method: str, name: str, *, max_bytes: int, expires_in: float) -> str:
        """Return the URL by which one object may be read or written. Units: `expires_in` in seconds."""
        return self._bucket.sign("PUT" if method == "PUT" else "GET", name, expires_in)


def _definite(action: str, error: Exception) -> str:
    if isinstance(error, _ABSENT):
        return f"The store could not {action}: there is no such bucket. Check its name and region."
    if isinstance(error, _REFUSED):
        return f"The store could not {action}: it refused the key. Check the key, its rights and the clock."
    return f"The store could not {action} ({_brief(error)}). Check the bucket's name, its region and the key."


def _brief(error: Exception) -> str:
    return " ".join(str(error).partition("Debug source")[0].split())[:300]
