"""Attention of decoding rows, one query each, over whatever cache they have: where Transformers' code and our caches meet.

The Transformers model is run as it is, with a function registered as its attention that hands the query to the cache. Which
keys a layer sees (all before it, a sliding window, a chunk) is asked of the model's own mask function. What a model asks of its
attention that is not written here is refused by its name, never left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from grail_core.errors import CheckpointError
from grail_core.model.policy_model import PolicyModel

ATTENTION_NAME = "grail_decoding"

_WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "dropout",  # none is drawn in evaluation mode
        "is_causal",  # of one query everything in the cache is the past
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "sliding_window",  # in the mask already
        "use_cache",
    }
)
"""What models hand to their attention and one query's attention does not need."""


class DecodingCache(Protocol):
    """What a model that decodes takes as `past_key_values`, beside what Transformers asks of it."""

    def mask(self, sees: Callable[..., Tensor]) -> Tensor:
        """0 where the query of the next step sees a key by `sees` (a mask function of Transformers), −inf where not."""
        ...

    def attend(self, layer: Any, query: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of `query` [rows, heads, 1, d], float32: [rows, 1, heads, d of values]. `layer`: what `update` gave."""
        ...


class _AskedForMask:
    """In place of a query's offset, which is another in every row: leads the mask function to the cache that knows them all."""

    def __init__(self, cache: DecodingCache) -> None:
        self.cache = cache


def asked_for_mask(cache: DecodingCache) -> Any:
    """What a cache answers when it is asked where the query stands."""
    return _AskedForMask(cache)


def scaled(query: Tensor, scaling: float) -> Tensor:
    """In float32, a copy."""
    return query.float().mul_(scaling) if query.dtype != torch.float32 else query * scaling


def decoding_mask(*, q_offset: Any, mask_function: Callable[..., Tensor], use_vmap: bool = False, **_: Any) -> Tensor | None:
    """The mask of one decoding step, as Transformers asks for it; None where a layer sees everything before it.

    Raises:
        CheckpointError: a mask that is no function of positions alone.
    """
    from transformers.masking_utils import causal_mask_function

    if mask_function is causal_mask_function:
        return None
    if use_vmap or not isinstance(q_offset, _AskedForMask):
        raise CheckpointError(
            "the model masks its attention in a way of its own, which is not decoded here",
            hint="use a model with full, sliding-window or chunked causal attention",
        )
    return q_offset.cache.mask(mask_function)


def decoding_attention(
    module: Any, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, scaling: float | None = None, **asked: Any
) -> tuple[Tensor, None]:
    """Attention of one query per row (`query` [rows, heads, 1, d]); returns [rows, 1, heads, d].

    Args:
        key, value: what `update` of the cache gave: a layer of it, and the cache.

    Raises:
        CheckpointError: the model asks its attention for something that is not done here.
    """
    more = sorted(name for name, what in asked.items() if what is not None and name not in _WITHOUT_EFFECT)
    if more:
        raise CheckpointError(
            f"the model asks its attention for what is not decoded here: {', '.join(more)}",
            where=type(module).__name__,
            hint="use a model with plain softmax attention",
        )
    out = value.attend(key, query, attention_mask, query.shape[3] ** -0.5 if scaling is None else scaling)
    return out.to(query.dtype), None


def decoding_twin(base: Any) -> Any:
    """A second module tree over the same parameters, whose attention is `decoding_attention`.

    The proof's own model keeps its attention; weights changed in place change in both.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, decoding_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, decoding_mask)
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    twin = copy.deepcopy(base, shared)
    twin.config._attn_implementation = ATTENTION_NAME
    return twin


@contextmanager
def named_refusal(model: PolicyModel) -> Iterator[None]:
    """A model's code that takes its cache for another kind's, or layers for others, ends in one of these. Memory does not."""
    try:
        yield
    except (AttributeError, TypeError, LookupError) as error:
        raise CheckpointError(
            f"the model cannot be decoded here: {type(error).__name__}: {str(error)[:200]}",
            where=type(model.module).__name__,
            hint="use a model whose attention is Transformers' (Qwen2, Qwen3, Llama, …)",
        ) from error
