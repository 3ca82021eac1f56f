"""What the checks ask of a model, in plain arrays: who asks does not know in which process the model is.

`in_process.InThisProcess` answers with a model of this process (a trainer's, a courtroom's, a test's), a validator's answers
from a child (`grail_validator.model_process`). A proof batch goes over whole and its composition is the asker's; only the order
in which batches are measured is free. torch is not imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from grail_core.protocol.constants import MARGIN_CLIP
from grail_core.protocol.policy import GenerationPolicy


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without its weights. `numerics_class`: what this machine computes it in."""

    numerics_class: str
    layers: int
    hidden_size: int
    vocabulary_size: int
    context_length: int


@dataclass(frozen=True)
class ProofRow:
    """A rollout as a forward pass takes it, and what is looked at: `positions` are ascending completion indices, [k]."""

    tokens: Sequence[int]  # prompt and completion
    prompt_length: int
    positions: Sequence[int]
    sampling_seed: int  # as derived by the protocol, never as claimed; 0 where no token is checked against it


F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceMeasurement:
    """The same rollout under the same weights in float32, at the same k positions: what either side's numerics is held against.

    `noise` and `spread` are of the validator's own logits against the reference's (`model.kernels.logit_noise`).
    """

    z: F32  # float32 [k, 4], unrounded
    logprobs: F32  # [k], unwarped log-probability of the claimed token, nats
    margins: F32  # [k], of the claimed token, judged by the reference's logits
    twins: F32  # [k], of the token that the validator's own logits choose with the same noise, judged likewise
    noise: F32  # [k], variance of the difference of two logits, nats²
    spread: F32  # [k], 1 − Σ p²

    @property
    def finite(self) -> bool:
        """Whether the reference said anything: if not, nothing is known of the rollout, and nobody's fault."""
        return all(bool(np.isfinite(value).all()) for value in vars(self).values())

    @property
    def possible(self) -> bool:
        """Whether a reference may say this. One that is not finite says nothing, and may."""
        if not self.finite:
            return True
        margins = within(self.margins, 0, MARGIN_CLIP) and within(self.twins, 0, MARGIN_CLIP)
        return margins and within(self.noise, 0, np.inf) and within(self.spread, 0, 1)


REFERENCE: Final = "current"
"""The name of the window's own weights in float32, among those of alternatives."""

OWN: Final = "own"
"""The name of the window's own weights in the numerics that the validator measures in."""

YARDSTICKS: Final = frozenset({REFERENCE, OWN})
"""What every comparison has, and is no alternative."""

MOST_LEAD: Final = 50.0
"""Leads are clipped here; more says nothing more."""


@dataclass(frozen=True)
class Leads:
    """Who would win under the reference and under an alternative A, with the seed's own noise; m positions.

    a is the reference's choice, b the best other token under A. `own`: how far a leads b under the reference (≥ 0);
    `other`: how far b leads a under A; both clipped at MOST_LEAD in logits (nats times temperature). `rival`: b, −1 for none.
    """

    own: F32  # [m]
    other: F32  # [m]
    rival: npt.NDArray[np.int32]  # [m]


@dataclass(frozen=True)
class AskedAlternatives:
    """With which alternatives rows are compared, by name, and by what. One that is other weights and whose tokens are asked for
    has its sketches too: its pass gives both."""

    sketches: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.sketches or self.tokens)


@dataclass(frozen=True)
class ComparedRollout:
    """One rollout under named alternatives, at m completion positions with the challenged ones among them.

    `z` holds those of YARDSTICKS and of alternatives that are other weights, `leads` those of all (`alternatives`). An
    alternative that has no finite number somewhere cannot have made the rollout and is left out. Where the reference or the
    validator's own pass has none, all are: both mappings are empty then, noise and spread 0. These are 0 too where nobody's
    tokens were asked for, since it takes no logits then.
    """

    positions: tuple[int, ...]
    z: Mapping[str, F32]  # float32 [m, 4] each
    leads: Mapping[str, Leads]
    noise: F32  # [m], as ReferenceMeasurement has them
    spread: F32  # [m]


@dataclass(frozen=True)
class RolloutMeasurement:
    """What a validator measured of one rollout, at the completion indices `positions` (k of them)."""

    positions: tuple[int, ...]
    z: F32  # float32 [k, 4], unrounded, at each index's own position; NaN throughout where not provable: the worst value
    logprobs: npt.NDArray[np.float32]  # [k], unwarped log-probability of the claimed token
    margins: npt.NDArray[np.float64]  # [k], 0 … MARGIN_CLIP
    reference: ReferenceMeasurement | None = None  # None: whoever measured has no float32 copy of the model

    @property
    def finite(self) -> bool:
        """Whether the model's own states were: an honest miner proves no rollout where they are not."""
        return bool(np.isfinite(self.z).all() and np.isfinite(self.logprobs).all())

    @property
    def possible(self) -> bool:
        """Whether a measurement may say this, whoever hands it over: a process of one's own, or somebody's evidence."""
        if self.finite and not within(self.margins, 0, MARGIN_CLIP):
            return False
        return self.reference is None or self.reference.possible


@dataclass(frozen=True)
class ChoiceMeasurement:
    """What a verifier computes of one choice of an answer: n sketched positions, k of its tokens looked at."""

    z: F32  # float32 [n, 4] of all sketched positions; NaN where the model has none
    positions: tuple[int, ...]  # completion indices, ascending
    logprobs: F32  # [k] of the tokens there, unwarped model
    margins: npt.NDArray[np.float64]  # [k]


def within(values: npt.NDArray[np.floating] | npt.NDArray[np.int32], least: float, most: float) -> bool:
    """Whether all of them are, and are numbers."""
    return bool(((values >= least) & (values <= most)).all())


@dataclass(frozen=True)
class MeasuredBatch:
    """One measurement a row, in their order. `parts`: the most rows that fitted at once, None where the whole batch did."""

    rollouts: Sequence[RolloutMeasurement]
    parts: int | None = None


class ModelWork(Protocol):
    """A window's checkpoint, in this machine's numerics; with the attention of what it is held against where it has that kind
    (`numerics.measuring_class` of `facts.numerics_class`, which evidence names)."""

    @property
    def facts(self) -> ModelFacts: ...

    def measure(
        self,
        batch: Sequence[ProofRow],
        signs: F32,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        reference: bool = True,
    ) -> MeasuredBatch:
        """One proof batch, 1 to PROOF_BATCH_SIZE rows in the order given.

        Args:
            signs: float32 [4, d].
            seconds: that it may take, where it can be ended.
            proof_class: what its miner computed in; None: the model's own.
            reference: whether it is held against the float32 reference, which is never asked for otherwise.

        Raises:
            OutOfTimeError: it took longer.
            MachineFaultError: this machine could not; nothing is said of the rows.
            ProtocolViolationError: rows that no checked file has (a token without an embedding, beyond the context).
        """
        ...

    def compare(
        self,
        rows: Sequence[ProofRow],
        signs: F32,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        asked: AskedAlternatives | None = None,
    ) -> list[ComparedRollout]:
        """Each of any number of rows under the named alternatives (`proof.alternatives`), at up to ALTERNATIVE_POSITIONS.

        Args:
            asked: of which of them, those that there are; None: of all, by sketches and tokens.

        Raises:
            OutOfTimeError, MachineFaultError, ProtocolViolationError: as `measure`.
        """
        ...


def forward_tokens(lengths: Sequence[int]) -> int:
    """Tokens that one forward pass computes: every row is as long as the longest, so what fills up the others counts."""
    return len(lengths) * max(lengths)


def longest_first(batches: Sequence[Sequence[ProofRow]]) -> list[int]:
    """In which order batches are measured: by their longest rows, so that memory runs out early, and the pieces that a device
    frees fit what comes next. What is measured of a batch follows from that batch alone."""
    return sorted(range(len(batches)), key=lambda at: (-forward_tokens([len(row.tokens) for row in batches[at]]), at))
