"""How far a window's pipeline is, for who looks on from outside: one value, taken at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Counts of groups, unless said otherwise. `begun` = `whole` + `dropped` + `cancelled` + `in_flight`."""

    window: int
    max_groups: int
    begun: int
    whole: int
    dropped: int
    cancelled: int  # begun and not whole when time was over or the miner was stopped; none while it runs
    in_flight: int
    generated: int  # whose sixteen completions are there
    judged: int
    proved: int
    waiting_to_judge: int
    waiting_to_prove: int
    completions: int
    tokens: int  # of finished completions
    reward_sum: float  # over the rollouts of whole groups
    rollouts: int  # of whole groups
    no_more: bool  # nothing is begun any more
    more_that_fit: int | None  # groups that would be begun now, all at once; None: not known before a group was through
    seconds_left: float  # until the upload must begin
    generate_seconds: float | None  # of a group, by the budget
    judge_seconds: float | None
    prove_seconds: float | None
    reserve_seconds: float  # kept for packing and uploading
