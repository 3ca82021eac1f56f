"""`summary.json`: a run in one flat object, whose keys are public interface.

Every number comes from `RunFacts`; shares lie in 0 … 1, times are seconds, errors are standard errors of the mean. A value
that a run did not produce is null, never a zero that looks measured.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from grail_core.disk import write_atomically
from tooling.localnet.report.facts import EvaluationFact, MinerIdentity, RunFacts

SUMMARY_FORMAT = 1


@dataclass(frozen=True)
class MinerSummary:
    hotkey: str
    name: str
    uid: int
    strategy: str
    weight: float  # share of all weight on the chain at the end, the burn UID's included
    unique_valid: int
    windows_accepted: int
    windows_failed: int
    windows_judged: int  # accepted, failed, not drawn or absent: whatever a validator signed
    reason: str  # of the newest failed window, or where none failed of the newest refused seal; "" for none


@dataclass(frozen=True)
class Summary:
    format: int
    windows: int  # judged by every validator
    windows_asked: int
    finished: bool
    why_unfinished: str
    env_id: str
    seed: int
    model: str
    eval_problems: int | None
    eval_before: float | None
    eval_before_error: float | None
    eval_after: float | None
    eval_after_error: float | None
    eval_gain: float | None  # after / before
    eval_gain_sigmas: float | None  # (after − before) in standard errors of the difference
    format_before: float | None
    format_before_error: float | None
    format_after: float | None
    format_after_error: float | None
    eval_constant: float | None
    eval_control: float | None
    eval_control_error: float | None
    audit: dict[str, int] | None  # outcome → windows, of `grail-trainer audit --all`
    audit_difference: str
    audit_seconds: float | None
    miners: tuple[MinerSummary, ...]
    burn_weight: float | None
    validators_agree: bool  # equal bodies in every window that two or more judged; false if there was none
    windows_judged_together: int
    windows_compared_without_scores: tuple[int, ...]  # after a validator missed a window, its scores differ by rule
    windows_missed: dict[str, dict[str, str]]  # validator → window → why
    delta_ratio: float | None  # mean DELTA bytes / mean FULL bytes
    generate_to_verify_ratio: float | None  # seconds to generate one rollout / to verify one checked one, as in benchmarks
    verify_to_generate_ratio: float | None  # its inverse, for who read it before there was the other
    clock: str  # virtual: blocks followed the work; real: they came by the wall clock
    unenforced: tuple[str, ...]  # pooled statistics that no calibration table enforces for this model
    not_waited_for: tuple[str, ...]  # roles that held the virtual clock too long, and at what
    seconds_per_window: float | None  # real seconds
    seconds_total: float
    rollouts_announced: int
    rollouts_verified: int
    rollouts_verified_fraction: float | None  # in files that passed every check / announced by all miners
    honest_unique_fraction: float | None  # counted / declared, of the honest strategies' judged files
    checkpoints: int
    processes_restarted: dict[str, int]
    rejects_by_check: dict[str, int]  # miner-windows that a check failed, over all validators
    parameters_total: int | None
    started_at: str
    versions: dict[str, str]
    machine: dict[str, str]
    command: str

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def summarise(facts: RunFacts) -> Summary:
    """The summary of a run, finished or not."""
    before, after = first_and_last(facts.evaluations)
    announced = sum(w.rows_announced for w in facts.windows)
    restarts = {p.name: p.restarts for p in facts.processes if p.restarts}
    failing = {(r.validator, r.window, r.miner, r.check) for r in facts.rejects}
    compared = [w for w in facts.windows if w.bodies_equal is not None]
    burn = last_weights(facts)
    ratio = _generate_to_verify(facts)
    return Summary(
        format=SUMMARY_FORMAT,
        windows=sum(set(w.judged_by) >= set(facts.validators) for w in facts.windows),
        windows_asked=facts.windows_asked,
        finished=facts.finished,
        why_unfinished=facts.why_unfinished,
        env_id=facts.env_id,
        seed=facts.seed,
        model=facts.model,
        eval_problems=before.problems if before else None,
        eval_before=before.success if before else None,
        eval_before_error=before.success_error if before else None,
        eval_after=after.success if after else None,
        eval_after_error=after.success_error if after else None,
        eval_gain=after.success / before.success if before and after and before.success > 0 else None,
        eval_gain_sigmas=_sigmas(before, after),
        format_before=before.well_formed if before else None,
        format_before_error=before.well_formed_error if before else None,
        format_after=after.well_formed if after else None,
        format_after_error=after.well_formed_error if after else None,
        eval_constant=before.constant if before else None,
        eval_control=facts.control.success if facts.control else None,
        eval_control_error=facts.control.success_error if facts.control else None,
        audit=facts.audit.outcomes if facts.audit else None,
        audit_difference=facts.audit.difference if facts.audit else "",
        audit_seconds=round(facts.audit.seconds, 1) if facts.audit else None,
        miners=tuple(_miner(facts, miner, burn) for miner in facts.miners),
        burn_weight=burn.get(0) if burn else None,
        validators_agree=bool(compared) and all(w.bodies_equal for w in compared),
        windows_judged_together=len(compared),
        windows_compared_without_scores=tuple(w.window for w in compared if not w.scores_compared),
        windows_missed={
            v: {str(w.window): w.missed_by[v] for w in facts.windows if v in w.missed_by} for v in facts.validators
        },
        delta_ratio=_delta_ratio(facts),
        generate_to_verify_ratio=ratio,
        verify_to_generate_ratio=1 / ratio if ratio else None,
        clock="real" if facts.real_time else "virtual",
        unenforced=facts.unenforced,
        not_waited_for=tuple(map(str, facts.not_waited)),
        seconds_per_window=seconds_per_window(facts),
        seconds_total=round(facts.seconds_total, 1),
        rollouts_announced=announced,
        rollouts_verified=sum(w.rows_verified for w in facts.windows),
        rollouts_verified_fraction=_verified_fraction(facts),
        honest_unique_fraction=_honest_unique_fraction(facts),
        checkpoints=len(facts.checkpoints),
        processes_restarted=restarts,
        rejects_by_check=dict(Counter(check for *_, check in sorted(failing))),
        parameters_total=facts.parameters_total,
        started_at=facts.started_at,
        versions=facts.versions,
        machine=facts.machine,
        command=facts.command,
    )


def seconds_per_window(facts: RunFacts) -> float | None:
    """Real seconds, as they passed here, of one judged window; with the real clock about thirty block times."""
    if not facts.windows or not facts.seconds_in_windows:
        return None
    return round(facts.seconds_in_windows / len(facts.windows), 2)


def write_summary(summary: Summary, path: Path) -> None:
    import json

    write_atomically(path, (json.dumps(summary.to_json(), indent=2, sort_keys=False) + "\n").encode())


def first_and_last(evaluations: Iterable[EvaluationFact]) -> tuple[EvaluationFact | None, EvaluationFact | None]:
    """The evaluations of the first and of the newest checkpoint; the second is None where there is only one."""
    ordered = sorted(evaluations, key=lambda e: e.window_index)
    return (ordered[0] if ordered else None), (ordered[-1] if len(ordered) > 1 else None)


def last_weights(facts: RunFacts) -> dict[int, float]:
    """Share of weight by UID at the end, the mean over validators that set any."""
    newest = {w.validator: w.shares for w in sorted(facts.weights, key=lambda w: w.block) if w.shares}
    if not newest:
        return {}
    uids = {uid for shares in newest.values() for uid in shares}
    return {uid: fmean(shares.get(uid, 0.0) for shares in newest.values()) for uid in sorted(uids)}


def _miner(facts: RunFacts, miner: MinerIdentity, weights: dict[int, float]) -> MinerSummary:
    rows = [row for row in facts.miner_windows if row.miner == miner.name]
    failed = [row for row in rows if row.outcome == "failed"]
    refused = [row for row in rows if row.outcome == "absent" and row.reason]
    return MinerSummary(
        hotkey=miner.hotkey,
        name=miner.name,
        uid=miner.uid,
        strategy=miner.strategy,
        weight=weights.get(miner.uid, 0.0),
        unique_valid=sum(row.unique_valid for row in rows),
        windows_accepted=sum(row.outcome == "accepted" for row in rows),
        windows_failed=len(failed),
        windows_judged=len(rows),
        reason=(failed or refused)[-1].reason if failed or refused else "",
    )


def _sigmas(before: EvaluationFact | None, after: EvaluationFact | None) -> float | None:
    if before is None or after is None:
        return None
    error = (before.success_error**2 + after.success_error**2) ** 0.5
    return (after.success - before.success) / error if error > 0 else None


def _delta_ratio(facts: RunFacts) -> float | None:
    full = [c.full_bytes for c in facts.checkpoints if c.full_bytes]
    delta = [c.delta_bytes for c in facts.checkpoints if c.delta_bytes]
    return fmean(delta) / fmean(full) if full and delta else None


def _generate_to_verify(facts: RunFacts) -> float | None:
    generate = [p.seconds for p in facts.phases if p.phase == "generate, one rollout"]
    verify = [p.seconds for p in facts.phases if p.phase == "verify, one rollout"]
    return median(generate) / median(verify) if generate and verify and median(verify) > 0 else None


def _verified_fraction(facts: RunFacts) -> float | None:
    rows = [r for r in facts.miner_windows if r.outcome in ("accepted", "failed")]
    declared = sum(r.declared for r in rows)
    return sum(r.declared for r in rows if r.outcome == "accepted") / declared if declared else None


def _honest_unique_fraction(facts: RunFacts) -> float | None:
    honest = {m.name for m in facts.miners if m.strategy == "honest"}
    rows = [r for r in facts.miner_windows if r.miner in honest and r.outcome in ("accepted", "failed")]
    declared = sum(r.declared for r in rows)
    return sum(r.unique_valid for r in rows) / declared if declared else None


def unenforced_sentence(names: tuple[str, ...]) -> str:
    """What a model that no calibration table covers is not held to."""
    return (
        f"Not enforced: {', '.join(names)}. No calibration table covers this model, so these statistics are reported and "
        "nobody is rejected for them; the coarse bounds alone hold. `grail-validator calibrate` makes a table."
    )
