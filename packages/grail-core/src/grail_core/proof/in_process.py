"""`ModelWork` by a model of this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from grail_core.model.memory import in_parts
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.batch import measure_rollouts
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import Projections, Sketches
from grail_core.proof.work import MeasuredBatch, ModelFacts, ProofRow, RolloutMeasurement, RolloutTokens
from grail_core.protocol.policy import GenerationPolicy


class InThisProcess:
    """Nothing ends a pass that takes too long here.

    Args:
        alternatives: measured on a share of the rollouts that a challenge draws, at more positions: several float32 passes.
            None compares with none. A function is called when they are needed for the first time: they take memory.
    """

    def __init__(
        self, model: PolicyModel, alternatives: Alternatives | Callable[[], Alternatives | None] | None = None
    ) -> None:
        self._model = model
        self._given = alternatives
        self.facts = facts_of(model)

    def measure(
        self, batch: Sequence[ProofRow], signs: Projections, policy: GenerationPolicy, seconds: float = math.inf
    ) -> MeasuredBatch:
        def run(rows: Sequence[ProofRow]) -> list[RolloutMeasurement]:
            return measure_rollouts(
                self._model,
                [row.tokens for row in rows],
                [row.prompt_length for row in rows],
                [row.positions for row in rows],
                signs,
                policy,
                [row.sampling_seed for row in rows],
            )

        measured, rows = in_parts(batch, run)
        return MeasuredBatch(measured, None if rows == len(batch) else rows)

    @cached_property
    def _alternatives(self) -> Alternatives | None:
        return self._given() if callable(self._given) else self._given

    def compared(self, sampled: int) -> int:
        return self._alternatives.count(sampled) if self._alternatives is not None else 0

    def sketches(self, rows: RolloutTokens, signs: Projections, seconds: float = math.inf) -> list[dict[str, Sketches]]:
        if self._alternatives is None:
            raise ValueError("there is no alternative to measure")
        return self._alternatives.sketches(rows, signs)


def facts_of(model: PolicyModel) -> ModelFacts:
    """Raises ValueError: no numerics class is admitted for its dtype, attention or device."""
    return ModelFacts(
        numerics_class=numerics_class_of(model),
        layers=model.layers,
        hidden_size=model.hidden_size,
        vocabulary_size=model.vocabulary_size,
        context_length=model.context_length,
    )
