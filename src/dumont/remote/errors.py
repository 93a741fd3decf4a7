"""What can go wrong at the end of an SSH connection, told apart by what it proves."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncssh


class RemoteError(Exception):
    """A machine, or SSH on the way to it, did not do what was asked; `detail` is for people."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)


class RemoteUnreachable(RemoteError, ConnectionError):
    """Refused, timed out or dropped: the machine's state, and the outcome of what was under way, are unknown."""


class LoginRefused(RemoteError):
    """A server answered and did not accept our key."""


class HostKeyChanged(RemoteError):
    """Another host key than the pinned one: another machine, another container generation, or somebody between."""

    def __init__(self, detail: str, *, expected: str, found: str) -> None:
        super().__init__(detail)
        self.expected = expected
        self.found = found


_DROPPED_SFTP = (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn SSH's and the system's errors into ours; cancellation passes through."""
    try:
        yield
    except RemoteError:
        raise
    except asyncssh.PermissionDenied as error:
        raise LoginRefused(f"{where} does not accept our SSH key.") from error
    except _DROPPED_SFTP as error:
        raise RemoteUnreachable(f"The connection to {where} was lost.") from error
    except asyncssh.SFTPError as error:
        raise RemoteError(f"{where} refused a file operation: {error.reason}") from error
    except asyncssh.ChannelListenError as error:
        raise RemoteError(f"{where} does not allow a tunnel back to us.") from error
    except TimeoutError as error:
        raise RemoteUnreachable(f"{where} did not answer in time.") from error
    except (asyncssh.Error, OSError) as error:
        raise RemoteUnreachable(f"{where} cannot be reached: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)[:300]
