"""What a validator compares proofs with; `grail-validator run` is made of it. Nothing heavy is imported before it is used.

A network decides alike while all of its validators compare with the same: whoever narrows this lets pass what others reject,
and is told so at its start. The ways to sample otherwise cost no pass and are always compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grail_core.participant.knobs import check_knobs, knob

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.alternatives import Alternatives, Weights

_MOST_EARLIER: Final = 3
_STATES_SHARE: Final = 5
"""One part in so many of the memory is for states, the rest for copies."""


@dataclass(frozen=True)
class ComparedModels:
    """What every proof is compared with beside the current model, and the memory that may be kept for it."""

    earlier: int = knob(
        _MOST_EARLIER,
        "How many earlier checkpoints proofs are compared with; fewer than others let pass what others reject.",
        option="--alternatives",
        least=0,
        most=_MOST_EARLIER,
    )
    rounded: bool = knob(
        True, "Compare with copies of the checkpoint that are rounded to 8 and to 4 bits.", option="--rounded-copies"
    )
    memory_gib: float = knob(
        1.25,
        "Memory to keep such copies and a file's hidden states in; what does not fit is computed anew each time.",
        option="--comparison-memory-gib",
        least=0,
        most=1024,
    )

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def narrowed(self) -> str:
        """What others compare with and this validator does not; empty where there is nothing."""
        without = _MOST_EARLIER - self.earlier
        missing = [f"{without} of {_MOST_EARLIER} earlier checkpoints"] if without else []
        return " and ".join([*missing, *([] if self.rounded else ["8-bit and 4-bit copies"])])

    @property
    def states_bytes(self) -> int:
        """For the states of the rows measured last."""
        return int(self.memory_gib * 2**30) // _STATES_SHARE

    @property
    def copies_bytes(self) -> int:
        """For rounded copies, all together."""
        return int(self.memory_gib * 2**30) - self.states_bytes

    def alternatives(self, model: PolicyModel, earlier: Mapping[str, Weights]) -> Alternatives:
        """What a window's miners may have run instead: the checkpoints before its own, by name, and its own rounded."""
        from grail_core.proof.alternatives import Alternatives, rounded_copies

        copies = rounded_copies(model, most_bytes=self.copies_bytes) if self.rounded else {}
        return Alternatives(model, {**earlier, **copies})
