"""Section 6: rollouts under named alternatives, computed. Sketches of other weights, and who would win under each alternative.

One float32 pass for the reference and one for every alternative that is other weights; those that only sample otherwise cost
none. Of a pass nothing is kept but the states before the positions looked at, and of logits only a few rows at a time exist.
Passes are in float32, so rows that memory does not hold at once are run in parts: that changes a sketch by less than its
rounding on the wire. What is decided from these numbers is `alternative_test`'s and `token_test`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model import kernels
from grail_core.model.memory import in_parts, on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import Floats, SeededSampler
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.batch import LOGITS_BYTES
from grail_core.proof.errors import UnprovableError
from grail_core.proof.leads import WARPED, Choices, choose, leads_of_warps, leads_of_weights, own_leads
from grail_core.proof.sketches import Projections, Sketches, sketch
from grail_core.proof.token_test import supports
from grail_core.proof.work import OWN, REFERENCE, AskedAlternatives, ComparedRollout, Leads, ProofRow
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy

OwnStates = Callable[[Sequence[ProofRow]], Sequence[Tensor]]
"""The validator's own states of each row in the numerics it measures in, from the one before its first completion token on,
[completion + 1, d]."""

KeptStates = Callable[[ProofRow], Tensor | None]
"""The reference's states of one row, likewise."""

# A row's logits stand beside another's of the same positions, and a mask: half the rows that one matrix alone may have.
_LOGITS_BYTES: Final = LOGITS_BYTES // 2


def compare_rollouts(
    alternatives: Alternatives,
    rows: Sequence[ProofRow],
    signs: Projections,
    policy: GenerationPolicy,
    own: OwnStates,
    *,
    kept: KeptStates = lambda row: None,
    asked: AskedAlternatives | None = None,
) -> list[ComparedRollout]:
    """Each row at its positions, in their order.

    Args:
        kept: the reference's states of a row, where they need no pass any more.
        asked: with which alternatives; None: with all.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        MachineFaultError: as `on_this_machine`.
    """
    compared = [_Compared(row) for row in rows]
    comparing = _Comparing(alternatives, signs, SeededSampler(policy), asked)
    with alternatives.reference.lock:
        for batch in _batches(compared):
            comparing.under_reference(batch, own, kept)
        for name in comparing.weights:
            # No row is run again in whose logits a number is missing: whatever an alternative gives, nothing is known of it.
            for batch in _batches([one for one in compared if one.finite]):
                comparing.under_weights(name, batch)
    return [one.result() for one in compared]


@dataclass
class _Compared:
    """What is known of one row so far."""

    row: ProofRow
    finite: bool = True
    z: dict[str, Sketches] = field(default_factory=dict)
    leads: dict[str, Leads] = field(default_factory=dict)
    noise: list[npt.NDArray[np.float32]] = field(default_factory=list)
    spread: list[npt.NDArray[np.float32]] = field(default_factory=list)
    before: Tensor | None = None  # the reference's states, [m, d]
    choices: list[Choices] = field(default_factory=list)  # of consecutive positions

    @property
    def inputs(self) -> npt.NDArray[np.uint32]:
        """[m], index of the last input token of each position."""
        return np.asarray(self.row.positions, dtype=np.uint32) + np.uint32(self.row.prompt_length - 1)

    def result(self) -> ComparedRollout:
        positions = tuple(self.row.positions)
        nothing = np.zeros(len(positions), dtype=np.float32)
        if not self.finite:
            return ComparedRollout(positions, {}, {}, nothing, nothing)
        if not self.noise:  # no logits were computed
            return ComparedRollout(positions, self.z, {}, nothing, nothing)
        return ComparedRollout(positions, self.z, self.leads, _joined(self.noise), _joined(self.spread))


class _Comparing:
    """What all rows have in common."""

    def __init__(
        self, alternatives: Alternatives, signs: Projections, sampler: SeededSampler, asked: AskedAlternatives | None
    ) -> None:
        self._alternatives, self._signs, self._sampler = alternatives, signs, sampler
        self._policy = sampler.policy
        every = frozenset((*alternatives.weights, *WARPED))
        drawn = every if asked is None else asked.tokens
        self._tokens = drawn if supports(sampler.policy) else frozenset()
        wanted = every if asked is None else asked.sketches | asked.tokens
        self.weights = [name for name in alternatives.weights if name in wanted]
        self._logits_too = asked is None or bool(self._tokens)

    def under_reference(self, batch: Sequence[_Compared], own: OwnStates, kept: KeptStates) -> None:
        model = self._alternatives.reference.model()
        states = [kept(one.row) for one in batch]
        made = iter(self._passed(model, [one for one, there in zip(batch, states, strict=True) if there is None]))
        for one, there in zip(batch, states, strict=True):
            one.before, one.z[REFERENCE] = next(made) if there is None else self._looked_at(one.row, there)
        for one, states_of_own in zip(batch, own([one.row for one in batch]), strict=True):
            theirs, one.z[OWN] = self._looked_at(one.row, states_of_own)
            one.finite = all(bool(np.isfinite(z).all()) for z in one.z.values())
            if self._logits_too:
                assert one.before is not None
                self._held_against(model, one, one.before, theirs)

    @on_this_machine
    @torch.inference_mode()
    def _looked_at(self, row: ProofRow, states: Tensor) -> tuple[Tensor, Sketches]:
        return _looked_at(states, row, self._signs)

    @on_this_machine
    @torch.inference_mode()
    def _held_against(self, model: PolicyModel, one: _Compared, before: Tensor, own: Tensor) -> None:
        """Noise, choices and warps of one row from the reference's states and the validator's own."""
        warped: list[dict[str, Leads]] = []
        one.noise, one.spread, one.choices = [], [], []
        for at in _chunks(len(before), model.vocabulary_size):
            logits = model.logits(before[at]).cpu().numpy()
            theirs = self._alternatives.reference.current.logits(own[at]).cpu().numpy()
            noise, spread = (np.empty(len(logits), dtype=np.float32) for _ in range(2))
            temperature = np.float32(self._policy.temperature)
            kernels.logit_noise(logits, theirs, logits.argmax(axis=1), temperature, noise, spread)
            one.finite = one.finite and _is_finite(logits) and _is_finite(theirs) and bool(np.isfinite([noise, spread]).all())
            if not one.finite:
                return
            one.noise.append(noise)
            one.spread.append(spread)
            if self._tokens:
                one.choices.append(choose(self._sampler, logits, one.row.sampling_seed, one.inputs[at]))
            if not self._tokens.isdisjoint(WARPED):
                warped.append(leads_of_warps(one.choices[-1], logits, self._policy))
        for name in self._tokens.intersection(warped[0]) if warped else ():
            one.leads[name] = _joined_leads([part[name] for part in warped])

    def under_weights(self, name: str, batch: Sequence[_Compared]) -> None:
        model = self._alternatives.reference.under(self._alternatives.weights[name]())
        for one, (before, z) in zip(batch, self._passed(model, batch), strict=True):
            if not np.isfinite(z).all():
                continue
            if name in self._tokens:
                leads = self._leads(model, one, before)
                if leads is None:
                    continue
                one.leads[name] = leads
            one.z[name] = z

    @on_this_machine
    @torch.inference_mode()
    def _leads(self, model: PolicyModel, one: _Compared, before: Tensor) -> Leads | None:
        """None where the alternative has no logits somewhere."""
        assert one.before is not None
        parts: list[Leads] = []
        for choices, at in zip(one.choices, _chunks(len(before), model.vocabulary_size), strict=True):
            logits = model.logits(before[at]).cpu().numpy()
            if not _is_finite(logits):
                return None
            rivals, other = leads_of_weights(choices, logits, self._policy.temperature)
            theirs = self._reference_logits(one.before[at], rivals)
            parts.append(Leads(own_leads(choices, rivals, theirs, self._policy.temperature), other, rivals.astype(np.int32)))
        return _joined_leads(parts)

    def _reference_logits(self, before: Tensor, tokens: npt.NDArray[np.int64]) -> Floats:
        """The reference's logit of one token a row, from its states [n, d]: its own head is an alternative's by now, but the
        current model's has the same numbers."""
        current = self._alternatives.reference.current
        ids = torch.as_tensor(np.maximum(tokens, 0), device=before.device)
        logits = (before * current.head_weight.index_select(0, ids).float()).sum(dim=1)
        if current.head_bias is not None:
            logits += current.head_bias.index_select(0, ids).float()
        found: Floats = logits.cpu().numpy()
        return found

    def _passed(self, model: PolicyModel, batch: Sequence[_Compared]) -> list[tuple[Tensor, Sketches]]:
        if not batch:
            return []
        found, _ = in_parts([one.row for one in batch], lambda part: _states(model, part, self._signs))
        return found


@on_this_machine
@torch.inference_mode()
def _states(model: PolicyModel, rows: Sequence[ProofRow], signs: Projections) -> list[tuple[Tensor, Sketches]]:
    """Per row, from one pass: the states before its positions, [m, d], and z at the positions, NaN where there is none."""
    hidden = model.hidden_states([row.tokens for row in rows])
    return [_looked_at(states[row.prompt_length - 1 :], row, signs) for row, states in zip(rows, hidden, strict=True)]


def _looked_at(states: Tensor, row: ProofRow, signs: Projections) -> tuple[Tensor, Sketches]:
    """Of one row's states from the one before its first completion token on."""
    at = torch.as_tensor(row.positions, dtype=torch.long, device=states.device)
    try:
        z = sketch(states.index_select(0, at + 1), signs)
    except UnprovableError:
        z = np.full((len(at), len(signs)), np.nan, dtype=np.float32)
    return states.index_select(0, at), z


def _batches(compared: Sequence[_Compared]) -> Iterator[Sequence[_Compared]]:
    for start in range(0, len(compared), PROOF_BATCH_SIZE):
        yield compared[start : start + PROOF_BATCH_SIZE]


def _chunks(count: int, vocabulary: int) -> Iterator[slice]:
    step = max(1, _LOGITS_BYTES // (4 * vocabulary))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _is_finite(logits: Floats) -> bool:
    """Whether every row has a highest logit that is a number; argmax gives a NaN precedence."""
    return bool(np.isfinite(logits[np.arange(len(logits)), logits.argmax(axis=1)]).all())


def _joined(parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def _joined_leads(parts: Sequence[Leads]) -> Leads:
    rival = np.concatenate([part.rival for part in parts])
    return Leads(_joined([part.own for part in parts]), _joined([part.other for part in parts]), rival)
