"""Turn the Pix API's documents into our own words; pure."""

import re
from datetime import datetime, timedelta, timezone
from typing import Any

from dumont.payments.brcode import BadCode, build_code, read_code
from dumont.payments.contract import (
    Charge,
    ChargeStatus,
    Payment,
    PaymentUnreachable,
    Return,
    ReturnStatus,
)

_AMOUNT = re.compile(r"(\d{1,10})\.(\d{2})")
_CHARGES = {
    "ATIVA": ChargeStatus.OPEN,
    "CONCLUIDA": ChargeStatus.PAID,
    "REMOVIDA_PELO_USUARIO_RECEBEDOR": ChargeStatus.REMOVED,
    "REMOVIDA_PELO_PSP": ChargeStatus.REMOVED,
}
_RETURNS = {
    "EM_PROCESSAMENTO": ReturnStatus.UNDER_WAY,
    "DEVOLVIDO": ReturnStatus.DONE,
    "NAO_REALIZADO": ReturnStatus.FAILED,
}


class Unreadable(PaymentUnreachable):
    """An answer without what it must have: what is so stays unknown."""

    code = "payments-unreadable"
    title = "The payment service gave an answer that cannot be read"


def charge_body(amount: int, expires_seconds: int, key: str, note: str) -> dict[str, Any]:
    """Write what `PUT /cob/{txid}` takes; `key` is the receiver's Pix key."""
    return {
        "calendario": {"expiracao": expires_seconds},
        "valor": {"original": decimal(amount)},
        "chave": key,
        "solicitacaoPagador": note[:140],
    }


def decimal(amount: int) -> str:
    """Write centavos as the API's decimal of two digits."""
    return f"{amount // 100}.{amount % 100:02d}"


def charge_of(document: dict[str, Any], *, name: str, city: str) -> Charge:
    """Read a charge; its code is the service's own, or is made from its location.

    Errors: Unreadable.
    """
    try:
        calendar = document["calendario"]
        created, amount = _moment(calendar["criacao"]), centavos(document["valor"]["original"])
        return Charge(
            txid=str(document["txid"]),
            status=_CHARGES[document["status"]],
            amount=amount,
            created_at=created,
            expires_at=created + timedelta(seconds=int(calendar["expiracao"])),
            code=_code(document, amount, name, city),
            payments=tuple(payment_of(entry) for entry in document.get("pix") or ()),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unreadable from error


def payment_of(document: dict[str, Any]) -> Payment:
    """Read a payment.

    Errors: Unreadable.
    """
    try:
        return Payment(
            end_to_end_id=str(document["endToEndId"]),
            txid=document.get("txid"),
            amount=centavos(document["valor"]),
            paid_at=_moment(document["horario"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable from error


def return_of(document: dict[str, Any]) -> Return:
    """Read a return.

    Errors: Unreadable.
    """
    try:
        return Return(str(document["id"]), centavos(document["valor"]), _RETURNS[document["status"]])
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable from error


def centavos(text: object) -> int:
    """Read the API's decimal; never a float.

    Errors: ValueError.
    """
    found = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("not an amount of the Pix API")
    return int(found[1]) * 100 + int(found[2])


def _code(document: dict[str, Any], amount: int, name: str, city: str) -> str:
    """Return the code to be copied, once it is known to be one and to ask for this amount."""
    location = document.get("location") or document["loc"]["location"]
    given = document.get("pixCopiaECola")
    try:
        code = given or build_code(location, amount=amount, name=name, city=city)
        asked = read_code(code).get("54")
    except BadCode as error:
        raise ValueError(str(error)) from error
    if asked is not None and centavos(asked) != amount:
        raise ValueError("the code asks for another amount")
    return str(code)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
