"""`summary.json` of a run of gradient work: one flat object, whose keys are public interface.

Losses are nats a token, weights shares of all weight, times seconds, errors standard errors. A value that a run did not produce
is null.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tooling.localnet.report.facts import MinerIdentity
from tooling.localnet.report.summary import last_weights, seconds_per_window
from tooling.localnet.rounds.facts import MinerRoundFact, RoundsFacts

SUMMARY_FORMAT = 1
LAST_ROUNDS = 6


@dataclass(frozen=True)
class RoundMinerSummary:
    hotkey: str
    name: str
    uid: int
    strategy: str
    weight: float  # share of all weight on the chain at the end, the burn UID's included
    rating: float | None  # μ after the last round
    rating_error: float | None  # σ
    ranks: tuple[int | None, ...]  # of the last rounds, 1 the best; None: not ranked
    rounds_merged: int
    rounds_accepted: int
    rounds_failed: int
    rounds_judged: int
    sequences: int  # declared in accepted rounds
    update_bytes: float | None  # mean
    failed_checks: dict[str, int]  # check → rounds that it rejected
    reason: str  # of the newest failed round, or else of the newest refused seal; "" for none


@dataclass(frozen=True)
class RoundsSummary:
    format: int
    work: str
    preset: str
    windows: int  # rounds that every validator judged
    windows_asked: int
    finished: bool
    why_unfinished: str
    seed: int
    rounds_merged: int
    loss_before: float | None
    loss_before_error: float | None
    loss_after: float | None
    loss_after_error: float | None
    loss_floor: float | None  # entropy of the corpus
    loss_sequences: int | None  # held-out
    miners: tuple[RoundMinerSummary, ...]
    burn_weight: float | None
    validators_agree: bool  # equal bodies in every round that two or more judged; false if there was none
    windows_judged_together: int
    windows_missed: dict[str, dict[str, str]]  # validator → round → why
    update_bytes: float | None  # mean of a miner and round
    update_bits_per_parameter: float | None  # all of the file, sketches and header too
    opening_bytes: float | None
    clock: str  # virtual | real
    not_waited_for: tuple[str, ...]
    seconds_per_window: float | None  # real seconds of a round
    seconds_total: float
    checkpoints: int
    processes_restarted: dict[str, int]
    rejects_by_check: dict[str, int]  # miner-rounds that a check failed, over all validators
    parameters_total: int | None
    started_at: str
    versions: dict[str, str]
    machine: dict[str, str]
    command: str

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def summarise(facts: RoundsFacts) -> RoundsSummary:
    """The summary of a run, finished or not."""
    run, weights = facts.run, last_weights(facts.run)
    before = facts.losses[0] if facts.losses else None
    after = facts.losses[-1] if len(facts.losses) > 1 else None
    compared = [w for w in run.windows if w.bodies_equal is not None]
    failing = {(r.validator, r.window, r.miner, r.check) for r in run.rejects}
    update = _mean([r.update_bytes for r in facts.miner_rounds])
    return RoundsSummary(
        format=SUMMARY_FORMAT,
        work="gradient",
        preset=facts.preset,
        windows=sum(set(w.judged_by) >= set(run.validators) for w in run.windows),
        windows_asked=run.windows_asked,
        finished=run.finished,
        why_unfinished=run.why_unfinished,
        seed=run.seed,
        rounds_merged=len(facts.merges),
        loss_before=before.loss if before else None,
        loss_before_error=before.error if before else None,
        loss_after=after.loss if after else None,
        loss_after_error=after.error if after else None,
        loss_floor=facts.floor,
        loss_sequences=before.sequences if before else None,
        miners=tuple(_miner(facts, miner, weights) for miner in run.miners),
        burn_weight=weights.get(0) if weights else None,
        validators_agree=bool(compared) and all(w.bodies_equal for w in compared),
        windows_judged_together=len(compared),
        windows_missed={v: {str(w.window): w.missed_by[v] for w in run.windows if v in w.missed_by} for v in run.validators},
        update_bytes=update,
        update_bits_per_parameter=8 * update / run.parameters_total if update and run.parameters_total else None,
        opening_bytes=_mean([r.opening_bytes for r in facts.miner_rounds]),
        clock="real" if run.real_time else "virtual",
        not_waited_for=tuple(map(str, run.not_waited)),
        seconds_per_window=seconds_per_window(run),
        seconds_total=round(run.seconds_total, 1),
        checkpoints=len(run.checkpoints),
        processes_restarted={p.name: p.restarts for p in run.processes if p.restarts},
        rejects_by_check=dict(Counter(check for *_, check in sorted(failing))),
        parameters_total=run.parameters_total,
        started_at=run.started_at,
        versions=run.versions,
        machine=run.machine,
        command=run.command,
    )


def _miner(facts: RoundsFacts, miner: MinerIdentity, weights: dict[int, float]) -> RoundMinerSummary:
    rows = sorted((row for row in facts.miner_rounds if row.miner == miner.name), key=lambda row: row.round)
    failed = [row for row in rows if row.outcome == "failed"]
    refused = [row for row in rows if row.outcome == "absent" and row.reason]
    accepted = [row for row in rows if row.outcome == "accepted"]
    standing = next((one for one in facts.standings if one.miner == miner.name), None)
    checks = {(r.window, r.check) for r in facts.run.rejects if r.miner == miner.name}
    return RoundMinerSummary(
        hotkey=miner.hotkey,
        name=miner.name,
        uid=miner.uid,
        strategy=miner.strategy,
        weight=weights.get(miner.uid, 0.0),
        rating=standing.mu if standing else None,
        rating_error=standing.sigma if standing else None,
        ranks=tuple(_rank_by_round(facts, rows)[-LAST_ROUNDS:]),
        rounds_merged=sum(row.merged for row in rows),
        rounds_accepted=len(accepted),
        rounds_failed=len(failed),
        rounds_judged=len(rows),
        sequences=sum(row.declared for row in accepted),
        update_bytes=_mean([row.update_bytes for row in rows]),
        failed_checks=dict(Counter(check for _, check in sorted(checks))),
        reason=(failed or refused)[-1].reason if failed or refused else "",
    )


def _rank_by_round(facts: RoundsFacts, rows: Sequence[MinerRoundFact]) -> list[int | None]:
    known = {row.round: row.rank for row in rows}
    return [known.get(window.window) for window in facts.run.windows if window.judged_by]


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
