"""The gate: lets a machine read and write single objects by signed, expiring paths, of our server or of a bucket's."""

import hashlib
import hmac
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from dumont.core import derive_key
from dumont.vault.store import Store

if TYPE_CHECKING:
    from dumont.vault.door import QuietServer

_PREFIX = "/o/"


class Refused(Exception):
    """A request that the gate does not serve, with the status and reason that its sender is told."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status, self.code, self.detail = status, code, detail
        super().__init__(detail)


class Gate:
    """Serve presigned PUT and GET (with Range) of one store's objects.

    Guarantees: a path names one method, one object, a size limit and an expiry, all under an HMAC; a PUT never
    overwrites, and the same PUT again is fine.
    """

    def __init__(self, store: Store, secret: bytes, *, host: str = "127.0.0.1") -> None:
        self.store = store
        self._key = derive_key(secret, "dumont gate key v1")
        self._host = host
        self._server: QuietServer | None = None

    def start(self, port: int = 0) -> int:
        """Start serving in the background and return the port."""
        from dumont.vault.door import Door, QuietServer

        handler = type("Door", (Door,), {"gate": self})
        server = self._server = QuietServer((self._host, port), handler)
        threading.Thread(target=server.serve_forever, name="gate", daemon=True, args=(0.1,)).start()
        return int(server.server_address[1])

    def stop(self) -> None:
        """Stop serving; doing it twice is fine."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def sign(self, method: str, name: str, *, max_bytes: int, expires_in: float) -> str:
        """Return the path by which one object may be read or written. Units: `expires_in` in seconds."""
        expiry = int(time.time() + expires_in)
        query = urlencode(
            {"m": method, "l": max_bytes, "e": expiry, "s": self._signature(method, name, max_bytes, expiry)}
        )
        return f"{_PREFIX}{quote(name)}?{query}"

    def admit(self, method: str, target: str) -> tuple[str, int]:
        """Return the object's name and the size limit that a signed path allows.

        Errors: Refused for a wrong method, a bad signature, or a path that expired.
        """
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        name = parts.path.removeprefix(_PREFIX)
        if not parts.path.startswith(_PREFIX) or not {"m", "l", "e", "s"} <= query.keys():
            raise Refused(404, "not_found", "There is nothing here.")
        if not (query["l"].isascii() and query["l"].isdigit() and query["e"].isascii() and query["e"].isdigit()):
            raise Refused(403, "bad_signature", "This path was not signed by this gate.")
        limit, expiry = int(query["l"]), int(query["e"])
        expected = self._signature(query["m"], name, limit, expiry)
        if not hmac.compare_digest(expected.encode(), query["s"].encode()):
            raise Refused(403, "bad_signature", "This path was not signed by this gate.")
        if query["m"] != method:
            raise Refused(405, "wrong_method", f"This path is for {query['m']} only.")
        if expiry < time.time():
            raise Refused(403, "expired", "This path has expired; ask for a new one.")
        return name, limit

    def _signature(self, method: str, name: str, limit: int, expiry: int) -> str:
        text = "\n".join((method, name, str(limit), str(expiry)))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
