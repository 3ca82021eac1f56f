"""Hotkeys as a person types them: whole, as hexadecimal digits, or the beginning of one that only one of those at hand has.

A beginning is taken only to look something up among hotkeys that a verdict or the chain lists; nothing is signed, committed or
paid by one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.keys import from_ss58, ss58
from grail_core.protocol.types import Hotkey

LEAST_LETTERS: Final = 5
"""Of a beginning: every address starts with 5, and most of a network's with another two letters alike."""
_SHOWN: Final = 8
_BEGINNING = re.compile(r"[1-9A-HJ-NP-Za-km-z]{1,47}(?:…|\.{3})?")


def chosen(text: str, among: Collection[Hotkey], *, where: str) -> Hotkey:
    """The hotkey that was meant.

    Args:
        text: SS58, 64 hexadecimal digits, or the first letters of an SS58 address ("…" or "..." behind them may stay).
        among: those that it may be. where: they are from, for the message.

    Raises:
        ConfigurationError: it is no hotkey, or too short a beginning, or that of several.
        ProtocolViolationError: it is none of these.
    """
    by_address = {ss58(hotkey): hotkey for hotkey in among}
    if text in by_address:
        return by_address[text]
    if re.fullmatch(r"(?:0x)?[0-9a-fA-F]{64}", text):
        meant = Hotkey(bytes.fromhex(text.removeprefix("0x")))
        if meant in by_address.values():
            return meant
        raise _not_there(ss58(meant), where)
    if not _BEGINNING.fullmatch(text):
        raise _not_there(ss58(from_ss58(text)), where)  # says so itself if this is no address
    beginning = text.rstrip("….")
    if len(beginning) < LEAST_LETTERS:
        raise ConfigurationError(
            "too few letters of a hotkey", where=beginning, hint=f"give {LEAST_LETTERS} or more, or the whole address"
        )
    found = sorted(address for address in by_address if address.startswith(beginning))
    if len(found) == 1:
        return by_address[found[0]]
    if found:
        named = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise ConfigurationError(f"{len(found)} hotkeys begin so: {named}", where=beginning, hint="give more letters")
    raise ProtocolViolationError(
        f"no hotkey that begins with {beginning} was registered in {where}", hint="see whether it is typed as it is printed"
    )


def _not_there(address: str, where: str) -> ProtocolViolationError:
    return ProtocolViolationError(f"hotkey {address} was not registered in {where}")
