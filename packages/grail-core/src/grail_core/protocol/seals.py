"""Section 8: the seal, a miner's small promise that fixes a large file by the deadline.

The file is stored first and the seal last, both before D. Validators read every registered hotkey's seal at first sight and
nothing else; whose file they then open is drawn from the sealed headers, when nobody can take back or change what was sealed:
the digest says which bytes they are, whenever they arrive and wherever they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grail_core.protocol.constants import MAX_FILE_BYTES, MAX_ROW_BYTES, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.reading import Json, parse_json
from grail_core.protocol.rollouts.records import WindowHeader
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Signature

ROLLOUTS: Final = "rollouts"
"""The kind of work whose file is a window file."""
MAX_SEAL_BYTES: Final = 32 * 1024
_MAX_KIND = 32


@dataclass(frozen=True)
class Seal:
    """What a hotkey promises of one window. `content_digest` is the SHA-256 of the file, `size` its bytes.

    Raises ValueError, naming the member, for what no honest miner writes.
    """

    kind: str
    header: WindowHeader
    content_digest: Digest
    size: int
    signature: Signature  # of header.hotkey over `message`

    def __post_init__(self) -> None:
        if self.kind != ROLLOUTS:
            raise ValueError(f"kind: {self.kind!r} is no kind of work of this version; there is {ROLLOUTS!r}")
        if len(self.content_digest) != 32 or len(self.signature) != 64:
            raise ValueError("content_digest, signature: 32 and 64 bytes are expected")
        most = min(MAX_FILE_BYTES, MAX_ROW_BYTES * ROLLOUTS_PER_PROBLEM * self.header.groups)
        if not 0 < self.size <= most:
            raise ValueError(f"size: {self.size} bytes, a file of {self.header.groups} groups has 1 … {most}")

    @staticmethod
    def message(network_id: bytes, kind: str, header: WindowHeader, content_digest: bytes, size: int) -> Digest:
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
    def decode(cls, raw: bytes) -> Seal:
        """Inverse of `encode`: at most MAX_SEAL_BYTES, and exactly the canonical ones. Errors: ValueError with the path."""
        node = parse_json(raw, most=MAX_SEAL_BYTES, path="$seal")
        m = node.members(*cls.__dataclass_fields__)
        header = WindowHeader.from_json(m["header"])
        seal = node.build(
            lambda: cls(
                kind=m["kind"].text(_MAX_KIND),
                header=header,
                content_digest=Digest(m["content_digest"].raw(32)),
                size=m["size"].integer(),
                signature=Signature(m["signature"].raw(64)),
            )
        )
        if seal.encode() != raw:
            raise ValueError("$seal: not in canonical form (RFC 8785)")
        return seal
