"""Gradient work, section 13: what a verdict says of one miner in one round, as a value with exact bytes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.own_test import MAX_Z, Advantage
from grail_core.protocol.gradient.ranking import MAX_DIFFERENCE, Score
from grail_core.protocol.gradient.rating import MAX_RATING, Rating
from grail_core.protocol.gradient.scores import MinerRound
from grail_core.protocol.gradient.seal import MAX_DECLARED
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node
from grail_core.protocol.selection import LEAST_PROBABILITY
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdict_members import MAX_UID, hex_or_none, read_digest, read_fraction
from grail_core.protocol.verdicts import MAX_FINDINGS, MAX_MINERS, MAX_REASON, MinerStatus

_MAX_SCORE = 4096 * MAX_DIFFERENCE


@dataclass(frozen=True)
class GradientMinerVerdict:
    """What happened to one miner in one round. Raises ValueError, naming the member, for what cannot be.

    Losses and scores have the unit 2⁻²⁰ nats, advantages 2⁻³⁰, z millionths, ratings 10⁻⁹.
    """

    hotkey: Hotkey
    uid: int
    status: MinerStatus
    reason: str = ""  # one line for a person; "" where the status says it all
    seal_digest: Digest | None = None  # SHA-256 of the seal that was taken
    content_digest: Digest | None = None  # SHA-256 of the file, as sealed
    seal_time_ms: int | None = None  # the store's times of the writes, Unix milliseconds
    update_time_ms: int | None = None
    opening_time_ms: int | None = None
    declared: int = 0  # sequences, H · b, as sealed
    checked: bool = False  # by a model, to a conclusion, or failed
    check_probability: Fraction | None = None  # with a coin for every seal that was taken
    coin: int | None = None  # 0 … 2⁶⁴ − 1
    replay: bool = False  # its replay's coin fell
    failed_by_replay: bool = False  # the replay rejected, or was dodged
    score: Score | None = None  # of accepted, checked miners
    advantage: Advantage | None = None
    z: int | None = None  # over the last rounds, this one among them
    rating_before: Rating | None = None  # where this round's match, or failure, moved it
    rating_after: Rating | None = None
    valid: int = 0  # its declared where the update lowered the loss
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hotkey) != 32 or not 0 <= self.uid <= MAX_UID:
            raise ValueError(f"hotkey: {len(self.hotkey)} bytes, uid {self.uid}")
        for name in ("seal_digest", "content_digest"):
            value = getattr(self, name)
            if value is not None and len(value) != 32:
                raise ValueError(f"{name}: 32 bytes are expected")
        for name in ("seal_time_ms", "update_time_ms", "opening_time_ms"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_JSON_INTEGER:
                raise ValueError(f"{name}: {value}")
        if not 0 <= self.declared <= MAX_DECLARED or self.valid not in (0, self.declared):
            raise ValueError(f"declared: {self.declared}, valid: {self.valid}, all of it or nothing")
        if len(self.reason) > MAX_REASON or len(self.findings) > MAX_FINDINGS:
            raise ValueError(f"reason: {len(self.reason)} characters, findings: {len(self.findings)} are too many")
        if any(finding.outcome is Outcome.UNPROVEN for finding in self.findings):
            raise ValueError("findings: verdicts say accept, reject or inconclusive")
        self._require_coins()
        self._require_consistent()

    def _require_coins(self) -> None:
        sealed = self.status is not MinerStatus.ABSENT
        if (self.check_probability is None) != (self.coin is None) or sealed != (self.coin is not None):
            raise ValueError("coin: one with its probability for every seal that was taken, and for no other")
        if sealed != (self.content_digest is not None) or sealed != (self.seal_digest is not None):
            raise ValueError("content_digest: a seal that was taken has one, and its own digest")
        if self.coin is not None and not 0 <= self.coin < 2**64:
            raise ValueError(f"coin: {self.coin} is no 64-bit word")
        if self.check_probability is not None and not LEAST_PROBABILITY <= self.check_probability <= 1:
            raise ValueError(f"check_probability: {self.check_probability} is outside {LEAST_PROBABILITY} … 1")
        if self.replay and not sealed:
            raise ValueError("replay: an absent miner's file has no coin")

    def _require_consistent(self) -> None:
        accepted, failed = self.status is MinerStatus.ACCEPTED, self.status is MinerStatus.FAILED
        if self.checked != (accepted or failed):
            raise ValueError(f"checked: {self.checked}, of a miner that is {self.status.value}")
        if (self.score is not None) != accepted:
            raise ValueError("score: accepted miners have one, and no others")
        if self.score is not None and not (
            abs(self.score.score) <= _MAX_SCORE and 0 <= self.score.error <= _MAX_SCORE and 1 <= self.score.rank <= MAX_MINERS
        ):
            raise ValueError(f"score: {self.score.score} ± {self.score.error}, rank {self.score.rank}")
        if self.advantage is not None:
            value, error = self.advantage.value, self.advantage.error
            if not accepted or abs(value) > MAX_JSON_INTEGER or not 0 <= error <= MAX_JSON_INTEGER:
                raise ValueError("advantage: of accepted miners, within 2^53")
        if self.z is not None and (not accepted or abs(self.z) > MAX_Z):
            raise ValueError(f"z: {self.z}, of accepted miners, within {MAX_Z}")
        if self.valid and not (self.score is not None and self.score.above_baseline):
            raise ValueError("valid: sequences of an update that did not lower the loss")
        if self.failed_by_replay and not failed:
            raise ValueError("failed_by_replay: of a miner that did not fail")
        moved = self.rating_before is not None
        if moved != (self.rating_after is not None) or moved != (accepted or failed):
            raise ValueError("rating_before: accepted and failed miners have one, before and after")

    @property
    def active(self) -> bool:
        """Does the round count as volume?"""
        return self.status in (MinerStatus.ACCEPTED, MinerStatus.NOT_SELECTED)

    @property
    def replayed(self) -> bool:
        """Was a step replayed, and nothing found?"""
        said = [finding.outcome for finding in self.findings if finding.check == REPLAY_CHECK]
        return self.replay and self.active and all(outcome is Outcome.ACCEPT for outcome in said)

    def miner_round(self, window: Window) -> MinerRound:
        """What this round counts in the miner's score."""
        return MinerRound(window, self.declared, self.active, self.checked, self.valid, self.advantage, self.replayed)

    def to_json(self) -> dict[str, Json]:
        chance, score, adv = self.check_probability, self.score, self.advantage
        return {
            "hotkey": self.hotkey.hex(),
            "uid": self.uid,
            "status": self.status.value,
            "reason": self.reason,
            "seal_digest": hex_or_none(self.seal_digest),
            "content_digest": hex_or_none(self.content_digest),
            "seal_time_ms": self.seal_time_ms,
            "update_time_ms": self.update_time_ms,
            "opening_time_ms": self.opening_time_ms,
            "declared": self.declared,
            "checked": self.checked,
            "check_probability": None if chance is None else [chance.numerator, chance.denominator],
            "coin": None if self.coin is None else f"{self.coin:016x}",
            "replay": self.replay,
            "failed_by_replay": self.failed_by_replay,
            "score": None if score is None else {"score": score.score, "error": score.error, "rank": score.rank},
            "advantage": None if adv is None else {"value": adv.value, "error": adv.error},
            "z": self.z,
            "rating_before": rating_json(self.rating_before),
            "rating_after": rating_json(self.rating_after),
            "valid": self.valid,
            "findings": [finding.to_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, value: object) -> GradientMinerVerdict:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$miner")
        m = node.members(*cls.__dataclass_fields__)
        return node.build(
            lambda: cls(
                hotkey=Hotkey(m["hotkey"].raw(32)),
                uid=m["uid"].integer(0, MAX_UID),
                status=m["status"].choice(MinerStatus),
                reason=m["reason"].text(MAX_REASON),
                seal_digest=m["seal_digest"].optional(read_digest),
                content_digest=m["content_digest"].optional(read_digest),
                seal_time_ms=m["seal_time_ms"].optional(Node.integer),
                update_time_ms=m["update_time_ms"].optional(Node.integer),
                opening_time_ms=m["opening_time_ms"].optional(Node.integer),
                declared=m["declared"].integer(0, MAX_DECLARED),
                checked=m["checked"].flag(),
                check_probability=m["check_probability"].optional(read_fraction),
                coin=m["coin"].optional(lambda item: int.from_bytes(item.raw(8), "big")),
                replay=m["replay"].flag(),
                failed_by_replay=m["failed_by_replay"].flag(),
                score=m["score"].optional(_score),
                advantage=m["advantage"].optional(_advantage),
                z=m["z"].optional(_signed),
                rating_before=m["rating_before"].optional(read_rating),
                rating_after=m["rating_after"].optional(read_rating),
                valid=m["valid"].integer(0, MAX_DECLARED),
                findings=tuple(Finding.from_json(item) for item in m["findings"].items(MAX_FINDINGS)),
            )
        )


REPLAY_CHECK = "replay"
"""Check 7's name in findings: its rejects count for longer."""


def rating_json(rating: Rating | None) -> Json:
    return None if rating is None else [rating.mu, rating.sigma]


def read_rating(node: Node) -> Rating:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a rating is [mu, sigma]")
    return Rating(pair[0].integer(-MAX_RATING, MAX_RATING), pair[1].integer(1, MAX_RATING))


def _score(node: Node) -> Score:
    m = node.members("score", "error", "rank")
    return Score(_signed(m["score"]), m["error"].integer(), m["rank"].integer(1, MAX_MINERS))


def _advantage(node: Node) -> Advantage:
    m = node.members("value", "error")
    return Advantage(_signed(m["value"]), m["error"].integer())


def _signed(node: Node) -> int:
    return node.integer(-MAX_JSON_INTEGER, MAX_JSON_INTEGER)
