"""Payment services behind one contract: charges that people pay by Pix, payments, returns, signed notices."""

from dumont.payments.brcode import BadCode, build_code, qr_png, read_code
from dumont.payments.contract import (
    Charge,
    ChargeStatus,
    InvalidSignature,
    Notice,
    Payment,
    PaymentRefused,
    PaymentService,
    PaymentUnreachable,
    Return,
    ReturnStatus,
)
from dumont.payments.notices import HEADER, WINDOW_SECONDS, sign
from dumont.payments.pix import PixService

__all__ = [
    "HEADER",
    "WINDOW_SECONDS",
    "BadCode",
    "Charge",
    "ChargeStatus",
    "InvalidSignature",
    "Notice",
    "Payment",
    "PaymentRefused",
    "PaymentService",
    "PaymentUnreachable",
    "PixService",
    "Return",
    "ReturnStatus",
    "build_code",
    "qr_png",
    "read_code",
    "sign",
]
