"""How a command ends: the exit code follows what the reader of an error should do."""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from dumont.client import ApiError, ApiProblem, ApiUnreachable
from dumont.core import Act, SettingsError

UNEXPECTED = 1
UNREACHABLE = 5
INTERRUPTED = 130
CODES = {Act.REPORT: UNEXPECTED, Act.FIX: 2, Act.PAY: 3, Act.WAIT: 4}

F = TypeVar("F", bound=Callable[..., Any])
_ADVICE = {
    "unauthenticated": "Sign in with `dumont login`.",
    "offer-gone": "`dumont offers` shows what is there now.",
    "no-matching-offer": "Loosen the filters, or see `dumont offers`.",
    "instance-not-found": "`dumont ps --all` lists them.",
    "operation-in-progress": "`dumont operations` shows it.",
}


class CliError(Exception):
    """The command itself cannot go on; the text says what happened and what to do."""

    def __init__(self, detail: str, *, code: str = "cli", act: Act = Act.FIX) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.act = act


class Interrupted(Exception):
    """Somebody pressed Ctrl-C while something goes on; the text says what and how to follow it."""


def ends_well(command: F) -> F:
    """Make a command end with a sentence and an exit code instead of a traceback.

    Guarantees: with `--json` (parameter `as_json`) the sentence is a problem document on stderr, stdout stays empty.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ApiError, CliError, SettingsError, Interrupted) as error:
            fail(error, as_json=bool(kwargs.get("as_json")))
        except KeyboardInterrupt:
            stopped = Interrupted("Stopped. `dumont operations` shows whether something goes on.")
            fail(stopped, as_json=bool(kwargs.get("as_json")))

    return guarded  # type: ignore[return-value]


def fail(error: Exception, *, as_json: bool) -> NoReturn:
    """Tell of an error on stderr and end with its exit code."""
    code, document = _told(error)
    sys.stdout.flush()
    if as_json:
        print(json.dumps(document), file=sys.stderr)
    else:
        print(_sentence(document), file=sys.stderr)
    raise click.exceptions.Exit(code)


def _told(error: Exception) -> tuple[int, dict[str, Any]]:
    if isinstance(error, ApiProblem):
        return CODES[error.act], {**error.document(), "retry_after": error.retry_after}
    if isinstance(error, ApiUnreachable):
        advice = (
            "Start the server with `./run` (or `dumont up`), or name another with DUMONT_URL or `dumont login --url`."
        )
        return UNREACHABLE, {"code": "server-unreachable", "act": "wait", "detail": f"{error.detail} {advice}"}
    if isinstance(error, CliError):
        return CODES[error.act], {"code": error.code, "act": error.act.value, "detail": error.detail}
    if isinstance(error, Interrupted):
        return INTERRUPTED, {"code": "interrupted", "act": "wait", "detail": str(error)}
    if isinstance(error, SettingsError):
        return CODES[Act.FIX], {"code": "settings", "act": "fix", "detail": str(error)}
    return UNEXPECTED, {"code": "unreadable-answer", "act": "report", "detail": str(error)}


def _sentence(document: dict[str, Any]) -> str:
    parts = [str(document["detail"])]
    key = "unauthenticated" if document.get("status") == 401 else document["code"]
    if key in _ADVICE and "dumont " not in parts[0]:
        parts.append(_ADVICE[key])
    for entry in document.get("errors") or []:
        if isinstance(entry, dict) and entry.get("detail"):
            parts.append(f"{str(entry.get('pointer') or '').strip('/') or 'request'}: {entry['detail']}")
    if document["act"] == "pay" and not _ends_with_advice(parts[0]):
        parts.append("Add funds to the wallet and ask again.")
    if document.get("retry_after"):
        parts.append(f"Try again in {document['retry_after']:g} s.")
    elif document["act"] == "wait" and document["code"] not in ("server-unreachable", "interrupted"):
        parts.append("Try again later.")
    if document["act"] == "report" and document.get("instance") and str(document["instance"]) not in parts[0]:
        parts.append(f"Please report it with {document['instance']}.")
    return " ".join(parts)


def _ends_with_advice(text: str) -> bool:
    return any(word in text.lower() for word in ("add funds", "top up", "pay "))
