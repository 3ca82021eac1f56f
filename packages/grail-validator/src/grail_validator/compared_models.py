"""What a validator compares proofs with; `grail-validator run` is made of it. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from grail_core.participant.knobs import check_knobs, knob

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.alternatives import Alternatives, Weights


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

    def alternatives(self, model: PolicyModel, earlier: Mapping[str, Weights]) -> Alternatives | None:
        """What a window's miners may have run instead: the checkpoints before its own, by name, and 8-bit copies of its own."""
        from grail_core.proof.alternatives import EIGHT_BIT_GROUP, Alternatives, eight_bit

        others = dict(earlier)
        if self.eight_bit:
            others["int8"] = partial(eight_bit, model)
            others["int8-groups"] = partial(eight_bit, model, EIGHT_BIT_GROUP)
        return Alternatives(model, others, self.share) if others else None
