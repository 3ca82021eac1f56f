"""Who signs: every role's messages are signed by a hotkey, and whoever builds a message only needs this much of one."""

from __future__ import annotations

from typing import Protocol

from grail_core.protocol.types import Hotkey, Signature


class Signer(Protocol):
    """A hotkey that can sign. `grail_core.keys` loads one from a wallet; proof workers never hold one."""

    @property
    def hotkey(self) -> Hotkey: ...

    def sign(self, message: bytes) -> Signature: ...
