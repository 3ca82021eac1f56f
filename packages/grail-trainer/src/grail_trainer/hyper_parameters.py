"""The hyper-parameters of an update, each with its meaning, bounds and default; `grail-trainer run` is made of them.

What nobody has had a reason to change (Adam's betas, the band and the bounds of the KL controller) is a constant beside what
uses it. Nothing heavy is imported here: `--help` reads this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from grail_core.errors import ConfigurationError
from grail_core.participant.knobs import check_knobs, knob
from grail_trainer.alarm_settings import AlarmSettings

AdvantageKind = Literal["standardised", "centred", "rloo", "maxrl"]
"""What a reward is held against within its group; formulas and papers: `learning.advantages`."""

LossKind = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]
"""What a token loses, and how that becomes one number; formulas and papers: `learning.losses`."""

ImportanceLevel = Literal["token", "sequence"]
"""Of the weight proximal : behaviour: each token its own, or the product over its completion for all of them."""

ImportanceMode = Literal["truncate", "mask"]
"""What becomes of a weight above the cap: the cap, or 0."""

KlEstimator = Literal["k1", "k2", "k3"]
"""Of KL(trained ‖ reference) from one token (Schulman 2020); what each one's gradient is: `learning.losses`."""

CLIPS: dict[LossKind, tuple[float, float]] = {
    "grpo": (0.2, 0.28),
    "dr_grpo": (0.2, 0.28),
    "dapo": (0.2, 0.28),
    "bnpo": (0.2, 0.28),
    "gspo": (3e-4, 4e-4),
    "cispo": (1.0, 4.0),
}
"""How far below and above 1 a ratio counts, where nobody says otherwise. A token's ratio: DAPO's (Yu et al. 2025). GSPO's is
the geometric mean of a completion's ratios, which moves a thousandth as far (its paper's own values). CISPO's clips a weight
that no gradient flows through: from above alone, at 5."""


ScheduleKind = Literal["inverse-sqrt", "constant", "linear", "cosine"]
"""inverse-sqrt: full until `full_rate_steps`, then by the root of these : steps made; it needs no end of a run."""

MasterType = Literal["float32", "bfloat16-stochastic"]
"""What trained weights are kept in: float32; or bfloat16, each step computed in float32 and rounded stochastically."""

ALL_LINEAR = "all-linear"

MAX_KNOB_TEXT: Final = 512
"""Letters of a setting, that a training log takes."""


ComputeType = Literal["float32", "bfloat16"]
"""Of the products below the head. bfloat16 is what GPUs are fast in; the masters stay what `master_dtype` says."""


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
    schedule: ScheduleKind = knob(
        "inverse-sqrt",
        "What the learning rate does after the warmup: falls, or stays. What steps do to an answer's form by chance grows with "
        "the rate and is seen in rollouts two windows later only.",
    )
    full_rate_steps: int = knob(
        24, "Optimiser steps, the warmup included, after which inverse-sqrt lets the rate fall.", least=1
    )
    schedule_steps: int = knob(
        0, "Optimiser steps of the whole run, warmup included, by which linear and cosine are at their least.", least=0
    )
    min_learning_rate_share: float = knob(0.1, "The least that a falling rate becomes, as a share.", least=0, most=1)
    weight_decay: float = knob(0.0, "AdamW's, of matrices alone: biases and norms do not decay.", least=0)
    max_gradient_norm: float = knob(1.0, "Global norm that a step's gradient is clipped to.", above=0)
    max_bad_steps: int = knob(
        4, "Steps in a row with a loss or gradient that is no number, after which a window's update is taken back.", least=1
    )
    master_dtype: MasterType = knob("float32", "What the weights that are trained are kept in.")
    compute: ComputeType = knob("float32", "What layers below the head compute in; the head and losses are float32 always.")
    rounding_seed: int = knob(0, "Of stochastic rounding.")
    lora_rank: int = knob(0, "Train low-rank adapters of this rank instead of the weights; 0: the weights.", least=0, most=4096)
    lora_alpha: float = knob(32.0, "What adapters add is scaled by this number over their rank.", above=0)
    lora_modules: str = knob(
        ALL_LINEAR,
        "Linear layers that get adapters: last parts of their names, with commas. By default all but the head.",
    )
    lora_seed: int = knob(0, "Of the adapters' first values.")

    def __post_init__(self) -> None:
        check_knobs(self)
        if len(self.lora_modules) > MAX_KNOB_TEXT:
            raise ConfigurationError(
                f"lora_modules has {len(self.lora_modules)} letters, and a training log takes {MAX_KNOB_TEXT}",
                where="lora_modules",
                hint="last parts of names are enough: q_proj,v_proj",
            )
        if self.schedule in ("linear", "cosine") and self.schedule_steps <= self.warmup_steps:
            raise ConfigurationError(
                f"a {self.schedule} schedule over {self.schedule_steps} steps ends before its warmup of {self.warmup_steps}",
                where="--schedule-steps",
                hint="the optimiser steps of the whole run: windows × epochs × minibatches",
            )
        if self.lora_rank and self.master_dtype != "float32":
            raise ConfigurationError(
                f"adapters are kept in float32, not {self.master_dtype}",
                where="--master-dtype",
                hint="leave one of --lora-rank and --master-dtype out",
            )


@dataclass(frozen=True)
class GrpoSettings:
    """What an update lowers, over which tokens, in what order."""

    epochs: int = knob(3, "Passes over a window's groups.", least=1, most=16)
    minibatches: int = knob(4, "Optimiser steps of one pass.", least=1, most=1024)
    loss: LossKind = knob("dapo", "What a token loses, and how token losses are averaged.")
    advantages: AdvantageKind = knob("standardised", "What a reward is held against within its group.")
    clip_low: float = knob(0.0, "The ratio counts from 1 less this on; 0: the loss's own (0.2; gspo 0.0003).", least=0, most=1)
    clip_high: float = knob(0.0, "The ratio counts up to 1 and this; 0: the loss's own (0.28; gspo 0.0004, cispo 4).", least=0)
    dual_clip: float = knob(
        0.0, "Dual-clip PPO's c: a token of negative advantage counts at most c times its advantage; above 1, 0: off.", least=0
    )
    importance_level: ImportanceLevel = knob("token", "Of the weight start of the update : policy that drew the rollouts.")
    importance_mode: ImportanceMode = knob("truncate", "A weight above the cap counts as the cap, or as 0.")
    importance_cap: float = knob(2.0, "Of that weight.", above=0)
    kl_coefficient: float = knob(0.01, "Of the KL to the network's first checkpoint; 0: none is held on to.", least=0)
    kl_estimator: KlEstimator = knob("k3", "How a token's KL to the first checkpoint is estimated.")
    kl_target: float = knob(
        0.0,
        "Nats a token: the coefficient begins at --kl-coefficient and moves to keep this KL (0.04 is usual); 0: it is fixed.",
        least=0,
    )
    entropy_bonus: float = knob(0.0, "Of the mean entropy of a token, which is raised.", least=0)
    mask_truncated: bool = knob(False, "Completions cut off at the token limit count in their group and are not learned from.")
    tokens_per_pass: int = knob(16_384, "Tokens of one forward and backward pass.", least=1)
    seed: int = knob(0, "Of the order in which groups are visited.")

    def __post_init__(self) -> None:
        check_knobs(self)
        if 0 < self.dual_clip <= 1:
            raise ConfigurationError(
                f"dual_clip cannot be {self.dual_clip:g}", where="--dual-clip", hint="above 1; 3 in the paper; 0: off"
            )
        if self.dual_clip and self.loss == "cispo":
            raise ConfigurationError(
                "dual_clip does nothing with the loss cispo",
                where="--dual-clip",
                hint="its weight is bounded by --clip-high; leave it 0",
            )
        if self.kl_target and not self.kl_coefficient:
            raise ConfigurationError(
                "kl_target has no coefficient to begin with", where="--kl-coefficient", hint="0.01, say; or --kl-target 0"
            )

    @property
    def clip(self) -> tuple[float, float]:
        """How far below and above 1 a ratio counts."""
        low, high = CLIPS[self.loss]
        return self.clip_low or low, self.clip_high or high


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
