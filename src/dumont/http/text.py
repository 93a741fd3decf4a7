"""Text as the API takes it: one Unicode form, nothing that a database or a terminal cannot bear."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def one_line(text: str) -> str:
    """Return a line of text in Unicode form NFC.

    Errors: ValueError for control characters and line breaks.
    """
    if _CONTROL.search(text):
        raise ValueError("Must not hold control characters or line breaks.")
    return unicodedata.normalize("NFC", text)


def many_lines(text: str) -> str:
    """Return text in Unicode form NFC, line breaks and tabs kept.

    Errors: ValueError for other control characters.
    """
    if _CONTROL_BUT_LINES.search(text):
        raise ValueError("Must not hold control characters.")
    return unicodedata.normalize("NFC", text)


Line = Annotated[str, AfterValidator(one_line)]
"""One line of text in a body."""

Lines = Annotated[str, AfterValidator(many_lines)]
"""Text of several lines in a body."""
