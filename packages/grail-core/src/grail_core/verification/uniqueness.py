"""Check 3, `unique`: what a hotkey already had counted counts no second time.

It never rejects. Honest sampling repeats short answers; a repeated rollout costs its miner that rollout and nothing else, and
no rollout of one hotkey ever depends on what another one uploaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from grail_core.files.window_file import RolloutColumns
from grail_core.protocol.types import Digest
from grail_core.verification.window_file import Submission


def rollout_identity(prompt: np.ndarray, completion: np.ndarray) -> Digest:
    """SHA-256 over the digests of prompt and completion ids (little-endian int32): what "the same rollout" means."""
    halves = (hashlib.sha256(np.ascontiguousarray(part, "<i4").tobytes()).digest() for part in (prompt, completion))
    return Digest(hashlib.sha256(b"".join(halves)).digest())


def distinct_rollouts(submission: Submission, history: Collection[Digest]) -> list[Digest]:
    """Identities of the file's rollouts that count, in file order, each once and none of `history`."""
    return counted_once(_identities(submission.columns), history)


def counted_once(identities: Iterable[Digest], history: Collection[Digest]) -> list[Digest]:
    """The rule itself, on identities: each once and none of `history`, in their order."""
    return list(dict.fromkeys(identity for identity in identities if identity not in history))


def _identities(columns: RolloutColumns) -> Iterator[Digest]:
    """`rollout_identity` of every row, hashed where it lies; a prompt that follows its like is hashed once."""
    tokens = columns.raw_tokens
    start, before, half = 0, b"", b""
    for prompt, end in zip(columns.prompt_bytes(), (4 * columns.tokens.offsets[1:]).tolist(), strict=True):
        if not half or prompt != before:
            before, half = prompt, hashlib.sha256(prompt).digest()
        completion = hashlib.sha256(tokens[start + len(prompt) : end]).digest()
        yield Digest(hashlib.sha256(half + completion).digest())
        start = end
