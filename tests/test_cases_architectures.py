"""An honest miner is not rejected for its model: it decodes what a proof's forward pass gives, or nobody can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grail_core.errors import CheckpointError
from grail_core.generation import hf_streaming
from grail_core.generation.agreement import check_agreement
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.generation.hf_streaming import HfStreaming
from grail_core.generation.streaming import Handle
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.model.skeleton import check_module
from grail_core.protocol.policy import GenerationPolicy
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import TokenSequence
from tests.cases.architectures import CASES, CONTEXT, ArchitectureCase

POLICY = GenerationPolicy(CONTEXT)
REQUESTS = [
    GenerationRequest((1, 2, 3), 11),
    GenerationRequest((4, 5, 6, 7, 8, 9, 10), 12),
    GenerationRequest((1, 2, 3), 13),
    GenerationRequest((9,), 14),
    GenerationRequest(tuple(range(3, 23)), 15),
]


def made(case: ArchitectureCase) -> Any:
    torch.manual_seed(1)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.model_type, **case.configuration)).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return module.requires_grad_(False)


def named(cases: tuple[ArchitectureCase, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@named(tuple(case for case in CASES if case.refusal is None))
def test_the_generators_tokens_are_those_of_the_forward_pass_to_the_end_of_the_context(case: ArchitectureCase) -> None:
    model = PolicyModel(made(case))
    assert model.context_length == CONTEXT
    sampler = SeededSampler(POLICY)
    for request, done in zip(REQUESTS, HfGenerator(model, POLICY, frozenset()).generate(REQUESTS), strict=True):
        assert len(request.prompt) + len(done.tokens) == CONTEXT
        row = (*request.prompt, *done.tokens)
        logits = model.logits(model.hidden_states([row])[0])
        at = np.arange(len(request.prompt) - 1, CONTEXT - 1)
        seeds = np.full(len(at), request.sampling_seed, np.uint64)
        assert tuple(sampler.sample(logits[at], seeds, at.astype(np.uint32))) == done.tokens
        own = model.module(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()
        assert torch.allclose(logits, own, atol=1e-3)
    check_agreement(model)


@named(tuple(case for case in CASES if case.refusal is None))
def test_rows_that_join_a_running_batch_are_drawn_as_the_closed_one_draws_them(
    case: ArchitectureCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_streaming, "PIECE_TOKENS", 9)  # the prompt of 20 comes in three pieces, past the windows of 8
    model = PolicyModel(made(case))
    streaming = HfStreaming(model, POLICY, frozenset())
    drawn: dict[Handle, list[int]] = {}
    handles = []
    for request in REQUESTS:
        handles.append(streaming.add(request))
        for one in streaming.step():
            drawn.setdefault(one.handle, []).extend(one.tokens)
    while streaming.open_rows:
        for one in streaming.step():
            drawn.setdefault(one.handle, []).extend(one.tokens)
    closed = HfGenerator(model, POLICY, frozenset()).generate(REQUESTS)
    assert [tuple(drawn[handle]) for handle in handles] == [one.tokens for one in closed]


@named(tuple(case for case in CASES if case.refusal is None))
def test_what_is_trained_and_published_is_what_is_loaded_and_has_the_models_own_log_probabilities(
    case: ArchitectureCase, tmp_path: Path
) -> None:
    module = made(case).to(torch.bfloat16)
    if not module._supports_sdpa:  # decoded from a model in memory, but no participant could load it
        with pytest.raises(CheckpointError, match="SDPA"):
            check_module(module)
        return
    module.save_pretrained(tmp_path)
    masters = Masters.load(tmp_path, OptimiserSettings(learning_rate=1e-3))
    assert masters.published().keys() == PolicyModel.load(tmp_path).state().keys()
    rows = [TokenSequence((3, 4, 5, 6, 7, 8), 2), TokenSequence(tuple(range(3, 25)), 20)]
    got = masters.policy(rows).logprob
    wanted = []
    for row in rows:
        logs = masters.module(input_ids=torch.tensor([row.tokens]), use_cache=False).logits[0].log_softmax(-1)
        wanted += [logs[place - 1, row.tokens[place]] for place in range(row.prompt_length, len(row.tokens))]
    assert torch.allclose(got, torch.stack(wanted), atol=1e-3)


@named(tuple(case for case in CASES if case.refusal is not None))
def test_a_model_that_is_not_decoded_here_is_refused_by_the_name_of_what_it_has(case: ArchitectureCase) -> None:
    module = made(case)
    assert case.refusal is not None
    with pytest.raises(CheckpointError, match=case.refusal):
        HfGenerator(PolicyModel(module), POLICY, frozenset())
    with pytest.raises(CheckpointError, match=case.refusal):
        check_module(module)


def test_what_nobody_named_is_found_by_computing_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the refusals by name, every such model is still refused, for what it computes."""
    import grail_core.generation.hf as generator
    import grail_core.model.policy_model as loader

    monkeypatch.setattr(generator, "require_decodable", lambda module: None)
    monkeypatch.setattr(loader, "require_describable", lambda module: None)
    for case in CASES:
        if case.refusal is not None:
            with pytest.raises(CheckpointError):
                check_agreement(PolicyModel(made(case)))
