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
        self._masks: dict[tuple[int, int, int | None], Tensor | None] = {}

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

    def mask(self, segment: Segment, window: int | None, device: torch.device) -> Tensor | None:
        """Bool [length, prompt + length]; None where causal says it all."""
        reach = segment.prompt_length + segment.length
        window = None if window is None or window >= reach else window
        key = (segment.length, segment.prompt_length, window)
        if key not in self._masks:
            mask = None
            if segment.prompt_length or window is not None:
                mask = torch.ones((segment.length, reach), dtype=torch.bool, device=device).tril_(segment.prompt_length)
                if window is not None:
                    mask.triu_(segment.prompt_length - window + 1)
            self._masks[key] = mask
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
    dropout: float = 0.0,
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
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _in_one_call(query[0], key[0], value[0], segments, scaling, sliding_window)[None], None
    parts = []
    for first, count in segments.runs:
        own = slice(first.start, first.start + count * first.length)
        prompt = slice(first.prompt_start, first.prompt_start + first.prompt_length)
        q, k, v = (states[0, :, own].unflatten(1, (count, first.length)).transpose(0, 1) for states in (query, key, value))
        if first.prompt_length:
            k, v = (
                torch.cat([states[:, :, prompt].expand(count, -1, -1, -1), mine], 2) for states, mine in ((key, k), (value, v))
            )
        mask = segments.mask(first, sliding_window, query.device)
        out = scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=True)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # [count · length, heads, d]
    return torch.cat(parts)[None], None


def _in_one_call(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, window: int | None
) -> Tensor:
    """[heads, N, d] and [key heads, N, d] → [N, heads, d]; a causal kernel sees the last query at the last key."""
    from torch.nn.attention.varlen import varlen_attn

    places = segments.key_places.to(query.device)
    queries, keys = segments.longest
    out: Tensor = varlen_attn(
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
    return out


def register() -> None:
    """Make `PACKED` known to Transformers; a name that has no mask of its own there gets none."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
