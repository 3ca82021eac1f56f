"""Collecting: every text with its claims, and what a validator measures of it, each step kept by its recipe.

A text is measured once per attention, with the float32 reference that `grail_core.proof` uses, whatever number of miners
claims something about it; named alternatives once. What is decided from it is `judge`'s.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives, Weights, rounded_copies
from grail_core.proof.batch import measure_rollouts
from grail_core.proof.compared import REACH, compare_rollouts
from grail_core.proof.work import YARDSTICKS, ComparedRollout, ProofRow, RolloutMeasurement
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, PROOF_BATCH_SIZE
from tooling.adversaries.deviations.deviation import Produced
from tooling.adversaries.deviations.observation import Rollout
from tooling.adversaries.deviations.workbench import in_groups
from tooling.studies.power_sizes.records import (
    Told,
    load_compared,
    load_measured,
    load_told,
    save_compared,
    save_measured,
    save_told,
)
from tooling.studies.power_sizes.sized_bench import SizedBench
from tooling.testing.models.artefacts import Artefacts, Recipe

Kind = Literal["sdpa", "eager"]
_VERSION: Final = 1  # of everything that collection does
_REMEMBERED: Final = 2**28  # bytes of float32 states kept between the two measurements of a text


class Collector:
    """All steps over one bench. `digest` names its policy model; `say` is told what is being made."""

    def __init__(self, store: Artefacts, bench: SizedBench, digest: str, say: Callable[[str], None]) -> None:
        self.store, self.bench, self.digest, self.say = store, bench, digest, say

    def told(self, name: str, produce: Callable[[], Produced]) -> Told:
        """Rollouts and claims under a name that is the bench's own."""

        def build(folder: Path) -> None:
            self.say(f"{self.bench.setting.label}: {name}")
            save_told(folder / "told.npz", Told(*produce()))

        return load_told(self._made("told", {"name": name, **self._extent}, build) / "told.npz")

    def measured(self, rollouts: Sequence[Rollout], kind: Kind) -> list[RolloutMeasurement]:
        """As a validator measures them: 16 rows a pass in the order given, in this attention, and by the reference."""

        def build(folder: Path) -> None:
            self.say(f"  measured in {kind}")
            save_measured(folder / "measured.npz", self._measure(rollouts, kind))

        recipe = {"text": _digest(rollouts), "attention": kind, **self._extent}
        return load_measured(self._made("measured", recipe, build) / "measured.npz")

    def compared(self, rollouts: Sequence[Rollout], names: Sequence[str], kind: Kind) -> list[ComparedRollout]:
        """Under these alternatives that are other weights, and under those that only sample otherwise."""

        def build(folder: Path) -> None:
            self.say(f"  compared with {', '.join(names) or 'other sampling'}")
            save_compared(folder / "compared.npz", self._compare(rollouts, names, kind))

        recipe = {
            "text": _digest(rollouts),
            "attention": kind,
            "names": [*sorted(YARDSTICKS), *names],
            "reach": str(REACH),
            **self._extent,
        }
        return load_compared(self._made("compared", recipe, build) / "compared.npz")

    @property
    def _extent(self) -> dict[str, str | int]:
        bench = self.bench
        facts: dict[str, str | int] = {"model": self.digest, "window": bench.setting.label, "version": _VERSION}
        return facts | {"groups": len(bench.prompts), "limit": bench.limit}

    def _made(self, kind: str, recipe: Recipe, build: Callable[[Path], None]) -> Path:
        return self.store.make(f"sizes-{kind}", recipe, build).folder

    # The passes

    @cached_property
    def _reference(self) -> _Remembering:
        return _Remembering(self.bench.folders.policy)

    def _model(self, kind: Kind) -> PolicyModel:
        return self.bench.models.sdpa if kind == "sdpa" else self.bench.models.eager

    def _measure(self, rollouts: Sequence[Rollout], kind: Kind) -> list[RolloutMeasurement]:
        setting, found = self.bench.setting, []
        model = self._model(kind)
        for batch in _batches(rollouts):
            found += measure_rollouts(
                model,
                [one.tokens for one in batch],
                [one.prompt_length for one in batch],
                [setting.positions(one) for one in batch],
                setting.projections(model.hidden_size),
                setting.policy,
                [setting.sampling_seed(one.group, one.rollout) for one in batch],
                reference=self._reference.model,
            )
        return found

    def _compare(self, rollouts: Sequence[Rollout], names: Sequence[str], kind: Kind) -> list[ComparedRollout]:
        setting, found = self.bench.setting, []
        model = self._model(kind)
        copies = rounded_copies(self.bench.model)
        alternatives = Alternatives(model, {name: copies.get(name) or self._previous(name) for name in names})

        def own(rows: Sequence[ProofRow]) -> list[Tensor]:
            hidden = model.hidden_states([row.tokens for row in rows])
            return [states[row.prompt_length - 1 :] for row, states in zip(rows, hidden, strict=True)]

        for batch in _batches(rollouts):
            rows = [
                ProofRow(
                    one.tokens,
                    one.prompt_length,
                    setting.positions(one, ALTERNATIVE_POSITIONS),
                    setting.sampling_seed(one.group, one.rollout),
                )
                for one in batch
            ]
            found += compare_rollouts(alternatives, rows, setting.projections(model.hidden_size), setting.policy, own)
        return found

    def _previous(self, name: str) -> Weights:
        """Of an earlier checkpoint, by the learning rate that its name ends with."""
        rate = name.removeprefix("previous-1 at ")
        return lambda: self.bench.older[rate].state()


class _Remembering:
    """The float32 reference, with the states of the last batches kept: the other attention's measurement asks for them."""

    def __init__(self, folder: Path) -> None:
        self.model = PolicyModel.load(folder, dtype="float32")
        self._states: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._run = self.model.hidden_states
        self.model.hidden_states = self._recalled  # type: ignore[method-assign]

    def _recalled(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        key = hashlib.sha256(repr([tuple(row) for row in rows]).encode()).digest()
        if key not in self._states:
            self._states[key] = self._run(rows)
            while sum(one[0].numel() * len(one) * 4 for one in self._states.values()) > _REMEMBERED:
                self._states.popitem(last=False)
        return self._states[key]


def _batches(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    return [group[i : i + PROOF_BATCH_SIZE] for group in in_groups(rollouts) for i in range(0, len(group), PROOF_BATCH_SIZE)]


def _digest(rollouts: Sequence[Rollout]) -> str:
    state = hashlib.sha256()
    for one in rollouts:
        head = np.array([one.group, one.rollout, one.prompt_length, len(one.tokens)], "<i4")
        state.update(head.tobytes() + np.asarray(one.tokens, "<i4").tobytes())
    return state.hexdigest()[:32]
