"""BR Codes: what a person copies into his bank's app, and the same as a QR picture.

Source: Banco Central do Brasil, Manual do BR Code and Manual de Padrões para Iniciação do Pix; EMVCo QRCPS
Merchant-Presented Mode (fields of two digits id, two digits length, value; CRC-16/CCITT-FALSE over all before it).
"""

import binascii
import io
import unicodedata

_PIX = "br.gov.bcb.pix"
_MOST_NAME, _MOST_CITY, _MOST_LOCATION = 25, 15, 77
_MOST_FIELD = 99
_MODULE_PIXELS = 6
Fields = dict[str, str]


class BadCode(ValueError):
    """A text that is no BR Code; the message says why."""


def build_code(location: str, *, amount: int, name: str, city: str) -> str:
    """Write the code of a dynamic charge, whose details the payer's bank reads at `location` (no scheme).

    Units: `amount` in centavos.
    Errors: BadCode for a location that is empty or too long.
    """
    if not 1 <= len(location) <= _MOST_LOCATION or not location.isascii():
        raise BadCode(f"the address of a charge has 1 to {_MOST_LOCATION} characters of ASCII")
    fields = [
        ("00", "01"),
        ("01", "12"),
        ("26", _field("00", _PIX) + _field("25", location)),
        ("52", "0000"),
        ("53", "986"),
        ("54", f"{amount // 100}.{amount % 100:02d}"),
        ("58", "BR"),
        ("59", _plain(name, _MOST_NAME)),
        ("60", _plain(city, _MOST_CITY)),
        ("62", _field("05", "***")),
    ]
    text = "".join(_field(id_, value) for id_, value in fields) + "6304"
    return text + _check(text)


def read_code(text: str) -> Fields:
    """Return a code's fields by id, those of its templates as `26.25`.

    Errors: BadCode for a wrong check sum, lengths that do not add up, or another kind of code.
    """
    if len(text) < 8 or text[-8:-4] != "6304" or _check(text[:-4]) != text[-4:].upper():
        raise BadCode("the check sum is wrong: copy the code again, all of it")
    fields = _split(text)
    for id_ in ("26", "62"):
        if id_ in fields:
            fields |= {f"{id_}.{inner}": value for inner, value in _split(fields[id_]).items()}
    if fields.get("00") != "01" or fields.get("26.00", "").lower() != _PIX or fields.get("53") != "986":
        raise BadCode("this is not a Pix code")
    return fields


def qr_png(text: str) -> bytes:
    """Draw a code as a QR picture (PNG, with its quiet zone)."""
    import segno

    picture = io.BytesIO()
    segno.make_qr(text, error="m").save(picture, kind="png", scale=_MODULE_PIXELS)
    return picture.getvalue()


def _field(id_: str, value: str) -> str:
    if not 1 <= len(value) <= _MOST_FIELD:
        raise BadCode(f"field {id_} has {len(value)} characters")
    return f"{id_}{len(value):02d}{value}"


def _split(text: str) -> Fields:
    found: Fields = {}
    at = 0
    while at < len(text):
        id_, length = text[at : at + 2], text[at + 2 : at + 4]
        if not (len(length) == 2 and (id_ + length).isascii() and (id_ + length).isdigit()) or id_ in found:
            raise BadCode("its fields do not follow each other")
        value = text[at + 4 : at + 4 + int(length)]
        if len(value) != int(length):
            raise BadCode("it ends in the middle of a field")
        found[id_] = value
        at += 4 + len(value)
    return found


def _check(text: str) -> str:
    """CRC-16/CCITT-FALSE: polynomial 0x1021, begun with 0xFFFF, as four hexadecimal digits."""
    return f"{binascii.crc_hqx(text.encode('utf-8'), 0xFFFF):04X}"


def _plain(text: str, most: int) -> str:
    """Take accents away: readers of codes disagree about anything but ASCII."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "".join(sign for sign in folded if sign.isprintable()).strip()[:most].strip() or "RECEBEDOR"
