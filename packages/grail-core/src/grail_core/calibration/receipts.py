"""The largest values that honest choices have, per pair of numerics classes and length: what `proof.receipt_bounds` holds.

A choice is drawn by one class, proved by one, and measured by each class that a verifier may have; every measurement is that of
`verification.receipt_model`, and only the largest values are kept. Which answers are drawn, and in which ways they are proved,
says the caller: `calibration.model_receipts` for anybody's model, the receipts study for the table that ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from grail_core.inference.constants import PROMPT_POSITIONS, RECEIPT_POSITIONS
from grail_core.model.memory import in_parts
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.answer import measure_answer
from grail_core.proof.calibration import Shape
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.receipt_bounds import (
    PROOF,
    STATISTICS,
    LengthClass,
    PairExtremes,
    ReceiptStatistics,
    ReceiptTable,
    receipt_statistics,
)
from grail_core.proof.sketches import Projections, differences
from grail_core.proof.work import ChoiceMeasurement
from grail_core.protocol.policy import GenerationPolicy

LENGTHS = (8, 64, 256, 512)
"""Length classes: completions of at most so many tokens. Longer ones are of no class, and are not measured."""
CHOICES = 4
"""Of one answer."""
LIMITS = (1, 4, 8, 16, 64, 64, 256, 440)
"""Completion limits in turn: some of every class."""
POLICIES = (
    GenerationPolicy(1),
    GenerationPolicy(1, 0.7, 0.95),
    GenerationPolicy(1, 1.0, 1.0, 50),
    GenerationPolicy(1, 1.2, 1.0, -1, 1.2),
)
"""How they are drawn, in turn: the network's policy, nucleus, top-k, and a repetition penalty."""


@dataclass(frozen=True)
class HonestAnswer:
    """What was drawn, and by which class."""

    prompt: tuple[int, ...]
    completions: Sequence[tuple[int, ...]]
    policy: GenerationPolicy
    sampling_seeds: Sequence[int]  # one a choice
    signs: Projections
    generation_class: str


@dataclass(frozen=True, eq=False)
class Claims:
    """What one class says of every choice: sketches [n, 4] as `parse_sketches` gives them, log-probabilities [completion]."""

    proof_class: str
    choices: Sequence[tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]]


@dataclass
class _Largest:
    choices: int = 0
    values: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATISTICS, 0.0))


class Extremes:
    """Collects values of honest choices by (miner's class, verifier's class, length).

    Args:
        once: a choice that one class drew and proved counts once. The table that ships counts it for either, which says more of
            its choices than there were, and nothing of its bounds.
    """

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self._found: dict[tuple[str, str], dict[int, _Largest]] = {}
        self._shapes: dict[tuple[str, str], set[Shape]] = {}

    def take(self, proof: str, generation: str, validator: str, shape: Shape, length: int, found: ReceiptStatistics) -> None:
        """Sketches are of who proved and draws of who generated: each pair takes what is its own."""
        for role, (miner, names) in enumerate(((proof, set(PROOF)), (generation, set(STATISTICS) - set(PROOF)))):
            self._shapes.setdefault((miner, validator), set()).add(shape)
            of_pair = self._found.setdefault((miner, validator), {})
            of_length = of_pair.setdefault(next(one for one in LENGTHS if length <= one), _Largest())
            of_length.choices += role == 0 if self._once else miner == proof
            for name in names:
                of_length.values[name] = max(of_length.values[name], getattr(found, name))

    def table(self, version: str, place: str, *, least: int = 1) -> ReceiptTable:
        """Of every pair the largest of all pairs: what one machine shows of two equal kernels is less than machines differ by.
        And of all lengths, but for the sum of margins: the others are of one token, or a mean.

        Args:
            least: length classes with fewer choices are left out, and pairs of which nothing is left.
        """
        pairs = []
        of_any = {name: max(one.values[name] for of in self._found.values() for one in of.values()) for name in STATISTICS}
        sums = {
            tokens: max((of[tokens].values["margin_sum"] for of in self._found.values() if tokens in of), default=0.0)
            for tokens in LENGTHS
        }
        for (miner, validator), lengths in sorted(self._found.items()):
            shapes = tuple(sorted(self._shapes[miner, validator], key=lambda one: (one.layers, one.hidden_size)))
            classes = tuple(
                LengthClass(tokens, lengths[tokens].choices, _rounded(of_any | {"margin_sum": sums[tokens]}))
                for tokens in sorted(lengths)
                if lengths[tokens].choices >= least
            )
            if classes:
                pairs.append(PairExtremes(miner, validator, shapes, classes))
        return ReceiptTable(version, place, tuple(pairs))


def enter(extremes: Extremes, answer: HonestAnswer, claimed: Sequence[Claims], verifier: PolicyModel) -> None:
    """Measure an answer once with the model of a verifier, and take what each of the claims differs by.

    Raises: as `measure_answer`.
    """
    shape, own = Shape(verifier.layers, verifier.hidden_size), numerics_class_of(verifier)
    looked_at = [list(range(min(len(tokens), RECEIPT_POSITIONS))) for tokens in answer.completions]

    def run(choices: Sequence[int]) -> list[ChoiceMeasurement]:
        return measure_answer(
            verifier,
            answer.prompt,
            [answer.completions[choice] for choice in choices],
            [looked_at[choice] for choice in choices],
            answer.signs,
            answer.policy,
            [answer.sampling_seeds[choice] for choice in choices],
            prompt_positions=PROMPT_POSITIONS,
        )

    measured, _ = in_parts(range(len(answer.completions)), run)
    for claims in claimed:
        for tokens, (sketches, logprobs), one in zip(answer.completions, claims.choices, measured, strict=True):
            found = _statistics(answer.policy, len(tokens), one, sketches, logprobs)
            extremes.take(claims.proof_class, answer.generation_class, own, shape, len(tokens), found)


def limited(policy: GenerationPolicy, limit: int) -> GenerationPolicy:
    return replace(policy, max_tokens=limit)


def _statistics(
    policy: GenerationPolicy,
    length: int,
    one: ChoiceMeasurement,
    claims: npt.NDArray[np.int16],
    logprobs: npt.NDArray[np.float32],
) -> ReceiptStatistics:
    return receipt_statistics(
        differences(claims, one.z),
        length,
        one.margins,
        logprobs[list(one.positions)] - one.logprobs,
        repetition_penalty=policy.repetition_penalty,
    )


def _rounded(values: dict[str, float]) -> ReceiptStatistics:
    return ReceiptStatistics(**{name: float(f"{value:.4g}") for name, value in values.items()})
