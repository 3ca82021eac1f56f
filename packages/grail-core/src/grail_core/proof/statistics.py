"""Sections 5 to 7: sampled rollouts → statistics with thresholds of stated error.

The coarse bounds (`coarse_bounds`) need no calibration and are always enforced. The pooled tests (`pooled`) are tests of fixed
sample size on the mean of their units against the calibration of the pair of numerics classes; the named alternatives
(`alternative_test`, `token_test`) rest on two variances of the same pair, and are enforced only where the file's own
`sketch_ratio` passes, which is what tests that bound. Without a calibration that covers the model's shape they only report, as
the absolute statistics (`absolute`) always do. Half of α is split over either kind, by the number of tests there can be and
not by what was measured. Numbers are rounded to six digits, so the same evidence gives the same text on any machine. Where the
validator's own measurement is not sound, the tests that rest on it are undecided. Nothing here remembers a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from grail_core.proof.absolute import absolute_statistics
from grail_core.proof.alternative_test import (
    WEIGHTS_ALTERNATIVES,
    Projection,
    by_yardstick,
    own_drift,
    project,
)
from grail_core.proof.calibration import BOUNDS, STATISTICS, Coverage, PairCalibration, Shape, share_of_pooled
from grail_core.proof.coarse_bounds import coarse_bounds
from grail_core.proof.comparison import CHECKS, Comparison, NamedComparison, Statistic, shortened
from grail_core.proof.pooled import NO_REFERENCE, Paired, unit_values, unsound
from grail_core.proof.sketches import ROUNDING_VARIANCE
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES, TokenEvidence, noise_variance, token_evidence
from grail_core.proof.work import AskedAlternatives
from grail_core.protocol.constants import FALSE_REJECT_RATE

ALTERNATIVE_TESTS: Final = 2 * len(WEIGHTS_ALTERNATIVES) + len(SAMPLING_ALTERNATIVES)
"""Sketches and tokens of other weights, tokens of other sampling."""

OTHER_TESTS: Final = ALTERNATIVE_TESTS + 1
"""What the pooled tests leave of α is split over so many, whatever was measured: those of alternatives, and SHARE."""

SHARE: Final = "sketch_ratio_share"
"""The test of how many rollouts lie where hardly any honest one does. A mean lets a few be anything, and what is anything can
hide from every test along a direction."""

SKETCH_VARIANCE: Final = 6.0
LOGIT_VARIANCE: Final = 2.0
"""What is reported by where no table has the pair."""

UNSETTLED_EVIDENCE: Final = 1.0
"""ln W from the tokens of the first rollouts above which the others are asked. One rollout's E_r is above 1 now and then in
honest work, so that of a dozen rollouts and ten names one nearly always is; their W is above e in 0 to 1 files of 100 with 64
tokens to a rollout, in 15 with 448."""

LARGEST_BIT_EQUAL: Final = -2.0
"""ln of what a claim errs by over the own drift; reproduced bits lie below (−8 at common drifts), other weights about 0."""

_POOLED: Final = {
    "sketch_ratio": ("proof", "mean log ratio of the claims' sketch energy to the validator's own"),
    "twin_margin": ("sampling", "lost margins, in units of the own logit noise, beyond what the validator's own draw loses"),
    "logprob_ratio": ("logprob", "mean log ratio of the claims' log-probability errors to the validator's own"),
    "twin_logprob": ("logprob", "log-probability errors, in units of the own logit noise, beyond the validator's own"),
}

Margins = PairCalibration | Literal["as the proof"] | None


def evaluate(
    sample: Sequence[Comparison],
    pair: PairCalibration | None,
    *,
    margins: Margins = "as the proof",
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """All statistics of one miner's sample: its own, then those of the alternatives that were measured.

    Args:
        sample: the sampled rollouts.
        pair: calibration of (the miner's proof class, the class measured in); None reports without enforcing.
        margins: of (the miner's generation class, the class measured in).
        shape: the model's, so that a table is not enforced beyond what it covers.
        alpha: false-reject rate of everything enforced here together.
    """
    own = own_statistics(sample, pair, margins=margins, shape=shape, alpha=alpha)
    named = [one.named for one in sample if one.named is not None]
    passes = sketch_ratio_passes(own)
    others = alternative_statistics(named, pair, margins=margins, shape=shape, sketch_ratio_passes=passes, alpha=alpha)
    return [*own, *others]


def own_statistics(
    sample: Sequence[Comparison],
    pair: PairCalibration | None,
    *,
    margins: Margins = "as the proof",
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """The coarse bounds, the pooled tests and the absolute statistics, in the order of the checks: proof, logprob, sampling.

    The pooled tests are there where any rollout has a reference. See `evaluate`.
    """
    if not sample:
        return []
    statistics = coarse_bounds(sample)
    paired = Paired.of(sample)
    if paired is not None:
        drawn = pair if margins == "as the proof" else margins
        for name in STATISTICS:
            statistics.append(_pooled(name, paired, drawn if name == "twin_margin" else pair, shape, share_of_pooled(alpha)))
        statistics.append(_extremes(paired, pair, shape, share_of_other(alpha)))
    statistics += absolute_statistics(sample)
    return [statistic for check in CHECKS for statistic in statistics if statistic.check == check]


def sketch_ratio_passes(statistics: Sequence[Statistic]) -> bool:
    """Whether a file's own `sketch_ratio` says that its noise is no larger than the tests of alternatives take it to be."""
    return any(s.name == "sketch_ratio" and s.enforced and not s.undecided and not s.exceeds for s in statistics)


def alternative_statistics(
    named: Sequence[NamedComparison],
    pair: PairCalibration | None,
    *,
    margins: Margins = "as the proof",
    shape: Shape | None = None,
    sketch_ratio_passes: bool,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """Of every alternative measured on any of these rollouts: from sketches (check `proof`), then from tokens (`sampling`).

    Args:
        sketch_ratio_passes: what the function of this name says of the same file's own statistics. See `evaluate`.
    """
    found = AlternativeTests.of(named, pair, margins)
    threshold = shortened(math.log(1 / share_of_other(alpha)))
    # What would be enforced and rests on a measurement that says nothing is undecided, and not passed.
    proofs = pair is not None and pair.covers(shape) and sketch_ratio_passes
    drawn = pair if margins == "as the proof" else margins
    draws = proofs and drawn is not None and drawn.covers(shape)
    statistics = []
    for name, one in found.sketches.items():
        detail = (
            f"log-evidence that {name} was run, from sketches of {len(one.rollouts)} rollouts; on the way from the current "
            f"model (0) to it (1): {one.t:.3g} from the own pass, {one.by_reference:.3g} from the reference; they differ by "
            f"{one.distance:.3g} of the own drift"
        )
        enforced = proofs and one.testable and name in WEIGHTS_ALTERNATIVES
        statistics.append(_found("proof", name, one.log_evidence, threshold, enforced, detail, found.undecided))
    for name, drawn_by in found.tokens.items():
        detail = (
            f"log-evidence that tokens were drawn by {name}, {len(drawn_by.rollouts)} rollouts; its token was written at "
            f"{drawn_by.found} of the {drawn_by.positions} positions that tell"
        )
        enforced = draws and name in (*WEIGHTS_ALTERNATIVES, *SAMPLING_ALTERNATIVES)
        statistics.append(
            _found("sampling", token_statistic(name), drawn_by.log_evidence, threshold, enforced, detail, found.undecided)
        )
    return statistics


def token_statistic(name: str) -> str:
    """The name of the statistic that tests an alternative from tokens; from sketches it is the alternative's own."""
    return f"{name} (tokens)"


def share_of_other(alpha: float = FALSE_REJECT_RATE) -> float:
    """α of one test that is no pooled one."""
    return alpha / 2 / OTHER_TESTS


def left_open(
    named: Sequence[NamedComparison],
    pair: PairCalibration | None,
    *,
    margins: Margins = "as the proof",
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> AskedAlternatives:
    """Which alternatives are measured on the file's other rollouts too, and by what, given those measured first.

    By sketches one for which any of these rollouts speaks, or all do together; by tokens one for which all do together.
    Nothing where nothing is enforced, or an enforced test has found something already. Stopping costs no α: evidence of a
    bettor who leaves early is evidence.
    """
    if pair is None or not pair.covers(shape):
        return AskedAlternatives()
    found = AlternativeTests.of(named, pair, margins)
    needed = math.log(1 / share_of_other(alpha))
    drawn = pair if margins == "as the proof" else margins
    weights = {name: one for name, one in found.sketches.items() if one.testable and name in WEIGHTS_ALTERNATIVES}
    tokens = found.tokens if drawn is not None and drawn.covers(shape) else {}
    logs = [one.log_evidence for one in weights.values()] + [one.log_evidence for one in tokens.values()]
    if found.undecided or any(value >= needed for value in logs):
        return AskedAlternatives()
    return AskedAlternatives(
        frozenset(name for name, one in weights.items() if (one.rollouts > 0).any() or one.log_evidence > UNSETTLED_EVIDENCE),
        frozenset(name for name, one in tokens.items() if one.log_evidence > UNSETTLED_EVIDENCE),
    )


@dataclass(frozen=True)
class AlternativeTests:
    """What the tests say of every alternative measured on some rollouts, by name. `undecided`: why they say nothing."""

    sketches: dict[str, Projection]
    tokens: dict[str, TokenEvidence]
    undecided: str

    @classmethod
    def of(cls, named: Sequence[NamedComparison], pair: PairCalibration | None, margins: Margins) -> AlternativeTests:
        """Rollouts whose reference says nothing are left out, and so is one for an alternative that has no number there."""
        drawn = pair if margins == "as the proof" else margins
        usable = [one for one in named if one.usable]
        if not usable:
            return cls({}, {}, NO_REFERENCE if named else "")
        few = f"only {len(usable)} of {len(named)} compared rollouts can be used" if 2 * len(usable) < len(named) else ""
        drift = own_drift([one.drift for one in usable])
        sketches = {}
        for name in sorted({name for one in usable for name in one.deltas}):
            of_name = [one for one in usable if name in one.deltas and bool(np.isfinite(one.deltas[name]).all())]
            if of_name:
                own, reference = by_yardstick(
                    [one.errors for one in of_name],
                    [one.drift for one in of_name],
                    [one.deltas[name] for one in of_name],
                    drift,
                )
                sketches[name] = project(own, reference, SKETCH_VARIANCE if pair is None else pair.sketch_variance)
        of_file = noise_variance([one.noise for one in usable], [one.spread for one in usable])
        tokens = {}
        for name in sorted({name for one in usable for name in one.leads}) if of_file > 0 else ():
            of_name = [one for one in usable if name in one.leads and _finite(one, name)]
            if of_name:
                tokens[name] = token_evidence(
                    [one.tokens for one in of_name],
                    [one.leads[name] for one in of_name],
                    [one.noise for one in of_name],
                    of_file,
                    LOGIT_VARIANCE if drawn is None else drawn.logit_variance,
                )
        return cls(sketches, tokens, unsound(drift) or few)


def bit_equal(sample: Sequence[Comparison]) -> Statistic | None:
    """For a class whose prefill gives the same bits on every machine: the rollout whose claims lie furthest from the own pass.

    b = ln(mean (claimed − own z)² / mean own drift²) of one rollout. Enforced always, so it is asked only for such a class.
    The own drift is taken as at least what makes the rounding of a claim alone lie below the bound, at every length. None
    where no rollout has a reference that says anything.
    """
    worst: tuple[float, Comparison] | None = None
    for one in sample:
        if one.reference is None or not np.isfinite(one.reference.drift).all() or not np.isfinite(one.errors).all():
            continue
        claimed, own = (float(np.square(v, dtype=np.float64).mean()) for v in (one.errors, one.reference.drift))
        # Half a step of a word squared is three times its variance.
        b = math.log(max(claimed, 1e-30) / (own + 4 * ROUNDING_VARIANCE * math.exp(-LARGEST_BIT_EQUAL)))
        if worst is None or b > worst[0]:
            worst = b, one
    if worst is None:
        return None
    b, one = worst
    detail = "largest log ratio of a rollout's sketch differences to the validator's own drift; reproduced bits lie below"
    return Statistic("proof", "bit_equal", shortened(b), LARGEST_BIT_EQUAL, True, detail, one.group, one.rollout)


def _pooled(name: str, paired: Paired, pair: PairCalibration | None, shape: Shape | None, alpha: float) -> Statistic:
    check, what = _POOLED[name]
    values = unit_values(name, paired)
    count, undecided = len(values), paired.undecided
    coverage = Coverage.NONE if pair is None else pair.coverage(shape)
    threshold = shortened(pair.threshold(name, count, alpha, shape)) if pair is not None and count else None
    detail = f"{what}, {count} units of {len(paired.lengths)} rollouts, own drift {paired.own_drift:.3g}"
    detail += f", own logit noise {paired.own_noise:.3g} nats"
    if paired.left_out:
        detail += f"; {paired.left_out} left out, whose reference says nothing"
    if coverage is Coverage.EXTENDED:
        detail += "; larger than what was calibrated on, hence with the dead zone doubled"
    value = shortened(math.fsum(values) / count) if count else 0.0
    cannot_reject = pair is not None and threshold is not None and threshold >= pair.nulls[name].high
    if cannot_reject:
        detail += "; of so few no value is above the threshold"
    enforced = coverage is not Coverage.NONE and not cannot_reject
    return Statistic(check, name, value, threshold, enforced, _said(detail, undecided), undecided=bool(undecided))


def _extremes(paired: Paired, pair: PairCalibration | None, shape: Shape | None, alpha: float) -> Statistic:
    values = unit_values("sketch_ratio", paired)
    count, undecided = len(values), paired.undecided
    coverage = Coverage.NONE if pair is None else pair.coverage(shape)
    highest = BOUNDS["sketch_ratio"][1]
    threshold = None
    if pair is not None and count:
        most = pair.nulls["sketch_ratio"].most_extreme(count, alpha, dead_zones=coverage.dead_zones)
        threshold = shortened(most / count)
    value = shortened(float((values >= highest).mean())) if count else 0.0
    detail = f"share of {count} units whose sketch energy is e times the validator's own, or more"
    enforced = coverage is not Coverage.NONE
    return Statistic("proof", SHARE, value, threshold, enforced, _said(detail, undecided), undecided=bool(undecided))


def _found(check: str, name: str, value: float, threshold: float, enforced: bool, detail: str, undecided: str) -> Statistic:
    return Statistic(check, name, shortened(value), threshold, enforced, _said(detail, undecided), undecided=bool(undecided))


def _said(detail: str, undecided: str) -> str:
    return f"{detail}; undecided: {undecided}" if undecided else detail


def _finite(one: NamedComparison, name: str) -> bool:
    leads = one.leads[name]
    return bool(np.isfinite(leads.own).all() and np.isfinite(leads.other).all())
