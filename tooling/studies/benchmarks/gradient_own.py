"""Does a miner's update show that it used its own data? The protocol's test over 12 rounds, beside the rule that peers use.

Honest miners train and are merged. Each update is scored twice beside the common set: on the data it was made with, and on the
slice of a UID that nobody holds, which is what a file shows whose miner trained on something else. So both kinds have the same
updates, weights and common data. `own_*`: z of `protocol.gradient.own_test` over the last 12 rounds. `ema_*`: the peers' moving
average, from 0 at the first round, of 1 where the relative improvement on own data is the greater one, else −1.

`…_error` is the equal error, at the threshold where as many of one kind are taken for the other, in the mean of two spans of
rounds; `own_error.fit` is that of two normal curves with the samples' means and deviations, a number where no sample is on the
wrong side. The rules as they are, at their own thresholds: `own_missed`, `own_flagged` (z below half of the reference, where
the test may act) and `ema_missed`, `ema_flagged` (average at most 0.10): shares of those without own data that are not seen,
and of honest ones that are taken for them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from grail_core.gradient.merge import apply_one, medians, norms2
from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import Scored
from grail_core.proof.trained_model import I32
from grail_core.protocol.gradient import challenge as draws
from grail_core.protocol.gradient.own_test import OWN_ROUNDS, Advantage, advantage, reference, shows_no_effect, z_of
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Hotkey
from grail_trainer.gradient_presets import TINY
from tooling.studies.benchmarks.gradient_lean import LeanNetwork, LeanRound

Figures = dict[str, float]

MINERS = 8
SEEDS = range(6)
QUICK = range(1)
ENDS = (18, 30)
"""Rounds after which both tests are read."""
EMA_RATE = 0.05
EMA_PASSES = 0.10


@dataclass(frozen=True)
class History:
    """What is known of one miner, round by round. `average` is the peers' after each round."""

    advantages: tuple[Advantage, ...] = ()
    average: tuple[float, ...] = ()

    def then(self, own: Scored, common: Scored) -> History:
        last = self.average[-1] if self.average else 0.0
        indicator = 1 if _improvement(own) > _improvement(common) else -1
        return History(
            (*self.advantages, advantage(own.differences, common.differences)),
            (*self.average, (1 - EMA_RATE) * last + EMA_RATE * indicator),
        )

    def z(self, end: int) -> int:
        """Over the last rounds up to this one."""
        found = z_of(self.advantages[:end][-OWN_ROUNDS:])
        assert found is not None
        return found


@dataclass(frozen=True)
class Run:
    """Miners of one seed: `honest` with their own data, `without` the same updates on data that nobody used."""

    honest: tuple[History, ...]
    without: tuple[History, ...]


def own_figures(quick: bool = False) -> Figures:
    """Of all seeds together."""
    runs = [played(TINY, seed, max(ENDS)) for seed in (QUICK if quick else SEEDS)]
    return figures_of(runs, ENDS)


def figures_of(runs: Sequence[Run], ends: Sequence[int]) -> Figures:
    """Of runs that have at least as many rounds as the last end says."""
    by_end = [_at(runs, end) for end in ends]
    found = {f"gradient.{key}": statistics.mean(one[key] for one in by_end) for key in by_end[0]}
    for end, one in zip(ends, by_end, strict=True):
        found |= {f"gradient.{key}.round_{end}": one[key] for key in ("own_error", "own_error.fit", "ema_error")}
    return found | {"gradient.own_error.miners": sum(len(run.honest) for run in runs) * len(ends)}


def played(spec: GradientSpec, seed: int, rounds: int, miners: int = MINERS) -> Run:
    """One network of honest miners of the least batch, all of them scored in every round."""
    network = LeanNetwork.of(spec, seed)
    honest, without = [History()] * miners, [History()] * miners
    for done in network.play([spec.batch_least] * miners, rounds):
        common, own, other = _scored(network, done)
        honest = [past.then(mine, shared) for past, mine, shared in zip(honest, own, common, strict=True)]
        without = [past.then(theirs, shared) for past, theirs, shared in zip(without, other, common, strict=True)]
    return Run(tuple(honest), tuple(without))


def _scored(network: LeanNetwork, done: LeanRound) -> tuple[list[Scored], list[Scored], list[Scored]]:
    """Of each update: common data, its own, and as many of the UID so many places further on, whom nobody is."""
    spec, miners, layout = network.spec, len(done.updates), network.layout
    assignment = network.assignment(done.number)

    def slice_of(uid: int) -> I32:
        places = draws.own_places(spec, network.drawn(done.number, f"challenge {uid}"), uid, spec.batch_least)
        return network.rows([assignment.assigned(place.uid, place.step, place.row) for place in places])

    places = draws.common_places(spec, network.drawn(done.number, "select"), 2 * miners - 1)
    common = network.rows([assignment.common(place) for place in places])
    sets = [(common, slice_of(uid), slice_of(uid + miners)) for uid in range(miners)]
    network.model.set(done.theta)
    shared = sequence_losses(network.model, common)
    before = [(shared, *(sequence_losses(network.model, rows) for rows in three[1:])) for three in sets]
    most = medians([norms2(streams, layout) for streams in done.updates])
    found: tuple[list[Scored], list[Scored], list[Scored]] = ([], [], [])
    for streams, three, start in zip(done.updates, sets, before, strict=True):
        network.model.set(dict(apply_one(done.theta, streams, most, layout, spec)))
        for kind, rows, losses in zip(found, three, start, strict=True):
            kind.append(Scored(losses, sequence_losses(network.model, rows)))
    return found


def _improvement(scored: Scored) -> float:
    """Relative, of the sums."""
    before = int(scored.before.sum(dtype="int64"))
    return (before - int(scored.after.sum(dtype="int64"))) / before


def _at(runs: Sequence[Run], end: int) -> Figures:
    honest = [one.z(end) / 1e6 for run in runs for one in run.honest]
    without = [one.z(end) / 1e6 for run in runs for one in run.without]
    averages = [one.average[end - 1] for run in runs for one in run.honest]
    averages_without = [one.average[end - 1] for run in runs for one in run.without]
    seen = [_seen(run, end) for run in runs]
    return {
        "own_error": equal_error(honest, without),
        "own_error.fit": _fitted_error(honest, without),
        "own_z": statistics.mean(honest),
        "own_z.without": statistics.mean(without),
        "own_missed": statistics.mean(one["missed"] for one in seen),
        "own_flagged": statistics.mean(one["flagged"] for one in seen),
        "own_acts": statistics.mean(one["acts"] for one in seen),
        "ema_error": equal_error(averages, averages_without),
        "ema_missed": statistics.mean(one > EMA_PASSES for one in averages_without),
        "ema_flagged": statistics.mean(one <= EMA_PASSES for one in averages),
    }


def _seen(run: Run, end: int) -> Figures:
    """By the rule as it is: the reference are the honest miners, as if each had passed a replay."""
    z: Mapping[Hotkey, int] = {Hotkey(bytes([i] * 32)): one.z(end) for i, one in enumerate(run.honest)}
    against = reference(z, list(z))
    assert against is not None, "a reference takes four miners"
    return {
        "missed": statistics.mean(not shows_no_effect(one.z(end), against) for one in run.without),
        "flagged": statistics.mean(shows_no_effect(one, against) for one in z.values()),
        "acts": float(against.acts),
    }


def equal_error(high: Sequence[float], low: Sequence[float]) -> float:
    """Half of both shares on the wrong side, at the threshold where they are nearest to each other; the least of such.

    Args:
        high: of those that should lie above. low: of those that should not.
    """
    found = []
    for threshold in (-math.inf, *sorted({*high, *low})):
        refused, passed = statistics.mean(one <= threshold for one in high), statistics.mean(one > threshold for one in low)
        found.append((abs(refused - passed), (refused + passed) / 2))
    return min(found)[1]


def _fitted_error(high: Sequence[float], low: Sequence[float]) -> float:
    spread = statistics.stdev(high) + statistics.stdev(low)
    return NormalDist().cdf(-(statistics.mean(high) - statistics.mean(low)) / spread)
