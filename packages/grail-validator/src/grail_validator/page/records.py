"""What a page keeps of a verdict: who was judged how, and the numbers that statistics are made of; not the verdict itself.

A verdict may have 32 MiB and is anybody's, so it is read, verified and let go; what stays is bounded by the number of its
miners. Texts in it are made fit to be read here, once. Windows of rollouts and rounds of gradient work become the same record:
a round is named by its first block, and what only one of them has is empty in the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from grail_core.commands.explained import rejecting
from grail_core.files.verdicts import AnyVerdict, RefusedVerdictError
from grail_core.keys import ss58
from grail_core.protocol import Finding, MinerStatus, MinerVerdict, MinerWindow, Outcome, SignedVerdict, WindowStatus
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.gradient.scores import Standing
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.scores import ScoreInputs
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import Versions, WindowInputs
from grail_core.text import printable
from grail_core.verification.causes import read
from grail_core.verification.wording import in_short

_OF_A_ROUND: Final = b'"standings":'
"""A member that bodies of rounds have and others have not (`files.verdicts`)."""
MAX_TESTS: Final = 64
"""Statistics of one verdict that are told apart; what a stranger's names beyond that is left out."""
MARGINS: Final = (0.25, 0.5, 0.75, 1.0, 2.0)
"""Bounds of the bins that values fall into, in times their threshold; the last bin is beyond."""
_REASON: Final = 240


@dataclass(frozen=True, slots=True)
class MinerRecord:
    """One miner in one window or round. `counted` is what the window counts in its score; None in a round."""

    hotkey: Hotkey
    uid: int
    status: MinerStatus
    reason: str  # the first check that rejects with its numbers, or the verdict's own reason
    rejected_by: tuple[str, ...]
    declared: int
    valid: int
    checked: bool
    weight: int
    counted: MinerWindow | None
    paid_again_from: Window | None  # of a failure
    stored_at_ms: int | None  # its seal, by its store's clock


@dataclass(slots=True)
class Spread:
    """How one statistic's values lie beside their threshold, over everybody whom it was measured of."""

    bins: list[int] = field(default_factory=lambda: [0] * (len(MARGINS) + 1))
    values: int = 0
    rejects: int = 0
    reported: int = 0  # not enforced
    least: float | None = None  # of values
    most: float | None = None
    thresholds: set[str] = field(default_factory=set)  # as they stand in findings, a few

    def add(self, finding: Finding) -> None:
        one = read(finding)
        self.rejects += one.rejects
        self.reported += not one.enforced
        value, margin = one.value, one.times
        if value is None or value != value:
            return
        self.values += 1
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)
        if finding.threshold is not None and len(self.thresholds) < 4:
            self.thresholds.add(str(finding.threshold)[:24])
        if margin is not None:
            self.bins[sum(margin > bound for bound in MARGINS)] += 1

    def join(self, other: Spread) -> None:
        self.bins = [a + b for a, b in zip(self.bins, other.bins, strict=True)]
        self.values += other.values
        self.rejects += other.rejects
        self.reported += other.reported
        self.least = min((x for x in (self.least, other.least) if x is not None), default=None)
        self.most = max((x for x in (self.most, other.most) if x is not None), default=None)
        self.thresholds = {*sorted(self.thresholds | other.thresholds)[:4]}


@dataclass(frozen=True)
class WindowRecord:
    """One verdict that its validator signed. `score_inputs` are empty in a round, `standings` in a window."""

    window: Window
    validator: Hotkey
    network_id: Digest
    is_round: bool
    status: WindowStatus
    reason: str
    size: int  # bytes of verdict.json
    sha256: Digest  # of its bytes
    body: Digest
    evidence_digest: Digest | None
    inputs: WindowInputs
    versions: Versions
    adopted: str  # "" or whose memory it rests on
    miners: tuple[MinerRecord, ...]
    hotkeys: Mapping[int, Hotkey]
    weights: Mapping[int, int]
    score_inputs: Mapping[int, ScoreInputs]
    standings: Mapping[int, Standing]
    tests: Mapping[tuple[str, str], Spread]

    @property
    def stored_at_ms(self) -> int | None:
        """When the last seal that counts was stored, by its store's clock."""
        times = (one.stored_at_ms for one in self.miners if one.status is not MinerStatus.ABSENT)  # a refused one may say any
        return max((one for one in times if one is not None), default=None)

    def miner(self, hotkey: Hotkey) -> MinerRecord | None:
        return next((one for one in self.miners if one.hotkey == hotkey), None)


@dataclass(frozen=True)
class Unread:
    """A window of which something lies there that is no verdict to show, or could not be read."""

    window: Window
    problem: str
    again: bool = False  # the store's matter: it is asked once more


def decode(raw: bytes, window: Window) -> AnyVerdict:
    """A verdict of this window that its validator signed, for whichever network it names.

    Raises:
        RefusedVerdictError: it is none.
    """
    form = SignedGradientVerdict if _OF_A_ROUND in raw else SignedVerdict
    try:
        verdict: AnyVerdict = form.decode(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedVerdictError(f"not a verdict that this version reads: {error}") from error
    if verdict.body.window != window:
        raise RefusedVerdictError(f"a verdict of window {verdict.body.window}")
    if not verdict.verify(verdict.body.network_id):
        raise RefusedVerdictError("not signed by the validator that it names")
    return verdict


def record_of(verdict: AnyVerdict, raw: bytes) -> WindowRecord:
    body, is_round = verdict.body, isinstance(verdict, SignedGradientVerdict)
    adopted = verdict.adopted
    return WindowRecord(
        window=body.window,
        validator=verdict.validator,
        network_id=body.network_id,
        is_round=is_round,
        status=body.status,
        reason=printable(body.reason, _REASON),
        size=len(raw),
        sha256=Digest(hashlib.sha256(raw).digest()),
        body=body.digest(),
        evidence_digest=verdict.evidence_digest,
        inputs=body.inputs,
        versions=body.versions,
        adopted="" if adopted is None else f"{adopted.first} … {adopted.last}, of {ss58(adopted.validator)}",
        miners=_miners(verdict),
        hotkeys=dict(body.hotkeys),
        weights=dict(body.weights),
        score_inputs=dict(verdict.body.score_inputs) if isinstance(verdict, SignedVerdict) else {},
        standings=dict(verdict.body.standings) if isinstance(verdict, SignedGradientVerdict) else {},
        tests=_tests(body.miners),
    )


def _miners(verdict: AnyVerdict) -> tuple[MinerRecord, ...]:
    window, weights = verdict.body.window, verdict.body.weights
    if isinstance(verdict, SignedVerdict):
        return tuple(_of_window(one, window, weights.get(one.uid, 0)) for one in verdict.body.miners)
    standings = verdict.body.standings
    return tuple(_of_round(one, standings[one.uid], weights.get(one.uid, 0)) for one in verdict.body.miners)


def _of_window(miner: MinerVerdict, window: Window, weight: int) -> MinerRecord:
    counted, failed = miner.miner_window(window), miner.status is MinerStatus.FAILED
    return MinerRecord(
        miner.hotkey,
        miner.uid,
        miner.status,
        _reason(miner),
        tuple(rejecting(miner.findings))[:9],
        miner.declared,
        miner.unique_valid,
        miner.checked,
        weight,
        counted,
        counted.paid_again_from if failed else None,
        miner.store_time_ms,
    )


def _of_round(miner: GradientMinerVerdict, standing: Standing, weight: int) -> MinerRecord:
    return MinerRecord(
        miner.hotkey,
        miner.uid,
        miner.status,
        _reason(miner),
        tuple(rejecting(miner.findings))[:9],
        miner.declared,
        miner.valid,
        miner.checked,
        weight,
        None,
        standing.unpaid_until if miner.status is MinerStatus.FAILED else None,
        miner.seal_time_ms,
    )


def _reason(miner: MinerVerdict | GradientMinerVerdict) -> str:
    first = next((one for one in miner.findings if one.outcome is Outcome.REJECT), None)
    return printable(miner.reason if first is None else in_short(first), _REASON)


def _tests(miners: Sequence[MinerVerdict | GradientMinerVerdict]) -> dict[tuple[str, str], Spread]:
    found: dict[tuple[str, str], Spread] = {}
    for miner in miners:
        for finding in miner.findings:
            name = (printable(finding.check, 32), printable(read(finding).statistic, 48))
            if name in found or len(found) < MAX_TESTS:
                found.setdefault(name, Spread()).add(finding)
    return found
