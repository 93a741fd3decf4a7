"""OFX files: written as version 2 (XML), read as version 2 or as version 1 (SGML), with a scanner that expands nothing.

Source: Open Financial Exchange 2.2, chapters 2 (headers), 3.2.8 (dates) and 11 (statements);
https://financialdataexchange.org/ofx
"""

import re
from collections.abc import Iterator
from datetime import date
from html import unescape
from xml.sax.saxutils import escape

from dumont.bookkeeping.files import File, Raw, decode, understand, unreadable
from dumont.bookkeeping.reports import Statement
from dumont.core import plain_amount
from dumont.ledger import SCALES

_TOKEN = re.compile(r"<(/?)([A-Za-z0-9_.]{1,40})>([^<]*)")
_START = re.compile(r"<OFX(?:\s[^<>]*)?>", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#[0-9]{1,6}|#x[0-9a-fA-F]{1,5});")
_CHARSET = re.compile(rb"CHARSET:\s*([A-Za-z0-9-]+)", re.IGNORECASE)
_STATEMENTS = {"STMTRS", "CCSTMTRS"}
_KINDS = {"savings": "SAVINGS", "investment": "MONEYMRKT"}
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
    '<?OFX OFXHEADER="200" VERSION="220" SECURITY="NONE" OLDFILEUID="NONE" NEWFILEUID="NONE"?>\n'
)
_OK = "<STATUS><CODE>0</CODE><SEVERITY>INFO</SEVERITY></STATUS>"


def read_ofx(content: bytes) -> File:
    """Read the movements of the one account that an OFX file tells of.

    Guarantees: entities are never expanded, and a document type is refused, so no file grows when it is read.
    Errors: InvalidRequest for what is not OFX, tells of several accounts, or has lines that cannot be understood.
    """
    charset = _CHARSET.search(content[:2000])
    text = decode(content, "iso-8859-1" if charset and b"8859" in charset.group(1) else None)
    if re.search(r"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise unreadable("A file with a document type or entities of its own is refused.")
    start = _START.search(text)
    if start is None:
        raise unreadable("This is not an OFX file.")
    body = _CDATA.sub(lambda found: escape(found.group(1)), text[start.end() :])
    told = _Told()
    for closing, name, value in ((m[1], m[2].upper(), m[3]) for m in _TOKEN.finditer(body)):
        told.hear(bool(closing), name, _plain(value))
    if told.statements != 1:
        raise unreadable("The file must hold the statement of one account.")
    lines = understand(told.raws(), comma_by_default=False)
    return File("ofx", told.currency, lines, len(told.movements) - len(lines))


class _Told:
    """What a scan of the file has come upon."""

    def __init__(self) -> None:
        self.statements = 0
        self.currency: str | None = None
        self.movements: list[dict[str, str]] = []
        self._open = False

    def hear(self, closing: bool, name: str, value: str) -> None:
        """Take in one tag with the text that follows it."""
        if name == "STMTTRN":
            self._open = not closing
            if not closing:
                self.movements.append({})
        elif closing:
            return
        elif name in _STATEMENTS:
            self.statements += 1
        elif name == "CURDEF":
            self.currency = value.upper()
        elif self._open and value:
            self.movements[-1].setdefault(name, value)

    def raws(self) -> Iterator[Raw]:
        """Yield the movements as text; a name that the memo repeats is left out, and a FITID of zeros names nothing."""
        for number, one in enumerate(self.movements, 1):
            name, memo = one.get("NAME", ""), one.get("MEMO", "")
            told = memo if name.casefold() in memo.casefold() else f"{name} {memo}"
            fitid = one.get("FITID", "")
            yield Raw(number, one.get("DTPOSTED", ""), one.get("TRNAMT", ""), told, fitid if fitid.strip("0") else None)


def write_ofx(found: Statement) -> str:
    """Write a statement as OFX 2.2; the FITID of a line is the id of its transfer."""
    account = found.account
    scale = SCALES[account.currency]
    lines = "".join(
        f"<STMTTRN><TRNTYPE>{'CREDIT' if line.amount > 0 else 'DEBIT'}</TRNTYPE>"
        f"<DTPOSTED>{_noon(line.date)}</DTPOSTED><TRNAMT>{plain_amount(line.amount, scale)}</TRNAMT>"
        f"<FITID>{line.transfer_id}</FITID><NAME>{_cut(line.description, 32)}</NAME>"
        f"<MEMO>{_cut(line.description, 255)}</MEMO></STMTTRN>"
        for line in found.lines
    )
    body = (
        f"<BANKTRANLIST><DTSTART>{_noon(found.start)}</DTSTART><DTEND>{_noon(found.end)}</DTEND>{lines}</BANKTRANLIST>"
        f"<LEDGERBAL><BALAMT>{plain_amount(found.closing, scale)}</BALAMT><DTASOF>{_noon(found.end)}</DTASOF>"
        "</LEDGERBAL>"
    )
    sign_on = f"<SONRS>{_OK}<DTSERVER>{_noon(found.end)}</DTSERVER><LANGUAGE>POR</LANGUAGE></SONRS>"
    return f"{_HEAD}<OFX><SIGNONMSGSRSV1>{sign_on}</SIGNONMSGSRSV1>{_wrapped(found, body)}</OFX>\n"


def _wrapped(found: Statement, body: str) -> str:
    """Put a statement's body into the envelope of a bank account or of a credit card."""
    number = found.account.id[-22:]
    head = f"<TRNUID>0</TRNUID>{_OK}"
    currency = f"<CURDEF>{found.account.currency}</CURDEF>"
    if found.account.type == "credit":
        account = f"<CCACCTFROM><ACCTID>{number}</ACCTID></CCACCTFROM>"
        inner = f"<CCSTMTRS>{currency}{account}{body}</CCSTMTRS>"
        return f"<CREDITCARDMSGSRSV1><CCSTMTTRNRS>{head}{inner}</CCSTMTTRNRS></CREDITCARDMSGSRSV1>"
    kind = _KINDS.get(found.account.type, "CHECKING")
    account = (
        f"<BANKACCTFROM><BANKID>DUMONT</BANKID><ACCTID>{number}</ACCTID><ACCTTYPE>{kind}</ACCTTYPE></BANKACCTFROM>"
    )
    inner = f"<STMTRS>{currency}{account}{body}</STMTRS>"
    return f"<BANKMSGSRSV1><STMTTRNRS>{head}{inner}</STMTTRNRS></BANKMSGSRSV1>"


def _noon(day: date) -> str:
    """Write a day as its noon, which is the same day in every zone that people live in but the outermost."""
    return f"{day:%Y%m%d}120000.000[0:GMT]"


def _cut(text: str | None, length: int) -> str:
    return escape((text or "-")[:length].strip() or "-")


def _plain(value: str) -> str:
    return _ENTITY.sub(lambda found: unescape(found.group()), value).strip()
