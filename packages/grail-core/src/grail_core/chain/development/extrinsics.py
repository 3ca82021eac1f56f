"""Extrinsics of the development chain: what a hotkey asks the chain to do, signed.

An extrinsic is bound to one chain (genesis hash, netuid) and to one place in its author's sequence (nonce), so that a
signature can neither be replayed nor moved. The chain verifies it before anything is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import bittensor_core

from grail_core.keys import ss58
from grail_core.protocol.encoding import canonical_json, message
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Hotkey, Signature


class Call(Enum):
    REGISTER = "register"
    STAKE = "stake"
    COMMIT = "commit"
    SET_WEIGHTS = "set_weights"
    COMMIT_WEIGHTS = "commit_weights"
    DEREGISTER = "deregister"


Arguments = Mapping[str, int | str | list[list[int]]]
"""register, deregister: {} · stake: {amount} rao, may be negative · commit: {text} · set_weights: {weights: [[uid, u16], …]} ·
commit_weights: {commit: hexadecimal text (`timelock`), reveal: the block that opens it}"""


@dataclass(frozen=True)
class Extrinsic:
    """One signed request. `nonce` counts the extrinsics of this hotkey that the chain accepted before."""

    call: Call
    arguments: Arguments
    hotkey: Hotkey
    nonce: int
    signature: Signature

    def is_signed_for(self, genesis_hash: bytes, netuid: int) -> bool:
        """Whether the signature is this hotkey's over exactly this request on exactly this chain."""
        payload = _payload(genesis_hash, netuid, self.call, self.arguments, self.nonce)
        try:
            return bool(bittensor_core.verify(payload, bytes(self.signature), ss58(self.hotkey)))
        except ValueError:
            return False


def sign_extrinsic(
    signer: Signer, *, genesis_hash: bytes, netuid: int, call: Call, arguments: Arguments, nonce: int
) -> Extrinsic:
    signature = signer.sign(_payload(genesis_hash, netuid, call, arguments, nonce))
    return Extrinsic(call, arguments, signer.hotkey, nonce, signature)


def _payload(genesis_hash: bytes, netuid: int, call: Call, arguments: Arguments, nonce: int) -> bytes:
    return message(genesis_hash, "grail/local-chain/extrinsic", netuid, call.value, canonical_json(dict(arguments)), nonce)
