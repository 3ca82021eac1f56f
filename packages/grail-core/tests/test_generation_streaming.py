"""Requests that join and leave a running batch get the tokens that they get alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from grail_core.errors import ProtocolViolationError
from grail_core.generation import hf_streaming
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.generation.hf_streaming import HfStreaming
from grail_core.generation.streaming import Handle
from grail_core.model.errors import OutOfVocabularyError
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY = 96
END = frozenset({3, 4, 5})
# Logits far enough apart that numerics cannot flip a token in float32.
SHAPE = Qwen2Shape(VOCABULARY, context=160, spread=0.3)
POLICY = GenerationPolicy(40)


@pytest.fixture(scope="module")
def model() -> PolicyModel:
    return PolicyModel(random_model(SHAPE, seed=5).requires_grad_(False))


def some_requests(
    count: int, *, seed: int = 0, policies: Sequence[GenerationPolicy | None] = (None,)
) -> list[GenerationRequest]:
    rng = np.random.default_rng(seed)
    policies = list(policies)
    made = []
    for index in range(count):
        prompt = tuple(rng.integers(6, VOCABULARY, int(rng.integers(1, 60))).tolist())
        made.append(GenerationRequest(prompt, int(rng.integers(2**63)), policies[index % len(policies)]))
    return made


class Collected:
    """What came of each row; a row that goes on after its end, or is told of after it was cancelled, fails the test."""

    def __init__(self, generator: HfStreaming) -> None:
        self.generator = generator
        self.tokens: dict[Handle, tuple[int, ...]] = {}
        self.finished: set[Handle] = set()
        self.cancelled: set[Handle] = set()

    def step(self) -> None:
        for one in self.generator.step():
            assert one.tokens or one.finished
            assert one.handle not in self.finished | self.cancelled
            self.tokens[one.handle] = self.tokens.get(one.handle, ()) + one.tokens
            if one.finished:
                self.finished.add(one.handle)

    def cancel(self, handle: Handle) -> None:
        self.cancelled.add(handle)
        self.generator.cancel(handle)

    def to_the_end(self) -> None:
        while self.generator.open_rows:
            self.step()


def test_rows_that_join_and_leave_at_any_step_get_the_tokens_that_they_get_alone(model: PolicyModel) -> None:
    policies = (
        None,
        GenerationPolicy(25, top_p=0.9),
        GenerationPolicy(9, repetition_penalty=1.3),
        GenerationPolicy(30, 0.7, top_k=8),
    )
    requests = some_requests(24, policies=policies)
    alone = [HfGenerator(model, POLICY, END).generate([request])[0].tokens for request in requests]
    rng = np.random.default_rng(1)
    collected = Collected(HfStreaming(model, POLICY, END, max_rows=7))
    handles = []
    for request in requests:
        handles.append(collected.generator.add(request))
        for _ in range(int(rng.integers(0, 6))):
            collected.step()
        if rng.random() < 0.3:
            collected.cancel(handles[int(rng.integers(len(handles)))])
    collected.to_the_end()
    for handle, tokens in zip(handles, alone, strict=True):
        got = collected.tokens.get(handle, ())
        assert got == (tokens[: len(got)] if handle in collected.cancelled - collected.finished else tokens)
    assert len(collected.finished) > 15
    assert len(collected.cancelled - collected.finished) >= 2


def test_choices_of_one_prompt_share_its_reading_and_differ_by_their_seeds_alone(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = some_requests(1, seed=3)[0].prompt
    requests = [GenerationRequest(prompt, seed) for seed in range(8)]
    collected = Collected(HfStreaming(model, POLICY, END))
    read = []
    forward = HfStreaming._forward

    def counted(self: HfStreaming, base: object, rows: list[tuple[int, ...]], past: object, first: int) -> object:
        read.append(len(rows))
        return forward(self, base, rows, past, first)

    monkeypatch.setattr(HfStreaming, "_forward", counted)
    handles = [collected.generator.add(request) for request in requests]
    collected.to_the_end()
    assert read == [1]
    alone = HfGenerator(model, POLICY, END).generate(requests)
    assert [collected.tokens[handle] for handle in handles] == [one.tokens for one in alone]


def test_a_long_prompt_is_read_in_pieces_between_the_others_tokens(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_streaming, "PIECE_TOKENS", 16)
    short, long = GenerationRequest((9, 10, 11), 1), GenerationRequest(tuple(range(6, 90)), 2)
    alone = [HfGenerator(model, POLICY, frozenset()).generate([one])[0].tokens for one in (short, long)]
    collected = Collected(HfStreaming(model, POLICY, frozenset()))
    first = collected.generator.add(short)
    collected.step()
    second = collected.generator.add(long)
    while second not in collected.tokens:
        before = len(collected.tokens[first])
        collected.step()
        assert len(collected.tokens[first]) == before + 1  # the other row goes on with every piece
    assert len(collected.tokens[first]) >= 84 // 16
    collected.to_the_end()
    assert [collected.tokens[first], collected.tokens[second]] == alone


def test_rows_wait_until_the_cache_has_room_for_the_longest_that_they_can_become(model: PolicyModel) -> None:
    requests = [GenerationRequest((7, 8, 9, 10), seed) for seed in range(3)]
    longest = 4 + POLICY.max_tokens
    collected = Collected(HfStreaming(model, POLICY, frozenset(), max_positions=2 * longest))
    handles = []
    for request in requests:
        handles.append(collected.generator.add(request))
        collected.step()
    assert set(collected.tokens) == set(handles[:2])
    collected.to_the_end()
    assert set(collected.finished) == set(handles)
    alone = Collected(HfStreaming(model, POLICY, frozenset(), max_positions=1))
    handle = alone.generator.add(requests[0])
    alone.to_the_end()
    assert len(alone.tokens[handle]) == POLICY.max_tokens


def test_a_prompt_that_cannot_be_drawn_is_refused_and_touches_nobody(model: PolicyModel) -> None:
    collected = Collected(HfStreaming(model, POLICY, END))
    request = some_requests(1, seed=8)[0]
    handle = collected.generator.add(request)
    collected.step()
    with pytest.raises(OutOfVocabularyError):
        collected.generator.add(GenerationRequest((VOCABULARY,), 0))
    with pytest.raises(ProtocolViolationError, match="no room"):
        collected.generator.add(GenerationRequest(tuple([6] * 160), 0))
    with pytest.raises(ProtocolViolationError):
        collected.generator.add(GenerationRequest((6,), 0, replace(POLICY, temperature=0.0)))
    collected.to_the_end()
    assert collected.tokens[handle] == HfGenerator(model, POLICY, END).generate([request])[0].tokens


@torch.inference_mode()
def test_what_is_no_number_in_one_rows_cache_reaches_no_other_row(model: PolicyModel) -> None:
    long, short, late = GenerationRequest(tuple(range(6, 60)), 2), GenerationRequest((6, 7), 1), GenerationRequest((8, 9), 3)
    for order in ((long, short), (short, long)):
        collected = Collected(HfStreaming(model, POLICY, frozenset()))
        handles = dict(zip(order, (collected.generator.add(one) for one in order), strict=True))
        collected.step()
        for layer in collected.generator._cache._layers:
            layer.values[order.index(long)] = float("nan")
            layer.keys[order.index(long)] = float("nan")
        collected.cancel(handles[long])  # its place is taken by the last row, or by the next that comes
        third = collected.generator.add(late)
        collected.to_the_end()
        alone = HfGenerator(model, POLICY, frozenset()).generate([short, late])
        assert [collected.tokens[handles[short]], collected.tokens[third]] == [one.tokens for one in alone]


def test_the_states_that_are_kept_are_those_of_a_pass_over_the_row(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_streaming, "PIECE_TOKENS", 7)  # of some prompts the last ten positions come in two pieces
    requests = some_requests(9, seed=4)
    collected = Collected(HfStreaming(model, POLICY, END, max_rows=6, prompt_states=10))
    handles = []
    for request in requests:
        handles.append(collected.generator.add(request))
        collected.step()
        collected.step()
    cut = handles[-1]
    while len(collected.tokens.get(cut, ())) < 2:
        collected.step()
    collected.cancel(cut)
    collected.to_the_end()
    for handle, request in zip(handles, requests, strict=True):
        row = (*request.prompt, *collected.tokens[handle])
        states, whole = collected.generator.states(handle), model.hidden_states([row])[0]
        assert states is not None
        wanted = whole[max(0, len(request.prompt) - 10) :]
        assert torch.allclose(states, wanted[:-1] if handle == cut else wanted, atol=1e-4)
        assert collected.generator.states(handle) is None
    alone = HfGenerator(model, POLICY, END).generate(requests)
    assert [collected.tokens[one] for one in handles[:-1]] == [one.tokens for one in alone[:-1]]
    without = HfStreaming(model, POLICY, END)
    handle = without.add(requests[0])
    while without.open_rows:
        without.step()
    assert without.states(handle) is None
