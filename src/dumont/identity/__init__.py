"""Users, teams and tokens: who is calling, in which team, and what his role allows."""

from dumont.identity.api import auth, ssh_keys
from dumont.identity.model import (
    PERMISSIONS,
    ROLE_PERMISSIONS,
    Account,
    EmailTaken,
    FoundUser,
    InvalidCredentials,
    Membership,
    NewUser,
    SshKey,
    SshKeyNotFound,
    Team,
)
from dumont.identity.queries import find_user, forget_access, glance_at_ssh_keys, is_operator, own_ssh_keys, ssh_keys_of
from dumont.identity.service import IdentityService, TeamHook, build_authenticator
from dumont.identity.sessions import SignedIn, Visitor
from dumont.identity.team_api import team_routes, token_routes, users

routers = (auth, ssh_keys, users, team_routes, token_routes)
"""The routers of this room, for `http.create_app`."""

__all__ = [
    "PERMISSIONS",
    "ROLE_PERMISSIONS",
    "Account",
    "EmailTaken",
    "FoundUser",
    "IdentityService",
    "InvalidCredentials",
    "Membership",
    "NewUser",
    "SignedIn",
    "SshKey",
    "SshKeyNotFound",
    "Team",
    "TeamHook",
    "Visitor",
    "build_authenticator",
    "find_user",
    "forget_access",
    "glance_at_ssh_keys",
    "is_operator",
    "own_ssh_keys",
    "routers",
    "ssh_keys_of",
]
