"""Gradient work, section 13: a round's body with the validator that stands by it.

The envelope is that of rollouts (`protocol.signed_verdicts`) under another tag, so that no signature fits both. What a
validator without history took over from another stands here, as it does there: bodies of honest validators stay equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.signatures import verify
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES, Adopted
from grail_core.protocol.types import Digest, Hotkey, Signature


@dataclass(frozen=True)
class SignedGradientVerdict:
    """A body, the validator that stands by it, the evidence it published with it (SHA-256 of the file), and what it adopted."""

    body: GradientVerdictBody
    validator: Hotkey
    signature: Signature
    evidence_digest: Digest | None = None  # None where nothing was measured
    adopted: Adopted | None = None  # rounds, named by their first blocks

    @staticmethod
    def message(
        body: GradientVerdictBody, validator: Hotkey, evidence_digest: Digest | None = None, adopted: Adopted | None = None
    ) -> Digest:
        """`H("grail/gradient/verdict", body digest, validator, evidence digest, adopted)`; what is None is an empty part."""
        told = b"" if adopted is None else canonical_json(adopted.to_json())
        return tagged_hash(body.network_id, "grail/gradient/verdict", body.digest(), validator, evidence_digest or b"", told)

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
    def from_json(cls, value: object) -> SignedGradientVerdict:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$verdict")
        m = node.members("body", "validator", "signature", "evidence_digest", "adopted")
        return cls(
            body=GradientVerdictBody.from_json(m["body"]),
            validator=Hotkey(m["validator"].raw(32)),
            signature=Signature(m["signature"].raw(64)),
            evidence_digest=m["evidence_digest"].optional(lambda item: Digest(item.raw(32))),
            adopted=m["adopted"].optional(Adopted.from_json),
        )

    @classmethod
    def decode(cls, raw: bytes) -> SignedGradientVerdict:
        """Read `verdict.json`: at most MAX_VERDICT_BYTES, and exactly the canonical bytes. Errors: ValueError with the path."""
        verdict = cls.from_json(parse_json(raw, most=MAX_VERDICT_BYTES, path="$verdict"))
        if verdict.encode() != raw:
            raise ValueError("$verdict: not in canonical form (RFC 8785)")
        return verdict
