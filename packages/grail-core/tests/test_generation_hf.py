"""The in-process generator samples as the protocol says, whatever batch a row happens to be in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.errors import OutOfVocabularyError
from grail_core.model.policy_model import PolicyModel
from grail_core.model.processor import Float32Head, SeededLogitsProcessor
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy, completion_limit
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY = 96
END = frozenset({3, 4, 5})
# Logits far enough apart that numerics cannot flip a token in float32.
SHAPE = Qwen2Shape(VOCABULARY, context=160, spread=0.3)


def policy_model(shape: Qwen2Shape = SHAPE) -> PolicyModel:
    return PolicyModel(random_model(shape, seed=5).requires_grad_(False))


@pytest.fixture(scope="module")
def model() -> PolicyModel:
    return policy_model()


def requests(groups: int, rows: int, *, seed: int = 0) -> list[GenerationRequest]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(groups):
        prompt = tuple(rng.integers(6, VOCABULARY, int(rng.integers(3, 30))).tolist())
        made += [GenerationRequest(prompt, int(rng.integers(2**63))) for _ in range(rows)]
    return made


def by_the_book(model: PolicyModel, policy: GenerationPolicy, request: GenerationRequest) -> tuple[int, ...]:
    """No cache, no batch: one forward pass of the whole row per token."""
    sampler = SeededSampler(policy)
    row = list(request.prompt)
    for _ in range(completion_limit(policy, model.context_length, len(request.prompt))):
        logits = model.logits(model.hidden_states([row])[0][-1:])
        token = sampler.sample(logits, np.array([request.sampling_seed], np.uint64), np.array([len(row) - 1], np.uint32), [row])
        row.append(int(token[0]))
        if row[-1] in END:
            break
    return tuple(row[len(request.prompt) :])


@pytest.mark.parametrize(
    "policy",
    [
        GenerationPolicy(12),
        GenerationPolicy(12, temperature=0.8, top_p=0.9, top_k=20, repetition_penalty=1.2),
    ],
)
def test_a_batch_of_mixed_prompts_gives_the_tokens_of_decoding_each_row_alone(
    model: PolicyModel, policy: GenerationPolicy
) -> None:
    asked = [*requests(3, 5), *requests(4, 1, seed=1)]
    completions = HfGenerator(model, policy, END, batch_rows=16).generate(asked)
    assert [c.tokens for c in completions] == [by_the_book(model, policy, request) for request in asked]


def test_prompt_of_one_token_and_the_context_limit(model: PolicyModel) -> None:
    policy = GenerationPolicy(1000)
    long_prompt = tuple([7] * (model.context_length - 2))
    completions = HfGenerator(model, policy, frozenset()).generate(
        [GenerationRequest((9,), 1), GenerationRequest(long_prompt, 2)]
    )
    assert len(completions[0].tokens) == model.context_length - 1
    assert len(completions[1].tokens) == 2
    with pytest.raises(ProtocolViolationError, match="leaves no room"):
        HfGenerator(model, policy, END).generate([GenerationRequest(tuple([7] * model.context_length), 3)])
    with pytest.raises(OutOfVocabularyError):
        HfGenerator(model, policy, END).generate([GenerationRequest((VOCABULARY,), 3)])


def test_new_weights_loaded_in_place_are_used_by_the_next_batch() -> None:
    model, other = policy_model(), policy_model(replace(SHAPE, spread=0.5))
    policy = GenerationPolicy(10)
    generator = HfGenerator(model, policy, END)
    asked = requests(2, 4)
    before = generator.generate(asked)
    model.load_state(other.state())
    after = generator.generate(asked)
    assert before != after
    assert after == HfGenerator(other, policy, END).generate(asked)


def test_a_sliding_window_is_decoded_as_the_forward_pass_sees_it_from_prompts_longer_and_shorter_than_it() -> None:
    model = policy_model(replace(SHAPE, sliding_window=8))
    policy = GenerationPolicy(30)
    asked = [*requests(3, 5), *requests(4, 1, seed=1), GenerationRequest((9,), 1)]
    completions = HfGenerator(model, policy, END, batch_rows=16).generate(asked)
    assert [c.tokens for c in completions] == [by_the_book(model, policy, request) for request in asked]
    assert [c.tokens for c in completions] != [c.tokens for c in HfGenerator(policy_model(), policy, END).generate(asked)]


@pytest.mark.parametrize(
    "policy", [GenerationPolicy(8), GenerationPolicy(8, temperature=0.7, top_k=30, repetition_penalty=1.1)]
)
def test_greedy_transformers_generation_with_the_processor_samples_as_the_protocol_says(
    model: PolicyModel, policy: GenerationPolicy
) -> None:
    from transformers import GenerationConfig, LogitsProcessorList

    asked = requests(4, 2)
    longest = max(len(request.prompt) for request in asked)
    padding = [longest - len(request.prompt) for request in asked]
    ids = torch.tensor([[0] * pad + list(request.prompt) for pad, request in zip(padding, asked, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * len(request.prompt) for pad, request in zip(padding, asked, strict=True)])
    twin = policy_model()
    Float32Head.install(twin.module)
    processor = SeededLogitsProcessor(SeededSampler(policy), [request.sampling_seed for request in asked], padding)
    config = GenerationConfig(do_sample=False, max_new_tokens=policy.max_tokens, eos_token_id=sorted(END), pad_token_id=0)
    out = twin.module.generate(
        input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=LogitsProcessorList([processor])
    )
    expected = HfGenerator(model, policy, END).generate(asked)
    for row, completion in zip(out[:, longest:].tolist(), expected, strict=True):
        assert tuple(row[: len(completion.tokens)]) == completion.tokens
