"""The hyper-parameters of an update, each with its meaning, bounds and default; `grail-trainer run` is made of them.

What nobody has had a reason to change (the clip, Adam's betas, the cap of importance weights) is a constant of `grpo` and
`optimiser`. Nothing heavy is imported here: `--help` reads this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from grail_core.errors import ConfigurationError
from grail_core.participant.knobs import check_knobs, knob

AdvantageKind = Literal["standardised", "centred"]

LossKind = Literal["grpo", "dapo", "dr_grpo"]
"""How token losses become one number: grpo: mean over rollouts of each one's token mean; dapo: mean over all tokens; dr_grpo:
sum over tokens by (rollouts × the policy's token limit)."""


ScheduleKind = Literal["constant", "linear", "cosine"]

MasterType = Literal["float32", "bfloat16-stochastic"]
"""What trained weights are kept in: float32; or bfloat16, each step computed in float32 and rounded stochastically."""

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class OptimiserSettings:
    """How gradients become steps. The learning rate is what `hatch run learn` measured for tiny models; big ones need less."""

    learning_rate: float = knob(1e-3, "0: do everything but change the weights (a control run).", least=0)
    warmup_steps: int = knob(
        12,
        "Optimiser steps, once in a run, over which the learning rate rises: Adam's first steps, made from the noise of one "
        "minibatch, have full length otherwise.",
        least=0,
    )
    schedule: ScheduleKind = knob("constant", "What the learning rate does after the warmup: stays, or falls.")
    schedule_steps: int = knob(
        0, "Optimiser steps of the whole run, warmup included, by which a falling rate is at its least.", least=0
    )
    min_learning_rate_share: float = knob(0.1, "The least that a falling rate becomes, as a share.", least=0, most=1)
    weight_decay: float = knob(0.0, "AdamW's, of matrices alone: biases and norms do not decay.", least=0)
    max_gradient_norm: float = knob(1.0, "Global norm that a step's gradient is clipped to.", above=0)
    max_bad_steps: int = knob(
        4, "Steps in a row with a loss or gradient that is no number, after which a window's update is taken back.", least=1
    )
    master_dtype: MasterType = knob("float32", "What the weights that are trained are kept in.")
    rounding_seed: int = knob(0, "Of stochastic rounding.")
    lora_rank: int = knob(0, "Train low-rank adapters of this rank instead of the weights; 0: the weights.", least=0)
    lora_alpha: float = knob(32.0, "What adapters add is scaled by this number over their rank.", above=0)
    lora_modules: str = knob(
        ALL_LINEAR,
        "Linear layers that get adapters: last parts of their names, with commas. By default all but the head.",
    )
    lora_seed: int = knob(0, "Of the adapters' first values.")

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.schedule != "constant" and self.schedule_steps <= self.warmup_steps:
            raise ConfigurationError(
                f"a {self.schedule} schedule over {self.schedule_steps} steps ends before its warmup of {self.warmup_steps}",
                where="schedule_steps",
                hint="the optimiser steps of the whole run: windows × epochs × minibatches",
            )
        if self.lora_rank and self.master_dtype != "float32":
            raise ConfigurationError(
                f"adapters are kept in float32, not {self.master_dtype}",
                where="master_dtype",
                hint="leave one of --lora-rank and --master-dtype out",
            )


@dataclass(frozen=True)
class GrpoSettings:
    """What an update lowers, over which tokens, in what order."""

    epochs: int = knob(3, "Passes over a window's groups.", least=1, most=16)
    minibatches: int = knob(4, "Optimiser steps of one pass.", least=1, most=1024)
    loss: LossKind = knob("dapo", "How token losses are averaged.")
    advantages: AdvantageKind = knob("standardised", "What a reward is held against within its group.")
    kl_coefficient: float = knob(0.01, "Of the KL to the network's first checkpoint; 0: none is held on to.", least=0)
    dual_clip: float = knob(
        0.0, "Dual-clip PPO's c: a token of negative advantage counts at most c times its advantage; above 1, 0: off.", least=0
    )
    tokens_per_pass: int = knob(16_384, "Of one micro-batch, padding included.", least=1)
    seed: int = knob(0, "Of the order in which groups are visited.")

    def __post_init__(self) -> None:
        check_knobs(self)
        if 0 < self.dual_clip <= 1:
            raise ConfigurationError(
                f"dual_clip cannot be {self.dual_clip}", where="dual_clip", hint="above 1; 3 in the paper; 0: off"
            )


@dataclass(frozen=True)
class HyperParameters:
    """Everything that decides what becomes of the weights when a window is learned from."""

    update: GrpoSettings = field(default_factory=GrpoSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)

    def to_json(self) -> dict[str, Any]:
        """Canonical-JSON value, section by section: numbers with a fraction as text."""
        return {part.name: _section(getattr(self, part.name)) for part in fields(self)}


def _section(settings: Any) -> dict[str, Any]:
    return {one.name: _jsonable(getattr(settings, one.name)) for one in fields(settings)}


def _jsonable(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
