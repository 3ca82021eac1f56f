"""`--newcomer`: a full subnet on which somebody takes the UID of a miner between a verdict and the weights of it.

In the run's second window the chain loses the validators' call: it says success and does nothing. Before they have noticed, a
newcomer registers; all UIDs are taken, so it gets the one of the neuron that earns least, and that miner is not registered any
more. What the validators send next is for who holds the UIDs then: the newcomer gets nothing, and the share burns.

Both moments are blocks at which a virtual clock stands until it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from grail_core.chain.development.local import LocalChain
from grail_core.chain.development.state import ChainRules
from grail_core.keys import LocalSigner
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.protocol.windows import WindowTimes

REVEAL_BLOCKS = 5
"""With --commit-reveal: from a commit to its reveal, which is before the next window is judged."""
IMMUNITY_BLOCKS = 60
OWNER_UIDS = 2  # the burn UID's and the trainer's, who register first


def chain_rules(*, commit_reveal: bool, full_at: int | None) -> ChainRules:
    """The chain's rules of a run. `full_at`: so many registrations fill the subnet; None: it has room."""
    default = ChainRules()
    return ChainRules(
        reveal_blocks=REVEAL_BLOCKS if commit_reveal else 0,
        max_uids=default.max_uids if full_at is None else full_at,
        immunity_blocks=default.immunity_blocks if full_at is None else IMMUNITY_BLOCKS,
        owner_uids=OWNER_UIDS,
    )


@dataclass
class Newcomer:
    """Who comes, and what happens to the validators' call before."""

    chain: LocalChain
    params: NetworkParameters
    signer: LocalSigner
    validators: Sequence[Hotkey]
    _lost: bool = field(default=False, init=False)

    def halts(self, first: Window) -> tuple[Block, Block]:
        """The blocks of both moments: the call is lost from before the challenge is known, the UID taken once it was made."""
        challenge = WindowTimes(Window(first + WINDOW_LENGTH), self.params).challenge_block
        return Block(challenge - 1), Block(challenge + 2)

    def act(self, first: Window, head: Block) -> str | None:
        """Do what is due at this block. Returns a line for people, None where nothing was."""
        losing, taking = self.halts(first)
        if self.chain.nonce(self.signer.hotkey) or head < losing:
            return None
        if head >= taking:
            uid = self.chain.register(self.signer)
            return f"{self.signer.ss58} takes UID {uid}"
        if self._lost:
            return None
        self._lost = True
        for hotkey in self.validators:
            self.chain.lose_weights(hotkey, 1)
        return "the chain loses the validators' next weights"
