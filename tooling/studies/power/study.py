"""The study from end to end: train, collect honest and dishonest rollouts, calibrate, judge, tell.

Two windows' randomness is used: honest rollouts for calibration are of one, everything that is judged is of another. What is
collected is kept on disk by recipe; judging is done anew each time, so a change of a statistic costs no model run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import PairCalibration, Shape, shipped_table
from grail_core.proof.comparison import Comparison
from grail_core.proof.numerics import DEFAULT_CLASS, class_name
from grail_core.proof.statistics import rollout_values
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations import provers
from tooling.adversaries.deviations.catalogue import studied_deviations
from tooling.adversaries.deviations.deviation import Deviation
from tooling.adversaries.deviations.observation import Observation, Rollout, Setting, load, observe, save
from tooling.adversaries.deviations.size import Size
from tooling.adversaries.deviations.workbench import Bench, Folders
from tooling.studies.power import detection
from tooling.testing.models import language_model
from tooling.testing.models.artefacts import Artefact, Artefacts, Recipe, default_folder
from tooling.testing.models.corpus import Corpus, load_corpus

_VERSION = 6  # of everything that collection does

_NAMED = ("A4", "A5", "A11")  # threats for which the named alternatives are measured too


@dataclass(frozen=True)
class HonestResult:
    """Held-out honest rollouts of one numerics: windows judged, windows rejected, by which statistic.

    `enforced_rejected`: windows that a validator would reject today, with the shipped table for the numerics' class.
    """

    numerics: str
    rollouts: int
    windows: int
    rejected: int
    enforced_rejected: int
    by: dict[str, int]
    energy: float  # mean squared sketch difference of a coordinate
    same_dtype: bool


@dataclass(frozen=True)
class DeviationResult:
    deviation: Deviation
    rollouts: int
    detections: list[detection.Detection]

    @property
    def best(self) -> detection.Detection | None:
        """The statistic that needs the fewest rollouts; None where none suffices."""
        able = [d for d in self.detections if d.rollouts is not None]
        return min(able, key=lambda d: d.rollouts or 0, default=None)

    @property
    def window_power(self) -> float:
        """Share of 64-rollout windows rejected by the statistic that rejects most."""
        return max(d.window_power for d in self.detections)


class Study:
    """One study of one size; `say` is told what is being made."""

    def __init__(self, size: Size, folder: Path | None = None, say: Callable[[str], None] = lambda text: None) -> None:
        torch.set_num_threads(1)
        self.size = size
        self.store = Artefacts(folder or default_folder())
        self._say = say

    @cached_property
    def corpus(self) -> Corpus:
        return load_corpus()

    @cached_property
    def trained(self) -> dict[str, Artefact]:
        shapes = {"policy": self.size.policy, "smaller": self.size.smaller, "stranger": self.size.stranger}
        made = {}
        for name, shape in shapes.items():
            self._say(f"model: {name}")
            made[name] = language_model.language_model(self.store, self.corpus, shape)
        return made

    @property
    def folders(self) -> Folders:
        return Folders(**{name: artefact.folder for name, artefact in self.trained.items()})

    @cached_property
    def bench(self) -> Bench:
        return self._bench("judged", self.size.deviation_groups, self.size.limit)

    @cached_property
    def shape(self) -> Shape:
        return Shape(self.size.policy.layers, self.size.policy.hidden)

    # Collecting

    def deviation(self, deviation: Deviation) -> list[Observation]:
        groups = self.size.deviation_groups * deviation.pool

        def collect() -> list[Observation]:
            bench = self.bench if deviation.pool == 1 else self._bench("judged", groups, self.size.limit)
            rollouts, claims = deviation.produce(bench)
            return self._observe(bench, rollouts, claims, named=deviation.threat in _NAMED)

        return self._kept(deviation.name, groups, self.size.limit, collect)

    def calibration_runs(self) -> dict[str, list[Observation]]:
        """Honest rollouts of every same-dtype numerics, long ones and short ones, of the calibration window."""
        runs = {}
        for label, limit in (("long", self.size.limit), ("short", self.size.short_limit)):
            groups = self.size.calibration_groups
            for name, observations in self._honest("calibration", groups, limit, named=False).items():
                runs[f"{name}, {label}"] = observations
        return runs

    def honest_runs(self) -> dict[str, list[Observation]]:
        """The same of the judged window, all numerics; long ones, with the named alternatives measured."""
        return self._honest("judged", self.size.honest_groups, self.size.limit, named=True, every=True)

    def held_out_runs(self) -> dict[str, list[Observation]]:
        """Many short ones of another window, same-dtype numerics, as a validator measures them: alternatives and all."""
        return self._honest("held out, all tests", self.size.held_out_groups, self.size.short_limit, named=True)

    def _honest(
        self, window: str, groups: int, limit: int, *, named: bool, every: bool = False
    ) -> dict[str, list[Observation]]:
        bench: Bench | None = None
        runs = {}
        for name in _numerics(every):

            def collect(name: str = name) -> list[Observation]:
                nonlocal bench
                bench = bench or self._bench(window, groups, limit)
                ways = {**provers.same_dtype(bench.models), **provers.other_dtype(bench.models)}
                rollouts = _generated(bench, name)
                return self._observe(bench, rollouts, bench.prove(rollouts, ways[name]), named=named)

            runs[name] = self._kept(f"honest {window}: {name}", groups, limit, collect)
        return runs

    def _bench(self, window: str, groups: int, limit: int) -> Bench:
        return Bench(self.folders, self.corpus, Setting(window, GenerationPolicy(limit)), groups, limit)

    def _observe(
        self, bench: Bench, rollouts: Sequence[Rollout], claims: Sequence[RolloutProof], *, named: bool
    ) -> list[Observation]:
        # The alternatives are those of the study's one checkpoint, whichever window's rollouts are measured.
        others = self.bench.named_alternatives if named else None
        return observe(bench.setting, bench.model, others, rollouts, claims)

    def _kept(self, name: str, groups: int, limit: int, collect: Callable[[], list[Observation]]) -> list[Observation]:
        recipe: Recipe = {
            "name": name,
            "groups": groups,
            "limit": limit,
            "version": _VERSION,
            "models": [artefact.digest for artefact in self.trained.values()],
        }

        def build(folder: Path) -> None:
            self._say(name)
            save(folder / "observations.npz", collect())

        return load(self.store.make("observations", recipe, build).folder / "observations.npz")

    # Judging

    @cached_property
    def calibration(self) -> PairCalibration:
        conditions = [detection.comparisons(run) for run in self.calibration_runs().values()]
        return detection.fit(conditions, self.shape, ("any bf16 numerics of this study", provers.PROTOCOL_NUMERICS))

    @cached_property
    def deviations(self) -> list[Deviation]:
        return studied_deviations()

    def deviation_results(self) -> list[DeviationResult]:
        collected = [self.deviation(deviation) for deviation in self.deviations]
        self._say("judging")
        results = []
        for deviation, observations in zip(self.deviations, collected, strict=True):
            found = detection.detections(observations, self.calibration)
            results.append(DeviationResult(deviation, len(observations), found))
        return results

    def honest_results(self) -> list[HonestResult]:
        held_out = self.held_out_runs()
        results = []
        for name, run in self.honest_runs().items():
            sample = detection.comparisons(run)
            short = detection.comparisons(held_out[name]) if name in held_out else []
            results.append(_judged(name, sample, short, self.calibration, name in held_out))
        return results


def _judged(
    name: str, long: list[Comparison], short: list[Comparison], pair: PairCalibration, same_dtype: bool
) -> HonestResult:
    windows = rejected = enforced = 0
    by: dict[str, int] = {}
    for sample in (long, short):
        n, bad, names = detection.false_rejects(sample, pair)
        windows, rejected = windows + n, rejected + bad
        enforced += detection.false_rejects(sample, shipped_pair(name))[1]
        for key, count in names.items():
            by[key] = by.get(key, 0) + count
    values = rollout_values("energy", long)
    return HonestResult(name, len(long) + len(short), windows, rejected, enforced, by, float(values.mean()), same_dtype)


def shipped_pair(miner: str) -> PairCalibration:
    """What the package's table says of a miner with these numerics (any text that says "eager" if it is) and the validator.

    Raises:
        LookupError: the table has no such pair.
    """
    names = [class_name(attention="eager" if "eager" in miner else "sdpa", device="cpu"), DEFAULT_CLASS]
    pair = shipped_table().lookup(names[0], names[1])
    if pair is None:
        raise LookupError(f"{shipped_table().version} has no pair {' and '.join(names)}")
    return pair


def _generated(bench: Bench, numerics: str) -> list[Rollout]:
    """An honest miner generates with the engine that goes with its numerics."""
    if numerics.startswith("eager") or numerics.endswith("eager"):
        return bench.sample(bench.models.eager)
    if "batch 1" in numerics and "16" not in numerics:
        return bench.sample_in_process()
    if numerics.startswith("float16"):
        return bench.sample(bench.models.half)
    if numerics.startswith("float32"):
        return bench.sample(bench.models.single)
    return bench.sample()


def _numerics(every: bool) -> list[str]:
    names = list(provers.SAME_DTYPE)
    return [*names, *provers.OTHER_DTYPE] if every else names
