"""The hyper-parameters of an update, each with its meaning, bounds and default; `grail-trainer run` is made of them.

What nobody has had a reason to change (the clip, Adam's betas, the cap of importance weights) is a constant of `grpo` and
`optimiser`. Nothing heavy is imported here: `--help` reads this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from grail_core.errors import ConfigurationError
from grail_core.participant.knobs import check_knobs, knob
from grail_trainer.alarm_settings import AlarmSettings

AdvantageKind = Literal["standardised", "centred"]

LossKind = Literal["grpo", "dapo", "dr_grpo"]
"""How token losses become one number: grpo: mean over rollouts of each one's token mean; dapo: mean over all tokens; dr_grpo:
sum over tokens by (rollouts × the policy's token limit)."""


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

    def __post_init__(self) -> None:
        check_knobs(self)


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
class IntakeSettings:
    """Which verified rollouts are learned from."""

    most_groups: int = knob(64, "Groups to learn from a window.", least=1)
    max_windows_old: int = knob(
        6,
        "Rollouts of a window that began more than so many windows ago, when they would be used, are not used.",
        least=1,
        most=40,
    )

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class HyperParameters:
    """Everything that decides what becomes of the weights when a window is learned from."""

    update: GrpoSettings = field(default_factory=GrpoSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    alarms: AlarmSettings = field(default_factory=AlarmSettings)
    intake: IntakeSettings = field(default_factory=IntakeSettings)

    def to_json(self) -> dict[str, Any]:
        """Canonical-JSON value, section by section: numbers with a fraction as text."""
        return {part.name: _section(getattr(self, part.name)) for part in fields(self)}


def _section(settings: Any) -> dict[str, Any]:
    return {one.name: _jsonable(getattr(settings, one.name)) for one in fields(settings)}


def _jsonable(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
