"""What can go wrong in the vault, as a small tree; `detail` is a sentence for people."""

from collections.abc import Iterable, Sequence


class VaultError(Exception):
    """Something in the vault is not as it must be."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)


class StoreError(VaultError):
    """The store could not do what was asked; `full` says that no space is left there."""

    def __init__(self, detail: str, *, full: bool = False) -> None:
        self.full = full
        super().__init__(detail)


class StoreExists(StoreError):
    """An object of that name is already there; it was left as it is."""


class StoreMissing(StoreError):
    """There is no object of that name."""


class RepositoryMissing(VaultError):
    """There is no repository here."""


class RepositoryDamaged(VaultError):
    """Objects of the repository cannot be used as they are; `objects` names them."""

    def __init__(self, detail: str, objects: Sequence[str] = ()) -> None:
        self.objects = list(objects)
        super().__init__(detail)


class WrongKey(RepositoryDamaged):
    """The installation's key does not open this repository."""


class RecordDamaged(VaultError):
    """A record, pack or sealed object does not decode to what its name promises."""


class RecordUnknown(VaultError):
    """A sound record is written in a way that only newer versions know: nothing is said of its bytes, damage least."""

    def __init__(self, way: str) -> None:
        super().__init__(f"A record uses {way}, which only a newer version knows: update Dumont Cloud.")


class StaleEpoch(VaultError):
    """A newer writer has taken over this repository; this one must stop."""


class VerificationFailed(VaultError):
    """A snapshot is not wholly in the store; lists the object or chunk names that are missing and damaged.

    `chunks` are the ids of those of its chunks that cannot be had; the others can.
    """

    def __init__(self, missing: Sequence[str], damaged: Sequence[str], chunks: Iterable[bytes] = ()) -> None:
        self.missing = list(missing)
        self.damaged = list(damaged)
        self.chunks = frozenset(chunks)
        shown = ", ".join([*self.missing, *self.damaged][:3])
        super().__init__(f"{len(self.missing)} missing and {len(self.damaged)} damaged in the store: {shown}.")


class NotInSnapshot(VaultError):
    """Paths or patterns that fit nothing in a snapshot; `paths` names them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        super().__init__(f"{len(self.paths)} of the paths fit nothing in the snapshot.")
