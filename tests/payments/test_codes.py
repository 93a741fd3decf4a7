"""BR Codes are read by others: published ones by our reader, ours by a reader and a camera that are not ours."""

import struct
import zlib

import pytest
import zxingcpp
from hypothesis import given
from hypothesis import strategies as st

from dumont.payments import BadCode, build_code, qr_png, read_code

MANUAL = (
    "00020104141234567890123426580014BR.GOV.BCB.PIX0136123e4567-e12b-12d1-a456-426655440000"
    "27300012BR.COM.OUTRO011001234567895204000053039865406123.455802BR5917NOME DO RECEBEDOR6008BRASILIA"
    "61087007490062190515RP12345678-201980390012BR.COM.OUTRO01190123.ABCD.3456.WXYZ6304AD38"
)
"""The example of the Banco Central's Manual do BR Code, 5.1."""
DYNAMIC = (
    "00020101021226770014BR.GOV.BCB.PIX2555pix.example.com/qr/93598be0-1bd0-4997-8318-81776a1d8a99"
    "5204000053039865802BR5907EMPRESA6009SAO PAULO62070503***6304EEAB"
)
"""A dynamic one that somebody else published."""
LOCATION = "pix.dumont.example/qr/v2/9d36b84fc70b478fb95c12729b90ca25"


def _crc(data: bytes) -> int:
    """CRC-16/CCITT-FALSE by its definition, a division of polynomials; its check value is 0x29B1 for 123456789."""
    register = int.from_bytes(data + b"\0\0", "big") ^ 0xFFFF << 8 * len(data)
    for at in range(8 * len(data) + 15, 15, -1):
        if register >> at & 1:
            register ^= 0x11021 << at - 16
    return register


def _read_tlv(text: str) -> dict[str, str]:
    """Read id, length and value, again and again: the rule of EMVCo's QRCPS, 3.2, and nothing of ours."""
    found: dict[str, str] = {}
    while text:
        id_, length = text[:2], int(text[2:4])
        assert id_ not in found and len(text) >= 4 + length
        found[id_], text = text[4 : 4 + length], text[4 + length :]
    return found


def test_the_check_of_these_tests_is_the_published_one() -> None:
    assert _crc(b"123456789") == 0x29B1
    assert f"{_crc(MANUAL[:-4].encode()):04X}" == "AD38" and f"{_crc(DYNAMIC[:-4].encode()):04X}" == "EEAB"


@pytest.mark.parametrize("code", [MANUAL, DYNAMIC], ids=["manual", "dynamic"])
def test_published_codes_are_read(code: str) -> None:
    """Codes that the Banco Central and others published have a right check sum and their fields for our reader."""
    fields = read_code(code)
    assert fields["26.00"] == "BR.GOV.BCB.PIX" and fields["58"] == "BR" and fields["53"] == "986"
    assert {id_: value for id_, value in fields.items() if "." not in id_} == _read_tlv(code)


def test_of_the_manual_every_field_is_read() -> None:
    fields = read_code(MANUAL)
    assert (fields["54"], fields["59"], fields["60"]) == ("123.45", "NOME DO RECEBEDOR", "BRASILIA")
    assert fields["26.01"] == "123e4567-e12b-12d1-a456-426655440000" and fields["62.05"] == "RP12345678-2019"


@given(
    amount=st.integers(1, 10**12),
    name=st.text(max_size=60),
    city=st.text(max_size=40),
    location=st.text("abcdefghijklmnopqrstuvwxyz0123456789./:-_", min_size=1, max_size=77),
)
def test_codes_of_ours_are_read_by_others(amount: int, name: str, city: str, location: str) -> None:
    """Whatever the name: a reader by the bare rule finds each field in its limits, and the check sum is right."""
    code = build_code(location, amount=amount, name=name, city=city)
    assert code.isascii() and f"{_crc(code[:-4].encode()):04X}" == code[-4:]
    fields = _read_tlv(code)
    assert list(fields) == sorted(fields, key=lambda id_: (id_ == "63", id_)), "in order, the check sum last"
    assert _read_tlv(fields["26"]) == {"00": "br.gov.bcb.pix", "25": location}
    assert fields["54"].replace(".", "") == f"{amount:03d}" and 1 <= len(fields["59"]) <= 25
    assert 1 <= len(fields["60"]) <= 15 and _read_tlv(fields["62"]) == {"05": "***"} and fields["01"] == "12"
    assert read_code(code)["26.25"] == location


def test_accents_become_what_every_reader_knows() -> None:
    fields = read_code(build_code(LOCATION, amount=1, name="Computação José Ltda", city="São João"))
    assert (fields["59"], fields["60"], fields["54"]) == ("Computacao Jose Ltda", "Sao Joao", "0.01")


@pytest.mark.parametrize(
    "text",
    ["", "6304", MANUAL[:-1], MANUAL.replace("123.45", "923.45"), MANUAL[:-4] + "AD39", MANUAL[4:], "x" * 300],
)
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(BadCode):
        read_code(text)


@given(st.integers(0, len(MANUAL) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_no_slip_of_one_sign_is_taken(at: int, sign: str) -> None:
    if MANUAL[at].upper() != sign.upper():
        with pytest.raises(BadCode):
            read_code(MANUAL[:at] + sign + MANUAL[at + 1 :])


@pytest.mark.parametrize("location", ["", "p" * 78, "pix.examplé/qr"])
def test_a_location_that_does_not_fit_is_refused(location: str) -> None:
    with pytest.raises(BadCode):
        build_code(location, amount=100, name="A", city="B")


def test_a_camera_reads_the_picture() -> None:
    """The picture is decoded by a library that did not draw it."""
    code = build_code(LOCATION, amount=165229, name="Dumont", city="Recife")
    [seen] = zxingcpp.read_barcodes(_pixels(qr_png(code)))
    assert seen.text == code and "QR" in str(seen.format)


def _pixels(png: bytes) -> memoryview:
    """Decode a PNG of one bit for each grey pixel; source: PNG specification, 9.2."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data, at, size, depth, kind = b"", 8, (0, 0), 0, 0
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        chunk = png[at + 8 : at + 8 + length]
        assert zlib.crc32(name + chunk) == int.from_bytes(png[at + 8 + length : at + 12 + length], "big")
        if name == b"IHDR":
            *size, depth, kind = struct.unpack(">IIBB", chunk[:10])  # type: ignore[assignment]
        data += chunk if name == b"IDAT" else b""
        at += 12 + length
    (width, height), raw = size, zlib.decompress(data)
    assert kind == 0 and depth == 1, "a picture of grey in one bit"
    line = (width + 7) // 8
    rows, above = [], bytes(line)
    for start in range(0, (line + 1) * height, line + 1):
        how, row = raw[start], raw[start + 1 : start + line + 1]
        assert how in (0, 2), "no filter, or the difference to the row above"
        above = bytes((a + b) % 256 for a, b in zip(row, above, strict=True)) if how else row
        rows.append(above)
    grey = bytes(255 * (row[x // 8] >> 7 - x % 8 & 1) for row in rows for x in range(width))
    return memoryview(grey).cast("B", (height, width))
