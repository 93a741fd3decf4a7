"""Files of banks: what we write others read, what others write is taken in once, bombs and nonsense are refused."""

import base64
import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ofxtools.Parser import OFXTree
from tests.bookkeeping.household import Household

from dumont.bookkeeping.csv_files import read_csv
from dumont.bookkeeping.files import Line
from dumont.bookkeeping.ofx import read_ofx
from dumont.core import plain_amount, read_amount, show_amount, to_units
from dumont.http import problems

pytestmark = pytest.mark.requires_postgres

YEAR = {"from": "2026-01-01", "to": "2026-12-31"}
SGML = (
    "OFXHEADER:100\r\nDATA:OFXSGML\r\nVERSION:102\r\nSECURITY:NONE\r\nENCODING:USASCII\r\nCHARSET:1252\r\n\r\n"
    "<OFX>\r\n<BANKMSGSRSV1><STMTTRNRS><STMTRS><CURDEF>BRL\r\n<BANKACCTFROM><BANKID>0341<ACCTID>1<ACCTTYPE>CHECKING"
    "</BANKACCTFROM>\r\n<BANKTRANLIST><DTSTART>20260301<DTEND>20260331\r\n"
    "<STMTTRN>\r\n<TRNTYPE>CREDIT\r\n<DTPOSTED>20260302100000[-03:EST]\r\n<TRNAMT>1652.29\r\n<FITID>A1\r\n"
    "<MEMO>PIX RECEBIDO JOÃO &amp; FILHOS\r\n</STMTTRN>\r\n"
    "<STMTTRN><TRNTYPE>DEBIT<DTPOSTED>20260303<TRNAMT>-52,30<FITID>A2<NAME>PADARIA<MEMO>Padaria São José</STMTTRN>\r\n"
    "<STMTTRN><TRNTYPE>DEBIT<DTPOSTED>20260303<TRNAMT>-10.00<FITID>A2<MEMO>Tarifa</STMTTRN>\r\n"
    "</BANKTRANLIST></STMTRS></STMTTRNRS></BANKMSGSRSV1></OFX>\r\n"
)
BRAZILIAN = (
    "Extrato de conta corrente;;;\r\nAgência: 1 Conta: 2;;;\r\n\r\n"
    "Data;Histórico;Valor (R$);Saldo (R$)\r\n"
    "01/03/2026;SALDO ANTERIOR;;1.000,00\r\n"
    "02/03/2026;Salário;R$ 1.652,29;2.652,29\r\n"
    "03/03/2026;Padaria São José;-52,30;2.599,99\r\n"
    "03/03/2026;Ônibus;-4,40;2.595,59\r\n"
    "03/03/2026;Ônibus;-4,40;2.591,19\r\n"
)


async def take_in(home: Household, content: bytes, *, key: str | None = None, **more: Any) -> tuple[int, Any]:
    body = {"content_base64": base64.b64encode(content).decode(), **more}
    answer = await home.post(f"/accounts/{home.checking}/imports", body, key=key)
    return answer.status_code, answer.json()


async def export(home: Household, form: str, account: str | None = None) -> bytes:
    query = {**YEAR, "format": form}
    answer = await home.ask("GET", f"/accounts/{account or home.checking}/statement", params=query)
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_an_independent_reader_understands_the_ofx(home: Household) -> None:
    await home.record("income", 165229, date="2026-03-02", description="<Salário> & 13º")
    gone = await home.record("expense", 500, date="2026-03-03")
    await home.ask("DELETE", f"/transactions/{gone['id']}")
    card = await home.account("Card", type="credit", overdraft_limit="500.00")
    await home.record("expense", 1234, date="2026-03-04", account_id=card)
    [statement] = parsed(await export(home, "ofx"))
    assert (statement.curdef, statement.account.accttype) == ("BRL", "CHECKING")
    amounts = {one.fitid: one.trnamt for one in statement.transactions}
    posted = home.books.rows(
        "SELECT replace(transfer_id::text, '-', ''), amount FROM ledger_account_entry WHERE account_id = %s",
        home.checking,
    )
    assert amounts == {transfer: Decimal(amount) / 100 for transfer, amount in posted} and len(amounts) == 4
    assert statement.ledgerbal.balamt == Decimal("1752.29") == sum(amounts.values())
    told = [(one.dtposted.date().isoformat(), one.memo) for one in statement.transactions]
    assert ("2026-03-02", "<Salário> & 13º") in told
    [of_card] = parsed(await export(home, "ofx", card))
    assert [one.trnamt for one in of_card.transactions] == [Decimal("-12.34")]


def parsed(content: bytes) -> list[Any]:
    tree = OFXTree()
    tree.parse(io.BytesIO(content))
    found: list[Any] = tree.convert().statements
    return found


async def test_csv_is_written_plain_and_brazilian_without_formulas(home: Household) -> None:
    await home.record("expense", 5, date="2026-03-02", description="=HYPERLINK(1)")
    plain = list(csv.DictReader(io.StringIO((await export(home, "csv")).decode())))
    line = next(one for one in plain if one["amount"] == "-0.05")
    assert (line["date"], line["description"]) == ("2026-03-02", "'=HYPERLINK(1)")
    assert sum(Decimal(one["amount"]) for one in plain) == Decimal(plain[-1]["balance"]) == Decimal("99.95")
    text = (await export(home, "csv-br")).decode("utf-8-sig")
    brazilian = list(csv.DictReader(io.StringIO(text), delimiter=";"))
    assert ("02/03/2026", "-0,05") in [(one["date"], one["amount"]) for one in brazilian]


@pytest.mark.parametrize("form", ["ofx", "csv", "csv-br"])
async def test_our_own_export_adds_nothing_to_its_account(home: Household, form: str) -> None:
    await home.record("income", 165229, date="2026-03-02")
    await home.record("transfer", 10000, date="2026-03-03")
    before = home.counts(), home.balances()
    status, document = await take_in(home, await export(home, form))
    assert (status, document["added"], document["known"]) == (200, 0, 3), document
    assert (home.counts(), home.balances()) == before


@pytest.mark.parametrize("content", [SGML.encode("cp1252"), SGML.encode()], ids=["windows-1252", "utf-8"])
async def test_a_banks_sgml_is_taken_in_once(home: Household, content: bytes) -> None:
    status, dry = await take_in(home, content, dry_run=True)
    assert (status, dry["added"], home.counts()["bookkeeping_transaction"]) == (200, 3, 0)
    status, first = await take_in(home, content)
    assert (status, first["added"], first["format"]) == (200, 3, "ofx")
    assert [(one["date"], one["amount_str"], one["description"]) for one in first["lines"]] == [
        ("2026-03-02", "1652.29", "PIX RECEBIDO JOÃO & FILHOS"),
        ("2026-03-03", "-52.30", "Padaria São José"),
        ("2026-03-03", "-10.00", "Tarifa"),
    ]
    assert home.balances() == (10000 + 165229 - 5230 - 1000, 0)
    edited = first["lines"][1]["transaction_id"]
    await home.ask("PATCH", f"/transactions/{edited}", json={"amount_cents": 5000, "description": "bread"})
    await home.ask("DELETE", f"/transactions/{first['lines'][2]['transaction_id']}")
    before = home.counts(), home.balances()
    status, again = await take_in(home, content)
    assert (status, again["added"], again["known"]) == (200, 0, 3)
    assert again["lines"][1]["transaction_id"] == edited and (home.counts(), home.balances()) == before


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
async def test_a_brazilian_csv_is_taken_in_once(home: Household, encoding: str) -> None:
    transport = await home.category("Transport", "expense")
    content = BRAZILIAN.encode(encoding)
    status, first = await take_in(home, content, expense_category_id=transport)
    assert (status, first["added"], first["skipped"]) == (200, 4, 1), first
    assert home.balances()[0] == 10000 + 165229 - 5230 - 880
    longer = (BRAZILIAN + "03/03/2026;Ônibus;-4,40;1\r\n04/03/2026;Mercado;-100,00;1\r\n").encode(encoding)
    status, later = await take_in(home, longer)
    assert (status, later["known"], later["added"]) == (200, 4, 2), later
    spent = (await home.ask("GET", "/transactions", params={"category_id": transport})).json()
    assert spent["count"] == 3


async def test_what_was_written_by_hand_is_pointed_out(home: Household) -> None:
    mine = await home.record("expense", 440, date="2026-03-03", description="bus")
    _, document = await take_in(home, BRAZILIAN.encode(), dry_run=True)
    assert [one["possible_duplicate_of"] for one in document["lines"]] == [None, None, mine["id"], mine["id"]]


async def test_a_file_is_taken_in_whole_or_not_at_all(home: Household) -> None:
    poor = b"data;descricao;valor\n10/03/2026;a;-60,00\n11/03/2026;b;-60,00\n"
    before = home.counts()
    status, problem = await take_in(home, poor, key="poor")
    assert (status, problem["code"], home.counts()) == (409, "balance-too-low", before)
    await home.record("income", 10000)
    status, document = await take_in(home, poor, key="poor")
    assert (status, document["added"]) == (200, 2) and home.balances()[0] == 8000


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE OFX [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    "<OFX><STMTRS><STMTTRN><MEMO>&b;</MEMO></STMTTRN></STMTRS></OFX>"
)
BAD: dict[str, tuple[bytes, str]] = {
    "a bomb": (BOMB.encode(), "unreadable"),
    "no file at all": (b"\x89PNG\r\n\x00\x00", "unreadable"),
    "no headings": (b"1;2;3\n4;5;6\n", "unreadable"),
    "no such day": (b"data;descricao;valor\n31/02/2026;a;1,00\n", "unreadable"),
    "no amount": (b"data;descricao;valor\n01/02/2026;a;um real\n", "unreadable"),
    "three decimals": (b"data;descricao;valor\n01/02/2026;a;1,005\n", "unreadable"),
    "a day to come": (b"data;descricao;valor\n01/02/2199;a;1,00\n", "out-of-range"),
    "too many": (b"data;valor\n" + b"01/02/2026;1,00\n" * 1001, "unreadable"),
    "two accounts": (SGML.replace("</STMTTRNRS>", "</STMTTRNRS><STMTRS></STMTRS>").encode(), "unreadable"),
}


async def test_a_bad_file_is_a_clear_problem_and_no_rows(home: Household) -> None:
    before = home.counts()
    for name, (content, code) in BAD.items():
        status, problem = await take_in(home, content)
        assert (status, problem["code"], problem["errors"][0]["code"]) == (422, "invalid-request", code), name
        assert home.counts() == before, name


ODD = "<STMTTRN>{}<FITID>A1<MEMO>a{}<STMTTRN><DTPOSTED>20260303<TRNAMT>-2,50<FITID>A2<MEMO>b{}"
ODDITIES: dict[str, str] = {
    "no closing tags": ODD.format("<DTPOSTED>20260302<TRNAMT>+1.652,29", "", ""),
    "lower case": ODD.format("<DTPOSTED>20260302<TRNAMT>1652,29", "", "")
    .lower()
    .replace("a1", "A1")
    .replace("a2", "A2"),
    "a day with dashes": ODD.format("<DTPOSTED>2026-03-02T10:00<TRNAMT>1652,29", "</STMTTRN>", "</STMTTRN>"),
    "spaces and lines": ODD.format(" <DTPOSTED> 20260302[-3:BRT]\r\n<TRNAMT> 1 652,29 \r\n", "\r\n", "\r\n</STMTTRN>"),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_odd_ofx_is_understood(name: str) -> None:
    file = read_ofx(b"<OFX xmlns='x'><STMTRS><CURDEF>BRL" + ODDITIES[name].encode() + b"<LEDGERBAL><BALAMT>9,99</OFX>")
    told = [(line.date.isoformat(), line.cents, line.description, line.name) for line in file.lines]
    assert told == [("2026-03-02", 165229, "a", "A1"), ("2026-03-03", -250, "b", "A2")]


@pytest.mark.parametrize("fitid", ["0", "000", "1"])
def test_movements_of_one_name_that_say_different_things_are_not_one(fitid: str) -> None:
    """A bank that gives every movement the same FITID loses none, and a file with the same again adds nothing."""
    one = f"<STMTTRN><DTPOSTED>20260302<TRNAMT>-4.40<FITID>{fitid}<MEMO>"
    first, both = (read_ofx(f"<OFX><STMTRS>{one}bus{more}".encode()).lines for more in ("", f"{one}coffee{one}bus"))
    assert [line.description for line in both][:2] == ["bus", "coffee"]
    assert len({line.key for line in both}) == len(both) == (3 if fitid.strip("0") == "" else 2)
    assert first[0].key == both[0].key


async def test_a_file_of_another_currency_or_for_nobodys_account_is_refused(home: Household) -> None:
    status, problem = await take_in(home, SGML.replace("BRL", "USD").encode())
    assert (status, problem["code"]) == (409, "currency-mismatch")
    stranger = await Household.furnish(home.api, home.books)
    body = {"content_base64": base64.b64encode(SGML.encode()).decode()}
    answer = await home.post(f"/accounts/{stranger.checking}/imports", body)
    assert (answer.status_code, answer.json()["code"]) == (404, "account-not-found")
    assert (await home.post(f"/accounts/{home.checking}/imports", {"content_base64": "?"})).status_code == 422


@pytest.mark.parametrize(
    "text,value",
    [
        ("R$ 1.652,29", "1652.29"),
        ("-R$ 1.652,29", "-1652.29"),
        ("R$ -1.652,29", "-1652.29"),
        ("1652,29", "1652.29"),
        ("1,652.29", "1652.29"),
        ("1652.29", "1652.29"),
        ("(12,50)", "-12.50"),
        ("12,50 D", "-12.50"),
        ("12,50C", "12.50"),
        ("\u221212,50", "-12.50"),
        ("12,50-", "-12.50"),
        ("US$ 3.10", "3.10"),
        ("1.234.567,8", "1234567.8"),
        ("7", "7"),
    ],
)
def test_amounts_as_people_write_them(text: str, value: str) -> None:
    assert read_amount(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "R$", "1.234", "12,345", "1.23.4", "1e5", "NaN", "--5", "1,2,3", "9" * 50, "٣"])
def test_what_is_no_amount_or_could_be_two_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_amount(text)


@given(st.integers(-(10**15), 10**15), st.booleans())
def test_amounts_are_read_as_they_are_shown(units: int, comma: bool) -> None:
    plain = plain_amount(units, 2)
    assert to_units(read_amount(show_amount(plain, "BRL", comma=comma), comma=comma), 2) == units
    assert to_units(Decimal(plain), 2) == units


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for read in (read_csv, read_ofx):
        try:
            lines = read(content if read is read_csv else b"<OFX><STMTRS>" + content).lines
        except problems.InvalidRequest:
            continue
        assert all(isinstance(line, Line) and line.description for line in lines)
