"""What other verifiable-inference systems compute in place of our proof checks, to be measured beside ours.

TOPLOC is its authors' package and optional: the wheel on PyPI is linked against an older torch, so it is built from source
(two to three minutes) by whoever wants its figures:

    pip install --no-deps --no-build-isolation --no-binary toploc toploc==0.1.6

The others are written here from their published mathematics, each as fast as plain torch makes it and each given what is most
convenient to it: float32 hidden states that lie ready, contiguous rows of logits, no parsing, no protocol around it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel

TOPLOC_BATCH, TOPLOC_TOPK = 32, 128
"""Tokens in one proof, and activations that it interpolates: the values of TOPLOC's paper."""

PRIME = 2**31 - 1
TOP_K = 32
_BUCKETS = 16
_BUCKETS_PER_OCTAVE = 2.0
_TOLERANCE = 1000  # circular distance of honest sketches; no cost depends on it


def toploc() -> Any | None:
    """The package, or None with a line on standard error where it cannot be imported."""
    try:
        return importlib.import_module("toploc")
    except ImportError as error:
        print(f"proof: toploc cannot be imported, its figures are left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def toploc_commit(package: Any, hidden: Tensor) -> list[bytes]:
    """Proofs of generated tokens. hidden: bf16 [n, d], given token by token as a decoder has them."""
    proofs: list[bytes] = package.build_proofs_bytes(
        list(hidden), decode_batching_size=TOPLOC_BATCH, topk=TOPLOC_TOPK, skip_prefill=True
    )
    return proofs


def toploc_verify(package: Any, hidden: Tensor, proofs: list[bytes]) -> None:
    """Compare with a validator's hidden states, bf16 [n, d], by the package's fast path (one tensor, compiled code)."""
    results = package.verify_proofs_bytes(
        hidden, proofs, decode_batching_size=TOPLOC_BATCH, topk=TOPLOC_TOPK, skip_prefill=True
    )
    if any(result.exp_mismatches for result in results):
        raise RuntimeError("toploc rejected the hidden states that it had proved")


@dataclass(frozen=True)
class PrimeSketches:
    """Top-k bucket sketches modulo a prime. `indices` int64 [n, TOP_K]: the largest activations; `values` int64 [n]."""

    indices: Tensor
    values: Tensor


def topk_prime_coefficients(generator: torch.Generator) -> Tensor:
    """int64 [TOP_K] in −127 … 127, one a rank."""
    return torch.randint(-127, 128, (TOP_K,), generator=generator)


def topk_prime_commit(hidden: Tensor, coefficients: Tensor) -> PrimeSketches:
    """Sketches of every position. hidden: float32 [n, d]."""
    indices = hidden.abs().topk(TOP_K, dim=1).indices
    return PrimeSketches(indices, _prime_sketch(hidden, indices, coefficients))


def topk_prime_verify(hidden: Tensor, claimed: PrimeSketches, coefficients: Tensor) -> None:
    """Compare at the claimed indices. hidden: float32 [k, d], the validator's, at the challenged positions alone."""
    distance = (_prime_sketch(hidden, claimed.indices, coefficients) - claimed.values).abs()
    if bool((torch.minimum(distance, PRIME - distance) > _TOLERANCE).any()):
        raise RuntimeError("honest sketches were rejected")


def _prime_sketch(hidden: Tensor, indices: Tensor, coefficients: Tensor) -> Tensor:
    chosen = hidden.gather(1, indices)
    sizes = torch.log2(1 + chosen.abs()).mul_(_BUCKETS_PER_OCTAVE).round_().clamp_(max=_BUCKETS - 1)
    buckets = (chosen.sign() * sizes).to(torch.int64)
    return (buckets * coefficients).sum(dim=1).remainder(PRIME)


def token_difr_verify(logits: Tensor, seed: int, claimed: int, temperature: float) -> float:
    """Sample again by Gumbel-max over the whole vocabulary; how far the claimed token's score is below the best.

    The race of exponentials p / E has the Gumbel-max winner, and its logarithm the Gumbel scores. logits: float32 [V].
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty_like(logits).exponential_(generator=generator)
    scores = torch.softmax(logits / temperature if temperature != 1 else logits, dim=0).div_(noise)
    return float(torch.log(scores[int(scores.argmax())] / scores[claimed]))


def inverse_cdf_verify(logits: Tensor, uniform: Tensor) -> int:
    """The token that one uniform number picks. logits: float32 [V]; uniform: float32 [1]."""
    return int(torch.searchsorted(torch.softmax(logits, dim=0).cumsum(dim=0), uniform))


def log_sum_exp(logits: Tensor) -> float:
    """The least that any check from full logits computes. logits: float32 [V]."""
    return float(torch.logsumexp(logits, dim=0))


@torch.inference_mode()
def full_logits_verify(model: PolicyModel, rows: Sequence[Sequence[int]], prompt_length: int) -> list[Tensor]:
    """Log-probabilities of every completion token from all logits of the completion, float32; a row at a time.

    The same body and the same float32 head as ours, without the positions of the prompt. No check of sampling, no sketches.
    """
    values = []
    for row, states in zip(rows, model.hidden_states(rows), strict=True):
        logprobs = torch.log_softmax(model.logits(states[prompt_length - 1 : -1]), dim=1)
        values.append(logprobs.gather(1, torch.tensor(row[prompt_length:])[:, None])[:, 0])
    return values


LOGIT_PEERS: tuple[tuple[str, Callable[[Tensor, int], object]], ...] = (
    ("token_difr.verify_us_per_position", lambda row, position: token_difr_verify(row, position, 7, 1.0)),
    (
        "inverse_cdf.verify_us_per_position",
        lambda row, position: inverse_cdf_verify(row, torch.tensor([(position + 0.5) / 64])),
    ),
    ("log_sum_exp.us_per_position", lambda row, position: log_sum_exp(row)),
)
"""What is done with one position's logits, by the name of its figure."""
