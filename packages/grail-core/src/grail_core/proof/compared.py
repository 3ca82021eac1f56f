"""Section 6: rollouts under named alternatives, computed. Sketches of other weights, and who would win under each alternative.

One float32 pass for the reference and one for every alternative that is other weights; those that only sample otherwise cost
none. Of a pass nothing is kept but the states before the positions looked at, and of logits only a few rows at a time exist.
Passes are in float32, so rows that memory does not hold at once are run in parts: that changes a sketch by less than its
rounding on the wire. What is decided from these numbers is `alternative_test`'s and `token_test`'s.
"""

from __future__ import annotations

import math
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
from grail_core.proof.work import MOST_LEAD, OWN, REFERENCE, AskedAlternatives, ComparedRollout, Leads, ProofRow
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy

OwnStates = Callable[[Sequence[ProofRow]], Sequence[Tensor]]
"""The validator's own states of each row in the numerics it measures in, from the one before its first completion token on,
[completion + 1, d]."""

KeptStates = Callable[[ProofRow], Tensor | None]
"""The reference's states of one row, likewise."""

REACH: Final = 6.0
"""Standard deviations of what lies between an alternative's logits and the reference's: who is further behind does not win."""

_HEAD_ROWS: Final = 1024  # that its size is told from

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
    noise: Floats | None = None  # [m], with `spread` where logits were computed
    spread: Floats | None = None
    before: Tensor | None = None  # the reference's states, [m, d]
    choices: Choices | None = None  # [m]

    @property
    def inputs(self) -> npt.NDArray[np.uint32]:
        """[m], index of the last input token of each position."""
        return np.asarray(self.row.positions, dtype=np.uint32) + np.uint32(self.row.prompt_length - 1)

    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        return np.full(len(self.row.positions), self.row.sampling_seed & (2**64 - 1), dtype=np.uint64)

    def result(self) -> ComparedRollout:
        positions = tuple(self.row.positions)
        nothing = np.zeros(len(positions), dtype=np.float32)
        if not self.finite:
            return ComparedRollout(positions, {}, {}, nothing, nothing)
        if self.noise is None or self.spread is None:  # no logits were computed
            return ComparedRollout(positions, self.z, {}, nothing, nothing)
        return ComparedRollout(positions, self.z, self.leads, self.noise, self.spread)


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
        theirs = []
        for one, states_of_own in zip(batch, own([one.row for one in batch]), strict=True):
            before, one.z[OWN] = self._looked_at(one.row, states_of_own)
            one.finite = all(bool(np.isfinite(z).all()) for z in one.z.values())
            theirs.append(before)
        if self._logits_too:
            self._held_against(model, batch, theirs)

    @on_this_machine
    @torch.inference_mode()
    def _looked_at(self, row: ProofRow, states: Tensor) -> tuple[Tensor, Sketches]:
        return _looked_at(states, row, self._signs)

    @on_this_machine
    @torch.inference_mode()
    def _held_against(self, model: PolicyModel, batch: Sequence[_Compared], theirs: Sequence[Tensor]) -> None:
        """Noise, choices and warps from the reference's states and the validator's own, of all rows at once: a product of a few
        rows takes up to three times as long a row."""
        before, own = torch.cat([one.before for one in batch if one.before is not None]), torch.cat(list(theirs))
        seeds, inputs = np.concatenate([one.seeds for one in batch]), np.concatenate([one.inputs for one in batch])
        noise, spread = np.empty(len(before), dtype=np.float32), np.empty(len(before), dtype=np.float32)
        sound = np.empty(len(before), dtype=np.bool_)
        temperature = np.float32(self._policy.temperature)
        warps = self._tokens.intersection(WARPED)
        choices: list[Choices] = []
        warped: dict[str, list[Leads]] = {name: [] for name in warps}
        for at in _chunks(len(before), model.vocabulary_size):
            logits = model.logits(before[at]).cpu().numpy()
            others = self._alternatives.reference.current.logits(own[at]).cpu().numpy()
            kernels.logit_noise(logits, others, logits.argmax(axis=1), temperature, noise[at], spread[at])
            sound[at] = _finite(logits) & _finite(others) & np.isfinite(noise[at]) & np.isfinite(spread[at])
            logits[~sound[at]] = 0
            if self._tokens:
                choices.append(choose(self._sampler, logits, seeds[at], inputs[at]))
            for name, leads in leads_of_warps(choices[-1], logits, self._policy, warps).items() if warps else ():
                warped[name].append(leads)
        every = Choices.joined(choices) if choices else None
        leads_of = {name: _joined(parts) for name, parts in warped.items()}
        for one, at in zip(batch, _rows([len(one.row.positions) for one in batch]), strict=True):
            one.finite = one.finite and bool(sound[at].all())
            one.noise, one.spread = noise[at].copy(), spread[at].copy()
            one.choices = every.at(at) if every is not None else None
            one.leads = {name: Leads(*(value[at] for value in vars(leads).values())) for name, leads in leads_of.items()}

    def under_weights(self, name: str, batch: Sequence[_Compared]) -> None:
        model = self._alternatives.reference.under(self._alternatives.weights[name]())
        sketched = []
        for one, (before, z) in zip(batch, self._passed(model, batch), strict=True):
            if np.isfinite(z).all():
                one.z[name] = z
                sketched.append((one, before))
        if name in self._tokens and sketched:
            self._drawn_under(model, name, [one for one, _ in sketched], [before for _, before in sketched])

    @on_this_machine
    @torch.inference_mode()
    def _drawn_under(self, model: PolicyModel, name: str, batch: Sequence[_Compared], before: Sequence[Tensor]) -> None:
        """Leads of each row from the alternative's states before its positions. Where no other token is near enough to win by
        what lies between the two models, nothing is looked at and nothing said. A row has neither leads nor sketches where the
        alternative has no number."""
        rows = _rows([len(states) for states in before])
        every, mine = torch.cat(list(before)), torch.cat([one.before for one in batch if one.before is not None])
        choices = Choices.joined([one.choices for one in batch if one.choices is not None])
        near = np.flatnonzero(choices.lead <= self._reach(model, every, mine))
        found = Leads(
            np.full(len(every), MOST_LEAD, np.float32),
            np.full(len(every), -MOST_LEAD, np.float32),
            np.full(len(every), -1, np.int32),
        )
        sound = np.ones(len(every), dtype=np.bool_)
        for part in _chunks(len(near), model.vocabulary_size):
            at = near[part]
            where = torch.as_tensor(at, device=every.device)
            logits = model.logits(every.index_select(0, where)).cpu().numpy()
            sound[at] = _finite(logits)
            logits[~sound[at]] = 0
            of_part = choices.at(at)
            rivals, found.other[at] = leads_of_weights(of_part, logits, self._policy.temperature)
            theirs = self._reference_logits(mine.index_select(0, where), rivals)
            found.own[at] = own_leads(of_part, rivals, theirs, self._policy.temperature)
            found.rival[at] = rivals
        for one, row in zip(batch, rows, strict=True):
            if sound[row].all():
                one.leads[name] = Leads(*(value[row].copy() for value in vars(found).values()))
            else:
                del one.z[name]

    def _reach(self, model: PolicyModel, states: Tensor, mine: Tensor) -> Floats:
        """How far a token may be behind at each position [n] and still win under the alternative: REACH standard deviations of
        the difference of two logits, were what lies between the models' states [n, d] and heads random."""
        head, other = self._alternatives.reference.current.head_weight, model.head_weight
        rows = slice(None, None, max(1, len(head) // _HEAD_ROWS))
        size = head[rows].float().square().mean().sqrt()
        change = (other[rows].float() - head[rows].float()).square().mean().sqrt()
        apart = (states.float() - mine.float()).norm(dim=1)
        deviations: Floats = (apart * size + mine.float().norm(dim=1) * change).cpu().numpy()
        return REACH * math.sqrt(2) * deviations

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


def _finite(logits: Floats) -> npt.NDArray[np.bool_]:
    """Of each row, whether it has a highest logit that is a number; argmax gives a NaN precedence."""
    found: npt.NDArray[np.bool_] = np.isfinite(logits[np.arange(len(logits)), logits.argmax(axis=1)])
    return found


def _rows(lengths: Sequence[int]) -> list[slice]:
    """Where each of these lies when they stand one after the other."""
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _joined(parts: Sequence[Leads]) -> Leads:
    own, other, rival = (np.concatenate([getattr(part, name) for part in parts]) for name in ("own", "other", "rival"))
    return Leads(own, other, rival)
