"""Characters that people write for the same thing, made one: any blank of Unicode, any minus, any wide form.

Used wherever an environment reads numbers. A blank stays a blank, also one without width, so that the digits on its two sides
never become one number here; who reads numbers says which blanks group digits. A dash between two digits is a range and stays
what it is. Linear in the text; standard library only.
"""

from __future__ import annotations

import re
from typing import Final

_BLANKS: Final = (
    "\u00ad"
    "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b"
    "\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u205f\u2060\u2061\u2062\u2063\u2064\u2066\u2067"
    "\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f\u3000\u3164\ufeff\uffa0\u034f\u061c\u115f\u1160\u17b4\u17b5\u2800"
    "\ufe00\ufe01\ufe02\ufe03\ufe04\ufe05\ufe06\ufe07\ufe08\ufe09\ufe0a\ufe0b\ufe0c\ufe0d\ufe0e\ufe0f"
)
CURRENCIES: Final = "$€£¥₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₴₵₶₷₸₹₺₻₼₽₾₿⃀฿៛﷼֏؋৳௹"
"""Signs of whole units of money; a sign of a cent is none of them."""

_MINUSES: Final = "\u2052\u2212\u02d7\u2796\ufe63\uff0d\u2010\u2011\ufe58"
_DASHES: Final = "\u2012\u2013\u2014\u2015"
_WIDE: Final = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    0xFFE0: "¢",
    0xFFE1: "£",
    0xFFE5: "¥",
    0xFFE6: "₩",
}
_TABLE: Final = {**_WIDE, **str.maketrans({**dict.fromkeys(_BLANKS, " "), **dict.fromkeys(_MINUSES, "-")})}
_DASH: Final = re.compile(rf"(?<![0-9])[{_DASHES}]|[{_DASHES}](?![0-9])")


def plain_marks(text: str) -> str:
    """The text with plain blanks and minuses, and with the wide forms of ASCII narrow; nothing else is changed."""
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_TABLE)
    return text if text.isascii() else _DASH.sub("-", text)
