"""Section 8: the opening, `GRAILOP1`: what a miner shows of the vectors that its update committed to.

    magic, 8 bytes · length of the header, u32 LE · header, canonical JSON
    for a replay: the roots of θ_j, m_j, v_j (where j > 0), then those of θ_{j+1}, m_{j+1}, v_{j+1}, 32 bytes each
    for each drawn chunk, in drawn order:
        adamw: Δ, θ_H, e, the path of e′ · sgd, whose chunk test starts at Δ: Δ, e, the path of e′
        for a replay with adamw, after these: m_j, v_j (where j > 0), θ_{j+1}, m_{j+1}, v_{j+1}
    for a replay with j > 0: all of θ_j, tensor by tensor, without paths

The header names version, round, hotkey, content digest, drawn chunks and the step of the replay (null where no coin fell): the
reader knows them all, so one header is right. A vector's chunk stands as little-endian float32, then its Merkle path; of e′ the
path alone, since the test computes the chunk. Of a vector whose root is zero nothing stands: its chunks are zeros. The three
roots hash to the entry of `step_roots` (number j − 1, and j), so that paths can be checked against what was signed. With sgd
there is one step from θ_0 and no moment: a replay shows nothing more. So all lengths follow from layout and roots, and
`read_opening` holds every path and every number against the roots before it hands out anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from grail_core.gradient.codec import Stream
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.roots import (
    ZERO_ROOT,
    chunk_digest,
    is_under,
    path_bytes,
    root_of,
    step_root,
)
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.spec import GRADIENT_VERSION, GradientSpec
from grail_core.protocol.merkle import merkle_path_length
from grail_core.protocol.reading import Json, parse_json

MAGIC: Final = b"GRAILOP1"
MAX_HEADER: Final = 4 << 10

_FRONT = len(MAGIC) + 4
_MEMBERS = ("version", "round", "hotkey", "content_digest", "chunks", "step")

StateRoots = tuple[bytes, bytes, bytes]
"""The roots of θ_j, m_j and v_j."""

_ZERO_STATE: StateRoots = (ZERO_ROOT, ZERO_ROOT, ZERO_ROOT)


@dataclass(frozen=True)
class Asked:
    """What the challenge asks of one file. `step`: j of the replay, None where its coin did not fall."""

    round: int
    hotkey: bytes
    content_digest: bytes
    chunks: tuple[int, ...]
    step: int | None

    def header(self) -> bytes:
        """The one header that answers it."""
        members: dict[str, Json] = {
            "version": GRADIENT_VERSION,
            "round": self.round,
            "hotkey": self.hotkey.hex(),
            "content_digest": self.content_digest.hex(),
            "chunks": list(self.chunks),
            "step": self.step,
        }
        return canonical_json(members)


@dataclass(frozen=True)
class Committed:
    """The roots in an update's header. `steps`: its `step_roots`, empty with sgd."""

    delta: bytes
    theta_end: bytes
    feedback_before: bytes
    feedback_after: bytes
    steps: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class OpenedStep:
    """A drawn chunk of m_j, v_j, θ_{j+1}, m_{j+1}, v_{j+1}."""

    first_moment: Floats
    second_moment: Floats
    theta_after: Floats
    first_moment_after: Floats
    second_moment_after: Floats


@dataclass(frozen=True, eq=False)
class OpenedChunk:
    """A drawn chunk, every vector of it verified but e′, whose `after_path` the chunk test checks. sgd: no `theta_end`."""

    number: int
    delta: Floats
    theta_end: Floats | None
    feedback: Floats
    after_path: tuple[bytes, ...]
    step: OpenedStep | None


@dataclass(frozen=True, eq=False)
class Opening:
    """What was opened: the drawn chunks, and all of θ_j for a replay with j > 0."""

    chunks: tuple[OpenedChunk, ...]
    theta: dict[str, Floats] | None


def most_bytes(layout: Layout, spec: GradientSpec) -> int:
    """The largest opening there is."""
    largest = max(layout.tensors, key=lambda tensor: min(tensor.size, tensor.chunk))
    chunk = 4 * min(largest.size, largest.chunk)
    deepest = 32 * merkle_path_length(0, layout.chunks)
    adamw = spec.optimiser == "adamw"
    whole = 4 * layout.size if adamw and spec.commit == "all" and spec.inner_steps > 1 and spec.replay_permille else 0
    vectors = 8 if adamw else 2
    return _FRONT + MAX_HEADER + 6 * 32 + spec.chunks_drawn * (vectors * (chunk + deepest) + deepest) + whole


def read_opening(raw: Stream, asked: Asked, committed: Committed, layout: Layout, spec: GradientSpec) -> Opening:
    """What an opening shows, all of it verified against the roots. Takes the memory of what it shows once more.

    Raises:
        ValueError: its message begins with the path of what is wrong: other answers than asked for, lengths, chunks that are
            not under their roots, numbers that are not finite.
    """
    if len(raw) > (most := most_bytes(layout, spec)):
        raise ValueError(f"$opening: {len(raw)} bytes, an opening of this checkpoint has {most} at most")
    body = _without_header(memoryview(raw), asked)
    step = asked.step if spec.optimiser == "adamw" else None
    before, after, at = _state_roots(body, step, committed)
    plan = _Plan(layout, spec, committed, step, before, after)
    expected = at + sum(plan.chunk_bytes(number) for number in asked.chunks) + plan.whole_bytes
    if len(body) != expected:
        raise ValueError(f"$opening.body: {len(body)} bytes, layout and roots make it {expected}")
    reader = _Reader(body, at, plan)
    chunks = tuple(reader.opened(number, f"$opening.chunks[{i}]") for i, number in enumerate(asked.chunks))
    return Opening(chunks, reader.theta() if step else None)


def _without_header(view: memoryview, asked: Asked) -> memoryview:
    """What follows the header, which has to be the one that was asked for."""
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise ValueError("$opening: no opening: it begins with other bytes than GRAILOP1")
    if len(view) < _FRONT:
        raise ValueError("$opening: the file ends in the length of its header")
    (length,) = struct.unpack("<I", view[len(MAGIC) : _FRONT])
    if not 0 < length <= MAX_HEADER or _FRONT + length > len(view):
        raise ValueError(f"$opening.header: a length of {length} bytes, 1 to {MAX_HEADER} of those that are there are allowed")
    there, expected = bytes(view[_FRONT : _FRONT + length]), asked.header()
    if there != expected:
        path = "$opening.header"
        wanted = parse_json(expected, most=MAX_HEADER, path=path)
        read = parse_json(there, most=MAX_HEADER, path=path).members(*_MEMBERS)
        for name, node in wanted.members(*_MEMBERS).items():
            if read[name].value != node.value:
                raise ValueError(f"{path}.{name}: another than the challenge asks for")
        raise ValueError(f"{path}: no canonical JSON")
    return view[_FRONT + length :]


def _state_roots(body: memoryview, step: int | None, committed: Committed) -> tuple[StateRoots, StateRoots, int]:
    """The roots of the states before and after the step, under the signed `step_roots`, and where they end."""
    before = after = _ZERO_STATE
    at = 0
    for number in () if step is None else range(max(0, step - 1), step + 1):
        if number >= len(committed.steps):
            raise ValueError(f"$opening.roots: the update commits to {len(committed.steps)} states, not to number {number + 1}")
        if len(body) < at + 96:
            raise ValueError("$opening.roots: the file ends in the roots of the states")
        roots = (bytes(body[at : at + 32]), bytes(body[at + 32 : at + 64]), bytes(body[at + 64 : at + 96]))
        if step_root(*roots) != committed.steps[number]:
            raise ValueError(f"$opening.roots: not those that step_roots[{number}] of the update was made from")
        before, after, at = after, roots, at + 96
    return before, after, at


@dataclass(frozen=True)
class _Plan:
    """What a body holds, and how long each part is. `before` is all zero where the step is 0."""

    layout: Layout
    spec: GradientSpec
    committed: Committed
    step: int | None
    before: StateRoots
    after: StateRoots

    @property
    def ends(self) -> tuple[tuple[str, bytes], ...]:
        """Names and roots of the vectors that a chunk shows before the path of e′."""
        theta_end = (("theta_end", self.committed.theta_end),) if self.spec.optimiser == "adamw" else ()
        return (("delta", self.committed.delta), *theta_end, ("feedback", self.committed.feedback_before))

    @property
    def states(self) -> tuple[tuple[str, bytes], ...]:
        """And those behind it."""
        roots = (*self.before[1:], *self.after)
        names = ("first_moment", "second_moment", "theta_after", "first_moment_after", "second_moment_after")
        return tuple(zip(names, roots, strict=True)) if self.step is not None else ()

    def chunk_bytes(self, number: int) -> int:
        tensor, chunk = self.layout.place(number)
        size = 4 * tensor.chunk_size(chunk)
        shown = [root for _, root in (*self.ends, *self.states) if root != ZERO_ROOT]
        paths = sum(path_bytes(self.layout, root, number) for root in (*shown, self.committed.feedback_after))
        return size * len(shown) + paths

    @property
    def whole_bytes(self) -> int:
        return 4 * self.layout.size if self.step and self.before[0] != ZERO_ROOT else 0


class _Reader:
    """Walks a body whose length is known to be right."""

    def __init__(self, body: memoryview, at: int, plan: _Plan) -> None:
        self._body, self._at, self._plan = body, at, plan

    def opened(self, number: int, path: str) -> OpenedChunk:
        ends = {name: self._chunk(number, root, f"{path}.{name}") for name, root in self._plan.ends}
        after_path = self._path(self._plan.committed.feedback_after, number)
        states = {name: self._chunk(number, root, f"{path}.{name}") for name, root in self._plan.states}
        opened = OpenedStep(**states) if states else None
        return OpenedChunk(number, ends["delta"], ends.get("theta_end"), ends["feedback"], after_path, opened)

    def theta(self) -> dict[str, Floats]:
        """All of θ_j, checked."""
        tensors = self._plan.layout.tensors
        if not self._plan.whole_bytes:
            return {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in tensors}
        read = {t.name: self._floats(t.size, "$opening.theta").reshape(t.shape) for t in tensors}
        if root_of(self._plan.layout, read) != self._plan.before[0]:
            raise ValueError(f"$opening.theta: not the weights before step {self._plan.step} that the update committed to")
        return read

    def _chunk(self, number: int, root: bytes, path: str) -> Floats:
        """A chunk that is under its root."""
        tensor, chunk = self._plan.layout.place(number)
        if root == ZERO_ROOT:
            return np.zeros(tensor.chunk_size(chunk), np.float32)
        values = self._floats(tensor.chunk_size(chunk), path)
        if not is_under(root, chunk_digest(values), number, self._plan.layout, self._path(root, number)):
            raise ValueError(f"{path}: not the chunk that the update committed to")
        return values

    def _path(self, root: bytes, number: int) -> tuple[bytes, ...]:
        nodes = self._take(path_bytes(self._plan.layout, root, number))
        return tuple(bytes(nodes[i : i + 32]) for i in range(0, len(nodes), 32))

    def _floats(self, count: int, path: str) -> Floats:
        """Numbers as they were hashed, in memory of their own: those of a file lie at odd addresses."""
        values = np.array(np.frombuffer(self._take(4 * count), "<f4"), np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: a number is not finite")
        if (np.signbit(values) & (values == 0)).any():
            raise ValueError(f"{path}: a zero with a sign: it is not what was hashed")
        return values

    def _take(self, size: int) -> memoryview:
        self._at += size
        return self._body[self._at - size : self._at]
