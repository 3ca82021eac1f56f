"""Values of the bittensor SDK as ours, and one of our signers as the SDK's."""

from __future__ import annotations

from typing import Any

from grail_core.chain.base import Neuron
from grail_core.errors import ChainError
from grail_core.keys import from_ss58, ss58
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block


class SdkSigner:
    """One of our signers as the SDK's `Signer`."""

    crypto_type = 1  # sr25519

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.ss58_address = ss58(signer.hotkey)
        self.public_key = bytes(signer.hotkey)

    def sign(self, payload: bytes) -> bytes:
        return bytes(self._signer.sign(bytes(payload)))


def neuron_of(row: Any) -> Neuron:
    """A row of the SDK's metagraph. A commitment that is sealed or of another kind is none."""
    commitment = row.commitment
    plain = commitment is not None and not commitment.encrypted and commitment.data != ""
    return Neuron(
        uid=int(row.uid),
        hotkey=from_ss58(row.hotkey),
        stake=int(row.total_stake.rao),
        validator_permit=bool(row.validator_permit),
        registered_at=Block(int(row.block_at_registration)),
        commitment=str(commitment.data) if plain else None,
        commitment_block=Block(int(commitment.block)) if plain else None,
        last_update=Block(int(row.last_update)),
    )


def hash_bytes(text: object, what: str) -> bytes:
    """The 32 bytes of a hash in hexadecimal.

    Raises:
        ChainError: it is none.
    """
    try:
        raw = bytes.fromhex(str(text).removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ChainError(f"the node gave no hash of 32 bytes for {what}", where=repr(text)[:80])
    return raw
