"""Section 4 of GRAIL's protocol in torch, on whatever device the logits are: what `grail_seeded_sampling` puts into engines.

Every request says how it is drawn (`KEYS`, `drawing_of`); `sample` draws one token for each row of a batch, each by its own
seed, position and truncation, exactly as GRAIL's own sampler does: warping in float32, noise in float64, ties to the lower id.
Nothing here knows an engine, and nothing but torch and numpy is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

KEYS = ("grail_seed", "grail_temperature", "grail_top_k", "grail_top_p")

_MASK = 0xFFFFFFFF
_LEAST_EXPONENTIAL, _MAX_FLOAT = 2.0**-32, 1.7976931348623157e308
_NARROW = 2048  # candidates among which a nucleus is looked for first

_CHUNK_ON_CPU, _CHUNK = 2**16, 2**22
"""Elements worked on at once, but at least a row while truncating: about 30 bytes each while scoring, 60 while truncating. So
250 MB on a GPU and 10 MB on a CPU, whatever the batch; the CPU's is what stays in its caches."""


class Drawing(NamedTuple):
    """How one request is drawn, as four int64 words: seed modulo 2⁶⁴, top_k, and the float64 bits of temperature and top_p."""

    seed: int
    top_k: int
    temperature: int
    top_p: int

    @property
    def width(self) -> int:
        """How many candidates truncation leaves at most: 0 where there is none, −1 where the vocabulary is the limit."""
        if self.top_k == -1:
            return 0 if self.top_p == _bits(1.0) else -1
        return self.top_k


def drawing_of(said: Mapping[str, Any] | None) -> Drawing:
    """What a request says of its drawing.

    Raises:
        ValueError: a key is missing, or its value is none of: `grail_seed` the decimal text of an integer of 64 bits;
            `grail_temperature` > 0; `grail_top_k` −1 or ≥ 1; 0 < `grail_top_p` ≤ 1.
    """
    missing = [key for key in KEYS if said is None or key not in said]
    if said is None or missing:
        raise ValueError(f"this server draws by seed alone: the request lacks {', '.join(missing)}")
    seed, temperature, top_k, top_p = (said[key] for key in KEYS)
    if not (isinstance(seed, str) and re.fullmatch(r"-?[0-9]{1,20}", seed) and -(2**63) <= int(seed) < 2**64):
        raise ValueError(f"grail_seed is the decimal text of an integer of 64 bits, not {seed!r:.40}")
    if not (_is_number(temperature) and 1e-30 < temperature < 1e30):
        raise ValueError(f"grail_temperature is a number above 0 that float32 holds, not {temperature!r:.40}")
    if not (_is_number(top_k) and int(top_k) == top_k and (top_k == -1 or 1 <= top_k < 2**31)):
        raise ValueError(f"grail_top_k is -1 or at least 1, not {top_k!r:.40}")
    if not (_is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"grail_top_p is above 0 and at most 1, not {top_p!r:.40}")
    return Drawing(_signed(int(seed)), int(top_k), _bits(float(temperature)), _bits(float(top_p)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _bits(value: float) -> int:
    return int(np.float64(value).view(np.int64))


def _signed(seed: int) -> int:
    seed &= 2**64 - 1
    return seed - 2**64 if seed >= 2**63 else seed


PLAIN = Drawing(0, -1, _bits(1.0), _bits(1.0))


@torch.inference_mode()
def sample(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    *,
    width: int | None = None,
) -> Tensor:
    """Section 4 for every row: warp, add noise, argmax; ties to the lower id. A row's token depends on its own arguments alone.

    Args:
        logits: float32 [n, V], CPU or CUDA.
        seeds: int64 [n], modulo 2⁶⁴. positions: int64 [n], index of each row's last input token.
        temperature: float32 or float64 [n], > 0. top_k: int64 [n], −1 for all. top_p: float64 [n].
        width: what the host knows of truncation: 0 where no row has any, −1 where some row has top-p without top-k, else the
            largest top_k. Without it the device is asked, which waits for it.

    Returns:
        int64 [n]. A row without a finite maximum gives that maximum's id (the first NaN, if any), where nothing is provable.
    """
    if logits.dtype != torch.float32:
        raise TypeError(f"logits are float32 products of the head, not {logits.dtype}")
    rows, size = logits.shape
    if rows == 0 or size == 0:
        return torch.zeros(rows, dtype=torch.int64, device=logits.device)
    if width is None:
        width = _width_of(top_k, top_p)
    hint = logits.argmax(dim=1)  # of NaN the first
    top = logits.gather(1, hint[:, None])
    # Divided by a tensor of the same device: by a number, torch multiplies with the reciprocal, which rounds otherwise.
    scale, state = temperature.to(torch.float32)[:, None], _prefix(seeds, positions)
    if width:
        parts = []
        step = max(1, _chunk(logits) // size)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            parts.append(_truncated(logits[part] / scale[part], state[part], top_k[part], top_p[part], width))
        tokens = torch.cat(parts)
    else:
        tokens = _dense(logits, scale, state)
    return torch.where(torch.isfinite(top[:, 0]), tokens, hint)


def _width_of(top_k: Tensor, top_p: Tensor) -> int:
    if bool(((top_k == -1) & (top_p < 1)).any()):
        return -1
    largest = int(top_k.max())
    return -1 if largest >= 1 and bool((top_k == -1).any()) else max(0, largest)


def _chunk(logits: Tensor) -> int:
    return _CHUNK_ON_CPU if logits.device.type == "cpu" else _CHUNK


def _sorts_as_fast(x: Tensor) -> bool:
    """Whether a whole sort costs no more than looking among the first candidates: on a CPU a wide top-k is the slower."""
    return x.device.type == "cpu"


def _int32(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


def _rotated(words: Tensor, by: int) -> Tensor:
    """int32, changed in place: rotated to the left. `>>` keeps the sign, so what it draws in is masked away."""
    high = words << by
    return words.bitwise_right_shift_(32 - by).bitwise_and_((1 << by) - 1).bitwise_or_(high)


def _scrambled(words: Tensor) -> Tensor:
    """int32. Products of int32 wrap modulo 2³², on every device the bits of the unsigned product."""
    return _rotated(words * _int32(0xCC9E2D51), 15).mul_(_int32(0x1B873593))


def _joined(state: Tensor, scrambled: Tensor) -> Tensor:
    return _rotated(state ^ scrambled, 13).mul_(5).add_(_int32(0xE6546B64))


def _prefix(seeds: Tensor, positions: Tensor) -> Tensor:
    """int32 [n, 1]: MurmurHash3's state after the words that do not depend on the token."""
    state = torch.zeros(seeds.shape[0], dtype=torch.int32, device=seeds.device)
    for word in (seeds, seeds >> 32, positions):
        word = word & _MASK
        state = _joined(state, _scrambled(torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)))
    return state[:, None]


@lru_cache(maxsize=4)
def _words(size: int, device: torch.device) -> Tensor:
    """int32 [V]: the part of the last round that depends on the token alone."""
    return _scrambled(torch.arange(size, dtype=torch.int32, device=device))


def _hashed(state: Tensor, words: Tensor) -> Tensor:
    """h of section 4, int32 with the bits of the unsigned word."""
    h = _joined(state, words).bitwise_xor_(16)
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    h *= _int32(0x85EBCA6B)
    h ^= (h >> 13).bitwise_and_(0x7FFFF)
    h *= _int32(0xC2B2AE35)
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    return h


def _noise(h: Tensor) -> Tensor:
    """float64: −ln(min(max(−ln(h / (2³² − 1)), 2⁻³²), largest float))."""
    u = h.to(torch.float64)
    u += (h < 0).to(torch.float64) * 2.0**32
    u /= float(_MASK)
    return u.log_().neg_().clamp_(_LEAST_EXPONENTIAL, _MAX_FLOAT).log_().neg_()


def _dense(logits: Tensor, scale: Tensor, state: Tensor) -> Tensor:
    """Every score, chunk by chunk of the vocabulary; never waits for the device."""
    rows, size = logits.shape
    step = max(1, _chunk(logits) // rows)
    words = _words(size, logits.device)
    best = torch.full((rows,), -math.inf, dtype=torch.float64, device=logits.device)
    tokens = torch.zeros(rows, dtype=torch.int64, device=logits.device)
    for start in range(0, size, step):
        score = _noise(_hashed(state, words[start : start + step]))
        score += logits[:, start : start + step] / scale
        highest, where = score.max(dim=1)
        better = highest > best  # an equal one comes later, so its id is the higher
        best, tokens = torch.where(better, highest, best), torch.where(better, where + start, tokens)
    return tokens


def _truncated(x: Tensor, state: Tensor, top_k: Tensor, top_p: Tensor, width: int) -> Tensor:
    """top-k, then top-p, then the best of what they keep. x: float32 [n, V], divided by the temperature."""
    size = x.shape[1]
    # One key orders by falling x, ties by lower id: x's bits as an integer that rises with it (+0 for −0), then the id's
    # complement. No two are equal, so no sort needs to be stable.
    bits = (x + 0.0).view(torch.int32)
    keys = (bits ^ (bits >> 31).bitwise_and_(0x7FFFFFFF)).to(torch.int64) << 32
    keys |= _MASK - torch.arange(size, dtype=torch.int64, device=x.device)
    if 0 < width < size:
        return _best_of(keys.topk(width, dim=1).values, state, top_k, top_p, None)[0]
    total = (x - x.amax(dim=1, keepdim=True)).to(torch.float64).exp_().sum(dim=1)
    if width == -1 and size > _NARROW and not _sorts_as_fast(x):
        found, closed = _best_of(keys.topk(_NARROW, dim=1).values, state, top_k, top_p, total)
        if bool(closed.all()):
            return found
    return _best_of(keys.sort(dim=1, descending=True).values, state, top_k, top_p, total)[0]


def _best_of(keys: Tensor, state: Tensor, top_k: Tensor, top_p: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best of the first keys of each row, int64 [n, K] falling; and whether more keys could change nothing.

    total: float64 [n], the mass of the whole row, for rows without top-k. What is kept by top-p has less than it ahead.
    """
    high = (keys >> 32).to(torch.int32)
    x = (high ^ (high >> 31).bitwise_and_(0x7FFFFFFF)).view(torch.float32)
    ids = (_MASK - (keys & _MASK)).to(torch.int64)
    rank = torch.arange(keys.shape[1], device=keys.device)
    inside = (rank < top_k[:, None]) | (top_k == -1)[:, None]
    weight = (x.to(torch.float64) - x[:, :1].to(torch.float64)).exp_()
    weight.masked_fill_(~inside, 0.0)
    ahead = weight.cumsum(dim=1)
    mass = ahead[:, -1]
    whole = mass if total is None else torch.where(top_k == -1, total, mass)
    ahead = (ahead - weight) / whole[:, None]
    kept = inside & ((ahead < top_p[:, None]) | (top_p >= 1)[:, None] | (rank == 0))
    reached = torch.where(top_k == -1, (top_p < 1) & (mass / whole >= top_p), top_k <= keys.shape[1])
    score = x.to(torch.float64).add_(_noise(_hashed(state, _scrambled(ids.to(torch.int32)))))
    score.masked_fill_(~kept, -math.inf)
    best = score.amax(dim=1, keepdim=True)
    return torch.where(score == best, ids, _MASK).amin(dim=1), reached


def force(logits: Tensor, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
    """In place: only each row's token is left finite (0). rows: bool [n], which rows; all where None."""
    if rows is None:
        return logits.fill_(-math.inf).scatter_(1, tokens[:, None], 0.0)
    kept = torch.where(rows[:, None], 0.0, logits.gather(1, tokens[:, None]))
    return logits.masked_fill_(rows[:, None], -math.inf).scatter_(1, tokens[:, None], kept)


def check_device(device: torch.device | str) -> None:
    """The hash and the noise on this device against the protocol's published values.

    Raises:
        RuntimeError: they differ, so that nothing drawn here could be verified.
    """
    golden = {
        (1234, 20): (2170659539, 2912094226, 1261763608, 2945442213),
        (-7, 5): (3693819169, 128128446, 976139983, 849895819),
        (2**63 - 5, 31): (2984942944, 1849543793, 2582766584, 3254171161),
    }
    words = torch.tensor([[_signed(seed) for seed, _ in golden], [position for _, position in golden]], device=device)
    h = _hashed(_prefix(words[0], words[1]), _words(4, words.device))
    noise = _noise(torch.tensor([0, -1, _int32(2170659539)], dtype=torch.int32, device=device)).tolist()
    if (h.to(torch.int64) & _MASK).tolist() != [list(row) for row in golden.values()] or not np.allclose(
        noise, [-709.782712893384, 22.18070977791825, 0.382120402059], rtol=0, atol=1e-9
    ):
        raise RuntimeError(f"torch {torch.__version__} on {device} does not compute the noise of section 4")


def uploaded(words: np.ndarray[Any, np.dtype[np.int64]], device: torch.device) -> Tensor:
    """A copy on the device, in the order of its stream. Pinned anew each time: a buffer written again could still be read."""
    found = torch.from_numpy(words.copy())
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found.to(device)


def draw(logits: Tensor, words: Tensor, positions: Tensor, width: int) -> Tensor:
    """words: int64 [4, n], columns of `Drawing`."""
    seeds, top_k, temperature, top_p = words
    return sample(logits, seeds, positions, temperature.view(torch.float64), top_k, top_p.view(torch.float64), width=width)


def width_of(widths: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    """`Drawing.width` of a batch: what holds for all of its rows."""
    if not len(widths) or not widths.any():
        return 0
    return -1 if (widths < 1).any() else int(widths.max())
