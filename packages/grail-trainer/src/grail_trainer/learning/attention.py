"""Attention of packed rows: each segment of a pack sees itself and its prompt, and no mask of [pack, pack] is ever made.

Registered with Transformers under `PACKED`; a pass that names it hands its segments over as the argument `segments`. On a CPU,
and on CUDA in float32, runs of equal segments go through scaled_dot_product_attention as one batch; on CUDA in half precision
the whole pack is one call of `torch.nn.attention.varlen`. The latter is written for and has not been run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

PACKED = "grail_packed"

MASKED_QUERIES = 512
"""Most queries of a mask, which is as wide as what they see."""

_NOT_UNDERSTOOD = ("softcap", "s_aux", "position_bias", "cache")
"""What some architectures add to scores; a pack of theirs would be computed without it."""


@dataclass(frozen=True)
class Segment:
    """`length` tokens of the pack from `start`, which also see all of the `prompt_length` tokens from `prompt_start`."""

    start: int
    length: int
    prompt_start: int = 0
    prompt_length: int = 0


class Segments:
    """The segments of one pack, which follow each other without a gap."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = tuple(segments)
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    @cached_property
    def runs(self) -> tuple[tuple[Segment, int], ...]:
        """(first segment, how many) of segments that are alike: of one length and with one prompt."""
        runs: list[tuple[Segment, int]] = []
        for segment in self._segments:
            if runs and self._alike(runs[-1][0], segment):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((segment, 1))
        return tuple(runs)

    @staticmethod
    def _alike(one: Segment, other: Segment) -> bool:
        return (one.length, one.prompt_start, one.prompt_length) == (other.length, other.prompt_start, other.prompt_length)

    def mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """Bool [queries, keys]: the last query is at the last key; each sees its own and what is before it, up to a window."""
        key = (queries, keys, window)
        if key not in self._masks:
            mask = torch.ones((queries, keys), dtype=torch.bool, device=device).tril_(keys - queries)
            self._masks[key] = mask if window is None else mask.triu_(keys - queries - window + 1)
        return self._masks[key]

    @cached_property
    def key_places(self) -> Tensor:
        """Of every key that the segments see, segment after segment, its place in the pack: int64."""
        return torch.cat([place for segment in self._segments for place in _places_seen(segment)])

    @property
    def longest(self) -> tuple[int, int]:
        """Most queries and most keys of a segment."""
        return max(one.length for one in self._segments), max(one.prompt_length + one.length for one in self._segments)

    def ends(self, *, keys: bool, device: torch.device) -> Tensor:
        """0 and the running sum of queries or keys, int32 [segments + 1]."""
        counts = [one.length + (one.prompt_length if keys else 0) for one in self._segments]
        return torch.tensor([0, *counts], device=device).cumsum(0, dtype=torch.int32)


def _places_seen(segment: Segment) -> Iterator[Tensor]:
    yield torch.arange(segment.prompt_start, segment.prompt_start + segment.prompt_length)
    yield torch.arange(segment.start, segment.start + segment.length)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,  # passes are made in evaluation mode
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **added: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: query [1, heads, N, d], key and value [1, key heads, N, d] → [1, N, heads, d].

    Raises:
        NotImplementedError: the model asks for what is not computed here.
    """
    wrong = [name for name in _NOT_UNDERSTOOD if added.get(name) is not None]
    if segments is None or wrong or attention_mask is not None or query.shape[0] != 1:
        raise NotImplementedError(f"packed attention of {type(module).__name__} with {wrong or 'other arguments'}")
    if torch.is_autocast_enabled(query.device.type):  # rotation may have left queries and keys wider than values
        query, key, value = (one.to(torch.get_autocast_dtype(query.device.type)) for one in (query, key, value))
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _in_one_call(query[0], key[0], value[0], segments, scaling, sliding_window)[None], None
    parts = []
    for first, count in segments.runs:
        own = slice(first.start, first.start + count * first.length)
        prompt = slice(first.prompt_start, first.prompt_start + first.prompt_length)
        q, k, v = (
            states[0, :, own].reshape(states.shape[1], count, first.length, -1).transpose(0, 1)
            for states in (query, key, value)
        )
        before = [states[:, :, prompt].expand(count, -1, -1, -1) for states in (query, key, value)]
        if first.prompt_length:
            k, v = torch.cat([before[1], k], 2), torch.cat([before[2], v], 2)
        out = _of_a_run(before[0], q, k, v, segments, scaling, sliding_window)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # [count · length, heads, d]
    return torch.cat(parts)[None], None


def _of_a_run(
    before: Tensor, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    """[count, heads, length, d]; keys and values begin with the prompt's, whose queries are `before`."""
    queries, keys = query.shape[2], key.shape[2]

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        return out

    if window is not None and window < keys:
        parts = []
        for start in range(0, queries, MASKED_QUERIES):
            end = min(start + MASKED_QUERIES, queries)
            seen = slice(max(0, keys - queries + start - window + 1), keys - queries + end)
            mask = segments.mask(end - start, seen.stop - seen.start, window, query.device)
            parts.append(attend(query[:, :, start:end], key[:, :, seen], value[:, :, seen], mask))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    if queries == keys:
        return attend(query, key, value, None)
    if queries <= MASKED_QUERIES:
        return attend(query, key, value, segments.mask(queries, keys, None, query.device))
    return attend(torch.cat([before, query], 2), key, value, None)[
        :, :, -queries:
    ]  # the prompt's once more, for want of a mask


def _in_one_call(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    """[heads, N, d] and [key heads, N, d] → [N, heads, d]; a causal kernel sees the last query at the last key."""
    from torch.nn.attention.varlen import varlen_attn

    places = segments.key_places.to(query.device)
    queries, keys = segments.longest
    out = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1).index_select(0, places),
        value.transpose(0, 1).index_select(0, places),
        segments.ends(keys=False, device=query.device),
        segments.ends(keys=True, device=query.device),
        queries,
        keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    if not isinstance(out, Tensor):
        raise TypeError("the kernel gave more than was asked for")
    return out


def register() -> None:
    """Make `PACKED` known to Transformers; a name that has no mask of its own there gets none."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
