"""An answer about named alternatives: the same numbers on either side, and whatever is none of the rows' is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.child_process.frames import FrameError
from grail_core.proof.work import AskedAlternatives, ComparedRollout, Leads, ProofRow
from grail_validator.compare_frames import AlternativeNames, answer_compared, compared_bytes, compared_of

NAMES = AlternativeNames.told(("previous-1", "int8"), ("temperature x 0.9", "top-p 0.95"))
WITHOUT_TOKENS = AlternativeNames.told(NAMES.weights, ())
VOCABULARY = 64
ROWS = [ProofRow([1, 5, 6, 7], 1, (0, 2), 3), ProofRow([1, 5], 1, (0,), 4)]


def compared(row: ProofRow, number: int, names: AlternativeNames, without: str | None = None) -> ComparedRollout:
    draw = np.random.default_rng(number)
    count = len(row.positions)

    def lead() -> Leads:
        own, other = draw.uniform(0, 50, (2, count)).astype(np.float32)
        return Leads(own, -other, draw.integers(-1, VOCABULARY, count).astype(np.int32))

    kept = [name for name in names.weights if name != without]
    z = {name: draw.normal(size=(count, 4)).astype(np.float32) for name in ("current", "own", *kept)}
    leads = {name: lead() for name in (*kept, *names.sampled) if name in (*names.drawn, *names.sampled) and name != without}
    noise, spread = draw.uniform(0, 1, (2, count)).astype(np.float32)
    return ComparedRollout(tuple(row.positions), z, leads, noise, spread)


def sent(found: list[ComparedRollout], names: AlternativeNames = NAMES) -> bytearray:
    return bytearray(b"".join(answer_compared(found, ROWS, names)))


def told(one: ComparedRollout) -> object:
    leads = {name: [value.tolist() for value in vars(lead).values()] for name, lead in one.leads.items()}
    return one.positions, {name: z.tolist() for name, z in one.z.items()}, leads, one.noise.tolist(), one.spread.tolist()


# Sketches of one, tokens of another and of one way to sample.
NARROWED = NAMES.only(AskedAlternatives(frozenset({"previous-1"}), frozenset({"int8", "top-p 0.95"})))


@pytest.mark.parametrize(
    "names", [NAMES, WITHOUT_TOKENS, AlternativeNames.told((), NAMES.sampled), AlternativeNames(), NARROWED]
)
@pytest.mark.parametrize("without", [None, "int8", "top-p 0.95"])
def test_what_was_compared_comes_over_as_it_was(names: AlternativeNames, without: str | None) -> None:
    found = [compared(row, number, names, without) for number, row in enumerate(ROWS)]
    payload = sent(found, names)
    assert len(payload) == compared_bytes(ROWS, names)
    assert list(map(told, compared_of(memoryview(payload), ROWS, names, VOCABULARY))) == list(map(told, found))


def test_a_row_of_which_nothing_is_known_comes_over_as_such() -> None:
    nothing = np.zeros(2, np.float32)
    found = [ComparedRollout((0, 2), {}, {}, nothing, nothing), compared(ROWS[1], 1, NAMES)]
    assert list(map(told, compared_of(memoryview(sent(found)), ROWS, NAMES, VOCABULARY))) == list(map(told, found))


def _spoilt(change: Callable[[ComparedRollout], ComparedRollout]) -> bytearray:
    return sent([change(compared(ROWS[0], 0, NAMES)), compared(ROWS[1], 1, NAMES)])


def _lead(**changed: Any) -> Callable[[ComparedRollout], ComparedRollout]:
    def change(one: ComparedRollout) -> ComparedRollout:
        return replace(one, leads={**one.leads, "int8": replace(one.leads["int8"], **changed)})

    return change


NAN = np.array([np.nan, 0], np.float32)
SPOILT: dict[str, Callable[[], bytes | bytearray]] = {
    "nothing": lambda: b"",
    "a byte less": lambda: sent([compared(row, 0, NAMES) for row in ROWS])[:-1],
    "a byte more": lambda: sent([compared(row, 0, NAMES) for row in ROWS]) + b"\0",
    "of other names": lambda: sent([compared(row, 0, WITHOUT_TOKENS) for row in ROWS], WITHOUT_TOKENS),
    "noise below zero": lambda: _spoilt(lambda one: replace(one, noise=-one.noise)),
    "no noise": lambda: _spoilt(lambda one: replace(one, noise=NAN)),
    "more spread than there is": lambda: _spoilt(lambda one: replace(one, spread=one.spread + 1)),
    "no sketches": lambda: _spoilt(lambda one: replace(one, z={**one.z, "int8": np.full((2, 4), np.nan, np.float32)})),
    "no lead": lambda: _spoilt(_lead(own=NAN)),
    "a rival beyond the vocabulary": lambda: _spoilt(_lead(rival=np.array([VOCABULARY, 0], np.int32))),
    "a rival below none": lambda: _spoilt(_lead(rival=np.array([-2, 0], np.int32))),
    "alternatives without the reference": lambda: bytes([0]) + sent([compared(row, 0, NAMES) for row in ROWS])[1:],
    "neither yes nor no": lambda: bytes([2]) + sent([compared(row, 0, NAMES) for row in ROWS])[1:],
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_an_answer_that_is_none_is_refused(spoilt: str) -> None:
    with pytest.raises(FrameError):
        compared_of(memoryview(SPOILT[spoilt]()), ROWS, NAMES, VOCABULARY)


@given(st.data())
def test_whatever_bytes_come_back_they_are_refused_or_are_of_these_rows(data: st.DataObject) -> None:
    payload = sent([compared(row, 0, NAMES) for row in ROWS])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 4))
        struct.pack_into("<I", payload, at, data.draw(st.integers(0, 2**32 - 1)))
    try:
        found = compared_of(memoryview(payload), ROWS, NAMES, VOCABULARY)
    except FrameError:
        return
    assert [one.positions for one in found] == [(0, 2), (0,)]
    assert all(np.isfinite(z).all() for one in found for z in one.z.values())
    assert all(lead.rival.min() >= -1 and lead.rival.max() < VOCABULARY for one in found for lead in one.leads.values())
    assert all((one.noise >= 0).all() and (one.spread <= 1).all() for one in found)
