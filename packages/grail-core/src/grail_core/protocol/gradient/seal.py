"""Gradient work, section 7: the seal of an update, read before anybody's bytes are visible.

Key, envelope, signature and reader are those of every kind of work (`protocol.seals`). The header is small because the file
follows only after first sight: what the file's own header says is fixed by `content_digest`. Which sizes a file can have
follows from the layout, and which counts can be declared from the spec: callers who have them check both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.spec import GRADIENT, GRADIENT_VERSION, GradientSpec
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node
from grail_core.protocol.seals import SealEnvelope
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.windows import require_window

MAX_GRADIENT_SEAL_BYTES: Final = 1024
MAX_DECLARED: Final = 1 << 28
"""H · b of the largest spec there can be."""
MAX_CLASS_BYTES: Final = 128


@dataclass(frozen=True)
class GradientSealHeader:
    """What a miner promises: for which round, how many sequences it trained on, and what computed the sketches.

    Raises ValueError, naming the field, when a value is malformed. That it is the right round and block, and that the count can
    be declared, is check 1.
    """

    version: int
    window: Window  # T of the round
    block_hash: bytes  # of block T
    hotkey: Hotkey
    declared: int  # H · b, sequences
    proof_class: str

    def __post_init__(self) -> None:
        if self.version != GRADIENT_VERSION:
            raise ValueError(f"version: {self.version} is unknown, this is version {GRADIENT_VERSION}")
        require_window(self.window)
        if len(self.block_hash) != 32 or len(self.hotkey) != 32:
            raise ValueError("block_hash, hotkey: 32 bytes are expected")
        if not 0 < self.declared <= MAX_DECLARED:
            raise ValueError(f"declared: {self.declared} sequences are outside 1 … {MAX_DECLARED}")
        require_class(self.proof_class)

    def may_declare(self, spec: GradientSpec) -> bool:
        """Is it H · b for a b that the spec allows?"""
        return self.declared in spec.declared_sizes()

    def to_json(self) -> dict[str, Json]:
        return {
            "version": self.version,
            "window": self.window,
            "block_hash": self.block_hash.hex(),
            "hotkey": self.hotkey.hex(),
            "declared": self.declared,
            "proof_class": self.proof_class,
        }

    @classmethod
    def from_json(cls, value: object) -> GradientSealHeader:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$header")
        m = node.members(*cls.__dataclass_fields__)
        return node.build(
            lambda: cls(
                version=m["version"].integer(),
                window=Window(m["window"].integer(0, MAX_JSON_INTEGER)),
                block_hash=m["block_hash"].raw(32),
                hotkey=Hotkey(m["hotkey"].raw(32)),
                declared=m["declared"].integer(1, MAX_DECLARED),
                proof_class=m["proof_class"].text(MAX_CLASS_BYTES),
            )
        )

    def canonical(self) -> bytes:
        return canonical_json(self.to_json())


@dataclass(frozen=True)
class GradientSeal(SealEnvelope[GradientSealHeader]):
    """Of an update file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_kind(GRADIENT)
        if self.size > MAX_JSON_INTEGER:
            raise ValueError(f"size: {self.size} bytes make no file")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`: at most 1 KiB, and exactly the canonical bytes. Errors: ValueError with the path."""
        return cls.read(raw, kind=GRADIENT, most=MAX_GRADIENT_SEAL_BYTES, header=GradientSealHeader.from_json)

    def digest(self) -> Digest:
        """SHA-256 of the object: which of a round's seals a verdict speaks of."""
        return Digest(hashlib.sha256(self.encode()).digest())


def equivocates(one: GradientSeal, other: GradientSeal, network_id: bytes) -> bool:
    """Did one hotkey sign two different promises of one round? Whoever holds both can show it to anybody.

    sr25519 draws at random: two signatures of one promise are no contradiction.
    """
    if (one.header.hotkey, one.header.window) != (other.header.hotkey, other.header.window):
        return False
    promises = [(seal.header, seal.content_digest, seal.size) for seal in (one, other)]
    return promises[0] != promises[1] and one.signed(network_id) and other.signed(network_id)


def require_class(name: str) -> None:
    """Errors: ValueError for what is no name of a numerics class."""
    if not name or len(name) > MAX_CLASS_BYTES or not name.isascii() or not name.isprintable() or '"' in name or "\\" in name:
        raise ValueError(f"proof_class: 1 … {MAX_CLASS_BYTES} plain characters are expected")
