"""Gradient work, section 10: the loss of a sequence as an integer, so that scores, ties and ratings are sums of integers.

Batches have 16 sequences in the order given, since the shapes of matrix products decide last bits: whoever asks for the same
sequences in the same order on one class of machine gets the same integers. Which sequences are asked for, and what their
differences are worth, is decided elsewhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from grail_core.proof.round_work import LARGEST_LOSS, LOSS_SCALE, Losses
from grail_core.proof.trained_model import I32, TrainedModel

LOSS_BATCH: Final = 16


def sequence_losses(model: TrainedModel, tokens: I32) -> Losses:
    """int32 [n]: round-half-even of 2²⁰ times the mean next-token cross-entropy of each sequence, at the model's weights.

    Args:
        tokens: int32 [n, L], in the order drawn. None are no losses.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs on them.
        MachineFaultError: this machine could not; nothing is said of the weights.
    """
    parts = [model.token_losses(tokens[start : start + LOSS_BATCH]) for start in range(0, len(tokens), LOSS_BATCH)]
    if not parts:
        return np.zeros(0, np.int32)
    means = np.concatenate([part.mean(axis=1, dtype=np.float64) for part in parts])
    whole = np.rint(means * LOSS_SCALE)
    return np.where(whole < LARGEST_LOSS, whole, LARGEST_LOSS).astype(np.int32)  # a comparison with NaN is false
