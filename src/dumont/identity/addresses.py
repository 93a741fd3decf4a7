"""E-mail addresses and usernames: their form, and nothing about whether anybody reads there."""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_email(text: str) -> str:
    """Return an e-mail address as it was written.

    Errors: ValueError for what is not one.
    Source: dot-atom of RFC 5322 section 3.2.3, lengths of RFC 5321 section 4.5.3.1; quoted local parts and domains
    that are not in ASCII form are refused.
    """
    local, at, domain = text.rpartition("@")
    fits = at and len(text) <= 254 and len(local) <= 64 and _LOCAL.fullmatch(local)
    if not fits or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise ValueError("Must be an e-mail address such as ana@example.com.")
    return text


def check_username(text: str) -> str:
    """Return a username in lower case.

    Errors: ValueError for another form than letters, digits, dot, dash and underscore.
    """
    lowered = text.lower()
    if not _USERNAME.fullmatch(lowered):
        raise ValueError("Must be 1 to 63 letters, digits, dots, dashes or underscores.")
    return lowered


def check_identifier(text: str) -> str:
    """Return what a person may sign in with: an e-mail address, or a username.

    Errors: ValueError for what is neither.
    """
    return check_email(text) if "@" in text else check_username(text)


EmailText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=3, max_length=254), AfterValidator(check_email)
]
UsernameText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=63), AfterValidator(check_username)
]
IdentifierText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=254), AfterValidator(check_identifier)
]
