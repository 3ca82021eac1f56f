"""The index of a built corpus: canonical JSON, whose SHA-256 is the corpus's digest.

It says everything that a reader must know before it touches a token, and the digest of every shard, so whoever knows the digest
of the index takes nobody's word for a byte. A shard holds whole sequences of raw tokens, one after the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from grail_core.corpus import CorpusSpec
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.reading import Json, Node, parse_json

VERSION: Final = 1
INDEX_FILE: Final = "index.json"
MAX_INDEX_BYTES: Final = 1 << 20
MAX_SHARD_BYTES: Final = 512 << 20
MAX_SHARDS: Final = 4096
DTYPES: Final[dict[str, np.dtype[Any]]] = {"u8": np.dtype("<u1"), "u16": np.dtype("<u2"), "u32": np.dtype("<u4")}

_MAX_NAME: Final = 64
_MAX_LENGTH: Final = 1 << 20
_MAX_SEQUENCES: Final = 1 << 48
_MAX_VOCABULARY: Final = 1 << 31  # token ids are handed out as int32


@dataclass(frozen=True)
class Shard:
    """A file named by its content; `size` in bytes."""

    size: int
    sha256: str


@dataclass(frozen=True)
class CorpusIndex:
    """Raises ValueError for an index of which no corpus could be read. `published`: its shards may be fetched from a bucket."""

    name: str
    tokenizer_digest: str  # 64 hex digits, as a manifest has it
    vocabulary: int
    dtype: str
    sequence_length: int
    sequences: int
    held_out: int
    published: bool
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")
        for name, value, most in (
            ("name", len(self.name), _MAX_NAME),
            ("vocabulary", self.vocabulary, min(_MAX_VOCABULARY, 256**self.item_bytes)),
            ("sequence_length", self.sequence_length - 1, _MAX_LENGTH - 1),
            ("sequences", self.sequences, _MAX_SEQUENCES),
        ):
            if not 0 < value <= most:
                raise ValueError(f"{name}: {getattr(self, name)!r} makes no corpus")
        for number, shard in enumerate(self.shards):
            if not 0 < shard.size <= MAX_SHARD_BYTES or shard.size % self.row_bytes:
                raise ValueError(f"shards[{number}]: {shard.size} bytes are not whole sequences of {self.row_bytes} bytes")
        total = (self.sequences + self.held_out) * self.row_bytes
        if sum(shard.size for shard in self.shards) != total:
            raise ValueError(f"shards: their sizes do not come to the {total} bytes of all sequences")

    @property
    def item_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def row_bytes(self) -> int:
        """Of one sequence."""
        return self.sequence_length * self.item_bytes

    @property
    def digest(self) -> str:
        """64 hex digits: the manifest's `data_digest`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def spec(self) -> CorpusSpec:
        return CorpusSpec(self.name, self.sequence_length, self.sequences, self.held_out, self.vocabulary, self.digest)

    def to_json(self) -> dict[str, Json]:
        return {
            "version": VERSION,
            "name": self.name,
            "tokenizer_digest": self.tokenizer_digest,
            "vocabulary": self.vocabulary,
            "dtype": self.dtype,
            "sequence_length": self.sequence_length,
            "sequences": self.sequences,
            "held_out": self.held_out,
            "published": self.published,
            "shards": [[shard.size, shard.sha256] for shard in self.shards],
        }

    def to_bytes(self) -> bytes:
        """What is hashed, and what lies in INDEX_FILE."""
        return canonical_json(self.to_json())

    @classmethod
    def from_bytes(cls, raw: bytes) -> CorpusIndex:
        """Read an index that a stranger may have written. Errors: ValueError with the path of what is wrong."""
        node = parse_json(raw, most=MAX_INDEX_BYTES, path="$index")
        names = "version name tokenizer_digest vocabulary dtype sequence_length sequences held_out published shards"
        m = node.members(*names.split())
        m["version"].integer(VERSION, VERSION)
        found = node.build(
            lambda: cls(
                name=m["name"].text(_MAX_NAME),
                tokenizer_digest=m["tokenizer_digest"].raw(32).hex(),
                vocabulary=m["vocabulary"].integer(),
                dtype=m["dtype"].text(8),
                sequence_length=m["sequence_length"].integer(),
                sequences=m["sequences"].integer(),
                held_out=m["held_out"].integer(0, 1 << 32),
                published=m["published"].flag(),
                shards=tuple(_shard(item) for item in m["shards"].items(MAX_SHARDS)),
            )
        )
        if found.to_bytes() != raw:
            node.refuse("not the canonical JSON of its own values")
        return found


def _shard(node: Node) -> Shard:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a pair of size and digest is expected")
    return Shard(pair[0].integer(1, MAX_SHARD_BYTES), pair[1].raw(32).hex())
