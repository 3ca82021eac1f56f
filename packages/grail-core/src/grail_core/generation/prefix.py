"""Attention of decoding rows that share prompts: the prompt's keys and values are kept once per line of rows, not per row.

Rows stand in a grid of `lines` × `width`; all rows of a line have the same prompt. One decoding step multiplies all queries
of a line with the prompt's keys in one product and each row's own few keys beside it, in float32 throughout. The
Transformers model is run as it is, with this function registered as its attention.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

ATTENTION_NAME = "grail_shared_prefix"
_FIRST_COLUMNS = 32


class LayerCache:
    """Keys and values of one layer. Shapes: prefix [lines, kv heads, P, d], suffix [lines · width, kv heads, S, d], float32."""

    def __init__(self, prefix_keys: Tensor, prefix_values: Tensor, rows: int) -> None:
        self.prefix_keys, self.prefix_values = prefix_keys, prefix_values
        _, heads, _, d = prefix_keys.shape
        self.keys = prefix_keys.new_empty((rows, heads, _FIRST_COLUMNS, d))
        self.values = torch.empty_like(self.keys)
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
    """What a Transformers model takes as `past_key_values` while decoding with `shared_prefix_attention`."""

    is_compileable = False

    def __init__(self, layers: list[LayerCache], bias: Tensor | None) -> None:
        self.layers = layers
        self.bias = (
            bias  # [lines, 1, 1, P]: 0 for a prompt's tokens, −inf for its padding; None where all prompts are equally long
        )

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        layer = self.layers[layer_idx]
        layer.append(keys, values)
        return layer, self

    def get_seq_length(self, layer_idx: int = 0) -> int:
        layer = self.layers[layer_idx]
        return int(layer.prefix_keys.shape[2] + layer.columns)

    def select(self, lines: Tensor, rows: Tensor) -> None:
        """Keep these lines of prompts (repeats allowed) and these rows, in this order; rows = lines · new width."""
        for layer in self.layers:
            layer.select(lines, rows)
        if self.bias is not None:
            self.bias = self.bias.index_select(0, lines)


def shared_prefix_attention(
    module: Any, query: Tensor, key: Any, value: Any, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of one query per row (`query` [rows, heads, 1, d]) over prompt and completion; returns [rows, 1, heads, d]."""
    layer: LayerCache = key
    cache: SharedPrefixCache = value
    rows, heads, _one, d = query.shape
    lines, kv, prefix, _d = layer.prefix_keys.shape
    width, repeat, own = rows // lines, heads // kv, layer.columns
    q = query.float().mul_(scaling) if query.dtype != torch.float32 else query * scaling
    q = q.view(lines, width, kv, repeat, d).transpose(1, 2)  # lines, kv, width, repeat, d
    shared = q.reshape(lines * kv, width * repeat, d)
    scores = q.new_empty((lines, kv, width, repeat, prefix + own))
    scores[..., :prefix] = torch.bmm(shared, layer.prefix_keys.view(lines * kv, prefix, d).transpose(1, 2)).view(
        lines, kv, width, repeat, prefix
    )
    if cache.bias is not None:
        scores[..., :prefix] += cache.bias.unsqueeze(1)
    keys = layer.keys.view(lines, width, kv, -1, d)[:, :, :, :own].transpose(1, 2)
    values = layer.values.view(lines, width, kv, -1, d)[:, :, :, :own].transpose(1, 2)
    scores[..., prefix:] = torch.matmul(q, keys.transpose(-1, -2))
    weights = torch.softmax(scores, dim=-1)
    out = torch.bmm(
        weights[..., :prefix].reshape(lines * kv, width * repeat, prefix), layer.prefix_values.view(lines * kv, prefix, d)
    ).view(lines, kv, width, repeat, d)
    out = out + torch.matmul(weights[..., prefix:], values)
    return out.transpose(1, 2).reshape(rows, 1, heads, d).to(query.dtype), None


def decoding_twin(base: Any) -> Any:
    """A second module tree over the same parameters, whose attention is `shared_prefix_attention`.

    The proof's own model keeps its attention; weights changed in place change in both.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, shared_prefix_attention)
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    twin = copy.deepcopy(base, shared)
    twin.config._attn_implementation = ATTENTION_NAME
    return twin
