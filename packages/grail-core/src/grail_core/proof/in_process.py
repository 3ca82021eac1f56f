"""`ModelWork` by a model of this process.

It measures with the attention of what it measures, holds the float32 reference and the alternatives' weights from the first
time that they are needed, and keeps its own and the reference's states of the rows measured last: where a comparison follows,
they need no second pass.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Final

import numpy as np
from torch import Tensor

from grail_core.model.memory import in_parts, on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.batch import measure_rollouts
from grail_core.proof.compared import compare_rollouts
from grail_core.proof.numerics import NUMERICS_CLASSES, measuring_class, numerics_class_of
from grail_core.proof.sketches import Projections
from grail_core.proof.work import AskedAlternatives, ComparedRollout, MeasuredBatch, ModelFacts, ProofRow, RolloutMeasurement
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy

KEPT_BYTES: Final = 256 << 20
"""States kept for a comparison, on the model's device: in both types of a file of 64 answers of 800 tokens where d = 896."""

_Key = tuple[int, str, int, bytes]
"""Of kept states: version of the weights, attention or _FLOAT32, length of the prompt, tokens."""
_FLOAT32: Final = "float32"  # the reference's


class InThisProcess:
    """Nothing ends a pass that takes too long here.

    Args:
        alternatives: what rollouts are compared with beside the ways to sample. A function is called when they or the float32
            reference are needed for the first time: they take memory. None: no other weights.
        reference: without one (False) nothing is held against float32, and nothing compared; it takes no more memory then.
        kept_bytes: of states, kept from measuring to comparing; what is not kept is computed anew.
    """

    def __init__(
        self,
        model: PolicyModel,
        alternatives: Alternatives | Callable[[], Alternatives | None] | None = None,
        *,
        reference: bool = True,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._model = model
        self._given = alternatives
        self._refers = reference
        self._kept = _KeptStates(kept_bytes if reference else 0)
        self.facts = facts_of(model)

    def measure(
        self,
        batch: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        reference: bool = True,
    ) -> MeasuredBatch:
        attention = self._attention(proof_class)
        refers = self._refers and reference  # what is not held against float32 is not compared either: no states are kept

        def run(rows: Sequence[ProofRow]) -> list[RolloutMeasurement]:
            def keep(kind: str, at: int, states: Tensor) -> None:
                self._kept.put(self._key(kind, rows[at]), states)

            keeps = refers and self._kept.most_bytes > 0
            return measure_rollouts(
                self._model,
                [row.tokens for row in rows],
                [row.prompt_length for row in rows],
                [row.positions for row in rows],
                signs,
                policy,
                [row.sampling_seed for row in rows],
                reference=self._alternatives.reference.model() if refers else None,
                keep=partial(keep, attention) if keeps else None,
                keep_reference=partial(keep, _FLOAT32) if keeps else None,
            )

        # In this order wherever both are held: a comparison has the reference for itself first.
        with self._alternatives.reference.lock if refers else nullcontext(), self._model.attending(attention):
            measured, rows = in_parts(batch, run)
        return MeasuredBatch(measured, None if rows == len(batch) else rows)

    def compare(
        self,
        rows: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        asked: AskedAlternatives | None = None,
    ) -> list[ComparedRollout]:
        """Raises ValueError where there is no reference to compare under."""
        if not self._refers:
            raise ValueError("nothing is compared without a float32 reference")
        attention = self._attention(proof_class)
        return compare_rollouts(
            self._alternatives,
            rows,
            signs,
            policy,
            lambda some: self._own_states(attention, some),
            kept=lambda row: self._kept.get(self._key(_FLOAT32, row)),
            asked=asked,
        )

    @cached_property
    def _alternatives(self) -> Alternatives:
        given = self._given() if callable(self._given) else self._given
        return given if given is not None else Alternatives(self._model, {})

    def _attention(self, proof_class: str | None) -> str:
        own = self.facts.numerics_class
        return NUMERICS_CLASSES[own if proof_class is None else measuring_class(proof_class, own)].attention

    def _own_states(self, attention: str, rows: Sequence[ProofRow]) -> list[Tensor]:
        """Of each row, [completion + 1, d]: as kept, else by a pass over those that are not."""
        kept = [self._kept.get(self._key(attention, row)) for row in rows]
        missing = [row for row, states in zip(rows, kept, strict=True) if states is None]
        with self._model.attending(attention):
            made = iter(
                [
                    states
                    for start in range(0, len(missing), PROOF_BATCH_SIZE)
                    for states in in_parts(missing[start : start + PROOF_BATCH_SIZE], self._completion_states)[0]
                ]
            )
        return [states if states is not None else next(made) for states in kept]

    def _key(self, attention: str, row: ProofRow) -> _Key:
        tokens = np.asarray(row.tokens, dtype=np.int64).tobytes()
        return self._model.weights_version, attention, row.prompt_length, tokens

    @on_this_machine
    def _completion_states(self, rows: Sequence[ProofRow]) -> list[Tensor]:
        hidden = self._model.hidden_states([row.tokens for row in rows])
        return [states[row.prompt_length - 1 :] for row, states in zip(rows, hidden, strict=True)]


class _KeptStates:
    """States of the rows measured last, as many as the budget holds; the oldest go first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._bytes = 0
        self._held: OrderedDict[_Key, Tensor] = OrderedDict()

    def put(self, key: _Key, states: Tensor) -> None:
        """`states` [tokens, d]."""
        self._drop(key)
        if states.nbytes > self.most_bytes:
            return
        while self._bytes + states.nbytes > self.most_bytes:
            self._drop(next(iter(self._held)))
        self._held[key] = states.clone()  # a view would hold the whole batch, prompts and padding too
        self._bytes += states.nbytes

    def get(self, key: _Key) -> Tensor | None:
        return self._held.get(key)

    def _drop(self, key: _Key) -> None:
        states = self._held.pop(key, None)
        if states is not None:
            self._bytes -= states.nbytes


def facts_of(model: PolicyModel) -> ModelFacts:
    """Raises ValueError: no numerics class is admitted for its dtype, attention or device."""
    return ModelFacts(
        numerics_class=numerics_class_of(model),
        layers=model.layers,
        hidden_size=model.hidden_size,
        vocabulary_size=model.vocabulary_size,
        context_length=model.context_length,
    )
