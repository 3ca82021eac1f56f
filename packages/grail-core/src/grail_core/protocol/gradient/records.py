"""Gradient work, section 7: the signed header of an update file, which binds its body and every root of section 8.

The header checks itself when made or read: what exists is well formed. That its counts follow from the spec (`misfit`) and are
those of the seal (`disagreement`) are rules of check 2, and whether what it commits to is true is decided by checks 3 to 7.
Container and body are `grail_core.gradient.update_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.gradient.seal import MAX_CLASS_BYTES, MAX_DECLARED, GradientSealHeader, require_class
from grail_core.protocol.gradient.spec import GRADIENT_VERSION, MOST_COMMITTED_STEPS, GradientSpec
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node, parse_json
from grail_core.protocol.rollouts.records import MAX_NAME_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdict_members import MAX_UID
from grail_core.protocol.windows import require_window

MAX_UPDATE_HEADER_BYTES: Final = 16 * 1024
MAX_SOFTWARE_ENTRIES: Final = 8
ZERO_ROOT: Final = Digest(bytes(32))
"""The root of a vector of zeros: as `feedback_before`, a new start."""

_ROOTS = ("checkpoint_digest", "env_digest", "body_digest", "delta_root", "theta_end_root", "feedback_before", "feedback_after")


@dataclass(frozen=True)
class UpdateHeader:
    """What a miner signs: which work this file is, and the roots of all that it says it computed.

    `moment_end_roots` are of m_H and v_H; None, like no `step_roots`, for an optimiser without moments. Raises ValueError,
    naming the field, when a value is malformed.
    """

    protocol_version: int
    gradient_version: int
    window: Window  # T of the round
    block_hash: bytes  # of block T
    beacon_round: int  # 0 where the beacon policy is `off`
    beacon_signature: bytes | None  # 48 bytes; None where the beacon policy is `off`
    hotkey: Hotkey
    uid: int
    checkpoint_digest: Digest
    env_digest: Digest
    batch: int  # b, sequences of each step
    declared: int  # H · b
    body_digest: Digest
    delta_root: Digest
    theta_end_root: Digest
    moment_end_roots: tuple[Digest, Digest] | None
    step_roots: tuple[Digest, ...]
    feedback_before: Digest
    feedback_after: Digest
    proof_class: str
    software: Mapping[str, str] = field(default_factory=dict)  # versions by package name; information only

    def __post_init__(self) -> None:
        if self.protocol_version != PROTOCOL_VERSION:
            raise ValueError(f"protocol_version: {self.protocol_version} is unknown, this is version {PROTOCOL_VERSION}")
        if self.gradient_version != GRADIENT_VERSION:
            raise ValueError(f"gradient_version: {self.gradient_version} is unknown, this is version {GRADIENT_VERSION}")
        require_window(self.window)
        for name in ("block_hash", "hotkey", *_ROOTS):
            if len(getattr(self, name)) != 32:
                raise ValueError(f"{name}: 32 bytes are expected")
        if (self.beacon_round == 0) != (self.beacon_signature is None) or not 0 <= self.beacon_round <= MAX_JSON_INTEGER:
            raise ValueError("beacon_round: a round above 0 comes with its signature, and none without")
        if self.beacon_signature is not None and len(self.beacon_signature) != 48:
            raise ValueError("beacon_signature: 48 bytes are expected")
        if not 0 <= self.uid <= MAX_UID:
            raise ValueError(f"uid: {self.uid} is outside 0 … {MAX_UID}")
        if not 0 < self.declared <= MAX_DECLARED or self.batch < 1 or self.declared % self.batch:
            raise ValueError(f"declared: {self.declared} sequences are no steps of {self.batch}")
        if self.moment_end_roots is not None and [len(root) for root in self.moment_end_roots] != [32, 32]:
            raise ValueError("moment_end_roots: two of 32 bytes are expected")
        if len(self.step_roots) > MOST_COMMITTED_STEPS or any(len(root) != 32 for root in self.step_roots):
            raise ValueError(f"step_roots: at most {MOST_COMMITTED_STEPS} of 32 bytes are expected")
        if (self.moment_end_roots is None) != (not self.step_roots):
            raise ValueError("step_roots: they come with the roots of the moments, and none without")
        require_class(self.proof_class)
        if len(self.software) > MAX_SOFTWARE_ENTRIES or any(
            not text.isascii() or len(text) > MAX_NAME_LENGTH for entry in self.software.items() for text in entry
        ):
            raise ValueError(f"software: at most {MAX_SOFTWARE_ENTRIES} entries of {MAX_NAME_LENGTH} characters are allowed")

    def seal_header(self) -> GradientSealHeader:
        """The header of the seal that promises this file."""
        return GradientSealHeader(
            self.gradient_version, self.window, self.block_hash, self.hotkey, self.declared, self.proof_class
        )

    def to_json(self) -> dict[str, Json]:
        """Canonical-JSON value: bytes as lower-case hex."""
        moments = self.moment_end_roots
        return {
            "protocol_version": self.protocol_version,
            "gradient_version": self.gradient_version,
            "window": self.window,
            "block_hash": self.block_hash.hex(),
            "beacon_round": self.beacon_round,
            "beacon_signature": None if self.beacon_signature is None else self.beacon_signature.hex(),
            "hotkey": self.hotkey.hex(),
            "uid": self.uid,
            **{name: getattr(self, name).hex() for name in _ROOTS},
            "batch": self.batch,
            "declared": self.declared,
            "moment_end_roots": None if moments is None else [root.hex() for root in moments],
            "step_roots": [root.hex() for root in self.step_roots],
            "proof_class": self.proof_class,
            "software": dict(self.software),
        }

    @classmethod
    def from_json(cls, value: object) -> UpdateHeader:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$update.header")
        m = node.members(*cls.__dataclass_fields__)
        software = {key: item.text(MAX_NAME_LENGTH) for key, item in m["software"].entries(MAX_SOFTWARE_ENTRIES).items()}
        return node.build(
            lambda: cls(
                protocol_version=m["protocol_version"].integer(),
                gradient_version=m["gradient_version"].integer(),
                window=Window(m["window"].integer()),
                block_hash=m["block_hash"].raw(32),
                beacon_round=m["beacon_round"].integer(),
                beacon_signature=m["beacon_signature"].optional(lambda item: item.raw(48)),
                hotkey=Hotkey(m["hotkey"].raw(32)),
                uid=m["uid"].integer(0, MAX_UID),
                batch=m["batch"].integer(1, MAX_DECLARED),
                declared=m["declared"].integer(1, MAX_DECLARED),
                moment_end_roots=m["moment_end_roots"].optional(_pair),
                step_roots=tuple(Digest(item.raw(32)) for item in m["step_roots"].items(MOST_COMMITTED_STEPS)),
                proof_class=m["proof_class"].text(MAX_CLASS_BYTES),
                software=software,
                **{name: Digest(m[name].raw(32)) for name in _ROOTS},
            )
        )

    def canonical(self) -> bytes:
        """The bytes that stand in the file and are hashed."""
        return canonical_json(self.to_json())

    @classmethod
    def from_canonical(cls, raw: bytes) -> UpdateHeader:
        """Read header bytes from a file: at most 16 KiB, and exactly the canonical ones. Errors: ValueError with the path."""
        header = cls.from_json(parse_json(raw, most=MAX_UPDATE_HEADER_BYTES, path="$update.header"))
        if header.canonical() != raw:
            raise ValueError("$update.header: not in canonical form (RFC 8785)")
        return header


def update_header_digest(network_id: bytes, header: bytes) -> Digest:
    """`H("grail/gradient/header", header)` over the canonical bytes: what the miner's hotkey signs."""
    return tagged_hash(network_id, "grail/gradient/header", header)


def misfit(header: UpdateHeader, spec: GradientSpec) -> str | None:
    """What of a header's counts does not follow from the spec, `member: why`; None if all does."""
    if not spec.batch_least <= header.batch <= spec.batch_most:
        return f"batch: {header.batch} sequences a step, {spec.batch_least} … {spec.batch_most} are allowed"
    if header.declared != spec.inner_steps * header.batch:
        return f"declared: {header.declared} sequences, {spec.inner_steps} steps of {header.batch} have other ones"
    steps = spec.committed_steps
    if (header.moment_end_roots is not None) != (steps > 0):
        return f"moment_end_roots: {'missing' if steps else 'there'}, with {spec.optimiser}"
    if len(header.step_roots) != steps:
        return f"step_roots: {len(header.step_roots)}, {steps} are committed to ({spec.commit})"
    return None


def disagreement(header: UpdateHeader, seal: GradientSealHeader) -> str | None:
    """The member in which a file's header is not what its seal promised; None if there is none."""
    promised = header.seal_header()
    return next((name for name in seal.__dataclass_fields__ if getattr(seal, name) != getattr(promised, name)), None)


def _pair(node: Node) -> tuple[Digest, Digest]:
    roots = [Digest(item.raw(32)) for item in node.items(2)]
    if len(roots) != 2:
        node.refuse("the roots of both moments are expected")
    return roots[0], roots[1]
