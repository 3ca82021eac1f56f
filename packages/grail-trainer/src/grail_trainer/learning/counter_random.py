"""Random bits that are a function of a key and an index: no generator whose state would have to be kept, shared or resumed.

The same on every machine, device and division of a tensor among processes, which is what lets a repeated update be compared bit
by bit. Integer arithmetic alone (the finaliser of SplitMix64, Steele et al. 2014, over key + index · golden ratio).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_LANES = 4  # of 16 bits in a word
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key_of(*parts: object) -> int:
    """64 bits of SHA-256 over the parts' text."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big")


def words(key: int, first: int, count: int, *, device: torch.device | str = "cpu") -> Tensor:
    """int64 [count]: 64 random bits each, of the indices `first` … `first + count - 1`."""
    mixed = torch.arange(first, first + count, dtype=torch.int64, device=device)
    mixed.mul_(_signed(_GOLDEN)).add_(_signed(key))  # wraps, as is meant
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        mixed.bitwise_xor_(_shifted(mixed, shift)).mul_(_signed(factor))
    return mixed.bitwise_xor_(_shifted(mixed, 31))


def halves(key: int, first: int, count: int, *, device: torch.device | str = "cpu") -> Tensor:
    """int32 [count]: 16 random bits each (0 … 65,535), of the indices `first` … `first + count - 1`; four share a word."""
    start = first // _LANES
    drawn = words(key, start, (first + count + _LANES - 1) // _LANES - start, device=device)
    lanes = torch.stack([drawn >> (16 * lane) & 0xFFFF for lane in range(_LANES)], dim=1).to(torch.int32).reshape(-1)
    return lanes[first - start * _LANES :][:count]


def uniform(key: int, count: int) -> Tensor:
    """float32 [count] in -1 … 1, evenly: 24 bits each."""
    return ((words(key, 0, count) >> 40 & 0xFFFFFF).double() / 2**23 - 1.0).float()


def _shifted(values: Tensor, by: int) -> Tensor:
    """Shifted right as unsigned numbers."""
    return values >> by & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return (value & 0xFFFFFFFFFFFFFFFF) - ((value & 0x8000000000000000) << 1)
