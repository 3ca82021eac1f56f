"""What a run of gradient work left behind, as typed values: the input of its summary and of its report.

`run` has what every run has; its fields on rollouts stay empty. Losses are nats a token, scores nats a token of the common
sequences, both as means; errors are standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from tooling.localnet.report.facts import RunFacts


@dataclass(frozen=True)
class MinerRoundFact:
    """One miner in one round, as the first validator that judged it signed; sizes are of the objects in its bucket."""

    round: int
    miner: str
    outcome: str  # accepted | failed | inconclusive | absent | not_selected
    reason: str
    declared: int  # sequences
    score: float | None
    error: float | None
    rank: int | None
    merged: bool  # by the trainer's manifest
    update_bytes: int | None
    opening_bytes: int | None


@dataclass(frozen=True)
class StandingFact:
    """What a miner has after the last judged round. `power`: F, in 10⁻⁹ of what the rules count in."""

    miner: str
    mu: float
    sigma: float
    power: int


@dataclass(frozen=True)
class MergeFact:
    round: int
    sequence: int  # of the checkpoint
    merged: tuple[str, ...]  # miners
    dropped: dict[str, float]  # miner → score on the guard's sequences, in nats a token
    update_bytes: int


@dataclass(frozen=True)
class LossFact:
    """Of one checkpoint, over the corpus's held-out sequences."""

    sequence: int
    rounds: int  # that it has merged
    loss: float
    error: float
    sequences: int


@dataclass(frozen=True)
class RoundsFacts:
    run: RunFacts
    preset: str
    miner_rounds: tuple[MinerRoundFact, ...] = ()
    standings: tuple[StandingFact, ...] = ()
    merges: tuple[MergeFact, ...] = ()
    losses: tuple[LossFact, ...] = ()
    floor: float | None = None  # entropy of the corpus, nats a token
