"""Compiled loops of the seeded sampler: hashes, noise and scores over a vocabulary.

Each has a plain numpy counterpart (`sampling.*_plain`) that the tests hold it to. A loop over the vocabulary works on
blocks, in three steps of which each is for the few that the one before lets pass: the block's greatest logit and greatest
hash, which bound its scores together; a cheap upper bound of each score; the exact float64 score. The first two are loops of
32-bit arithmetic and nothing else, since a compiler makes vectors as wide as their widest type allows: one counter of 64
bits in such a loop halves what a step takes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import float32, uint32, uint64

# On many processors with AVX-512, LLVM prefers 256-bit vectors out of care for the clock of mixed code; these loops are all
# vector work (`log_sum_exp` takes 24 µs in place of 30 at V = 151,936). Only a preference of the code generator: results of
# the seeded sampler are the same integers either way.
if numba.config.CPU_FEATURES is None:
    _features = llvmlite.binding.get_host_cpu_features()
    if _features.get("avx512f"):
        numba.config.CPU_FEATURES = _features.flatten() + ",-prefer-256-bit"


_BLOCK = 128  # tokens between two looks at the best score


_LN2 = 0.6931471805599453


_LOG2_E = 1.4426950408889634


_MAX_FLOAT = 1.7976931348623157e308


_LEAST_EXPONENTIAL = 2.0**-32


# Upper bound of the noise from the top half of the hash alone. With d = ⌊(2³² − 1 − h) / 2¹⁶⌋: −ln u ≥ 1 − u ≥ d / 2¹⁶, so
# g ≤ 16 ln 2 − ln d, and log2 d ≥ bits(float32(d)) · 2⁻²³ − 127 (a chord of the logarithm between powers of two). d = 0
# gives a bound that no score exceeds. The slack covers float32 rounding while |score| stays below some 10⁴.
_CHORD = _LN2 / 8388608.0


_SLACK = 4e-3


_OFFSET = (16.0 + 127.0) * _LN2 + _SLACK


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` with the machine code cached on disk where some folder can be written, else compiled per process."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # numba found no writable cache folder
            return numba.njit(nogil=True, error_model="numpy", **options)(function)  # type: ignore[no-any-return]

    return decorate


@compiled(inline="always")
def _scramble(word):  # type: ignore[no-untyped-def]
    k = uint32(word * uint32(0xCC9E2D51))
    k = uint32((k << uint32(15)) | (k >> uint32(17)))
    return uint32(k * uint32(0x1B873593))


@compiled(inline="always")
def _rotate(h):  # type: ignore[no-untyped-def]
    return uint32((h << uint32(13)) | (h >> uint32(19)))


@compiled(inline="always")
def _join(rotated_state, rotated_word):  # type: ignore[no-untyped-def]
    """One round. (state ^ word) rotated is both rotated, each once, outside the loop over the vocabulary."""
    return uint32(uint32(rotated_state ^ rotated_word) * uint32(5) + uint32(0xE6546B64))


@compiled(inline="always")
def _almost_finish(h):  # type: ignore[no-untyped-def]
    """The finaliser without its last step, which changes only the lower half."""
    h = uint32(h ^ uint32(16))
    h = uint32(h ^ (h >> uint32(16)))
    h = uint32(h * uint32(0x85EBCA6B))
    h = uint32(h ^ (h >> uint32(13)))
    return uint32(h * uint32(0xC2B2AE35))


@compiled(inline="always")
def _hash(state, word):  # type: ignore[no-untyped-def]
    h = _almost_finish(_join(state, word))
    return uint32(h ^ (h >> uint32(16)))


@compiled(inline="always")
def _token_word(token):  # type: ignore[no-untyped-def]
    """What the hash's last round takes of a token."""
    return _rotate(_scramble(token))


@compiled(inline="always")
def _prefix(seed, position):  # type: ignore[no-untyped-def]
    """The hash's state after the words that do not depend on the token, rotated for the last round."""
    state = _join(uint32(0), _rotate(_scramble(uint32(seed & uint64(0xFFFFFFFF)))))
    state = _join(_rotate(state), _rotate(_scramble(uint32(seed >> uint64(32)))))
    return _rotate(_join(_rotate(state), _rotate(_scramble(uint32(position)))))


@compiled(inline="always")
def _noise(h):  # type: ignore[no-untyped-def]
    """Section 4: u = h / (2³² − 1), y = min(max(−ln u, 2⁻³²), largest float), g = −ln y."""
    if h == uint32(0):
        return -np.log(_MAX_FLOAT)
    y = -np.log(np.float64(h) / 4294967295.0)
    return -np.log(max(y, _LEAST_EXPONENTIAL))


@compiled(inline="always")
def _noise_bound(h):  # type: ignore[no-untyped-def]
    """float32, at least the noise of a hash whose upper half is h's, minus `_OFFSET`; it does not fall where h rises."""
    d = float32(np.int32((~h) >> uint32(16)))
    return -float32(_CHORD) * float32(np.float32(d).view(np.int32))


@compiled(inline="always")
def _bar(best):  # type: ignore[no-untyped-def]
    """What logit / temperature + `_noise_bound` has to exceed, or the score cannot reach `best`."""
    return float32(best) - abs(float32(best)) * float32(1e-6) - float32(_OFFSET)


@compiled()
def token_words(size):  # type: ignore[no-untyped-def]
    """uint32[size]: the part of the hash's last round that depends on the token alone, the same for all rows."""
    words = np.empty(size, dtype=np.uint32)
    for v in range(size):
        words[v] = _token_word(uint32(v))
    return words


@compiled(inline="always")
def _depth(block, top):  # type: ignore[no-untyped-def]
    """float32: how far the greatest of a block lies below `top`, which none of them exceeds.

    Numbers from 0 on are ordered as their bits are, so this is a least integer: every compiler makes vectors of that, and of
    a least float only where no NaN can be. NaN among the logits is no candidate, and hides none.
    """
    least = np.int32(0x7FFFFFFF)
    for i in range(block.shape[0]):
        least = min(least, np.float32(top - block[i]).view(np.int32))
    return np.int32(least).view(np.float32)


@compiled(inline="always")
def _highest_hash(state, words):  # type: ignore[no-untyped-def]
    """The greatest hash of these tokens; the lower half is not the hash's."""
    greatest = uint32(0)
    for i in range(words.shape[0]):
        greatest = max(greatest, _almost_finish(_join(state, words[i])))
    return greatest


@compiled(inline="always")
def _survivors(block, words, state, inverse, bar):  # type: ignore[no-untyped-def]
    """How many scores of a block may exceed what `bar` is made of."""
    count = np.int32(0)
    for i in range(block.shape[0]):
        passes = block[i] * inverse + _noise_bound(_almost_finish(_join(state, words[i]))) > bar
        count = np.int32(count + np.int32(passes))
    return count


@compiled(fastmath={"contract"})
def claimed_and_best(logits, words, seed, position, temperature, claimed, floor, gap, hint):  # type: ignore[no-untyped-def]
    """The claimed token's score and the best score of all.

    Args:
        logits: float32[V]; x = logits / temperature in float32. −inf where warped away.
        words: `token_words(V)`.
        seed, position: uint64, uint32. temperature: float32.
        claimed: token id; it takes part whatever its x.
        floor: float32; competitors with x below it are left out.
        gap: float64; evaluation stops once the best leads the claimed score by this much.
        hint: a token id evaluated first (the row's maximum), so that the bound is tight from the start.

    Returns:
        (claimed score, best score), float64; the second is never below the first.
    """
    state = _prefix(seed, position)
    inverse = float32(1.0) / temperature
    own = np.float64(float32(logits[claimed] / temperature)) + _noise(_hash(state, words[claimed]))
    best = own
    x = float32(logits[hint] / temperature)
    if hint != claimed and x >= floor:
        best = max(best, np.float64(x) + _noise(_hash(state, words[hint])))
    size = logits.shape[0]
    top = logits[hint]
    reach = floor - abs(floor) * float32(1e-6) - float32(_SLACK)
    for start in range(0, size, _BLOCK):
        if best - own >= gap:
            break
        end = min(start + _BLOCK, size)
        block = logits[start:end]
        mixed = words[start:end]
        highest = (top - _depth(block, top)) * inverse
        if highest < reach:
            continue
        bar = _bar(best)
        if highest + _noise_bound(_highest_hash(state, mixed)) <= bar:
            continue
        if _survivors(block, mixed, state, inverse, bar) == 0:
            continue
        for i in range(end - start):
            bound = _noise_bound(_almost_finish(_join(state, mixed[i])))
            if block[i] * inverse + bound > bar and start + i != claimed:
                x = float32(block[i] / temperature)
                if x >= floor:
                    best = max(best, np.float64(x) + _noise(_hash(state, mixed[i])))
    return own, best


@compiled(fastmath={"contract"})
def sample_rows(logits, words, seeds, positions, temperature, hints, out):  # type: ignore[no-untyped-def]
    """argmax_v (logits[r, v] / temperature + noise), ties to the lower id, for every row r.

    logits float32[n, V]; seeds uint64[n]; positions uint32[n]; hints int64[n] (each row's maximum); out int64[n].
    """
    inverse = float32(1.0) / temperature
    size = logits.shape[1]
    for row in range(logits.shape[0]):
        state = _prefix(seeds[row], positions[row])
        token = hints[row]
        best = np.float64(float32(logits[row, token] / temperature)) + _noise(_hash(state, words[token]))
        top = logits[row, token]
        for start in range(0, size, _BLOCK):
            end = min(start + _BLOCK, size)
            block = logits[row, start:end]
            mixed = words[start:end]
            bar = _bar(best)
            if (top - _depth(block, top)) * inverse + _noise_bound(_highest_hash(state, mixed)) <= bar:
                continue
            if _survivors(block, mixed, state, inverse, bar) == 0:
                continue
            for i in range(end - start):
                if block[i] * inverse + _noise_bound(_almost_finish(_join(state, mixed[i]))) > bar:
                    score = np.float64(float32(block[i] / temperature)) + _noise(_hash(state, mixed[i]))
                    if score > best or (score == best and start + i < token):
                        best = score
                        token = start + i
        out[row] = token


@compiled(inline="always")
def _power_of_two(y):  # type: ignore[no-untyped-def]
    """float32: 2^y for y ≤ 0; 2⁻¹²⁶ below −126.

    2^⌊y⌋ (set in the exponent's bits) times a polynomial of the fraction (relative error under 3e-7), which the compiler
    vectorises: a third of the time of a library's exp.
    """
    y = y if y > float32(-126.0) else float32(-126.0)
    whole = np.floor(y)
    f = y - whole
    power = float32(1.8775767e-3)
    power = power * f + float32(8.9893397e-3)
    power = power * f + float32(5.5826318e-2)
    power = power * f + float32(2.4015361e-1)
    power = power * f + float32(6.9315308e-1)
    power = power * f + float32(9.9999994e-1)
    return power * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled(fastmath={"reassoc", "contract", "nsz"})
def log_sum_exp(logits, tops, out):  # type: ignore[no-untyped-def]
    """ln Σ exp(logits[r]) of every row, float32, to about 1e-6; logits float32[n, V], tops int64[n] (each row's maximum)."""
    size = logits.shape[1]
    for row in range(logits.shape[0]):
        top = logits[row, tops[row]]
        total = float32(0.0)
        for v in range(size):
            total += _power_of_two((logits[row, v] - top) * float32(_LOG2_E))
        out[row] = top + np.float32(np.log(total))


@compiled()
def noise_at(seeds, positions, tokens, out):  # type: ignore[no-untyped-def]
    """The noise of one token a row: seeds uint64[n], positions uint32[n], tokens int64[n], out float64[n]."""
    for row in range(tokens.shape[0]):
        state = _prefix(seeds[row], positions[row])
        out[row] = _noise(_hash(state, _token_word(uint32(tokens[row]))))


@compiled(fastmath={"reassoc", "contract", "nsz"})
def logit_noise(reference, other, tops, temperature, noise, spread):  # type: ignore[no-untyped-def]
    """How far two rows of logits of the same position lie apart, where it matters which token wins.

    With p = softmax(reference / temperature) and ν = other − reference: noise[r] = 2 (Σ p ν² − (Σ p ν)²) / (1 − Σ p²), the
    variance of the difference of two logits' noise, and spread[r] = 1 − Σ p², how little one token has all of p. Tokens more
    than 20 nats below the row's maximum have no part in it.

    reference, other float32[n, V]; tops int64[n] (each row's maximum of `reference`); noise, spread float32[n].
    """
    size = reference.shape[1]
    inverse = float32(_LOG2_E) / float32(temperature)
    for row in range(reference.shape[0]):
        top = reference[row, tops[row]]
        shift = other[row, tops[row]] - top  # what moves all alike decides nothing, and would take the digits of what does
        total = float32(0.0)
        squares = float32(0.0)
        first = float32(0.0)
        second = float32(0.0)
        for v in range(size):
            y = (reference[row, v] - top) * inverse
            near = y > float32(-20.0 * _LOG2_E)
            p = _power_of_two(y) if near else float32(0.0)
            difference = other[row, v] - reference[row, v] - shift if near else float32(0.0)  # far ones may be −inf in both
            total += p
            squares += p * p
            first += p * difference
            second += p * difference * difference
        mean = first / total
        left = float32(1.0) - squares / (total * total)
        variance = second / total - mean * mean
        noise[row] = float32(2.0) * max(variance, float32(0.0)) / max(left, float32(1e-3))
        spread[row] = max(left, float32(0.0))


@compiled(fastmath={"reassoc", "contract", "nsz"})
def mass_within(logits, tops, temperature, floors, near, far, out):  # type: ignore[no-untyped-def]
    """Σ exp of a row's logits / temperature over its highest, of the tokens within `near` nats of that, within `far`, and all.

    logits float32[n, V]; tops int64[n] (each row's maximum); floors float32[n], below which nothing counts; out float32[n, 3].
    """
    inverse = float32(_LOG2_E) / float32(temperature)
    for row in range(logits.shape[0]):
        top = logits[row, tops[row]]
        floor = floors[row]
        close = top - float32(near) * float32(temperature)
        middle = top - float32(far) * float32(temperature)
        first = float32(0.0)
        second = float32(0.0)
        total = float32(0.0)
        for v in range(logits.shape[1]):
            x = logits[row, v]
            y = (x - top) * inverse
            p = _power_of_two(y)
            p = p if x >= floor else float32(0.0)
            total += p
            second += p if x >= middle else float32(0.0)
            first += p if x >= close else float32(0.0)
        out[row, 0] = first
        out[row, 1] = second
        out[row, 2] = total


@compiled()
def mass_by_depth(logits, tops, temperature, least, scales, out):  # type: ignore[no-untyped-def]
    """Σ exp of a row's logits / temperature over its highest, of the tokens with logits of at least `least`, in bins of
    (highest − logit) · scale.

    logits float32[n, V]; tops int64[n] (each row's maximum); least, scales float32[n]; out float64[n, m], to be added to.
    """
    last = out.shape[1] - 1
    inverse = float32(_LOG2_E) / float32(temperature)
    for row in range(logits.shape[0]):
        top = logits[row, tops[row]]
        for v in range(logits.shape[1]):
            if logits[row, v] >= least[row]:
                below = top - logits[row, v]
                out[row, min(last, np.int64(below * scales[row]))] += _power_of_two(-below * inverse)
