"""Extrinsics: signed by the key that the SDK is given, verified and applied by the development chain, refused by name.

A subtensor names its errors; the development chain explains them. The names here are the SDK's (`bittensor.error_map`), so that
what it makes of them (code, remedy) is what it makes of a real node's.
"""

from __future__ import annotations

from typing import Any

import bittensor

from grail_core.chain.development.extrinsics import Arguments, Call, sign_extrinsic
from grail_core.chain.development.local import LocalChain
from grail_core.errors import ChainError
from grail_core.keys import from_ss58
from grail_core.protocol.types import Hotkey, Signature
from tooling.testing.simulated_bittensor.openings import opening_of

NAMES = {
    "is not registered on the subnet": "HotKeyNotRegisteredInSubNet",
    "no validator permit": "NeuronNoValidatorPermit",
    "the rate limit is": "SettingWeightsTooFast",
    "which is not registered": "UidVecContainInvalidOne",
    "weights are committed on this subnet": "CommitRevealEnabled",
    "weights are set in the open": "CommitRevealDisabled",
    "wait for their reveal already": "TooManyUnrevealedCommits",
}
"""What the development chain says, and what a subtensor calls it."""


class KeySigner:
    """The SDK's key as a signer of ours: it has the key, we have what it signs."""

    def __init__(self, keypair: Any) -> None:
        self._keypair = keypair
        self.hotkey: Hotkey = from_ss58(keypair.ss58_address)

    def sign(self, message: bytes) -> Signature:
        return Signature(bytes(self._keypair.sign(message)))


def submit(chain: LocalChain, call: tuple[str, str, dict[str, Any]], keypair: Any) -> Any:
    """Sign and apply one call; the SDK's `ExtrinsicResult`.

    Raises:
        NotImplementedError: a call that no role of ours makes.
    """
    module, function, params = call
    signer = KeySigner(keypair)
    try:
        if function == "set_commitment":
            chain.commit(signer, _commitment(params["info"]["fields"][0]))
        elif function == "set_mechanism_weights":
            chain.set_weights(signer, dict(zip(params["dests"], params["weights"], strict=True)))
        elif function == "commit_timelocked_mechanism_weights":
            _commit_weights(chain, signer, bytes(params["commit"]))
        else:
            raise NotImplementedError(f"{module}.{function}")
    except ChainError as error:
        return refused(error.what)
    return bittensor.ExtrinsicResult(True, message="Success")


def refused(what: str, name: str | None = None) -> Any:
    """The result of an extrinsic that the chain refused."""
    chosen = name or next((name for words, name in NAMES.items() if words in what), None)
    return bittensor.ExtrinsicResult(False, message=what, error=bittensor.ChainError(what, chosen))


def _commitment(fields: list[dict[str, str]]) -> str:
    """The text of `Raw…` fields, as the development chain keeps it."""
    ((_, raw),) = fields[0].items()
    return bytes.fromhex(raw.removeprefix("0x")).decode("utf-8", "surrogatepass")


def _commit_weights(chain: LocalChain, signer: KeySigner, commit: bytes) -> None:
    weights = opening_of(commit)
    if weights is not None and chain.parameters.rules.reveal_blocks:
        chain.set_weights(signer, weights)  # in the closed form of this chain, for a block of its own
        return
    arguments: Arguments = {
        "commit": commit.hex(),
        "reveal": chain.current_block() + max(1, chain.parameters.rules.reveal_blocks),
    }
    chain.submit(
        sign_extrinsic(
            signer,
            genesis_hash=chain.genesis_hash,
            netuid=chain.netuid,
            call=Call.COMMIT_WEIGHTS,
            arguments=arguments,
            nonce=chain.nonce(signer.hotkey),
        )
    )
