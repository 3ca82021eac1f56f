"""How much a miner makes of a window; `grail-miner run` is made of it. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.participant.knobs import check_knobs, knob

MOST_GROUPS_PER_BATCH = 256


@dataclass(frozen=True)
class MiningLimits:
    """Groups are of 16 rollouts, at most 375 a file. Time is a limit too: what does not fit is not begun.

    `grail-miner run` takes `groups_per_batch` from `--batch`, or from the setting GRAIL_PIPELINE_GROUPS_PER_BATCH.
    """

    max_groups: int = knob(64, "Most groups of 16 in a window.", option="--groups", least=1, most=375)
    groups_per_batch: int = knob(8, "Groups generated at a time.", option="--batch", least=1, most=MOST_GROUPS_PER_BATCH)

    def __post_init__(self) -> None:
        check_knobs(self)
