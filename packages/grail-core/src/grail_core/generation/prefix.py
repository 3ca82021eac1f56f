"""Keys and values of decoding rows that share prompts: a prompt's are kept once per line of rows, not per row.

Rows stand in a grid of `lines` × `width`; all rows of a line have the same prompt. One decoding step multiplies all queries
of a line with the prompt's keys in one product and each row's own few keys beside it, in float32 throughout. Columns of the
grid are not positions, since prompts of a batch have different lengths: which keys a layer sees is asked of the model's own
mask function at the rows' own positions (`decoding`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grail_core.generation.decoding import asked_for_mask, scaled

_FIRST_COLUMNS = 32


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
    """What a Transformers model takes as `past_key_values` while decoding with the twin of `decoding.decoding_twin`.

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

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return asked_for_mask(self)

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

    def attend(self, layer: LayerCache, query: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of one query per row (`query` [rows, heads, 1, d]) over prompt and completion: [rows, 1, heads, d].

        Args:
            mask: what `mask` gave, or None where the layer sees everything before.
        """
        rows, heads, _one, d = query.shape
        lines, kv, prefix, _d = layer.prefix_keys.shape
        width, repeat, own, of_values = rows // lines, heads // kv, layer.columns, layer.values.shape[3]
        q = scaled(query, scaling).view(lines, width, kv, repeat, d).transpose(1, 2)  # lines, kv, width, repeat, d
        shared = q.reshape(lines * kv, width * repeat, d)
        scores = q.new_empty((lines, kv, width, repeat, prefix + own))
        scores[..., :prefix] = torch.bmm(shared, layer.prefix_keys.view(lines * kv, prefix, d).transpose(1, 2)).view(
            lines, kv, width, repeat, prefix
        )
        keys = layer.keys.view(lines, width, kv, -1, d)[:, :, :, :own].transpose(1, 2)
        values = layer.values.view(lines, width, kv, -1, of_values)[:, :, :, :own].transpose(1, 2)
        scores[..., prefix:] = torch.matmul(q, keys.transpose(-1, -2))
        if mask is not None:
            scores += mask.unsqueeze(1)
        elif self.padding is not None:
            scores[..., :prefix] += self.padding.unsqueeze(1)
        weights = torch.softmax(scores, dim=-1)
        out = torch.bmm(
            weights[..., :prefix].reshape(lines * kv, width * repeat, prefix),
            layer.prefix_values.view(lines * kv, prefix, of_values),
        ).view(lines, kv, width, repeat, of_values)
        out = out + torch.matmul(weights[..., prefix:], values)
        return out.transpose(1, 2).reshape(rows, 1, heads, of_values)

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
