"""Our SSH hands on rented machines: commands, files, one JSON-lines wire and a tunnel back; hosts are not trusted."""

from dumont.remote.connection import connect, first_reachable
from dumont.remote.errors import HostKeyChanged, LoginRefused, RemoteError, RemoteUnreachable
from dumont.remote.hands import Finished, Hands
from dumont.remote.identity import SshIdentity
from dumont.remote.wire import Wire

__all__ = [
    "Finished",
    "Hands",
    "HostKeyChanged",
    "LoginRefused",
    "RemoteError",
    "RemoteUnreachable",
    "SshIdentity",
    "Wire",
    "connect",
    "first_reachable",
]
