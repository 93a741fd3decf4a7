"""A payment service under `/_psp/` that speaks the Banco Central's Pix API; no money moves.

Source: Banco Central do Brasil, API Pix 2.8: `cob`, `pix`, `devolucao`, `webhook`, errors as RFC 7807 problems.
What a payer does, which no such API has, is under `/_psp/sim/`.
"""

import asyncio
import base64
import binascii
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dumont.core import Clock, derive_key
from dumont.sandbox.psp_books import PspBooks, PspCharge, PspNotice, PspPayment, PspReturn
from dumont.sandbox.psp_payer import BadPayment, end_to_end_id, read_location, read_wish
from dumont.sandbox.psp_postman import Postman

_TXID = re.compile(r"[a-zA-Z0-9]{26,35}")
_RETURN_ID = re.compile(r"[a-zA-Z0-9]{1,35}")
_AMOUNT = re.compile(r"\d{1,10}\.\d{2}")
_REMOVED = "REMOVIDA_PELO_USUARIO_RECEBEDOR"
_TOKEN_SECONDS = 3600
Work = Callable[[Request], Awaitable[tuple[int, Any]]]


class PspRefused(Exception):
    """The service says no; `error` is the last part of the problem's type."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        self.status = status
        self.error = error
        self.detail = detail
        super().__init__(detail)


class Psp:
    """The service's endpoints. `key` is the sandbox's own: it is the client secret, and signs the notices."""

    def __init__(self, home: Path, key: str, clock: Clock) -> None:
        self._books = PspBooks(home / "psp.db")
        self._clock = clock
        self._key = key
        self._token = derive_key(key.encode(), "pix-token").hex()
        self._postman = Postman(self._books, derive_key(key.encode(), "pix-webhook").hex(), self._describe)
        self._host = ""

    def routes(self) -> list[Route]:
        """Return the routes; paths come without a slash at the end."""
        table: list[tuple[str, str, Work]] = [
            ("PUT", "cob/{txid}", self._create),
            ("GET", "cob/{txid}", self._show),
            ("PATCH", "cob/{txid}", self._change),
            ("GET", "pix/{end_to_end_id}", self._payment),
            ("PUT", "pix/{end_to_end_id}/devolucao/{id}", self._give_back),
            ("GET", "pix/{end_to_end_id}/devolucao/{id}", self._show_return),
            ("PUT", "webhook/{key}", self._watch),
            ("POST", "sim/pay", self._pay),
            ("POST", "sim/deliver", self._deliver),
            ("POST", "sim/return", self._end_return),
        ]
        served = [Route(f"/_psp/{path}", self._served(work), methods=[verb]) for verb, path, work in table]
        return [Route("/_psp/oauth/token", self._sign_in, methods=["POST"]), *served]

    async def run(self) -> None:
        """Bring notices until cancelled."""
        await self._postman.run()

    def close(self) -> None:
        """Close the books."""
        self._books.close()

    def _served(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self._host = request.headers.get("host", "localhost")
            try:
                given = request.headers.get("authorization", "").removeprefix("Bearer ")
                if not hmac.compare_digest(given.encode(), self._token.encode()):
                    raise PspRefused(401, "NaoAutorizado", "The token is missing or wrong.")
                status, document = await work(request)
            except PspRefused as refusal:
                return _problem(refusal)
            return JSONResponse(document, status)

        return answer

    async def _sign_in(self, request: Request) -> Response:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(text, validate=True).decode().partition(":")[2] if scheme == "Basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            given = ""
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            return _problem(PspRefused(401, "NaoAutorizado", "The client's secret is wrong."))
        scope = "cob.write cob.read pix.write pix.read webhook.write"
        return JSONResponse(
            {"access_token": self._token, "token_type": "Bearer", "expires_in": _TOKEN_SECONDS, "scope": scope}
        )

    async def _create(self, request: Request) -> tuple[int, Any]:
        txid, body = request.path_params["txid"], await _body(request)
        amount, expires = _inner(body, "valor", "original"), _inner(body, "calendario", "expiracao")
        if not _TXID.fullmatch(txid) or not isinstance(body.get("chave"), str):
            raise PspRefused(400, "CobOperacaoInvalida", "A txid has 26 to 35 letters and digits; chave is a text.")
        if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount) or _centavos(amount) == 0:
            raise PspRefused(400, "CobOperacaoInvalida", "valor.original is a decimal with two digits, above 0.")
        if not isinstance(expires, int) or isinstance(expires, bool) or expires < 1:
            raise PspRefused(400, "CobOperacaoInvalida", "calendario.expiracao is a whole number of seconds.")
        charge = PspCharge(
            txid=txid,
            pix_key=body["chave"],
            amount=_centavos(amount),
            expires_s=expires,
            created_s=self._clock.seconds(),
            status="ATIVA",
            location=f"{self._host}/_psp/qr/v2/{secrets.token_hex(16)}",
            note=str(body.get("solicitacaoPagador") or "")[:140] or None,
        )
        if not self._books.add_charge(charge):
            raise PspRefused(400, "CobOperacaoInvalida", "This txid is taken.")
        return 201, self._charge_document(charge)

    async def _show(self, request: Request) -> tuple[int, Any]:
        return 200, self._charge_document(self._charge(request.path_params["txid"]))

    async def _change(self, request: Request) -> tuple[int, Any]:
        charge, body = self._charge(request.path_params["txid"]), await _body(request)
        if body.get("status") != _REMOVED or charge.status not in ("ATIVA", _REMOVED):
            raise PspRefused(400, "CobOperacaoInvalida", f"The charge is {charge.status}.")
        self._books.set_status(charge.txid, _REMOVED)
        return 200, self._charge_document(self._charge(charge.txid))

    async def _payment(self, request: Request) -> tuple[int, Any]:
        return 200, self._payment_document(self._paid(request.path_params["end_to_end_id"]))

    async def _give_back(self, request: Request) -> tuple[int, Any]:
        payment, id_ = self._paid(request.path_params["end_to_end_id"]), request.path_params["id"]
        amount = (await _body(request)).get("valor")
        if not _RETURN_ID.fullmatch(id_) or not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
            raise PspRefused(400, "PixDevolucaoInvalida", "valor is a decimal with two digits.")
        known = self._books.returns_of(payment.end_to_end_id)
        gone = sum(back.amount for back in known if back.status != "NAO_REALIZADO")
        if any(back.id == id_ for back in known) or not 0 < _centavos(amount) <= payment.amount - gone:
            raise PspRefused(400, "PixDevolucaoInvalida", "The id is taken, or more would go back than came.")
        now = self._clock.seconds()
        back = PspReturn(payment.end_to_end_id, id_, _centavos(amount), "EM_PROCESSAMENTO", now)
        self._books.set_return(back)
        return 201, self._return_document(back)

    async def _show_return(self, request: Request) -> tuple[int, Any]:
        return 200, self._return_document(self._return(request))

    async def _end_return(self, request: Request) -> tuple[int, Any]:
        """Let the next look at a return find it ended that way: DEVOLVIDO (as by itself) or NAO_REALIZADO."""
        body = await _body(request)
        found = [back for back in self._books.returns_of(str(body.get("endToEndId"))) if back.id == body.get("id")]
        if not found or body.get("status") not in ("DEVOLVIDO", "NAO_REALIZADO"):
            raise PspRefused(400, "PixDevolucaoInvalida", "Name a return, and how it shall end.")
        self._books.set_return(PspReturn(**{**vars(found[0]), "status": body["status"]}))
        return 200, {}

    async def _watch(self, request: Request) -> tuple[int, Any]:
        url = (await _body(request)).get("webhookUrl")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise PspRefused(400, "WebhookOperacaoInvalida", "webhookUrl is an address.")
        self._books.set_webhook(request.path_params["key"], url)
        self._postman.ring()
        return 200, {}

    async def _pay(self, request: Request) -> tuple[int, Any]:
        """Pay a charge by its txid or its code; see `psp_payer.Wish` for all that may be odd about it."""
        try:
            wish = read_wish(await _body(request))
            location = None if wish.code is None else read_location(wish.code)
        except BadPayment as error:
            raise PspRefused(400, "PagamentoInvalido", str(error)) from error
        charge = self._books.charge(wish.txid or "") if location is None else self._books.charge_at(location)
        now = self._clock.seconds()
        if charge is None and not wish.force:
            raise PspRefused(404, "CobNaoEncontrado", "There is no such charge.")
        if charge is not None and not wish.force and not _payable(charge, now):
            raise PspRefused(400, "PagamentoInvalido", "This charge can no longer be paid.")
        txid = wish.txid if charge is None else charge.txid
        amount = wish.amount or (charge.amount if charge is not None else 0)
        if amount <= 0 or (charge is not None and amount != charge.amount and not wish.force):
            raise PspRefused(400, "PagamentoInvalido", "That is not what the charge asks for.")
        payment = PspPayment(end_to_end_id(now), txid, amount, now)
        with self._books.transaction():
            self._books.add_payment(payment)
            if charge is not None:
                self._books.set_status(charge.txid, "CONCLUIDA")
            for _ in range(wish.copies):
                due = None if wish.hold else time.time() + wish.delay_s
                self._books.add_notice(payment.end_to_end_id, wish.notice_amount, due)
        self._postman.ring()
        return 201, self._payment_document(payment)

    async def _deliver(self, request: Request) -> tuple[int, Any]:
        """Let held notices go, in the order of the list."""
        names = (await _body(request)).get("endToEndIds")
        if not isinstance(names, list):
            raise PspRefused(400, "PagamentoInvalido", "endToEndIds is a list.")
        now = time.time()
        released = sum(self._books.release(str(name), now + place / 1000) for place, name in enumerate(names))
        await asyncio.sleep(0)
        self._postman.ring()
        return 200, {"released": released}

    def _describe(self, notice: PspNotice) -> tuple[str, dict[str, Any]] | None:
        payment = self._books.payment(notice.end_to_end_id)
        if payment is None:
            return None
        charge = self._books.charge(payment.txid or "")
        keys = [charge.pix_key] if charge is not None else list(self._books.keys())[:1]
        document = self._payment_document(payment)
        if notice.amount is not None:
            document["valor"] = _decimal(notice.amount)
        return (keys[0], document) if keys else None

    def _charge(self, txid: str) -> PspCharge:
        found = self._books.charge(txid)
        if found is None:
            raise PspRefused(404, "CobNaoEncontrado", "There is no such charge.")
        return found

    def _paid(self, end_to_end_id: str) -> PspPayment:
        found = self._books.payment(end_to_end_id)
        if found is None:
            raise PspRefused(404, "PixNaoEncontrado", "There is no such payment.")
        return found

    def _return(self, request: Request) -> PspReturn:
        """Find a return; one that is under way has arrived by the time somebody looks again."""
        names = request.path_params
        found = [back for back in self._books.returns_of(names["end_to_end_id"]) if back.id == names["id"]]
        if not found:
            raise PspRefused(404, "PixDevolucaoNaoEncontrada", "There is no such return.")
        ended = found[0].status if found[0].status != "EM_PROCESSAMENTO" else "DEVOLVIDO"
        back = PspReturn(**{**vars(found[0]), "status": ended})
        self._books.set_return(back)
        return back

    def _charge_document(self, charge: PspCharge) -> dict[str, Any]:
        paid = [self._payment_document(payment) for payment in self._books.payments_of(charge.txid)]
        return {
            "calendario": {"criacao": _moment(charge.created_s), "expiracao": charge.expires_s},
            "txid": charge.txid,
            "revisao": 0,
            "location": charge.location,
            "status": charge.status,
            "valor": {"original": _decimal(charge.amount)},
            "chave": charge.pix_key,
            **({"solicitacaoPagador": charge.note} if charge.note else {}),
            **({"pix": paid} if paid else {}),
        }

    def _payment_document(self, payment: PspPayment) -> dict[str, Any]:
        back = [self._return_document(one) for one in self._books.returns_of(payment.end_to_end_id)]
        return {
            "endToEndId": payment.end_to_end_id,
            **({"txid": payment.txid} if payment.txid else {}),
            "valor": _decimal(payment.amount),
            "horario": _moment(payment.at_s),
            **({"devolucoes": back} if back else {}),
        }

    def _return_document(self, back: PspReturn) -> dict[str, Any]:
        asked = {"solicitacao": _moment(back.at_s)}
        return {"id": back.id, "valor": _decimal(back.amount), "horario": asked, "status": back.status}


def _payable(charge: PspCharge, now: float) -> bool:
    return charge.status == "ATIVA" and now <= charge.created_s + charge.expires_s


def _problem(refusal: PspRefused) -> Response:
    document = {
        "type": f"https://pix.bcb.gov.br/api/v2/error/{refusal.error}",
        "title": refusal.error,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    return JSONResponse(document, refusal.status, media_type="application/problem+json")


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise PspRefused(400, "RequisicaoInvalida", "The body is a JSON object.")
    return body


def _inner(body: dict[str, Any], outer: str, inner: str) -> Any:
    found = body.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def _centavos(text: str) -> int:
    return int(text.replace(".", ""))


def _decimal(amount: int) -> str:
    return f"{amount // 100}.{amount % 100:02d}"


def _moment(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
