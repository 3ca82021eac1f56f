"""The knobs of the alarms: for each a bound, and what is done when a window is beyond it.

What an alarm looks at and what an action does is `learning.alarms`. Defaults are several times what an honest run of a tiny
model shows (docs/trainer.md has the figures); a large model may need others. Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grail_core.participant.knobs import check_knobs, knob

AlarmAction = Literal["off", "tell", "slow", "undo", "stop"]
"""off: not looked at. tell: event and log. slow: the learning rate is halved too. undo: the window's update is taken back too.
stop: and the trainer ends, until a person has seen it."""


@dataclass(frozen=True)
class AlarmSettings:
    """When an update is suspicious. "The beginning" is the mean over the first windows that were learned from."""

    beginning: int = knob(2, "Windows whose mean later ones are held against.", option="--alarm-beginning", least=1, most=64)
    entropy_share: float = knob(
        0.2, "entropy: least share of the beginning's entropy.", option="--alarm-entropy-share", least=0, most=1
    )
    entropy_floor: float = knob(0.01, "entropy: least nats a token.", option="--alarm-entropy-floor", least=0)
    on_entropy: AlarmAction = knob("slow", "When entropy collapses.")
    clip_share: float = knob(
        0.4, "ratio: most of the tokens outside the clip, mean over steps.", option="--alarm-clip-share", least=0, most=1
    )
    ratio_drift: float = knob(
        0.5, "ratio: the mean weight proximal : behaviour is at most so far from 1.", option="--alarm-ratio-drift", above=0
    )
    on_ratio: AlarmAction = knob("slow", "When importance ratios drift, or too many tokens are clipped.")
    kl_behaviour: float = knob(
        0.3, "kl: most nats a token from the policy that drew the rollouts.", option="--alarm-kl-behaviour", above=0
    )
    on_kl: AlarmAction = knob("undo", "When one window leads too far from the policy that drew its rollouts.")
    kl_reference: float = knob(5.0, "reference: most nats a token from the reference.", option="--alarm-kl-reference", above=0)
    on_reference: AlarmAction = knob("slow", "When the policy is too far from the reference.")
    gradient_factor: float = knob(
        8.0, "gradient: most times the median of the last windows' norms.", option="--alarm-gradient-factor", above=1
    )
    on_gradient: AlarmAction = knob("slow", "When gradients are much larger than they were.")
    refused_share: float = knob(
        0.0, "refused: most of the steps whose gradient is not finite.", option="--alarm-refused-share", least=0, most=1
    )
    on_refused: AlarmAction = knob("tell", "When steps are refused (each is left out, whatever is chosen here).")
    length_factor: float = knob(
        3.0, "length: most times longer or shorter than at the beginning.", option="--alarm-length-factor", above=1
    )
    on_length: AlarmAction = knob("tell", "When the mean length of completions drifts.")
    truncated_share: float = knob(
        0.5, "truncated: most of the completions at the policy's limit.", option="--alarm-truncated-share", least=0, most=1
    )
    on_truncated: AlarmAction = knob("tell", "When too many completions reach the limit.")
    form_gain: float = knob(
        0.1, "form_only: well-formed share above the beginning's, without more success.", option="--alarm-form-gain", above=0
    )
    on_form_only: AlarmAction = knob("tell", "When answers get their form and nothing else.")
    form_loss: float = knob(0.1, "form_lost: well-formed share below the beginning's.", option="--alarm-form-loss", above=0)
    on_form_lost: AlarmAction = knob("tell", "When answers lose their form.")
    reward_gain: float = knob(
        0.5,
        "reward_only: reward above the beginning's, in its standard deviations, without more success.",
        option="--alarm-reward-gain",
        above=0,
    )
    on_reward_only: AlarmAction = knob("tell", "When reward is gained in some other way than by solving (reward hacking).")

    def __post_init__(self) -> None:
        check_knobs(self)
