"""Section 8: the writing of one's own opening; `opening` says how it is made and reads it.

It takes whole vectors, since paths need all of them: a miner keeps the states of its inner steps until the challenge says which
step is drawn, or computes them again. Each vector is hashed once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.gradient.layout import Layout, StateArrays
from grail_core.gradient.opening import MAGIC, Asked
from grail_core.gradient.roots import Digests, canonical, digests
from grail_core.protocol.gradient.spec import GradientSpec


@dataclass(frozen=True, eq=False)
class InnerState:
    """θ, m and v of one inner step; whole vectors."""

    theta: StateArrays
    first_moment: StateArrays
    second_moment: StateArrays


@dataclass(frozen=True, eq=False)
class Replay:
    """The states before and after the drawn step j. `before` is None for j = 0: it is θ_0, which everybody has, and zeros."""

    before: InnerState | None
    after: InnerState


def write_opening(
    asked: Asked,
    layout: Layout,
    spec: GradientSpec,
    *,
    delta: StateArrays,
    theta_end: StateArrays,
    feedback: StateArrays | None,
    feedback_after: StateArrays,
    replay: Replay | None = None,
) -> bytes:
    """The opening of one's own update.

    Args:
        feedback: e; None at a new start.
        replay: what a challenge with a step asks for, unless it is sgd's.

    Raises:
        ValueError: tensors of another layout, numbers that are not finite, or a replay that is not what is asked.
    """
    adamw = spec.optimiser == "adamw"
    if (replay is not None) != (asked.step is not None and adamw) or (replay and (replay.before is None) != (asked.step == 0)):
        raise ValueError(f"the challenge asks for step {asked.step}: exactly the states that it asks for are written")
    ends = [_Vector(vector, layout) for vector in (delta, *((theta_end,) if adamw else ()), feedback)]
    before = _state(replay.before, layout) if replay and replay.before else []
    after = _state(replay.after, layout) if replay else []
    header = asked.header()
    parts = [MAGIC, struct.pack("<I", len(header)), header, *(vector.root for vector in (*before, *after))]
    paths = digests(layout, feedback_after).paths(asked.chunks)
    shown = [vector.shown(asked.chunks) for vector in ends]
    then = [vector.shown(asked.chunks) for vector in (*before[1:], *after)]
    for at, path in enumerate(paths):
        parts += [*(chunks[at] for chunks in shown), *path, *(chunks[at] for chunks in then)]
    if before:
        parts += before[0].whole()
    return b"".join(parts)


def _state(state: InnerState, layout: Layout) -> list[_Vector]:
    return [_Vector(vector, layout) for vector in (state.theta, state.first_moment, state.second_moment)]


class _Vector:
    """A vector of one's own, hashed once; None is zeros."""

    def __init__(self, values: StateArrays | None, layout: Layout) -> None:
        self._layout = layout
        self._digests = digests(layout, values) if values is not None else Digests(())
        self._values = values if values is not None and self._digests.chunks else None
        self.root = self._digests.root

    def shown(self, chunks: Sequence[int]) -> list[bytes]:
        """Each chunk's numbers and path; nothing of zeros."""
        if self._values is None:
            return [b""] * len(chunks)
        pairs = zip(chunks, self._digests.paths(chunks), strict=True)
        return [canonical(self._layout.chunk_of(self._values, number)).tobytes() + b"".join(path) for number, path in pairs]

    def whole(self) -> list[bytes]:
        if self._values is None:
            return []
        return [canonical(tensor.flat(self._values[tensor.name])).tobytes() for tensor in self._layout.tensors]
