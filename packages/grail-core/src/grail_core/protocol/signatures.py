"""Sections 8 and 11: is this signature this hotkey's?

sr25519 (schnorrkel), as every Bittensor wallet makes it. Keys that sign are held elsewhere (`grail_core.keys`). What is
signed is always a tagged hash, so that a signature over one kind of thing fits no other kind and no other network.
"""

from __future__ import annotations

_SR25519 = 1


def verify(hotkey: bytes, message: bytes, signature: bytes) -> bool:
    """True iff `signature` (64 bytes) over `message` is by `hotkey` (32 bytes). Never raises: malformed input is False.

    The all-zero key, which stands for "unset" and is the identity of the group (anybody can sign for it), is False. A
    wallet that wraps messages in `<Bytes>…</Bytes>` before signing is accepted, as on chain.
    """
    if not all(isinstance(value, bytes) for value in (hotkey, message, signature)):
        return False
    if len(hotkey) != 32 or len(signature) != 64 or hotkey == bytes(32):
        return False
    from bittensor_core import Keypair  # a native library: loaded by whoever verifies, not by --help

    try:
        return bool(Keypair(public_key=hotkey, crypto_type=_SR25519).verify(message, signature))
    except ValueError:
        return False
