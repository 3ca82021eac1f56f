"""The protocol, executable: constants, windows, seeds, assignment, noise, records, selection, scores, verdicts.

Pure functions and frozen value types, in the order and with the names of `docs/protocol.md`; no I/O, no clock, no model.
Another implementation is checked against this one by `tests/vectors/*.json`.
"""

from __future__ import annotations

from grail_core.protocol.assignment import CheckpointCandidate, valid_checkpoint
from grail_core.protocol.encoding import canonical_json, tagged_hash, tagged_stream
from grail_core.protocol.findings import Finding, Outcome, decimal
from grail_core.protocol.merkle import merkle_path, merkle_root, verify_merkle_path
from grail_core.protocol.randomness import DRAW_ALTERNATIVES, Randomness, draw
from grail_core.protocol.rollouts.groups import GroupCount, allowed_gaps, best_prefix, count_groups
from grail_core.protocol.rollouts.noise import challenged_positions, gumbel_noise, murmur3_words, noise_of
from grail_core.protocol.rollouts.records import (
    RolloutRecord,
    WindowHeader,
    header_digest,
    rollout_digest,
    rollout_digests,
    without_negative_zero,
)
from grail_core.protocol.rollouts.sample import RolloutSample, sample_rollouts
from grail_core.protocol.scores import (
    KindOfWork,
    MinerWindow,
    ScoreInputs,
    counts_inconclusive,
    powers,
    score_inputs,
    shares_of_kinds,
    shares_of_powers,
    weights,
    weights_now,
)
from grail_core.protocol.seals import Seal
from grail_core.protocol.selection import Candidate, Selection, check_probabilities, select_miners
from grail_core.protocol.signatures import verify
from grail_core.protocol.signed_verdicts import Adopted, SignedVerdict
from grail_core.protocol.types import Block, Digest, Hotkey, Signature, Window
from grail_core.protocol.verdicts import (
    MinerStatus,
    MinerVerdict,
    VerdictBody,
    Versions,
    WindowInputs,
    WindowStatus,
)
from grail_core.protocol.windows import WindowTimes, window_of

__all__ = [
    "DRAW_ALTERNATIVES",
    "Adopted",
    "Block",
    "Candidate",
    "CheckpointCandidate",
    "Digest",
    "Finding",
    "GroupCount",
    "Hotkey",
    "KindOfWork",
    "MinerStatus",
    "MinerVerdict",
    "MinerWindow",
    "Outcome",
    "Randomness",
    "RolloutRecord",
    "RolloutSample",
    "ScoreInputs",
    "Seal",
    "Selection",
    "Signature",
    "SignedVerdict",
    "VerdictBody",
    "Versions",
    "Window",
    "WindowHeader",
    "WindowInputs",
    "WindowStatus",
    "WindowTimes",
    "allowed_gaps",
    "best_prefix",
    "canonical_json",
    "challenged_positions",
    "check_probabilities",
    "count_groups",
    "counts_inconclusive",
    "decimal",
    "draw",
    "gumbel_noise",
    "header_digest",
    "merkle_path",
    "merkle_root",
    "murmur3_words",
    "noise_of",
    "powers",
    "rollout_digest",
    "rollout_digests",
    "sample_rollouts",
    "score_inputs",
    "select_miners",
    "shares_of_kinds",
    "shares_of_powers",
    "tagged_hash",
    "tagged_stream",
    "valid_checkpoint",
    "verify",
    "verify_merkle_path",
    "weights",
    "weights_now",
    "window_of",
    "without_negative_zero",
]
