"""Check 3, `unique`: what a hotkey already had counted counts no second time.

It never rejects. Honest sampling repeats short answers; a repeated rollout costs its miner that rollout and nothing else, and
no rollout of one hotkey ever depends on what another one uploaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from grail_core.protocol.types import Digest
from grail_core.verification.window_file import Submission


def rollout_identity(prompt: np.ndarray, completion: np.ndarray) -> Digest:
    """SHA-256 over the digests of prompt and completion ids (little-endian int32): what "the same rollout" means."""
    halves = (hashlib.sha256(np.ascontiguousarray(part, "<i4").tobytes()).digest() for part in (prompt, completion))
    return Digest(hashlib.sha256(b"".join(halves)).digest())


def distinct_rollouts(submission: Submission, history: Collection[Digest]) -> list[Digest]:
    """Identities of the file's rollouts that count, in file order, each once and none of `history`."""
    counted: dict[Digest, None] = {}
    for record in submission.rollouts:
        identity = rollout_identity(record.prompt, record.completion)
        if identity not in history:
            counted[identity] = None
    return list(counted)
