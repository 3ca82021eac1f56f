"""Section 11: a verdict's body with the validator that stands by it, as `verdict.json` holds it.

What differs between honest validators stands here and not in the body (`verdicts.VerdictBody`): who says it, on which evidence,
and whose memory it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.verdicts import VerdictBody
from grail_core.protocol.windows import require_window

MAX_VERDICT_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Adopted:
    """Windows that a validator did not score itself and remembers from another's verdicts, both ends included.

    A validator without memory would take everybody for a newcomer; it says whom it followed, since its draws and scores
    rest on it until the windows are out of memory.
    """

    validator: Hotkey
    first: Window
    last: Window

    def __post_init__(self) -> None:
        if len(self.validator) != 32 or require_window(self.first) > require_window(self.last):
            raise ValueError(f"adopted: windows {self.first} … {self.last} of a validator of {len(self.validator)} bytes")

    def to_json(self) -> dict[str, Json]:
        return {"validator": self.validator.hex(), "first": self.first, "last": self.last}

    @classmethod
    def from_json(cls, value: object) -> Adopted:
        node = value if isinstance(value, Node) else Node(value, "$adopted")
        m = node.members("validator", "first", "last")
        return node.build(
            lambda: cls(Hotkey(m["validator"].raw(32)), Window(m["first"].integer()), Window(m["last"].integer()))
        )


@dataclass(frozen=True)
class SignedVerdict:
    """A body, the validator that stands by it, the evidence it published with it (SHA-256 of the file), and what it adopted.

    What differs between honest validators stands here and not in the body.
    """

    body: VerdictBody
    validator: Hotkey
    signature: Signature
    evidence_digest: Digest | None = None  # None where nothing was measured
    adopted: Adopted | None = None

    @staticmethod
    def message(
        body: VerdictBody, validator: Hotkey, evidence_digest: Digest | None = None, adopted: Adopted | None = None
    ) -> Digest:
        """What the validator signs: `H("grail/verdict", body digest, validator, evidence digest, adopted)`; what is None is an
        empty part, else `adopted` is its canonical JSON."""
        told = b"" if adopted is None else canonical_json(adopted.to_json())
        return tagged_hash(body.network_id, "grail/verdict", body.digest(), validator, evidence_digest or b"", told)

    def verify(self, network_id: bytes) -> bool:
        """True iff the body is of this network and the signature is the validator's. Whose stake counts is not said here."""
        message = self.message(self.body, self.validator, self.evidence_digest, self.adopted)
        return self.body.network_id == network_id and verify(self.validator, message, self.signature)

    def to_json(self) -> dict[str, Json]:
        return {
            "body": self.body.to_json(),
            "validator": self.validator.hex(),
            "signature": self.signature.hex(),
            "evidence_digest": None if self.evidence_digest is None else self.evidence_digest.hex(),
            "adopted": None if self.adopted is None else self.adopted.to_json(),
        }

    def encode(self) -> bytes:
        """The bytes of `verdict.json`."""
        return canonical_json(self.to_json())

    @classmethod
    def from_json(cls, value: object) -> SignedVerdict:
        node = value if isinstance(value, Node) else Node(value, "$verdict")
        m = node.members(*cls.__dataclass_fields__)
        return cls(
            body=VerdictBody.from_json(m["body"]),
            validator=Hotkey(m["validator"].raw(32)),
            signature=Signature(m["signature"].raw(64)),
            evidence_digest=m["evidence_digest"].optional(lambda item: Digest(item.raw(32))),
            adopted=m["adopted"].optional(Adopted.from_json),
        )

    @classmethod
    def decode(cls, raw: bytes) -> SignedVerdict:
        """Read `verdict.json`: at most MAX_VERDICT_BYTES. Errors: ValueError with the path of what is wrong."""
        return cls.from_json(parse_json(raw, most=MAX_VERDICT_BYTES, path="$verdict"))
