"""Section 4 and the positions of section 2: the noise of seeded sampling, and where a rollout is challenged.

The noise of a candidate token is a hash of (sampling seed, position, token id), so that both sides can compute it for any
token at any position, in any order. What is added to it and how logits are warped is `grail_core.proof`.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from grail_core.protocol.constants import CHALLENGE_K
from grail_core.protocol.encoding import encode_part
from grail_core.protocol.randomness import DRAW_POSITIONS, draw

MAX_FLOAT = 1.7976931348623157e308
LEAST_EXPONENTIAL = 2.0**-32
MAX_NOISE = 22.18070977791825
"""32 ln 2: the noise of h = 2³² − 1."""
MIN_NOISE = -709.782712893384
"""The noise of h = 0."""

_C1 = np.uint32(0xCC9E2D51)
_C2 = np.uint32(0x1B873593)
_MASK = 0xFFFFFFFF


def murmur3_words(seed: int, position: int, token_ids: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """`h` of section 4 for every token id: MurmurHash3 x86-32, hash seed 0, over four little-endian 32-bit words.

    Args:
        seed: sampling seed, any integer; taken modulo 2⁶⁴.
        position: index in prompt + completion of the last input token before the sampled one, 0 … 2³² − 1.
        token_ids: integers 0 … 2³² − 1, any shape.

    Returns:
        uint32 of the shape of `token_ids`.
    """
    if not 0 <= position <= _MASK:
        raise ValueError(f"position {position} is no 32-bit word")
    tokens = _token_words(token_ids)
    state = 0
    for word in (seed & _MASK, (seed >> 32) & _MASK, position):
        state = _mix(state, word)
    # The last word differs per token: the same round, vectorised; uint32 arithmetic wraps as the hash asks.
    with np.errstate(over="ignore"):
        k = tokens * _C1
        k = (k << np.uint32(15)) | (k >> np.uint32(17))
        k *= _C2
        h: npt.NDArray[np.uint32] = k ^ np.uint32(state)
        h = (h << np.uint32(13)) | (h >> np.uint32(19))
        h = h * np.uint32(5) + np.uint32(0xE6546B64)
        h ^= np.uint32(16)  # length in bytes
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
    return np.asarray(h, dtype=np.uint32)


def noise_of(h: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Gumbel noise of hash words: u = h / (2³² − 1); y = min(max(−ln u, 2⁻³²), largest float); g = −ln y. float64."""
    u = np.asarray(h).astype(np.float64) / np.float64(_MASK)
    with np.errstate(divide="ignore"):
        y = -np.log(u)
    return np.asarray(-np.log(np.clip(y, LEAST_EXPONENTIAL, MAX_FLOAT)), dtype=np.float64)


def gumbel_noise(seed: int, position: int, token_ids: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`g` of section 4 for every token id, float64 of their shape; arguments as in `murmur3_words`."""
    return noise_of(murmur3_words(seed, position, token_ids))


def challenged_positions(
    challenge_seed: bytes, rollout_digest: bytes, completion_length: int, count: int = CHALLENGE_K
) -> list[int]:
    """The completion indices at which a rollout is challenged, ascending.

    The first and the last always, `count` − 2 of the others by `draw`; all of them where there are at most `count`. Those of
    a smaller count (at least 2) are among those of a larger one.

    Raises:
        ValueError: the completion is empty.
    """
    if completion_length < 1:
        raise ValueError(f"a completion has at least one token, not {completion_length}")
    if completion_length <= count:
        return list(range(completion_length))
    parts = ("grail/positions", challenge_seed, rollout_digest)
    seed = hashlib.sha256(b"".join(encode_part(part) for part in parts)).digest()
    inner = draw(seed, DRAW_POSITIONS, completion_length - 2, count - 2)
    return [0, *sorted(index + 1 for index in inner), completion_length - 1]


def _token_words(token_ids: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    tokens = np.asarray(token_ids)
    if tokens.dtype == np.uint32:
        return tokens
    if tokens.size == 0:
        return np.zeros(tokens.shape, dtype=np.uint32)
    if tokens.dtype.kind not in "iu":
        raise TypeError(f"token ids are integers, not {tokens.dtype}")
    if int(tokens.min()) < 0 or int(tokens.max()) > _MASK:
        raise ValueError("a token id is no 32-bit word")
    return tokens.astype(np.uint32)


def _mix(state: int, word: int) -> int:
    k = (word * 0xCC9E2D51) & _MASK
    k = ((k << 15) | (k >> 17)) & _MASK
    k = (k * 0x1B873593) & _MASK
    state ^= k
    state = ((state << 13) | (state >> 19)) & _MASK
    return (state * 5 + 0xE6546B64) & _MASK
