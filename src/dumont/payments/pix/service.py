"""A Pix API as a payment service."""

from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote

from dumont.payments.contract import (
    Charge,
    ChargeStatus,
    Notice,
    Payment,
    PaymentRefused,
    PaymentUnreachable,
    Return,
)
from dumont.payments.notices import check_signature, notices_of
from dumont.payments.pix.client import Missing, PixClient
from dumont.payments.pix.translate import charge_body, charge_of, decimal, payment_of, return_of


class PixService:
    """One Pix account: `key` is its Pix key, `receiver` and `city` what payers see, `webhook_secret` signs notices."""

    name = "pix"

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        client_secret: str,
        webhook_secret: str,
        key: str,
        receiver: str,
        city: str,
        simulated: bool = False,
    ) -> None:
        self.simulated = simulated
        self._client = PixClient(url, client_id, client_secret)
        self._webhook_secret = webhook_secret
        self._key = key
        self._shown = {"name": receiver, "city": city}

    async def create_charge(self, txid: str, amount: int, expires_seconds: int, note: str) -> Charge:
        """Make a charge; see `PaymentService`. The API refuses a known txid, so what there is is read then."""
        body = charge_body(amount, expires_seconds, self._key, note)
        try:
            found = await self._client.ask("PUT", f"cob/{quote(txid)}", body)
        except PaymentRefused:
            there = await self.charge(txid)
            if there is None or there.amount != amount:
                raise
            return there
        return charge_of(found, **self._shown)

    async def charge(self, txid: str) -> Charge | None:
        """Read a charge; see `PaymentService`."""
        try:
            return charge_of(await self._client.ask("GET", f"cob/{quote(txid, safe='')}"), **self._shown)
        except Missing:
            return None

    async def remove_charge(self, txid: str) -> Charge:
        """See that a charge can no longer be paid; see `PaymentService`."""
        with suppress(PaymentRefused, Missing):
            wish = {"status": "REMOVIDA_PELO_USUARIO_RECEBEDOR"}
            await self._client.ask("PATCH", f"cob/{quote(txid, safe='')}", wish)
        found = await self.charge(txid)
        if found is None or found.status is ChargeStatus.OPEN:
            raise PaymentRefused("The payment service does not remove this charge.")
        return found

    async def payment(self, end_to_end_id: str) -> Payment | None:
        """Read a payment; see `PaymentService`."""
        try:
            return payment_of(await self._client.ask("GET", f"pix/{quote(end_to_end_id, safe='')}"))
        except Missing:
            return None

    async def give_back(self, end_to_end_id: str, return_id: str, amount: int) -> Return:
        """Send money back; see `PaymentService`. What is refused is refused for good only where no return is known."""
        path = f"pix/{quote(end_to_end_id, safe='')}/devolucao/{quote(return_id, safe='')}"
        known = await self._known_return(path)
        if known is not None:
            return known
        try:
            return return_of(await self._client.ask("PUT", path, {"valor": decimal(amount)}))
        except (Missing, PaymentRefused) as error:
            known = await self._known_return(path)
            if known is not None:
                return known
            refusal = error if isinstance(error, PaymentRefused) else None
            raise refusal or PaymentRefused("The payment service does not know this payment.") from error

    async def _known_return(self, path: str) -> Return | None:
        try:
            return return_of(await self._client.ask("GET", path))
        except Missing:
            return None
        except PaymentRefused as error:
            raise PaymentUnreachable(error.detail) from error

    async def simulate_payment(self, txid: str) -> None:
        """Let somebody pay a charge of the sandbox; see `PaymentService`."""
        if not self.simulated:
            raise PaymentRefused("Here money is real: nobody pays but a person.")
        await self._client.ask("POST", "sim/pay", {"txid": txid})

    async def watch(self, callback_url: str) -> None:
        """Tell the service where it shall send its notices."""
        await self._client.ask("PUT", f"webhook/{quote(self._key, safe='')}", {"webhookUrl": callback_url})

    def read_notice(self, headers: Mapping[str, str], body: bytes, *, real_now: float) -> list[Notice]:
        """Read a signed callback; see `PaymentService`."""
        check_signature(self._webhook_secret, headers, body, real_now=real_now)
        return notices_of(body)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
