"""What the roles ask of a chain, and nothing more.

`local.py` answers from a SQLite file shared by processes, `bittensor.py` from a real subnet. Everything the protocol reads
comes from finalised blocks; what is best but not final is good for progress displays and early starts only.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Hotkey

MAX_WEIGHT = 65535  # a weight is a u16


@dataclass(frozen=True)
class BlockInfo:
    number: Block
    hash: bytes  # 32 bytes
    timestamp_ms: int  # Unix time of the block, milliseconds


@dataclass(frozen=True)
class Neuron:
    """One registered hotkey as of a block."""

    uid: int
    hotkey: Hotkey
    stake: int  # rao
    validator_permit: bool
    registered_at: Block
    commitment: str | None  # the text this hotkey committed (its bucket), None if it never did
    commitment_block: Block | None
    last_update: Block
    """In which it last set weights or committed to some. Where it never did a chain may give 0, the block of registration, or
    what the UID's former holder left: nothing at or before `registered_at` is this hotkey's."""


@dataclass(frozen=True)
class Metagraph:
    block: Block
    neurons: tuple[Neuron, ...]  # by uid

    def by_hotkey(self, hotkey: Hotkey) -> Neuron | None:
        return next((n for n in self.neurons if n.hotkey == hotkey), None)


class Chain(Protocol):
    """Errors: `ChainError` when the chain cannot answer or refuses an extrinsic (the message says why)."""

    @property
    def genesis_hash(self) -> bytes: ...

    @property
    def netuid(self) -> int: ...

    def now_ms(self) -> int:
        """Unix milliseconds on the clock that block timestamps follow."""
        ...

    def close(self) -> None:
        """Close what is open; a later call opens it again."""
        ...

    def current_block(self) -> Block: ...

    def finalised_block(self) -> Block: ...

    def block(self, number: Block) -> BlockInfo:
        """A block that exists, finalised or not; `ChainError` for a future one."""
        ...

    def metagraph(self, block: Block | None = None) -> Metagraph:
        """Registrations, permits and commitments as of `block` (None: the finalised block)."""
        ...

    def commit(self, signer: Signer, text: str) -> None:
        """Write this hotkey's commitment (at most 128 bytes of UTF-8); in force from the block that includes it."""
        ...

    def set_weights(self, signer: Signer, weights: Mapping[int, int]) -> None:
        """Set u16 weights by UID, or commit to them where the subnet wants that; the chain reveals them itself.

        That this returns says that the chain took the request, not that it did it: what it did is read from it afterwards
        (`weights_update`). `ChainError` on a missing permit, rate limit or unknown UID.
        """
        ...

    def pending_weights(self, hotkey: Hotkey, block: Block | None = None) -> Block | None:
        """In which block this hotkey last committed to weights that are hidden as of `block` (None: the finalised one)."""
        ...

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        """Sleep until the block exists (or is final). False if `stop` was set first."""
        ...


def weights_update(chain: Chain, hotkey: Hotkey, block: Block) -> Block | None:
    """In which block this hotkey last set weights or committed to some, by what the chain shows as of `block`.

    None if it never did since it registered, or is not registered. Asks two things of the chain where the first does not
    answer it, and never what a call returned.
    """
    neuron = chain.metagraph(block).by_hotkey(hotkey)
    if neuron is None:
        return None
    pending = chain.pending_weights(hotkey, block) or Block(0)
    newest = max(neuron.last_update, pending)
    return newest if newest > neuron.registered_at else None


def has_passed(chain: Chain, block: Block) -> bool:
    """Whether the chain is beyond a block, by a later one that it can show: a number alone may be invented, and what follows
    from it (that something was missed, or came too late) may be said for good.

    Raises:
        ChainError: the chain does not answer, or cannot show the block that it says is its best.
    """
    head = chain.current_block()
    if head > block:
        chain.block(head)
    return head > block


def time_of_block_ms(chain: Chain, block: Block, block_time_ms: int) -> int:
    """Unix milliseconds of a block by the chain; of one to come, the best block's time plus the network's block time each."""
    head = chain.current_block()
    if block <= head:
        return chain.block(block).timestamp_ms
    return chain.block(head).timestamp_ms + (block - head) * block_time_ms


def seconds_of(blocks: float, block_time_ms: int) -> float:
    """How long so many blocks of a network take."""
    return blocks * block_time_ms / 1000


def blocks_in(seconds: float, block_time_ms: int) -> int:
    """Whole blocks of a network that a span of real time covers."""
    return int(1000 * seconds / block_time_ms)
