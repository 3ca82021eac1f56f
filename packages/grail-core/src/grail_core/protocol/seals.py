"""Section 8: the seal, a miner's small promise that fixes a large file by the deadline.

The file is stored first and the seal last, both before D. Validators read every registered hotkey's seal at first sight and
nothing else; whose file they then open is drawn from the sealed headers, when nobody can take back or change what was sealed:
the digest says which bytes they are, whenever they arrive and wherever they lie. Every kind of work has the same envelope,
signature and reader under the same key; its header is its own. `Seal` is that of rollouts, `gradient.seal.GradientSeal` that
of gradient work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, Self, TypeVar

from grail_core.protocol.constants import MAX_FILE_BYTES, MAX_ROW_BYTES, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.reading import Json, parse_json
from grail_core.protocol.rollouts.records import WindowHeader
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Hotkey, Signature

ROLLOUTS: Final = "rollouts"
"""The kind of work whose file is a window file."""
MAX_SEAL_BYTES: Final = 32 * 1024
_MAX_KIND = 32


class SealedHeader(Protocol):
    """The part of a file's header that its seal is read by."""

    @property
    def hotkey(self) -> Hotkey: ...

    def to_json(self) -> dict[str, Json]: ...

    def canonical(self) -> bytes: ...


H = TypeVar("H", bound=SealedHeader)


@dataclass(frozen=True)
class SealEnvelope(Generic[H]):
    """What a hotkey promises of one window. `content_digest` is the SHA-256 of the file, `size` its bytes.

    Raises ValueError, naming the member, for what no honest miner writes.
    """

    kind: str
    header: H
    content_digest: Digest
    size: int
    signature: Signature  # of header.hotkey over `message`

    def __post_init__(self) -> None:
        if len(self.content_digest) != 32 or len(self.signature) != 64:
            raise ValueError("content_digest, signature: 32 and 64 bytes are expected")
        if self.size <= 0:
            raise ValueError(f"size: {self.size} bytes make no file")

    def require_kind(self, kind: str) -> None:
        """Errors: ValueError where it is of another kind of work."""
        if self.kind != kind:
            raise ValueError(f"kind: {self.kind!r} is no kind of work that is sealed so; {kind!r} is")

    @staticmethod
    def message(network_id: bytes, kind: str, header: SealedHeader, content_digest: bytes, size: int) -> Digest:
        """`H("grail/seal", kind, header, content_digest, size)`: what the hotkey signs."""
        parts = (kind.encode(), header.canonical(), content_digest, size.to_bytes(8, "big"))
        return tagged_hash(network_id, "grail/seal", *parts)

    def signed(self, network_id: bytes) -> bool:
        """Did the header's hotkey sign this seal, on this network?"""
        message = self.message(network_id, self.kind, self.header, self.content_digest, self.size)
        return verify(self.header.hotkey, message, self.signature)

    def to_json(self) -> dict[str, Json]:
        return {
            "kind": self.kind,
            "header": self.header.to_json(),
            "content_digest": self.content_digest.hex(),
            "size": self.size,
            "signature": self.signature.hex(),
        }

    def encode(self) -> bytes:
        """The object's bytes: canonical JSON."""
        return canonical_json(self.to_json())

    @classmethod
    def read(cls, raw: bytes, *, kind: str, most: int, header: Callable[[object], H]) -> Self:
        """Inverse of `encode`: exactly the canonical bytes. Errors: ValueError with the path.

        Args:
            kind: of work. most: bytes of the object. header: reads the header of this kind.
        """
        node = parse_json(raw, most=most, path="$seal")
        m = node.members("kind", "header", "content_digest", "size", "signature")
        said = m["kind"].text(_MAX_KIND)
        if said != kind:
            m["kind"].refuse(f"{said!r} is no kind of work that is read here; {kind!r} is")
        read = header(m["header"])
        seal = node.build(
            lambda: cls(
                kind=kind,
                header=read,
                content_digest=Digest(m["content_digest"].raw(32)),
                size=m["size"].integer(),
                signature=Signature(m["signature"].raw(64)),
            )
        )
        if seal.encode() != raw:
            raise ValueError("$seal: not in canonical form (RFC 8785)")
        return seal


@dataclass(frozen=True)
class Seal(SealEnvelope[WindowHeader]):
    """Of a window file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_kind(ROLLOUTS)
        most = min(MAX_FILE_BYTES, MAX_ROW_BYTES * ROLLOUTS_PER_PROBLEM * self.header.groups)
        if not 0 < self.size <= most:
            raise ValueError(f"size: {self.size} bytes, a file of {self.header.groups} groups has 1 … {most}")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`: at most MAX_SEAL_BYTES, and exactly the canonical ones. Errors: ValueError with the path."""
        return cls.read(raw, kind=ROLLOUTS, most=MAX_SEAL_BYTES, header=WindowHeader.from_json)
