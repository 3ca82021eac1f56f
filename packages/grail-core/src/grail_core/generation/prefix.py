"""Attention of decoding rows that share prompts: the prompt's keys and values are kept once per line of rows, not per row.

Rows stand in a grid of `lines` × `width`; all rows of a line have the same prompt. One decoding step multiplies all queries
of a line with the prompt's keys in one product and each row's own few keys beside it, in float32 throughout. The
Transformers model is run as it is, with this function registered as its attention. Which keys a layer sees (all before it, a
sliding window, a chunk) is asked of the model's own mask function, at the rows' own positions: columns of the grid are not
positions, since prompts of a batch have different lengths. What a model asks of its attention that is not written here is
refused by its name, never left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grail_core.errors import CheckpointError

ATTENTION_NAME = "grail_shared_prefix"
_FIRST_COLUMNS = 32

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


class LayerCache:
    """Keys and values of one layer. Shapes: prefix [lines, kv heads, P, d], suffix [lines · width, kv heads, S, d], float32.

    The d of keys and of values need not be one (multi-head latent attention).
    """

    def __init__(self, prefix_keys: Tensor, prefix_values: Tensor, rows: int) -> None:
        self.prefix_keys, self.prefix_values = prefix_keys, prefix_values
        heads = prefix_keys.shape[1]
        self.keys = prefix_keys.new_empty((rows, heads, _FIRST_COLUMNS, prefix_keys.shape[3]))
        self.values = prefix_values.new_empty((rows, heads, _FIRST_COLUMNS, prefix_values.shape[3]))
        self.columns = 0

    def append(self, keys: Tensor, values: Tensor) -> None:
        """One new position for every row: keys, values [rows, kv heads, 1, d]."""
        if self.columns == self.keys.shape[2]:
            self.keys = torch.cat([self.keys, torch.empty_like(self.keys)], dim=2)
            self.values = torch.cat([self.values, torch.empty_like(self.values)], dim=2)
        self.keys[:, :, self.columns] = keys[:, :, 0]
        self.values[:, :, self.columns] = values[:, :, 0]
        self.columns += 1

    def select(self, lines: Tensor, rows: Tensor) -> None:
        self.prefix_keys = self.prefix_keys.index_select(0, lines)
        self.prefix_values = self.prefix_values.index_select(0, lines)
        used = min(self.keys.shape[2], -(-(self.columns + 1) // _FIRST_COLUMNS) * _FIRST_COLUMNS)
        self.keys = self.keys[:, :, :used].index_select(0, rows)
        self.values = self.values[:, :, :used].index_select(0, rows)


class SharedPrefixCache:
    """What a Transformers model takes as `past_key_values` while decoding with `shared_prefix_attention`.

    Args:
        layers: one per layer of the model. lengths: int64 [lines], tokens of each line's prompt.
    """

    is_compileable = False

    def __init__(self, layers: list[LayerCache], lengths: Tensor) -> None:
        self.layers = layers
        self._lengths = lengths
        self._padding = self._padding_of(lengths)

    @property
    def padding(self) -> Tensor | None:
        """[lines, 1, 1, P]: 0 for a prompt's tokens, −inf for its padding; None where all prompts are equally long."""
        return self._padding

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        layer = self.layers[layer_idx]
        layer.append(keys, values)
        return layer, self

    def get_seq_length(self, layer_idx: int = 0) -> int:
        layer = self.layers[layer_idx]
        return int(layer.prefix_keys.shape[2] + layer.columns)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> SharedPrefixCache:
        """Where the query stands is another place in every line, so the mask is given what knows them all."""
        return self

    def mask(self, sees: Callable[..., Tensor]) -> Tensor:
        """[lines, 1, 1, P + own columns] for the query of the next step: 0 where `sees`, −inf where not.

        Args:
            sees: a mask function of Transformers: (batch, head, query position, key position) → bool, by broadcasting.
        """
        prefix, own = self.layers[0].prefix_keys.shape[2], self.layers[0].columns + 1
        lengths, device = self._lengths[:, None], self._lengths.device
        of_prompt = torch.arange(prefix, device=device).expand(len(lengths), -1)
        places = torch.cat([of_prompt, lengths + torch.arange(own, device=device)], dim=1)[:, None, None, :]
        line = torch.arange(len(lengths), device=device)[:, None, None, None]
        query = (self._lengths + own - 1)[:, None, None, None]
        seen = sees(line, torch.zeros_like(line), query, places).expand(places.shape).clone()
        seen[..., :prefix] &= places[..., :prefix] < lengths[:, :, None, None]
        return torch.zeros(places.shape, device=device).masked_fill_(~seen, -torch.inf)

    def select(self, lines: Tensor, rows: Tensor) -> None:
        """Keep these lines of prompts (repeats allowed) and these rows, in this order; rows = lines · new width."""
        for layer in self.layers:
            layer.select(lines, rows)
        self._lengths = self._lengths.index_select(0, lines)
        if self._padding is not None:
            self._padding = self._padding.index_select(0, lines)

    def _padding_of(self, lengths: Tensor) -> Tensor | None:
        longest = self.layers[0].prefix_keys.shape[2]
        if int(lengths.min()) == longest:
            return None
        padding = torch.zeros((len(lengths), longest), device=lengths.device)
        padding.masked_fill_(torch.arange(longest, device=lengths.device)[None, :] >= lengths[:, None], -torch.inf)
        return padding[:, None, None, :]


def shared_prefix_mask(
    *, q_offset: Any, mask_function: Callable[..., Tensor], use_vmap: bool = False, **_: Any
) -> Tensor | None:
    """The mask of one decoding step, as Transformers asks for it; None where a layer sees everything before it.

    Raises:
        CheckpointError: a mask that is no function of positions alone.
    """
    from transformers.masking_utils import causal_mask_function

    if mask_function is causal_mask_function:
        return None
    if use_vmap or not isinstance(q_offset, SharedPrefixCache):
        raise CheckpointError(
            "the model masks its attention in a way of its own, which is not decoded here",
            hint="use a model with full, sliding-window or chunked causal attention",
        )
    return q_offset.mask(mask_function)


def shared_prefix_attention(
    module: Any, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, scaling: float | None = None, **asked: Any
) -> tuple[Tensor, None]:
    """Attention of one query per row (`query` [rows, heads, 1, d]) over prompt and completion; returns [rows, 1, heads, d].

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
    layer: LayerCache = key
    cache: SharedPrefixCache = value
    rows, heads, _one, d = query.shape
    lines, kv, prefix, _d = layer.prefix_keys.shape
    width, repeat, own, of_values = rows // lines, heads // kv, layer.columns, layer.values.shape[3]
    scaling = d**-0.5 if scaling is None else scaling
    q = query.float().mul_(scaling) if query.dtype != torch.float32 else query * scaling
    q = q.view(lines, width, kv, repeat, d).transpose(1, 2)  # lines, kv, width, repeat, d
    shared = q.reshape(lines * kv, width * repeat, d)
    scores = q.new_empty((lines, kv, width, repeat, prefix + own))
    scores[..., :prefix] = torch.bmm(shared, layer.prefix_keys.view(lines * kv, prefix, d).transpose(1, 2)).view(
        lines, kv, width, repeat, prefix
    )
    keys = layer.keys.view(lines, width, kv, -1, d)[:, :, :, :own].transpose(1, 2)
    values = layer.values.view(lines, width, kv, -1, of_values)[:, :, :, :own].transpose(1, 2)
    scores[..., prefix:] = torch.matmul(q, keys.transpose(-1, -2))
    if attention_mask is not None:
        scores += attention_mask.unsqueeze(1)
    elif cache.padding is not None:
        scores[..., :prefix] += cache.padding.unsqueeze(1)
    weights = torch.softmax(scores, dim=-1)
    out = torch.bmm(
        weights[..., :prefix].reshape(lines * kv, width * repeat, prefix),
        layer.prefix_values.view(lines * kv, prefix, of_values),
    ).view(lines, kv, width, repeat, of_values)
    out = out + torch.matmul(weights[..., prefix:], values)
    return out.transpose(1, 2).reshape(rows, 1, heads, of_values).to(query.dtype), None


def decoding_twin(base: Any) -> Any:
    """A second module tree over the same parameters, whose attention is `shared_prefix_attention`.

    The proof's own model keeps its attention; weights changed in place change in both.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, shared_prefix_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, shared_prefix_mask)
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    twin = copy.deepcopy(base, shared)
    twin.config._attn_implementation = ATTENTION_NAME
    return twin
