"""What is collected of a size: honest work of every numerics, and every deviation.

Honest text is written by an engine (decoding with a key-value cache) of either attention kind and proved in every numerics of
that kind, and once in the other: so there are all four pairs of classes. Windows ("fitted", "held out", "judged") have their
own seeds, projections and challenges, and the fitted one other prompts too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from grail_core.proof.work import ComparedRollout, RolloutMeasurement
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations import provers
from tooling.adversaries.deviations.catalogue import studied_deviations
from tooling.adversaries.deviations.deviation import Deviation, Produced
from tooling.adversaries.deviations.observation import Rollout, Setting
from tooling.adversaries.deviations.provers import Prover
from tooling.adversaries.deviations.workbench import Folders
from tooling.studies.power_sizes import models, other_machines
from tooling.studies.power_sizes.collect import Collector, Kind
from tooling.studies.power_sizes.models import FINAL, ModelRecipe
from tooling.studies.power_sizes.records import Told
from tooling.studies.power_sizes.sized_bench import Models, SizedBench
from tooling.studies.power_sizes.sizes import StudiedSize, checkpoints_of, smaller_than, stranger_to
from tooling.testing.models.artefacts import Artefacts
from tooling.testing.models.corpus import Corpus

KINDS: Final[tuple[Kind, Kind]] = ("sdpa", "eager")
COPIES: Final = ("int8", "int8-groups", "int4-groups")
_NEAREST: Final[Mapping[str, Sequence[str]]] = {
    "4-bit": ("int4-groups",),
    "groups of 32": ("int8-groups",),
    "zero point": ("int8", "int8-groups"),
    "8-bit": ("int8",),
}
"""Copies that are measured of a deviation, by words of its name: the nearest. A validator measures all; others add nothing."""


@dataclass(frozen=True)
class Run:
    """Rollouts of one miner: what it says and is, and what was measured of it in the class that it is held against."""

    name: str
    told: Told
    writes: Kind  # the attention of the engine that wrote the text
    proves: Kind  # of the pass that proved it, and of the validator's
    measured: Sequence[RolloutMeasurement]
    compared: Sequence[ComparedRollout]  # of the first so many rollouts

    @property
    def rollouts(self) -> Sequence[Rollout]:
        return self.told.rollouts


class SizeStudy:
    """Everything of one size, collected when it is asked for. `compared_with`: what honest work is held against by name."""

    compared_with: Sequence[str] = ("previous-1 at 1e-5", *COPIES)

    def __init__(self, size: StudiedSize, store: Artefacts, corpus: Corpus, say: Callable[[str], None]) -> None:
        self.size, self._store, self._corpus, self._say = size, store, corpus, say

    # Honest work

    def fitted(self) -> Iterator[tuple[str, list[Run]]]:
        """Per checkpoint of every model: runs of all numerics, and both kinds of measurement; none of a size that is not to be
        fitted to."""
        for recipe in self.size.models if self.size.fitted_groups else ():
            for name in checkpoints_of(recipe):
                collector = self._collector("fitted", recipe, name, self.size.fitted_groups, from_end=True)
                runs = [run for writes in KINDS for run in self._written(collector, writes, cross=True)]
                yield f"{self.size.name}, seed {recipe.seed}, {name}", runs

    def held_out(self) -> list[Run]:
        """Honest work of the judged model, every numerics held against its own attention kind."""
        collector = self._collector("held out", self.size.judged, FINAL, self.size.held_out_groups)
        runs = []
        for writes in KINDS:
            runs += self._written(collector, writes, compared=self.size.compared_groups)
        return runs

    def elsewhere(self) -> list[Run]:
        """Some of the held-out text, proved under other instruction sets."""
        if not self.size.other_machines:
            return []
        collector = self._collector("held out", self.size.judged, FINAL, self.size.held_out_groups)
        base = self._text(collector, "sdpa")
        some = base[: 16 * self.size.other_machines]
        runs = []
        for name in other_machines.MACHINES:

            def produce(name: str = name) -> Produced:
                return list(some), other_machines.prove(collector.bench, some, name)

            told = collector.told(f"sdpa, batch 16, {name}", produce)
            runs.append(Run(f"sdpa, batch 16, {name}", told, "sdpa", "sdpa", collector.measured(some, "sdpa"), ()))
        return runs

    def _text(self, collector: Collector, writes: Kind) -> list[Rollout]:
        bench = collector.bench
        model = bench.models.sdpa if writes == "sdpa" else bench.models.eager

        def produce() -> Produced:
            rollouts = bench.sample(model)
            return rollouts, bench.prove(rollouts, provers.together(model))

        return list(collector.told(f"honest, {writes}, batch 16", produce).rollouts)

    def _written(self, collector: Collector, writes: Kind, *, cross: bool = False, compared: int = 0) -> list[Run]:
        """One honest text under all its provers. `cross`: also measured in the attention that it was not proved in."""
        rollouts = self._text(collector, writes)
        runs = []
        beside = collector.compared(rollouts[: 16 * compared], self.compared_with, writes) if compared else []
        for name, (proves, prover) in self._provers(collector.bench, writes).items():

            def produce(prover: Prover = prover) -> Produced:
                return rollouts, collector.bench.prove(rollouts, prover)

            told = collector.told(f"honest, {name}" if proves == writes else f"honest, {writes} text, {name}", produce)
            for kind in KINDS if cross else (proves,):
                label = f"{name}, written in {writes}, measured in {kind}"
                runs.append(Run(label, told, writes, proves, collector.measured(rollouts, kind), beside))
        return runs

    def _provers(self, bench: SizedBench, writes: Kind) -> dict[str, tuple[Kind, Prover]]:
        ways = provers.same_dtype(bench.models)
        own = [name for name in ways if writes in name]
        other: Kind = "eager" if writes == "sdpa" else "sdpa"
        return {**{name: (writes, ways[name]) for name in own}, f"{other}, batch 16": (other, ways[f"{other}, batch 16"])}

    # Deviations

    @cached_property
    def deviations(self) -> list[Deviation]:
        left_out, only = self.size.without, self.size.only
        every = [one for one in studied_deviations() if not only or one.name in only]
        return [one for one in every if not any(word in one.name or word == one.threat for word in left_out)]

    def deviation(self, deviation: Deviation) -> Run:
        collector = self._judged
        told = collector.told(deviation.name, lambda: deviation.produce(collector.bench))
        kind: Kind = "eager" if "eager attention" in deviation.name else "sdpa"
        measured = collector.measured(told.rollouts, kind)
        names = alternatives_for(deviation)
        compared = collector.compared(told.rollouts, names, kind) if names is not None else []
        return Run(deviation.name, told, kind, kind, measured, compared)

    def honest_beside(self) -> Run:
        """Honest rollouts of the deviations' window, under every copy: what a cheat puts among the others."""
        collector = self._judged
        bench = collector.bench

        def produce() -> Produced:
            rollouts = bench.sample()
            return rollouts, bench.prove(rollouts)

        told = collector.told("honest", produce)
        measured = collector.measured(told.rollouts, "sdpa")
        return Run("honest", told, "sdpa", "sdpa", measured, collector.compared(told.rollouts, COPIES, "sdpa"))

    def told_of_model(self) -> dict[str, Any]:
        """What its making left behind; nothing of a folder that somebody else made."""
        path = self._judged.bench.folders.policy / "training.json"
        told: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return told

    def done_with(self) -> None:
        self._judged.bench.forget()

    @cached_property
    def _judged(self) -> Collector:
        return self._collector("judged", self.size.judged, FINAL, self.size.deviation_groups, limit=self.size.limit)

    # Models

    def _collector(
        self, window: str, recipe: ModelRecipe, name: str, groups: int, *, limit: int | None = None, from_end: bool = False
    ) -> Collector:
        made = models.make(self._store, self._corpus, recipe, self._say)
        folders = Folders(made.folder / name, *(self._folder(one(self.size.judged)) for one in (smaller_than, stranger_to)))
        limit = limit or self.size.honest_limit
        digest = f"{made.digest} {name}"
        setting = Setting(window, GenerationPolicy(limit))
        with_others = Models(folders, recipe.trained, self._store, digest)
        bench = SizedBench(with_others, self._corpus, setting, groups, limit, from_end=from_end)
        return Collector(self._store, bench, digest, self._say)

    def _folder(self, recipe: ModelRecipe) -> Path:
        return models.make(self._store, self._corpus, recipe, self._say).folder / FINAL


def alternatives_for(deviation: Deviation) -> Sequence[str] | None:
    """Named alternatives that are measured of a deviation; None where none could add anything to the pooled tests."""
    if deviation.threat == "A5":
        rate = deviation.name.split("lr ")[1].split(",")[0]
        return (f"previous-1 at {rate}",)
    if deviation.threat in ("A4", "B1"):
        return next((names for words, names in _NEAREST.items() if words in deviation.name), ())
    return () if deviation.threat == "B3" or "steering" in deviation.name else None
