"""What a validator compares proofs with; `grail-validator run` is made of it. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.participant.knobs import check_knobs, knob


@dataclass(frozen=True)
class ComparedModels:
    """What every proof is compared with beside the current model, and on what share of a miner's sampled rollouts."""

    earlier: int = knob(
        3, "How many earlier checkpoints every proof is compared with.", option="--alternatives", least=0, most=3
    )
    eight_bit: bool = knob(True, "Compare with 8-bit copies of the checkpoint, two schemes.")
    share: float = knob(
        1.0,
        "Share of a miner's sampled rollouts that these comparisons are made on; each costs a float32 pass.",
        option="--alternatives-share",
        above=0,
        most=1,
    )

    def __post_init__(self) -> None:
        check_knobs(self)
