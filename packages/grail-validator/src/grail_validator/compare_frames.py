"""The model process's answer about rollouts under named alternatives, in the frames of `model_frames`.

Of every row: noise, spread and the sketches of the reference and of the own pass; of each alternative that is other weights its
sketches, and its leads where they are asked for; of each that only samples otherwise its leads. One byte before the yardsticks
and before each alternative says whether there is anything of it (`proof.work.ComparedRollout`); what is left out is sent as
zeros, so that an answer's length is known from the rows and the names. These are told when the models are loaded, and an answer
has none to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_core.child_process.frames import FrameError, Payload, Taker
from grail_core.proof.sketches import Sketches
from grail_core.proof.work import (
    MOST_LEAD,
    OWN,
    REFERENCE,
    YARDSTICKS,
    AskedAlternatives,
    ComparedRollout,
    Leads,
    ProofRow,
    within,
)
from grail_core.protocol.constants import SKETCH_DIMENSIONS


@dataclass(frozen=True)
class AlternativeNames:
    """What an answer is about. `weights`: alternatives that are other weights, which have sketches; `drawn`: those of them that
    have leads too. `sampled`: alternatives that only sample otherwise, and have leads alone."""

    weights: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    drawn: frozenset[str] = frozenset()

    @classmethod
    def told(cls, weights: Sequence[str], sampled: Sequence[str]) -> AlternativeNames:
        """All that models were loaded for. Without a way to sample the policy's tokens cannot be tested, of any alternative."""
        return cls(tuple(weights), tuple(sampled), frozenset(weights if sampled else ()))

    def only(self, asked: AskedAlternatives | None) -> AlternativeNames:
        """Those of these that are asked for; None: all."""
        if asked is None:
            return self
        weights = tuple(name for name in self.weights if name in asked.sketches | asked.tokens)
        return AlternativeNames(
            weights, tuple(name for name in self.sampled if name in asked.tokens), self.drawn & asked.tokens
        )


_YARDSTICKS = (REFERENCE, OWN)  # in the order in which they are sent
_OF_SKETCHES = 4 * SKETCH_DIMENSIONS  # bytes a position
_OF_LEADS = 3 * 4  # own, other, rival


def compared_bytes(rows: Sequence[ProofRow], names: AlternativeNames) -> int:
    """Of the answer about these rows."""
    of_row = 1 + len(names.weights) + len(names.sampled)
    leads = _OF_LEADS * (len(names.drawn) + len(names.sampled))
    of_position = 2 * 4 + _OF_SKETCHES * (len(_YARDSTICKS) + len(names.weights)) + leads
    return len(rows) * of_row + of_position * sum(len(row.positions) for row in rows)


def answer_compared(found: Sequence[ComparedRollout], rows: Sequence[ProofRow], names: AlternativeNames) -> Payload:
    """Raises KeyError: an alternative has sketches and no leads, or the other way round."""
    parts: Payload = []
    for one, row in zip(found, rows, strict=True):
        count = len(row.positions)
        there = one.z.keys() >= YARDSTICKS
        parts += [bytes([there]), one.noise.astype("<f4").tobytes(), one.spread.astype("<f4").tobytes()]
        parts += [one.z[name].astype("<f4").tobytes() if there else bytes(_OF_SKETCHES * count) for name in _YARDSTICKS]
        for name in names.weights:
            there = name in one.z
            parts += [bytes([there]), one.z[name].astype("<f4").tobytes() if there else bytes(_OF_SKETCHES * count)]
            if name in names.drawn:
                parts += _leads_bytes(one.leads[name]) if there else [bytes(_OF_LEADS * count)]
        for name in names.sampled:
            there = name in one.leads
            parts += [bytes([there]), *(_leads_bytes(one.leads[name]) if there else [bytes(_OF_LEADS * count)])]
    return parts


def compared_of(
    payload: memoryview, rows: Sequence[ProofRow], names: AlternativeNames, vocabulary_size: int
) -> list[ComparedRollout]:
    """The answer about these rows. Raises FrameError: no such answer, or numbers that no comparison has."""
    if len(payload) != compared_bytes(rows, names):
        raise FrameError(f"answered with {len(payload)} bytes in place of {compared_bytes(rows, names)}")
    take = Taker(payload)
    return [_compared(take, row, names, vocabulary_size) for row in rows]


def _compared(take: Taker, row: ProofRow, names: AlternativeNames, vocabulary_size: int) -> ComparedRollout:
    count = len(row.positions)
    known = _is_there(take)
    noise, spread = (take.array((count,), np.float32) for _ in range(2))
    if not within(noise, 0, float(np.finfo(np.float32).max)) or not within(spread, 0, 1):
        raise FrameError("answered with noise that there is not")
    yardsticks = {name: _sketches(take, count, used=known) for name in _YARDSTICKS}
    z, leads = yardsticks if known else {}, {}
    for name in names.weights:
        there = _is_there(take)
        sketches = _sketches(take, count, used=there)
        lead = _leads(take, count, vocabulary_size, used=there) if name in names.drawn else None
        if there:
            z[name] = sketches
        if there and lead is not None:
            leads[name] = lead
    for name in names.sampled:
        there = _is_there(take)
        lead = _leads(take, count, vocabulary_size, used=there)
        if there:
            leads[name] = lead
    if not known and (z or leads):
        raise FrameError("answered about alternatives without the reference that they are compared with")
    return ComparedRollout(tuple(row.positions), z, leads, noise, spread)


def _is_there(take: Taker) -> bool:
    (said,) = take.array((1,), np.uint8).tolist()
    if said > 1:
        raise FrameError("answered with what is neither yes nor no")
    return bool(said)


def _sketches(take: Taker, count: int, *, used: bool) -> Sketches:
    z = take.array((count, SKETCH_DIMENSIONS), np.float32)
    if used and not np.isfinite(z).all():
        raise FrameError("answered with sketches that are no numbers")
    return z


def _leads_bytes(leads: Leads) -> Payload:
    return [leads.own.astype("<f4").tobytes(), leads.other.astype("<f4").tobytes(), leads.rival.astype("<i4").tobytes()]


def _leads(take: Taker, count: int, vocabulary_size: int, *, used: bool) -> Leads:
    own, other = (take.array((count,), np.float32) for _ in range(2))
    rival = take.array((count,), np.int32)
    possible = within(own, 0, MOST_LEAD) and within(other, -MOST_LEAD, MOST_LEAD) and within(rival, -1, vocabulary_size - 1)
    if used and not possible:
        raise FrameError("answered with leads that are none")
    return Leads(own, other, rival)
