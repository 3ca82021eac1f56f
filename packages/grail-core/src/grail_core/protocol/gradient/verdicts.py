"""Gradient work, section 13: what a validator says about a round, as a value with exact bytes.

The body is what validators must agree on. It is a pure function of files, inputs, evidence and memory (`judging.judge_round`),
and it carries the memory that follows from it: `standings` of every registered hotkey. Who says it, on which evidence, stands
around it (`signed_verdicts`). The reader is strict: sizes are bounded, unknown versions and members refused, errors
name the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from grail_core.protocol.constants import PROTOCOL_VERSION, SCORE_WINDOWS
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict, rating_json, read_rating
from grail_core.protocol.gradient.own_test import MAX_Z, Reference
from grail_core.protocol.gradient.scores import MEMORY_ROUNDS, Standing
from grail_core.protocol.gradient.seal import MAX_DECLARED
from grail_core.protocol.gradient.spec import GRADIENT, GRADIENT_VERSION
from grail_core.protocol.reading import Json, Node
from grail_core.protocol.scores import WEIGHT_TOTAL
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdict_members import MAX_UID, by_uid, hex_or_none, read_digest, read_hotkey, read_weight
from grail_core.protocol.verdicts import MAX_MINERS, MAX_REASON, Versions, WindowInputs, WindowStatus
from grail_core.protocol.windows import require_window

MAX_MERGED = 64
MAX_KINDS = 4
_MAX_KIND = 32
_MAX_POWER_DIGITS = 30


@dataclass(frozen=True)
class MergeSeen:
    """Whose files the next manifest says it merged, as this validator saw it, and what of that it does not accept."""

    checkpoint_digest: Digest
    merged: tuple[tuple[int, Digest], ...]  # (UID, content digest), in order of UID
    ineligible: tuple[int, ...] = ()  # UIDs of files that are none here: absent, failed, or with other bytes

    def __post_init__(self) -> None:
        uids = [uid for uid, _ in self.merged]
        if len(self.checkpoint_digest) != 32 or any(len(digest) != 32 for _, digest in self.merged):
            raise ValueError("merge: digests of 32 bytes are expected")
        if any(a >= b for a, b in pairwise(uids)) or len(uids) > MAX_MERGED or any(not 0 <= uid <= MAX_UID for uid in uids):
            raise ValueError(f"merged: in order of UID, each once, at most {MAX_MERGED}")
        if list(self.ineligible) != sorted(set(self.ineligible) & set(uids)):
            raise ValueError("ineligible: of the merged UIDs, in order")

    def to_json(self) -> dict[str, Json]:
        return {
            "checkpoint_digest": self.checkpoint_digest.hex(),
            "merged": [[uid, digest.hex()] for uid, digest in self.merged],
            "ineligible": list(self.ineligible),
        }

    @classmethod
    def from_json(cls, value: object) -> MergeSeen:
        node = value if isinstance(value, Node) else Node(value, "$merge")
        m = node.members("checkpoint_digest", "merged", "ineligible")
        return node.build(
            lambda: cls(
                read_digest(m["checkpoint_digest"]),
                tuple(_merged(item) for item in m["merged"].items(MAX_MERGED)),
                tuple(item.integer(0, MAX_UID) for item in m["ineligible"].items(MAX_MERGED)),
            )
        )


@dataclass(frozen=True)
class KindShare:
    """How many of the last 12 windows had a kind of work, and the body its powers are of: None for this one's own."""

    kind: str
    windows: int
    body: Digest | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.kind) <= _MAX_KIND or not 0 <= self.windows <= SCORE_WINDOWS:
            raise ValueError(f"kinds: {self.windows} windows of {self.kind[:_MAX_KIND]!r}")

    def to_json(self) -> dict[str, Json]:
        return {"kind": self.kind, "windows": self.windows, "body": hex_or_none(self.body)}

    @classmethod
    def from_json(cls, node: Node) -> KindShare:
        m = node.members("kind", "windows", "body")
        return node.build(
            lambda: cls(m["kind"].text(_MAX_KIND), m["windows"].integer(0, SCORE_WINDOWS), m["body"].optional(read_digest))
        )


@dataclass(frozen=True)
class GradientVerdictBody:
    """Everything validators agree on about one round; equal bodies have equal bytes.

    `miners` is in order of UID; `standings`, `powers` and `weights` are by UID, of the hotkeys registered at block T, who stand
    in `hotkeys`. Powers are F. Raises ValueError, naming the member, for what cannot be.
    """

    network_id: Digest
    window: Window  # T of the round
    status: WindowStatus
    versions: Versions
    reason: str = ""
    inputs: WindowInputs = field(default_factory=WindowInputs)
    miners: tuple[GradientMinerVerdict, ...] = ()
    hotkeys: Mapping[int, Hotkey] = field(default_factory=dict)
    standings: Mapping[int, Standing] = field(default_factory=dict)
    powers: Mapping[int, int] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)
    kinds: tuple[KindShare, ...] = ()
    merge: MergeSeen | None = None
    own_reference: Reference | None = None
    kind: str = GRADIENT
    gradient_version: int = GRADIENT_VERSION
    protocol_version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if (self.protocol_version, self.gradient_version) != (PROTOCOL_VERSION, GRADIENT_VERSION):
            raise ValueError(
                f"protocol_version: {self.protocol_version} and gradient work {self.gradient_version} are unknown, this is "
                f"version {PROTOCOL_VERSION} and {GRADIENT_VERSION}"
            )
        if self.kind != GRADIENT:
            raise ValueError(f"kind: {self.kind[:_MAX_KIND]!r} is another kind of work")
        if len(self.network_id) != 32:
            raise ValueError("network_id: 32 bytes are expected")
        require_window(self.window)
        if len(self.reason) > MAX_REASON:
            raise ValueError(f"reason: at most {MAX_REASON} characters are allowed")
        uids = [miner.uid for miner in self.miners]
        if any(a >= b for a, b in pairwise(uids)) or len(uids) > MAX_MINERS:
            raise ValueError(f"miners: in order of UID, each once, at most {MAX_MINERS}")
        if len({miner.hotkey for miner in self.miners}) != len(self.miners):
            raise ValueError("miners: a hotkey stands twice")
        if self.hotkeys.keys() != self.standings.keys() or self.hotkeys.keys() != self.powers.keys():
            raise ValueError("hotkeys: one for each UID with a standing and a power")
        if len(set(self.hotkeys.values())) != len(self.hotkeys) or len(self.hotkeys) > MAX_MINERS:
            raise ValueError(f"hotkeys: none twice, at most {MAX_MINERS}")
        if any(self.hotkeys.get(miner.uid) != miner.hotkey for miner in self.miners):
            raise ValueError("hotkeys: a miner stands at another hotkey's UID")
        if any(not 0 <= uid <= MAX_UID for uid in (*self.weights, *self.hotkeys)):
            raise ValueError(f"weights: a UID is outside 0 … {MAX_UID}")
        if self.weights and sum(self.weights.values()) != WEIGHT_TOTAL:
            raise ValueError(f"weights: they sum to {sum(self.weights.values())}, not {WEIGHT_TOTAL}")
        if any(not 0 <= value <= WEIGHT_TOTAL for value in self.weights.values()):
            raise ValueError("weights: a value is no u16")
        if any(not 0 <= power < 10**_MAX_POWER_DIGITS for power in self.powers.values()):
            raise ValueError("powers: one is beyond all that can be earned")
        if len({one.kind for one in self.kinds}) != len(self.kinds) or sum(k.windows for k in self.kinds) > SCORE_WINDOWS:
            raise ValueError(f"kinds: each once, of {SCORE_WINDOWS} windows")

    def miner(self, hotkey: bytes) -> GradientMinerVerdict | None:
        return next((miner for miner in self.miners if miner.hotkey == hotkey), None)

    def to_json(self) -> dict[str, Json]:
        """Canonical-JSON value. Mappings by UID are arrays in UID order; powers are decimal text, since they pass 2⁵³."""
        own = self.own_reference
        return {
            "protocol_version": self.protocol_version,
            "gradient_version": self.gradient_version,
            "kind": self.kind,
            "network_id": self.network_id.hex(),
            "window": self.window,
            "status": self.status.value,
            "reason": self.reason,
            "versions": self.versions.to_json(),
            "inputs": self.inputs.to_json(),
            "miners": [miner.to_json() for miner in self.miners],
            "hotkeys": [[uid, hotkey.hex()] for uid, hotkey in sorted(self.hotkeys.items())],
            "standings": [_standing_json(uid, one) for uid, one in sorted(self.standings.items())],
            "powers": [[uid, str(power)] for uid, power in sorted(self.powers.items())],
            "weights": [[uid, weight] for uid, weight in sorted(self.weights.items())],
            "kinds": [one.to_json() for one in self.kinds],
            "merge": None if self.merge is None else self.merge.to_json(),
            "own_reference": None if own is None else {"z": own.z, "spread": own.spread, "hotkeys": own.hotkeys},
        }

    @classmethod
    def from_json(cls, value: object) -> GradientVerdictBody:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$body")
        m = node.members(*cls.__dataclass_fields__)
        versions = m["protocol_version"].integer(), m["gradient_version"].integer()
        if versions != (PROTOCOL_VERSION, GRADIENT_VERSION):
            m["protocol_version"].refuse(f"version {versions[0]} with gradient work {versions[1]} is unknown")
        return node.build(
            lambda: cls(
                network_id=Digest(m["network_id"].raw(32)),
                window=Window(m["window"].integer()),
                status=m["status"].choice(WindowStatus),
                versions=Versions.from_json(m["versions"]),
                reason=m["reason"].text(MAX_REASON),
                inputs=WindowInputs.from_json(m["inputs"]),
                miners=tuple(GradientMinerVerdict.from_json(item) for item in m["miners"].items(MAX_MINERS)),
                hotkeys=by_uid(m["hotkeys"], [read_hotkey(item) for item in m["hotkeys"].items(MAX_MINERS)]),
                standings=by_uid(m["standings"], [_standing(item) for item in m["standings"].items(MAX_MINERS)]),
                powers=by_uid(m["powers"], [_power(item) for item in m["powers"].items(MAX_MINERS)]),
                weights=by_uid(m["weights"], [read_weight(item) for item in m["weights"].items(MAX_UID + 1)]),
                kinds=tuple(KindShare.from_json(item) for item in m["kinds"].items(MAX_KINDS)),
                merge=m["merge"].optional(MergeSeen.from_json),
                own_reference=m["own_reference"].optional(_reference),
                kind=m["kind"].text(_MAX_KIND),
            )
        )

    def canonical(self) -> bytes:
        """RFC 8785 bytes: equal for equal bodies, on any machine."""
        return canonical_json(self.to_json())

    def digest(self) -> Digest:
        """`H("grail/gradient/verdict/body", body)` of the body's own network."""
        return self._digest

    @cached_property
    def _digest(self) -> Digest:
        return tagged_hash(self.network_id, "grail/gradient/verdict/body", self.canonical())


def _standing_json(uid: int, one: Standing) -> dict[str, Json]:
    return {
        "uid": uid,
        "rating": rating_json(one.rating),
        "work": one.work,
        "audited": one.audited,
        "valid": one.valid,
        "unpaid_until": one.unpaid_until,
        "feedback": hex_or_none(one.feedback),
        "checked": one.checked,
    }


def _standing(node: Node) -> tuple[int, Standing]:
    m = node.members("uid", "rating", "work", "audited", "valid", "unpaid_until", "feedback", "checked")
    return m["uid"].integer(0, MAX_UID), node.build(
        lambda: Standing(
            rating=read_rating(m["rating"]),
            work=m["work"].integer(0, SCORE_WINDOWS * MAX_DECLARED),
            audited=m["audited"].integer(0, MEMORY_ROUNDS * MAX_DECLARED),
            valid=m["valid"].integer(0, MEMORY_ROUNDS * MAX_DECLARED),
            unpaid_until=Window(m["unpaid_until"].integer()),
            feedback=m["feedback"].optional(read_digest),
            checked=m["checked"].flag(),
        )
    )


def _power(node: Node) -> tuple[int, int]:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a power is [uid, decimal text]")
    text = pair[1].text(_MAX_POWER_DIGITS)
    if not (text.isascii() and text.isdecimal() and text == str(int(text))):
        pair[1].refuse("decimal digits without leading zeros are expected")
    return pair[0].integer(0, MAX_UID), int(text)


def _merged(node: Node) -> tuple[int, Digest]:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a merged file is [uid, content digest]")
    return pair[0].integer(0, MAX_UID), read_digest(pair[1])


def _reference(node: Node) -> Reference:
    m = node.members("z", "spread", "hotkeys")
    return Reference(m["z"].integer(-MAX_Z, MAX_Z), m["spread"].integer(0, 3 * MAX_Z), m["hotkeys"].integer(0, MAX_MINERS))
