"""Gradient work, section 8: an opening shows what was committed to, and an update that does not follow from it is found."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.gradient import codec, opening
from grail_core.gradient.chunk_test import check_chunk
from grail_core.gradient.feedback import compress
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.opening import Asked, Committed, Opening, read_opening
from grail_core.gradient.opening_writing import InnerState, Replay, write_opening
from grail_core.gradient.roots import ZERO_ROOT, root_of, step_root
from grail_core.protocol.gradient.spec import GradientSpec
from tooling.testing.gradient_mutants import mutated, told
from tooling.testing.gradient_states import SPEC, layout_of, spec_of, state
from tooling.testing.vectors.gradient import Seeded

ROOT = Path(__file__).resolve().parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "gradient_codec.json").read_text(encoding="utf-8"))["vectors"]
LAYOUT = layout_of()


@dataclasses.dataclass(frozen=True)
class Round:
    """One honest miner's round: its update, and the states of H inner steps (of no optimiser: no file minds)."""

    spec: GradientSpec
    states: list[InnerState]
    feedback: dict[str, Floats] | None
    delta: dict[str, Floats]
    rest: dict[str, Floats]
    streams: tuple[bytes, ...]
    committed: Committed

    @classmethod
    def of(cls, spec: GradientSpec, *, fresh: bool = False) -> Round:
        zeros = {name: np.zeros_like(values) for name, values in state(LAYOUT, 0).items()}
        states = [InnerState(state(LAYOUT, 10, 0.02), zeros, zeros)]
        for j in range(1, spec.inner_steps + 1):
            moved = {n: values + state(LAYOUT, 20 + j)[n] for n, values in states[-1].theta.items()}
            states.append(InnerState(moved, state(LAYOUT, 30 + j), state(LAYOUT, 40 + j)))
        delta = {name: states[0].theta[name] - values for name, values in states[-1].theta.items()}
        feedback = None if fresh else state(LAYOUT, 50)
        streams, rest = compress(LAYOUT, spec, delta, feedback)
        steps = [step_root(*(root_of(LAYOUT, v) for v in (s.theta, s.first_moment, s.second_moment))) for s in states[1:]]
        committed = Committed(
            root_of(LAYOUT, delta),
            root_of(LAYOUT, states[-1].theta),
            root_of(LAYOUT, feedback) if feedback is not None else ZERO_ROOT,
            root_of(LAYOUT, rest),
            tuple(steps) if spec.optimiser == "adamw" else (),
        )
        return cls(spec, states, feedback, delta, rest, streams, committed)

    def write(self, asked: Asked, **changes: Any) -> bytes:
        replay = None
        if asked.step is not None and self.spec.optimiser == "adamw":
            replay = Replay(self.states[asked.step] if asked.step else None, self.states[asked.step + 1])
        given: dict[str, Any] = {
            "delta": self.delta,
            "theta_end": self.states[-1].theta,
            "feedback": self.feedback,
            "feedback_after": self.rest,
            "replay": replay,
        }
        return write_opening(asked, LAYOUT, self.spec, **(given | changes))

    def read(self, raw: bytes, asked: Asked) -> Opening:
        return read_opening(raw, asked, self.committed, LAYOUT, self.spec)

    def check(self, opened: opening.OpenedChunk, **changes: Any) -> None:
        tensor = LAYOUT.tensor_of(opened.number)
        chunk = LAYOUT.place(opened.number)[1]
        sent = codec.decode(self.streams[tensor], LAYOUT.tensors[tensor]).chunk(chunk)
        start = LAYOUT.chunk_of(self.states[0].theta, opened.number)
        check_chunk(opened, start, dataclasses.replace(sent, **changes), self.committed, LAYOUT, self.spec)


HONEST = Round.of(SPEC)


def asked_for(step: int | None = None, chunks: tuple[int, ...] = (6, 0, 2)) -> Asked:
    return Asked(900, bytes(range(32)), bytes([7] * 32), chunks, step)


def test_the_opening_is_that_of_the_published_vectors() -> None:
    case = VECTORS["opening"]
    spec = spec_of(chunk=case["chunk"], inner_steps=case["inner_steps"], chunks_drawn=1)
    layout = Layout.of([("w", (case["size"],))], spec)
    vectors = {
        name: {"w": np.array(Seeded(bytes.fromhex(g["seed"]), g["least"], g["spread"]).numbers(case["size"]), np.float32)}
        for name, g in case["vectors"].items()
    }
    roots = {name: root_of(layout, vector) for name, vector in vectors.items()}
    assert {name: root.hex() for name, root in roots.items()} == case["roots"]
    h = case["header"]
    hotkey, content = bytes.fromhex(h["hotkey"]), bytes.fromhex(h["content_digest"])
    asked = Asked(h["round"], hotkey, content, tuple(h["chunks"]), h["step"])
    names = ("theta", "first_moment", "second_moment")
    before, after = (InnerState(*(vectors[f"{name}{when}"] for name in names)) for when in ("", "_after"))
    ends = {name: vectors[name] for name in ("delta", "theta_end", "feedback_after")}
    raw = write_opening(asked, layout, spec, feedback=None, replay=Replay(before, after), **ends)
    assert raw.hex() == case["file"]
    steps = tuple(bytes.fromhex(root) for root in case["step_roots"])
    committed = Committed(roots["delta"], roots["theta_end"], ZERO_ROOT, roots["feedback_after"], steps)
    read = read_opening(raw, asked, committed, layout, spec)
    assert read.theta is not None
    assert (read.theta["w"] == before.theta["w"]).all()
    assert not read.chunks[0].feedback.any()


@pytest.mark.parametrize("fresh", [False, True], ids=["with feedback", "new start"])
@pytest.mark.parametrize("step", [None, 0, 1, 3])
def test_an_honest_opening_is_read_as_it_was_written_and_passes_the_chunk_test(step: int | None, fresh: bool) -> None:
    honest = Round.of(SPEC, fresh=True) if fresh else HONEST
    asked = asked_for(step, tuple(reversed(range(LAYOUT.chunks)))[:3])
    raw = honest.write(asked)
    assert len(raw) <= opening.most_bytes(LAYOUT, SPEC)
    read = honest.read(raw, asked)
    assert [chunk.number for chunk in read.chunks] == list(asked.chunks)
    for chunk in read.chunks:
        honest.check(chunk)
        if step is None:
            assert chunk.step is None
            continue
        assert chunk.step is not None
        before, after = honest.states[step], honest.states[step + 1]
        vectors = (before.first_moment, before.second_moment, after.theta, after.first_moment, after.second_moment)
        for opened, vector in zip(dataclasses.astuple(chunk.step), vectors, strict=True):
            assert (opened == LAYOUT.chunk_of(vector, chunk.number)).all()
    if step:
        assert read.theta is not None
        assert root_of(LAYOUT, read.theta) == root_of(LAYOUT, honest.states[step].theta)
    else:
        assert read.theta is None


def test_every_chunk_of_an_honest_round_passes_the_chunk_test() -> None:
    asked = asked_for(chunks=tuple(range(LAYOUT.chunks)))
    spec = spec_of(chunks_drawn=LAYOUT.chunks)
    raw = HONEST.write(asked)
    for chunk in read_opening(raw, asked, HONEST.committed, LAYOUT, spec).chunks:
        HONEST.check(chunk)


@pytest.mark.parametrize("commit", ["all", "ends"])
def test_with_sgd_or_one_step_an_opening_shows_what_there_is(commit: str) -> None:
    sgd = Round.of(spec_of(optimiser="sgd", inner_steps=1, commit=commit))
    raw = sgd.write(asked_for(0))
    read = sgd.read(raw, asked_for(0))
    assert all(chunk.theta_end is None and chunk.step is None for chunk in read.chunks)
    for chunk in read.chunks:
        sgd.check(chunk)
    one = Round.of(spec_of(inner_steps=1, commit=commit))
    assert one.read(one.write(asked_for(0)), asked_for(0)).chunks[0].step is not None


def test_of_vectors_of_zeros_nothing_stands_in_the_file_and_they_are_read_as_zeros() -> None:
    zeros = {name: np.zeros_like(values) for name, values in state(LAYOUT, 0).items()}
    still = InnerState(zeros, zeros, zeros)
    asked = asked_for(1)
    raw = write_opening(
        asked, LAYOUT, SPEC, delta=zeros, theta_end=zeros, feedback=zeros, feedback_after=zeros, replay=Replay(still, still)
    )
    assert len(raw) == 12 + len(asked.header()) + 6 * 32
    steps = (step_root(ZERO_ROOT, ZERO_ROOT, ZERO_ROOT),) * 2
    read = read_opening(raw, asked, Committed(ZERO_ROOT, ZERO_ROOT, ZERO_ROOT, ZERO_ROOT, steps), LAYOUT, SPEC)
    assert read.theta is not None
    assert root_of(LAYOUT, read.theta) == ZERO_ROOT
    assert [chunk.delta.size for chunk in read.chunks] == [LAYOUT.chunk_of(zeros, number).size for number in asked.chunks]


def test_who_says_that_nothing_is_left_has_sent_everything() -> None:
    asked = asked_for(chunks=(0,))
    emptied = dataclasses.replace(HONEST.committed, feedback_after=ZERO_ROOT)
    raw = HONEST.write(asked, feedback_after={name: np.zeros_like(values) for name, values in HONEST.rest.items()})
    opened = read_opening(raw, asked, emptied, LAYOUT, SPEC).chunks[0]
    sent = codec.decode(HONEST.streams[0], LAYOUT.tensors[0]).chunk(0)
    start = LAYOUT.chunk_of(HONEST.states[0].theta, 0)
    with pytest.raises(ValueError, match=r"^\$opening\.chunk\.feedback_after"):
        check_chunk(opened, start, sent, emptied, LAYOUT, SPEC)
    nothing = dataclasses.replace(opened, delta=opened.delta * 0, theta_end=start, feedback=opened.feedback * 0)
    check_chunk(nothing, start, codec.SentChunk(0, sent.places, sent.negative * 0), emptied, LAYOUT, SPEC)


def test_another_header_than_the_challenge_asks_for_is_refused_by_member() -> None:
    asked = asked_for(1)
    raw = HONEST.write(asked)
    others: dict[str, Any] = {"round": 930, "hotkey": bytes(32), "content_digest": bytes(32), "chunks": (6, 0, 1), "step": 2}
    for name, value in others.items():
        with pytest.raises(ValueError, match=rf"^\$opening\.header\.{name}: another"):
            HONEST.read(raw, dataclasses.replace(asked, **{name: value}))
    spaced = asked.header().replace(b":", b": ", 1)
    with pytest.raises(ValueError, match=r"^\$opening\.header: no canonical JSON"):
        HONEST.read(raw[:8] + struct.pack("<I", len(spaced)) + spaced + raw[12 + len(asked.header()) :], asked)


def with_floats(raw: bytes, at: int, value: float) -> bytes:
    return raw[:at] + struct.pack("<f", value) + raw[at + 4 :]


def test_other_numbers_than_were_committed_are_refused_and_never_handed_out() -> None:
    asked = asked_for(2)
    raw = HONEST.write(asked)
    body = 12 + len(asked.header())
    first, theta = body + 6 * 32, len(raw) - 4 * LAYOUT.size
    for at, value, message in (
        (body, 1.0, r"^\$opening\.roots: not those that step_roots\[1\]"),
        (body + 96, 1.0, r"^\$opening\.roots: not those that step_roots\[2\]"),
        (first, 1.0, r"^\$opening\.chunks\[0\]\.delta: not the chunk"),
        (first, float("nan"), r"^\$opening\.chunks\[0\]\.delta: a number is not finite"),
        (theta, 1.0, r"^\$opening\.theta: not the weights before step 2"),
        (theta + 8, float("inf"), r"^\$opening\.theta: a number is not finite"),
        (len(raw) - 4, -0.0, r"^\$opening\.theta: a zero with a sign"),
    ):
        with pytest.raises(ValueError, match=message):
            HONEST.read(with_floats(raw, at, value), asked)
    for wrong in (raw[:-1], raw + b"\0", raw[: body + 100]):
        with pytest.raises(ValueError, match=r"^\$opening\.(body|roots): "):
            HONEST.read(wrong, asked)


def test_states_that_were_not_committed_cannot_be_opened() -> None:
    ends = Round.of(spec_of(commit="ends"))
    signed = dataclasses.replace(ends, committed=dataclasses.replace(ends.committed, steps=ends.committed.steps[:1]))
    assert signed.read(signed.write(asked_for(0)), asked_for(0)).theta is None
    with pytest.raises(ValueError, match=r"^\$opening"):
        signed.read(signed.write(asked_for(1)), asked_for(1))
    with pytest.raises(ValueError, match="exactly the states that it asks for"):
        HONEST.write(asked_for(1), replay=None)


def test_a_chunk_path_of_another_chunk_is_refused() -> None:
    raw = HONEST.write(asked_for(chunks=(1, 2, 3)))
    header = asked_for(chunks=(2, 1, 3)).header()
    assert len(header) == len(asked_for(chunks=(1, 2, 3)).header())
    with pytest.raises(ValueError, match=r"^\$opening\.(chunks\[0\]\.delta|body)"):
        HONEST.read(raw[:12] + header + raw[12 + len(header) :], asked_for(chunks=(2, 1, 3)))


def test_an_update_that_does_not_follow_from_what_was_committed_fails_the_chunk_test() -> None:
    asked = asked_for(chunks=(5, 0, 2))
    chunk = HONEST.read(HONEST.write(asked), asked).chunks[0]
    assert chunk.theta_end is not None
    tensor = LAYOUT.tensors[LAYOUT.tensor_of(5)]
    sent = codec.decode(HONEST.streams[LAYOUT.tensor_of(5)], tensor).chunk(5 - tensor.first_chunk)
    lower = next(place for place in range(64) if place not in sent.places)
    HONEST.check(chunk, scale=sent.scale)
    for name, opened, changes in (
        ("delta", dataclasses.replace(chunk, theta_end=chunk.theta_end + np.float32(1)), {}),
        ("places", dataclasses.replace(chunk, feedback=-chunk.feedback), {}),
        ("places", chunk, {"places": np.sort(np.array([lower, *sent.places[1:]], np.uint16))}),
        ("signs", chunk, {"negative": 1 - sent.negative}),
        ("scale", chunk, {"scale": sent.scale + 2}),
        ("scale", chunk, {"scale": sent.scale - 2}),
        ("feedback_after", chunk, {"scale": sent.scale + 1}),
        ("feedback_after", dataclasses.replace(chunk, after_path=chunk.after_path[::-1]), {}),
    ):
        with pytest.raises(ValueError, match=rf"^\$opening\.chunk\.{name}: "):
            HONEST.check(opened, **changes)


def test_a_scale_one_code_off_passes_where_the_feedback_follows_from_it() -> None:
    """Within one code, since others may add in another order; what is kept has to be the rest of what was sent."""
    asked = asked_for(chunks=(2,))
    spec = spec_of(chunks_drawn=1)
    tensor, at = LAYOUT.place(2)
    opened = HONEST.read(HONEST.write(asked), asked).chunks[0]
    sent = codec.decode(HONEST.streams[LAYOUT.tensor_of(2)], tensor).chunk(at)
    off = dataclasses.replace(sent, scale=sent.scale + 1)
    rest = {name: values.copy() for name, values in HONEST.rest.items()}
    LAYOUT.chunk_of(rest, 2)[off.places] = exact_rest(opened, off)
    committed = dataclasses.replace(HONEST.committed, feedback_after=root_of(LAYOUT, rest))
    again = read_opening(HONEST.write(asked, feedback_after=rest), asked, committed, LAYOUT, spec).chunks[0]
    check_chunk(again, LAYOUT.chunk_of(HONEST.states[0].theta, 2), off, committed, LAYOUT, spec)


def exact_rest(opened: opening.OpenedChunk, sent: codec.SentChunk) -> Floats:
    sums = np.float32(SPEC.feedback / 10**6) * opened.feedback + opened.delta
    return sums[sent.places] - sent.decoded()


def read_and_check(raw: bytes, asked: Asked) -> None:
    """The path of e′ is the chunk test's to check."""
    for chunk in HONEST.read(raw, asked).chunks:
        HONEST.check(chunk)


def hold_mutants_of_an_opening(count: int, seed: int) -> None:
    """Each is refused with its path: an opening has one form."""
    rng = random.Random(seed)
    openings = [(asked, HONEST.write(asked)) for asked in (asked_for(), asked_for(0), asked_for(2))]
    for _ in range(count):
        asked, raw = rng.choice(openings)
        changed = mutated(raw, rng)
        if changed == raw:
            continue
        complaint = told(lambda changed=changed, asked=asked: read_and_check(changed, asked))  # type: ignore[misc]
        assert complaint.startswith("$opening"), complaint
        assert len(complaint) < 300


def test_a_mutant_of_an_opening_is_refused_with_its_path() -> None:
    hold_mutants_of_an_opening(10_000, seed=4)
