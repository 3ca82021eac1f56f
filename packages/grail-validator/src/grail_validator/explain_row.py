"""One sampled rollout as the validator saw it: grade, positions, and at each what was claimed and what was measured.

Measurements are in the evidence, claims in the miner's file. Evidence leaves the ledger once it is published: then both are
looked for in this validator's own bucket, and what is not there any more is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined
from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.files.window_file import WindowFileError
from grail_core.participant.buckets import neighbours, own_bucket
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings
from grail_core.proof.sketches import differences, parse_sketches
from grail_core.proof.work import YARDSTICKS
from grail_core.protocol import MinerVerdict, RolloutRecord, SignedVerdict
from grail_core.protocol.reading import Json
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.causes import lost_draws
from grail_validator.published import BucketVerdicts, Published


@dataclass(frozen=True)
class Line:
    """One challenged position. Log-probabilities in nats, margin in logits, `error` the RMS sketch difference; None unknown."""

    position: int
    token: int | None
    claimed: float | None
    measured: float
    margin: float
    error: float | None

    def cells(self) -> tuple[str, ...]:
        numbers = (self.claimed, self.measured, self.margin, self.error)
        return (
            str(self.position),
            "" if self.token is None else str(self.token),
            *("" if n is None else f"{n:.4f}" for n in numbers),
        )

    def to_json(self) -> dict[str, Json]:
        def text(number: float | None) -> str | None:
            return None if number is None else f"{number:.6g}"

        return {
            "position": self.position,
            "token": self.token,
            "logprob_claimed": text(self.claimed),
            "logprob_measured": text(self.measured),
            "margin": text(self.margin),
            "sketch_error": text(self.error),
        }


@dataclass(frozen=True)
class Row:
    group: int
    rollout: int
    grade: str
    notes: tuple[str, ...]
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Json]:
        return {
            "group": self.group,
            "rollout": self.rollout,
            "grade": self.grade,
            "notes": [*self.notes],
            "positions": [line.to_json() for line in self.lines],
        }


def explain_row(
    settings: Settings, verdict: SignedVerdict, held: bytes, miners: Sequence[MinerVerdict], place: tuple[int, int]
) -> Row:
    """The evidence of one sampled rollout.

    Args:
        held: evidence that the ledger still has, b"" where it is published. miners: the one asked for.

    Raises:
        ProtocolViolationError: more than one miner, or a rollout that was not sampled.
        ConfigurationError: the evidence is not on this machine, and no bucket is set.
        StorageError: the evidence is not there any more.
    """
    if len(miners) != 1:
        raise ProtocolViolationError("a row is one miner's", hint="name the miner with --hotkey")
    (miner,) = miners
    if place not in miner.sampled:
        some = ", ".join(f"{group}:{r}" for group, r in miner.sampled[:6])
        raise ProtocolViolationError(
            f"rollout {place[0]}:{place[1]} was not sampled",
            where=f"uid {miner.uid}, window {verdict.body.window}",
            hint=f"sampled were {some}, …" if some else "nothing of this file was sampled: an earlier check ended it",
        )
    published = _own(settings, held)
    with Confined() as confined:
        one = _evidence(published, verdict, miner, place, confined)
        return _row_of(one, _record(published, verdict.body.window, miner, place, confined))


def lost_draws_of(settings: Settings, verdict: SignedVerdict, held: bytes, miner: MinerVerdict) -> str:
    """Of a file that the sampling check rejects: how many of its opened positions lost; or why that cannot be counted here."""
    try:
        published = _own(settings, held)
        with Confined() as confined:
            return lost_draws(_of_miner(published, verdict, miner, confined))
    except GrailError as error:
        return f"positions are not counted: {error.what}"


def _own(settings: Settings, held: bytes) -> Published:
    try:
        store = own_bucket(settings, network_parameters(settings))
    except ConfigurationError:
        if not held:
            raise
        store = None
    if store is None and not held:
        raise ConfigurationError(
            "the evidence is published, and no longer in the ledger",
            where="GRAIL_STORAGE_BUCKET, R2_BUCKET_ID",
            hint="run this with the validator's settings, so that its bucket is known",
        )
    beside = list(neighbours(settings.storage_root, settings.storage_bucket or "")) if settings.storage_root and store else []
    verdicts = BucketVerdicts(store) if store is not None else _NoVerdicts()
    return Published(verdicts, store, beside, lambda _: held or None)


class _NoVerdicts:
    """Nobody asks: the verdict is at hand."""

    def windows(self) -> list[Window]:
        return []

    def read(self, window: Window) -> bytes | None:
        return None


def _evidence(
    published: Published, verdict: SignedVerdict, miner: MinerVerdict, place: tuple[int, int], confined: Confined
) -> RolloutEvidence:
    return _rollout(_of_miner(published, verdict, miner, confined), place)


def _of_miner(published: Published, verdict: SignedVerdict, miner: MinerVerdict, confined: Confined) -> MinerEvidence:
    data = published.evidence(verdict.body.window)
    if data is None or hashlib.sha256(data).digest() != verdict.evidence_digest:
        raise StorageError(
            "the evidence of this window is not there any more",
            where=f"window {verdict.body.window}",
            hint="it is kept for GRAIL_KEEP_EVIDENCE windows",
        )
    for one in confined.open_evidence(data):
        if (one.hotkey, one.content_digest) == (miner.hotkey, miner.content_digest):
            return one
    raise ProtocolViolationError("the evidence has nothing of this file", where=f"uid {miner.uid}")


def _rollout(evidence: MinerEvidence, place: tuple[int, int]) -> RolloutEvidence:
    for one in evidence.rollouts:
        if (one.group, one.rollout) == place:
            return one
    raise ProtocolViolationError(f"the evidence has nothing of rollout {place[0]}:{place[1]}")


def _record(
    published: Published, window: Window, miner: MinerVerdict, place: tuple[int, int], confined: Confined
) -> RolloutRecord | None:
    """What the miner claims; None where its file is nowhere any more."""
    digest = miner.content_digest
    data = None if digest is None else published.file(window, Hotkey(miner.hotkey), Digest(digest))
    if data is None:
        return None
    try:
        table = confined.open_file(data, None).table
        where = np.flatnonzero((table.group == place[0]) & (table.rollout == place[1]))
        return table.record(int(where[0])) if len(where) else None
    except (WindowFileError, ValueError):
        return None  # the caller says that claims are not shown


def _beside_reference(one: RolloutEvidence, record: RolloutRecord | None) -> list[str]:
    """Where the float32 reference puts the rollout: what is claimed beside what the validator's own numerics give."""
    reference = one.reference
    if reference is None:
        return ["it was not held against a float32 reference"]
    if not reference.finite:
        return ["the float32 reference has a number that is none: the rollout decides nothing"]
    own = _rms(one.z - reference.z)
    spread = float(reference.spread.sum(dtype=np.float64))
    noise = float((reference.noise * reference.spread).sum(dtype=np.float64)) / spread if spread > 0 else 0.0
    lost, twins = (float(values.sum(dtype=np.float64)) for values in (reference.margins, reference.twins))
    notes = [
        f"beside the float32 reference the validator's own sketches err by {own:.4g} RMS, a difference of two of its "
        f"logits by {noise**0.5:.3g}",
        f"judged there, the tokens written lose {lost:.4g} in all; those that the validator's own logits choose with the "
        f"same noise {twins:.4g}",
    ]
    if record is not None:
        claimed = parse_sketches(record.sketches, record.completion_length + 1)[1:][one.positions]
        notes.insert(1, f"the claimed sketches err by {_rms(differences(claimed, reference.z)):.4g} RMS")
    return notes


def _rms(values: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _row_of(one: RolloutEvidence, record: RolloutRecord | None) -> Row:
    grade = f"judged reward {one.grade.reward:g}, success {one.grade.success} ({one.grade.stability.value})"
    notes = []
    errors = None
    if record is None:
        notes.append("the miner's file is nowhere any more: what it claims is not shown")
    else:
        grade += f"; claimed {record.reward:g}, {record.success}"
        claimed = parse_sketches(record.sketches, record.completion_length + 1)[1:][one.positions]
        errors = np.sqrt(np.square(differences(claimed, one.z), dtype=np.float64).mean(axis=1))
    lost = int((one.margin > 1).sum())
    notes.append(f"{len(one.positions)} positions were opened; {lost} of them lose the draw by more than 1")
    notes += _beside_reference(one, record)
    if one.compared is not None:
        names = sorted({*one.compared.z, *one.compared.leads} - YARDSTICKS)
        told = ", ".join(names) or "nothing: the reference or the own pass has a number that is none"
        notes.append(f"compared at {len(one.compared.positions)} positions with {told}")
    lines = tuple(
        Line(
            position=int(position),
            token=None if record is None else int(record.completion[position]),
            claimed=None if record is None else float(record.logprobs[position]),
            measured=float(one.logprob[at]),
            margin=float(one.margin[at]),
            error=None if errors is None else float(errors[at]),
        )
        for at, position in enumerate(one.positions)
    )
    return Row(one.group, one.rollout, grade, tuple(notes), lines)
