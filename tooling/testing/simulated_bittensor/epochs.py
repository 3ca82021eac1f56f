"""Epochs of a subnet whose tempo changes: when the last one ran and how many there were, by walking from change to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochState:
    tempo: int
    last_epoch_block: int
    index: int  # how many epochs ran


def epochs_at(block: int, tempos: Sequence[tuple[int, int]]) -> EpochState:
    """As of a block.

    Args:
        tempos: (from block, tempo), ascending, the first from block 0. An epoch runs once `tempo` blocks have passed since the
            last one, by the tempo that holds then.
    """
    last, index = 0, 0
    for place, (start, tempo) in enumerate(tempos):
        end = min(block, tempos[place + 1][0] - 1 if place + 1 < len(tempos) else block)
        if start > block:
            break
        due = max(last + tempo, start)  # a shorter tempo may find an epoch overdue
        if due <= end:
            ran = 1 + (end - due) // tempo
            last, index = due + (ran - 1) * tempo, index + ran
    tempo_now = [tempo for start, tempo in tempos if start <= block][-1]
    return EpochState(tempo_now, last, index)
