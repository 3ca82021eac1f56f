"""Window files of the sizes that `bench file` measures: well formed, signed, and as hard to compress as real ones.

Token ids follow Zipf's law over a vocabulary of 151,936, log-probabilities are mostly near zero with a long tail, sketch words
are normal at the protocol's scale. What is said is made up; header, digests and signature are real, so that checks 1 to 3 pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from grail_core.protocol import RolloutRecord
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.types import Digest
from grail_core.verification.context import CheckContext
from tooling.testing import plain_window as plain

VOCABULARY = 151_936
PROMPT_TOKENS = 64
BYTES_PER_TOKEN = 16
"""Of a completion's token: its id, its log-probability, its sketch. Prompts, heads and tails are not counted."""


@dataclass(frozen=True)
class Workload:
    """`rollouts` of one signed file, its bytes, and what its checks are run against."""

    rollouts: list[RolloutRecord]
    data: bytes
    digest: Digest
    context: CheckContext

    @property
    def megabytes(self) -> float:
        """10⁶ bytes of the completions, 16 a token."""
        return sum(record.completion_length for record in self.rollouts) * BYTES_PER_TOKEN / 1e6


def workload(rollouts: int, tokens: int) -> Workload:
    """Whole groups of at least so many rollouts, each of `tokens` completion tokens."""
    rng = np.random.default_rng(13)
    window, miner = plain.window_context(), plain.MINERS[0]
    records = []
    for group in range(-(-rollouts // ROLLOUTS_PER_PROBLEM)):
        prompt = _token_ids(rng, PROMPT_TOKENS)
        records += [_rollout(rng, group, rollout, prompt, tokens) for rollout in range(ROLLOUTS_PER_PROBLEM)]
    data = plain.window_file(window, miner, records)
    context = replace(plain.check_context(window, miner.hotkey), vocabulary_size=VOCABULARY, context_length=1 << 17)
    return Workload(records, data, plain.digest_of(data), context)


def _rollout(rng: np.random.Generator, group: int, rollout: int, prompt: np.ndarray, tokens: int) -> RolloutRecord:
    words = np.rint(4096 * rng.standard_normal((tokens + 1, 4), np.float32))
    return RolloutRecord(
        group=group,
        rollout=rollout,
        tokens=np.concatenate((prompt, _token_ids(rng, tokens))),
        prompt_length=len(prompt),
        logprobs=-rng.standard_gamma(0.3, tokens).astype(np.float32).clip(1e-7, None),
        sketches=words.clip(-32767, 32767).astype("<i2").tobytes(),
        reward=float(rng.integers(2)),
        success=bool(rng.integers(2)),
    )


def _token_ids(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.zipf(1.1, count) % VOCABULARY).astype(np.int32)
