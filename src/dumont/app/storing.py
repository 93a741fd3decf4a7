"""Where snapshots are kept, as the settings say: a folder, or a bucket of any S3-compatible service."""

import re
from pathlib import Path

from dumont.app.home import StartError
from dumont.core import Settings, derive_key, nanousd
from dumont.snapshots import Vaults
from dumont.vault import KeyRing, LocalStore, S3Place, Store

_BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/[A-Za-z0-9._/-]*)?")


def store_place(settings: Settings) -> Path | S3Place:
    """Return the folder or the bucket that the settings name.

    Errors: StartError for a bucket whose name, service or key is missing.
    """
    named = settings.store
    if named is None or not named.startswith("s3:"):
        return Path(named) if named else settings.home / "vault"
    found = _BUCKET.fullmatch(named)
    if found is None:
        raise StartError("DUMONT_STORE names no bucket. Write s3://BUCKET or s3://BUCKET/PREFIX, or a folder.")
    key_id, secret = settings.s3_key_id, settings.s3_secret
    if not key_id or not secret:
        raise StartError("DUMONT_STORE is a bucket: set DUMONT_S3_KEY_ID and DUMONT_S3_SECRET, a key that may use it.")
    endpoint = settings.s3_endpoint or f"https://s3.{settings.s3_region}.amazonaws.com"
    if not re.match(r"https?://[^/]+/?$", endpoint):
        raise StartError("DUMONT_S3_ENDPOINT is the service's URL without the bucket, such as https://s3.example.com.")
    prefix = (found.group(2) or "").strip("/")
    return S3Place(endpoint.rstrip("/"), found.group(1), prefix, key_id, secret, settings.s3_region)


def build_vaults(settings: Settings, secret: bytes) -> Vaults:
    """Build the vaults of all workspaces.

    Errors: StartError where the store's folder cannot be used, or as `store_place`.
    """
    place, keyring, gate = store_place(settings), KeyRing(derive_key(secret, "vault")), derive_key(secret, "gate")
    price = settings.store_gb_month_usd
    gb_month_nano = None if price is None else nanousd(price)
    if isinstance(place, S3Place):
        return Vaults(settings.home / "vault", keyring, gate, place, gb_month_nano=gb_month_nano)
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartError(f"{error.filename or place} cannot be used ({error.strerror}). Mend its rights.") from error
    return Vaults(place, keyring, gate, gb_month_nano=gb_month_nano)


def trial_store(settings: Settings) -> tuple[Store, str]:
    """Return a store beside the workspaces, to try things out in, and the words for where it is."""
    place = store_place(settings)
    if isinstance(place, Path):
        return LocalStore(place / "doctor"), str(place)
    from dumont.vault import S3Store

    prefix = f"{place.prefix}/doctor".lstrip("/")
    return S3Store(place._replace(prefix=prefix)), f"s3://{place.bucket}/{place.prefix} at {place.endpoint}"
