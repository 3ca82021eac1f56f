"""Whether a model's generator, its forward pass and its own logits say the same: computed, once, before a model is published.

`model.architecture` refuses what it has names for. This is for what nobody named: some rows are decoded as a miner decodes
them, in one batch with prompts of different lengths, and every row of logits is held against the forward pass that a
validator makes of the finished rows, that against a row by itself, and against the model's own logits, where a scale or a cap
after the head would show. In float32 all of them differ by rounding alone, so a difference says that something is left out.
Costs three passes over six rows, at most MAX_TOKENS tokens each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.errors import CheckpointError, GrailError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.memory import is_exhausted
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import Floats, SeededSampler
from grail_core.protocol.policy import GenerationPolicy

MAX_TOKENS = 1280
"""Of the longest row: past the end of a shorter context, and past a window of up to 1,024."""

_DECODED = 12  # tokens of each row
_LARGEST_DIFFERENCE = 0.01
"""Of logits, by their standard deviation over the vocabulary. Rounding was 1e-5 or less for every tiny architecture tried;
ALiBi, a window or a bias that is left out, 0.1 and more."""


class _Witness(SeededSampler):
    """A sampler that keeps the logits it was asked about, by sampling seed."""

    def __init__(self, policy: GenerationPolicy) -> None:
        super().__init__(policy)
        self.seen: dict[int, list[Floats]] = {}

    def sample(
        self,
        logits: Tensor | Floats,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        rows = logits.detach().float().cpu().numpy() if isinstance(logits, Tensor) else logits
        for seed, row in zip(seeds.tolist(), rows, strict=True):
            self.seen.setdefault(seed, []).append(row)
        return super().sample(logits, seeds, positions, histories)


def check_agreement(model: PolicyModel) -> None:
    """Hold generator, forward pass and the model's own logits against each other.

    Args:
        model: in float32; else rounding would hide what is looked for.

    Raises:
        CheckpointError: they differ, or the generator cannot decode the model; `what` says from which position on.
        ValueError: the model is not in float32.
    """
    if model.dtype != torch.float32:
        raise ValueError(f"agreement is looked for in float32, not {model.dtype}")
    policy = GenerationPolicy(_DECODED)
    witness = _Witness(policy)
    where = type(model.module).__name__
    try:
        requests = list(_requests(model))
        completions = HfGenerator(model, policy, frozenset(), sampler=witness).generate(requests)
        rows = [(*request.prompt, *done.tokens) for request, done in zip(requests, completions, strict=True)]
        states = model.hidden_states(rows)
    except GrailError:
        raise
    except Exception as error:  # a model's code can fail in any way on what it does not expect
        if is_exhausted(error):
            raise
        raise CheckpointError(
            f"the model cannot be decoded here: {type(error).__name__}: {str(error)[:200]}",
            where=where,
            hint="use a model whose attention is Transformers' (Qwen2, Qwen3, Llama, …)",
        ) from error
    start = model.hidden_states([rows[0][:2]])[0]
    _require_equal("a row's beginning by itself", start.cpu().numpy(), states[0][:2].cpu().numpy(), 0, where)
    for request, row, hidden in zip(requests, rows, states, strict=True):
        first = len(request.prompt) - 1
        proved, own = model.logits(hidden[first:-1]).cpu().numpy(), _own(model, row)[first:-1]
        _require_equal("the generator", np.stack(witness.seen[request.sampling_seed]), proved, first, where)
        _require_equal("the model's own head (a scale, a cap or a layer after it)", own, proved, first, where)


def _requests(model: PolicyModel) -> Iterator[GenerationRequest]:
    """Prompts of different lengths: one token, two that share a prompt, and one as long as is worth it."""
    tokens = np.random.default_rng(0).integers(0, model.vocabulary_size, MAX_TOKENS)
    longest = min(model.context_length, MAX_TOKENS) - _DECODED
    window = getattr(model.module.config, "sliding_window", None)
    lengths = [1, 5, 5, 23, window if isinstance(window, int) else longest, longest]
    for seed, length in enumerate(lengths):
        yield GenerationRequest(tuple(map(int, tokens[: max(1, min(length, longest))])), seed)


@torch.inference_mode()
def _own(model: PolicyModel, row: Sequence[int]) -> Floats:
    logits: Tensor = model.module(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
    found: Floats = logits.float().cpu().numpy()
    return found


def _require_equal(who: str, found: Floats, proved: Floats, first: int, where: str) -> None:
    scale = proved.std(axis=1, keepdims=True) + 1e-6
    far = ~(np.abs(found - proved) <= _LARGEST_DIFFERENCE * scale).all(axis=1)  # a NaN is far too
    if far.any():
        position = first + int(far.argmax())
        raise CheckpointError(
            f"{who} and the forward pass of the proof do not give the same numbers, from position {position} on",
            where=where,
            hint="this architecture has something that is not written here; use another (Qwen2, Qwen3, Llama, …)",
        )
