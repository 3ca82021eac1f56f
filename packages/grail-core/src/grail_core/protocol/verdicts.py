"""Section 11: what a validator says about a window, as a value with exact bytes.

The body is what validators must agree on: inputs, selected miners, findings, counts, scores, weights, versions. It is a pure
function of window files, chain and beacon inputs and evidence, and its canonical JSON is compared byte for byte. Who said it,
on which evidence, stands around it (`signed_verdicts`). Readers are strict: an unknown version or member is refused, sizes are
bounded, and the `ValueError` names the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from grail_core.protocol.constants import MAX_FILE_ROWS, MAX_ROLLOUTS_CHECKED, PROTOCOL_VERSION, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.findings import Finding, Outcome, decimal
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node
from grail_core.protocol.rollouts.sample import RESERVE_ROLLOUTS
from grail_core.protocol.scores import PRODUCT_BYTES, WEIGHT_TOTAL, MinerWindow, ScoreInputs
from grail_core.protocol.selection import LEAST_PROBABILITY
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdict_members import (
    MAX_UID,
    by_uid,
    hex_or_none,
    read_digest,
    read_fraction,
    read_hotkey,
    read_weight,
)
from grail_core.protocol.windows import require_window

MAX_MINERS = 4096
MAX_FINDINGS = 1024
MAX_SAMPLED_ROWS = MAX_ROLLOUTS_CHECKED + RESERVE_ROLLOUTS
MAX_REASON = 512
MAX_VERSION_TEXT = 128


class WindowStatus(Enum):
    """What became of a window."""

    SCORED = "scored"
    VOID = "void"  # a round or a final block could not be had in time: void for everyone
    INCONCLUSIVE = "inconclusive"  # this validator was down at first sight, or lost what it needed: nobody pays for it
    MISSED = "missed"  # was not there at all. For readers of other validators: ours calls it inconclusive


class MinerStatus(Enum):
    """What became of a miner in a window."""

    ABSENT = "absent"  # no seal at first sight, or one that was refused
    NOT_SELECTED = "not_selected"  # sealed, and its coin did not fall
    ACCEPTED = "accepted"
    FAILED = "failed"  # drawn, and a finding rejects, or the file that was sealed cannot be had
    INCONCLUSIVE = "inconclusive"  # drawn, and a fault of the validator


@dataclass(frozen=True)
class MinerVerdict:
    """What happened to one miner in one window."""

    hotkey: Hotkey
    uid: int
    status: MinerStatus
    reason: str = ""  # one line for a person; "" where the status says it all
    content_digest: Digest | None = None  # SHA-256 of the file, as sealed; None without a seal that was taken
    store_time_ms: int | None = None  # the store's time of the seal's write, Unix milliseconds
    active: bool = False  # sealed, and nothing speaks against it
    declared: int = 0
    gaps: int = 0
    checked: bool = False  # drawn, and the checks came to a conclusion, or it counts as unsupported (section 9)
    unique_valid: int = 0
    check_probability: Fraction | None = None  # None where no coin was tossed
    coin: int | None = None  # 0 … 2⁶⁴ − 1
    sampled: tuple[tuple[int, int], ...] = ()  # rows (group, r) judged, replacements included
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hotkey) != 32 or not 0 <= self.uid <= MAX_UID:
            raise ValueError(f"hotkey: {len(self.hotkey)} bytes, uid {self.uid}")
        if self.content_digest is not None and len(self.content_digest) != 32:
            raise ValueError("content_digest: 32 bytes are expected")
        if not 0 <= self.declared <= MAX_FILE_ROWS or not 0 <= self.unique_valid <= MAX_FILE_ROWS or self.gaps < 0:
            raise ValueError(f"declared: {self.declared}, unique_valid: {self.unique_valid}, gaps: {self.gaps}")
        if (self.check_probability is None) != (self.coin is None):
            raise ValueError("coin: a coin comes with its probability")
        if self.coin is not None and not 0 <= self.coin < 2**64:
            raise ValueError(f"coin: {self.coin} is no 64-bit word")
        if self.check_probability is not None and not LEAST_PROBABILITY <= self.check_probability <= 1:
            raise ValueError(f"check_probability: {self.check_probability} is outside {LEAST_PROBABILITY} … 1")
        if len(self.reason) > MAX_REASON:
            raise ValueError(f"reason: at most {MAX_REASON} characters are allowed")
        if len(self.findings) > MAX_FINDINGS or len(self.sampled) > MAX_SAMPLED_ROWS:
            raise ValueError(f"findings: {len(self.findings)}, sampled: {len(self.sampled)} are too many")
        if any(finding.outcome is Outcome.UNPROVEN for finding in self.findings):
            raise ValueError("findings: verdicts say accept, reject or inconclusive")
        if self.status is MinerStatus.FAILED and self.unique_valid:
            raise ValueError(f"unique_valid: {self.unique_valid} in a failed window")
        if self.status is MinerStatus.ABSENT and (self.active or self.checked):
            raise ValueError("active: an absent miner's window is neither active nor checked")
        if self.status is MinerStatus.INCONCLUSIVE and (self.active or self.unique_valid):
            raise ValueError("active: an inconclusive window is not active, and has no valid rollout")
        if self.status is MinerStatus.NOT_SELECTED and self.checked:
            raise ValueError("checked: a miner whose coin did not fall was not checked")
        if self.status not in (MinerStatus.ABSENT, MinerStatus.NOT_SELECTED) and self.coin is None:
            raise ValueError(f"coin: a miner that is {self.status.value} was drawn by its coin")

    def miner_window(self, window: Window) -> MinerWindow:
        """What this window counts in the miner's score."""
        return MinerWindow(
            window=window,
            declared=self.declared,
            active=self.active,
            checked=self.checked,
            unique_valid=self.unique_valid,
            failed=self.status is MinerStatus.FAILED,
            probability=self.check_probability,
            inconclusive=self.status is MinerStatus.INCONCLUSIVE,
        )

    def to_json(self) -> dict[str, Json]:
        chance = self.check_probability
        return {
            "hotkey": self.hotkey.hex(),
            "uid": self.uid,
            "status": self.status.value,
            "reason": self.reason,
            "content_digest": None if self.content_digest is None else self.content_digest.hex(),
            "store_time_ms": self.store_time_ms,
            "active": self.active,
            "declared": self.declared,
            "gaps": self.gaps,
            "checked": self.checked,
            "unique_valid": self.unique_valid,
            "check_probability": None if chance is None else [chance.numerator, chance.denominator],
            "coin": None if self.coin is None else f"{self.coin:016x}",
            "sampled": [[group, r] for group, r in self.sampled],
            "findings": [finding.to_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, value: object) -> MinerVerdict:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$miner")
        m = node.members(*cls.__dataclass_fields__)
        return node.build(
            lambda: cls(
                hotkey=Hotkey(m["hotkey"].raw(32)),
                uid=m["uid"].integer(0, MAX_UID),
                status=m["status"].choice(MinerStatus),
                reason=m["reason"].text(MAX_REASON),
                content_digest=m["content_digest"].optional(read_digest),
                store_time_ms=m["store_time_ms"].optional(Node.integer),
                active=m["active"].flag(),
                declared=m["declared"].integer(0, MAX_FILE_ROWS),
                gaps=m["gaps"].integer(),
                checked=m["checked"].flag(),
                unique_valid=m["unique_valid"].integer(0, MAX_FILE_ROWS),
                check_probability=m["check_probability"].optional(read_fraction),
                coin=m["coin"].optional(lambda item: int.from_bytes(item.raw(8), "big")),
                sampled=tuple(_row(item) for item in m["sampled"].items(MAX_SAMPLED_ROWS)),
                findings=tuple(Finding.from_json(item) for item in m["findings"].items(MAX_FINDINGS)),
            )
        )


@dataclass(frozen=True)
class WindowInputs:
    """The public values the window was derived from; None what could not be had (or, of a beacon, is off)."""

    block_hash: bytes | None = None  # of block T
    select_block_hash: bytes | None = None  # of the last block of first sight
    seed_round: int | None = None
    challenge_round: int | None = None
    checkpoint_digest: Digest | None = None
    env_digest: Digest | None = None

    def __post_init__(self) -> None:
        for name in ("block_hash", "select_block_hash", "checkpoint_digest", "env_digest"):
            value = getattr(self, name)
            if value is not None and len(value) != 32:
                raise ValueError(f"{name}: 32 bytes are expected")
        for name in ("seed_round", "challenge_round"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_JSON_INTEGER:
                raise ValueError(f"{name}: {value}")

    def to_json(self) -> dict[str, Json]:
        return {
            "block_hash": hex_or_none(self.block_hash),
            "select_block_hash": hex_or_none(self.select_block_hash),
            "seed_round": self.seed_round,
            "challenge_round": self.challenge_round,
            "checkpoint_digest": hex_or_none(self.checkpoint_digest),
            "env_digest": hex_or_none(self.env_digest),
        }

    @classmethod
    def from_json(cls, value: object) -> WindowInputs:
        node = value if isinstance(value, Node) else Node(value, "$inputs")
        m = node.members(*cls.__dataclass_fields__)
        return node.build(
            lambda: cls(
                block_hash=m["block_hash"].optional(read_digest),
                select_block_hash=m["select_block_hash"].optional(read_digest),
                seed_round=m["seed_round"].optional(Node.integer),
                challenge_round=m["challenge_round"].optional(Node.integer),
                checkpoint_digest=m["checkpoint_digest"].optional(read_digest),
                env_digest=m["env_digest"].optional(read_digest),
            )
        )


@dataclass(frozen=True)
class Versions:
    """What judged: the code, the calibration table and the environment, each as its own version text."""

    code: str
    calibration: str
    environment: str

    def __post_init__(self) -> None:
        for name, text in self.to_json().items():
            if not isinstance(text, str) or len(text) > MAX_VERSION_TEXT:
                raise ValueError(f"{name}: text of at most {MAX_VERSION_TEXT} characters is expected")

    def to_json(self) -> dict[str, Json]:
        return {"code": self.code, "calibration": self.calibration, "environment": self.environment}

    @classmethod
    def from_json(cls, value: object) -> Versions:
        node = value if isinstance(value, Node) else Node(value, "$versions")
        m = node.members("code", "calibration", "environment")
        return cls(*(m[name].text(MAX_VERSION_TEXT) for name in ("code", "calibration", "environment")))


@dataclass(frozen=True)
class VerdictBody:
    """Everything validators agree on about one window; equal bodies have equal bytes.

    `miners` is in order of UID; `score_inputs` and `weights` are by UID, of the hotkeys registered at block T, who stand in
    `hotkeys`: a weight belongs to a hotkey (`scores.weights_now`).
    """

    network_id: Digest
    window: Window
    status: WindowStatus
    versions: Versions
    reason: str = ""
    inputs: WindowInputs = field(default_factory=WindowInputs)
    miners: tuple[MinerVerdict, ...] = ()
    hotkeys: Mapping[int, Hotkey] = field(default_factory=dict)
    score_inputs: Mapping[int, ScoreInputs] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)
    protocol_version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if self.protocol_version != PROTOCOL_VERSION:
            raise ValueError(f"protocol_version: {self.protocol_version} is unknown, this is version {PROTOCOL_VERSION}")
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
        if self.weights and sum(self.weights.values()) != WEIGHT_TOTAL:
            raise ValueError(f"weights: they sum to {sum(self.weights.values())}, not {WEIGHT_TOTAL}")
        if any(not 0 <= value <= WEIGHT_TOTAL for value in self.weights.values()):
            raise ValueError("weights: a value is no u16")
        if any(not 0 <= uid <= MAX_UID for uid in (*self.weights, *self.hotkeys)):
            raise ValueError(f"weights: a UID is outside 0 … {MAX_UID}")
        if self.hotkeys.keys() != self.score_inputs.keys() or len(set(self.hotkeys.values())) != len(self.hotkeys):
            raise ValueError("hotkeys: one for each UID with score inputs, none twice")
        if any(self.hotkeys.get(miner.uid) != miner.hotkey for miner in self.miners):
            raise ValueError("hotkeys: a miner stands at another hotkey's UID")

    def miner(self, hotkey: bytes) -> MinerVerdict | None:
        return next((miner for miner in self.miners if miner.hotkey == hotkey), None)

    def to_json(self) -> dict[str, Json]:
        """Canonical-JSON value. Mappings by UID are arrays in UID order, since JSON keys sort as text."""
        scores: list[Json] = [
            {
                "uid": uid,
                "work": s.work,
                "supported": s.supported,
                "estimate": s.estimate,
                "audits": s.audits,
                "product_valid": f"{s.product_valid:0{2 * PRODUCT_BYTES}x}",
                "product_declared": f"{s.product_declared:0{2 * PRODUCT_BYTES}x}",
                "in_lookback": s.in_lookback,
            }
            for uid, s in sorted(self.score_inputs.items())
        ]
        return {
            "protocol_version": self.protocol_version,
            "network_id": self.network_id.hex(),
            "window": self.window,
            "status": self.status.value,
            "reason": self.reason,
            "inputs": self.inputs.to_json(),
            "miners": [miner.to_json() for miner in self.miners],
            "hotkeys": [[uid, hotkey.hex()] for uid, hotkey in sorted(self.hotkeys.items())],
            "score_inputs": scores,
            "weights": [[uid, weight] for uid, weight in sorted(self.weights.items())],
            "versions": self.versions.to_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> VerdictBody:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$body")
        m = node.members(*cls.__dataclass_fields__)
        version = m["protocol_version"].integer()
        if version != PROTOCOL_VERSION:
            m["protocol_version"].refuse(f"version {version} is unknown, this is version {PROTOCOL_VERSION}")
        return node.build(
            lambda: cls(
                network_id=Digest(m["network_id"].raw(32)),
                window=Window(m["window"].integer()),
                status=m["status"].choice(WindowStatus),
                versions=Versions.from_json(m["versions"]),
                reason=m["reason"].text(MAX_REASON),
                inputs=WindowInputs.from_json(m["inputs"]),
                miners=tuple(MinerVerdict.from_json(item) for item in m["miners"].items(MAX_MINERS)),
                hotkeys=by_uid(m["hotkeys"], [read_hotkey(item) for item in m["hotkeys"].items(MAX_UID + 1)]),
                score_inputs=by_uid(m["score_inputs"], [_score(item) for item in m["score_inputs"].items(MAX_UID + 1)]),
                weights=by_uid(m["weights"], [read_weight(item) for item in m["weights"].items(MAX_UID + 1)]),
                protocol_version=version,
            )
        )

    def canonical(self) -> bytes:
        """RFC 8785 bytes: equal for equal bodies, on any machine."""
        return canonical_json(self.to_json())

    def digest(self) -> Digest:
        """`H("grail/verdict/body", body)` of the body's own network."""
        return self._digest

    @cached_property
    def _digest(self) -> Digest:
        return tagged_hash(self.network_id, "grail/verdict/body", self.canonical())


def _row(node: Node) -> tuple[int, int]:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a row is [group, r]")
    return pair[0].integer(), pair[1].integer(0, ROLLOUTS_PER_PROBLEM - 1)


def _score(node: Node) -> tuple[int, ScoreInputs]:
    m = node.members("uid", "work", "supported", "estimate", "audits", "product_valid", "product_declared", "in_lookback")
    inputs = node.build(
        lambda: ScoreInputs(
            work=m["work"].integer(),
            supported=m["supported"].integer(),
            estimate=m["estimate"].integer(),
            audits=m["audits"].integer(),
            product_valid=int.from_bytes(m["product_valid"].raw(PRODUCT_BYTES), "big"),
            product_declared=int.from_bytes(m["product_declared"].raw(PRODUCT_BYTES), "big"),
            in_lookback=m["in_lookback"].flag(),
        )
    )
    return m["uid"].integer(0, MAX_UID), inputs


__all__ = [
    "Finding",
    "MinerStatus",
    "MinerVerdict",
    "Outcome",
    "VerdictBody",
    "Versions",
    "WindowInputs",
    "WindowStatus",
    "decimal",
]
