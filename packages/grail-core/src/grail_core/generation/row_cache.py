"""Keys and values of rows that come and go: each row has its own, from its first token on, and columns are positions.

Rows are the first of their tensors; a row that ends is replaced by the last one, so that a step reads nothing else. Everything
is float32. What lies behind a row's end is masked, and is zero or another row's finite past: a mask does not help against what
is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.generation.decoding import asked_for_mask, scaled

_COLUMNS = 64
"""Room grows by multiples of it, and by half of what there is at least."""


@dataclass
class LayerRows:
    """One layer: keys [rows, kv heads, columns, d], values [rows, kv heads, columns, d of values]."""

    keys: Tensor
    values: Tensor


class RowCache:
    """What a Transformers model takes as `past_key_values` while the twin of `decoding.decoding_twin` decodes these rows."""

    is_compileable = False

    def __init__(self) -> None:
        self._layers: list[LayerRows] = []
        self.lengths: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # positions that each row holds
        self._at = torch.zeros(0, dtype=torch.long)  # the step's: where each row's new position lies
        self._columns = 0
        self._padding: Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def add(self, keys: Sequence[Tensor], values: Sequence[Tensor], copies: int) -> None:
        """So many rows more, each with the same past: of every layer [kv heads, positions, d]."""
        first, length = self.rows, int(keys[0].shape[1])
        if not self._layers:
            self._layers = [_room(k, v, copies) for k, v in zip(keys, values, strict=True)]
        self._grow(first + copies, length)
        for layer, k, v in zip(self._layers, keys, values, strict=True):
            for held, past in ((layer.keys, k), (layer.values, v)):
                held[first : first + copies, :, :length] = past.float()
                held[first : first + copies, :, length:] = 0  # of a row that was here before
        self.lengths = np.concatenate([self.lengths, np.full(copies, length)])

    def remove(self, row: int) -> None:
        """The last row takes its place. With the last one the memory goes too."""
        last = self.rows - 1
        if last == 0:
            self._layers = []
        elif row != last:
            used, before = int(self.lengths[last]), int(self.lengths[row])
            for layer in self._layers:
                for held in (layer.keys, layer.values):
                    held[row, :, :used] = held[last, :, :used]
                    held[row, :, used:before] = 0
        self.lengths[row] = self.lengths[last]
        self.lengths = self.lengths[:last]

    def begin(self) -> None:
        """A step: every row gets one position, from `update` of each layer."""
        self._columns = int(self.lengths.max()) + 1
        self._grow(self.rows, self._columns)
        device = self._layers[0].keys.device
        self._at = torch.from_numpy(self.lengths).to(device)
        self._padding = None
        if int(self.lengths.min()) + 1 < self._columns:
            beyond = torch.arange(self._columns, device=device)[None, :] > self._at[:, None]
            self._padding = torch.zeros(beyond.shape, device=device).masked_fill_(beyond, -torch.inf)[:, None, None, :]

    def end(self) -> None:
        """The step is over."""
        self.lengths = self.lengths + 1

    # What a Transformers model asks for.

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        layer = self._layers[layer_idx]
        rows = torch.arange(self.rows, device=keys.device)
        layer.keys[rows, :, self._at] = keys[:, :, 0].float()
        layer.values[rows, :, self._at] = values[:, :, 0].float()
        return layer, self

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._columns - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self._columns, 0

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        return asked_for_mask(self)

    def mask(self, sees: Callable[..., Tensor]) -> Tensor:
        """[rows, 1, 1, columns] for the queries of the step: 0 where `sees`, −inf where not."""
        device = self._at.device
        row = torch.arange(self.rows, device=device)[:, None, None, None]
        query = self._at[:, None, None, None]
        places = torch.arange(self._columns, device=device)[None, None, None, :]
        seen = sees(row, torch.zeros_like(row), query, places).expand(self.rows, 1, 1, self._columns) & (places <= query)
        return torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)

    def attend(self, layer: LayerRows, query: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of one query per row (`query` [rows, heads, 1, d]) over its own past: [rows, 1, heads, d of values]."""
        rows, heads, _one, d = query.shape
        keys, values = layer.keys[:rows, :, : self._columns], layer.values[:rows, :, : self._columns]
        kv = keys.shape[1]
        scores = torch.matmul(scaled(query, scaling).view(rows, kv, heads // kv, d), keys.transpose(-1, -2))
        hidden = self._padding if mask is None else mask
        if hidden is not None:
            scores += hidden
        out = torch.matmul(torch.softmax(scores, dim=-1), values)
        return out.reshape(rows, 1, heads, values.shape[3])

    def _grow(self, rows: int, columns: int) -> None:
        """Room for so many rows of so many positions in every layer."""
        held = self._layers[0].keys.shape
        if rows <= held[0] and columns <= held[2]:
            return
        rows = held[0] if rows <= held[0] else max(rows, held[0] * 3 // 2)
        columns = held[2] if columns <= held[2] else _rounded(max(columns, held[2] * 3 // 2))
        for layer in self._layers:
            layer.keys = _enlarged(layer.keys, rows, columns, self.rows)
            layer.values = _enlarged(layer.values, rows, columns, self.rows)


def _rounded(columns: int) -> int:
    return -(-columns // _COLUMNS) * _COLUMNS


def _room(keys: Tensor, values: Tensor, rows: int) -> LayerRows:
    """Zeros for so many rows of a prompt's length and some more."""
    columns = _rounded(keys.shape[1] + 1)
    made = [torch.zeros((rows, past.shape[0], columns, past.shape[2]), device=past.device) for past in (keys, values)]
    return LayerRows(*made)


def _enlarged(held: Tensor, rows: int, columns: int, used: int) -> Tensor:
    larger = held.new_zeros((rows, held.shape[1], columns, held.shape[3]))
    larger[:used, :, : held.shape[2]] = held[:used]
    return larger
