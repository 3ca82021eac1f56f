"""Alarms: what one window's update looks like against what the run looked like, and what is done about it.

Pure: signs of a window, settings, and a memory of floats that lies in the training state, so that it is resumed with it and
anybody who repeats a window repeats its alarms. Values of single windows (`ratio`, `kl`, `gradient`, `refused`) raise an alarm
each time. What a policy stays in (low entropy, long answers) raises one when it is beyond its bound, and again only once it is
half as much again beyond it, or has been within it in between: an action that is taken every window would end the learning.

What an alarm does: `tell`, nothing but saying so. `slow` halves the learning rate, down to 1/64; each `QUIET_WINDOWS` windows
in a row without `slow`, `undo` or `stop` double it again. `undo` also takes the window's update back. `stop` also ends the
trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from grail_trainer.alarm_settings import AlarmAction, AlarmSettings
from grail_trainer.learning.signs import WindowSigns

QUIET_WINDOWS = 4
LEAST_FACTOR = 1 / 64
LEARNING_RATE_FACTOR = "learning_rate_factor"
"""Of the masters' scalars: what the scheduled learning rate is multiplied by; absent for 1."""

STOPPED_AT = "alarm.stopped_at"
"""Of the masters' scalars: the window whose alarm ended the trainer, until the next window is learned from."""

_RECENT = 4  # windows whose mean is held against the beginning's, where one window alone is noise
_NORMS, _LEAST_NORMS = 8, 3  # of the running median
_WORSE = 1.5
_MOST_EXCESS = 1e9
_PREFIX = "alarm."
_NOISY = ("reward_mean", "success_mean", "well_formed_share")
_HELD_AGAINST = ("entropy", "length_mean", "reward_deviation", *_NOISY)


@dataclass(frozen=True)
class Alarm:
    """`value` was beyond `bound`; `action` was taken."""

    name: str
    action: AlarmAction
    value: float
    bound: float
    detail: str

    @property
    def reason(self) -> str:
        return f"{self.detail}: {self.value:.4g} against {self.bound:.4g}"

    def to_event(self) -> dict[str, Any]:
        return {
            "alarm": self.name,
            "action": self.action,
            "value": self.value,
            "bound": self.bound,
            "reason": self.reason,
        }

    def to_json(self) -> dict[str, Any]:
        """Canonical-JSON value: numbers with a fraction as text."""
        return {
            "alarm": self.name,
            "action": self.action,
            "value": repr(self.value),
            "bound": repr(self.bound),
            "detail": self.detail,
        }


@dataclass(frozen=True)
class _Beyond:
    """How far something is beyond its bound: `excess` is 1 at the bound and grows from there."""

    value: float
    bound: float
    detail: str
    excess: float


@dataclass(frozen=True)
class _Look:
    """What an alarm's rule is given."""

    now: WindowSigns
    settings: AlarmSettings
    memory: Mapping[str, float]

    def beginning(self, sign: str) -> float | None:
        """Its mean over the first windows, None while these are not over."""
        if self.memory.get(f"{_PREFIX}windows", 0) < self.settings.beginning:
            return None
        return self.memory.get(f"{_PREFIX}beginning.{sign}")

    def recent(self, sign: str) -> float | None:
        """Its mean over the last `_RECENT` windows, this one included, none of which is of the beginning."""
        past = _ring(self.memory, f"recent.{sign}", _RECENT - 1)
        return None if len(past) < _RECENT - 1 else fmean([*past, getattr(self.now, sign)])

    def norms(self) -> list[float]:
        return _ring(self.memory, "norm", _NORMS)


_Rule = Callable[[_Look], _Beyond | None]


def raised(now: WindowSigns, settings: AlarmSettings, memory: Mapping[str, float]) -> tuple[Alarm, ...]:
    """The alarms of a window that ended with these signs, in the order of `RULES`.

    Args:
        memory: what `remembered` gave after the windows before, among others' values.
    """
    look, found = _Look(now, settings, memory), []
    for name, rule in _that_can_be_asked(now).items():
        action: AlarmAction = getattr(settings, f"on_{name}")
        beyond = None if action == "off" else rule(look)
        if beyond is None:
            continue
        held = memory.get(f"{_PREFIX}held.{name}")
        if name in LASTING and held is not None and beyond.excess < held * _WORSE:
            continue
        found.append(Alarm(name, action, beyond.value, beyond.bound, beyond.detail))
    return tuple(found)


def remembered(
    now: WindowSigns, settings: AlarmSettings, memory: Mapping[str, float], alarms: Sequence[Alarm], *, window: int
) -> dict[str, float]:
    """The memory after a window. Of one that was taken back nothing is kept but what was done about it, and how large its
    gradients were: what is usual is to be found again where it has changed for good."""
    after = dict(memory)
    after.pop(STOPPED_AT, None)
    _hold(after, _Look(now, settings, memory), alarms)
    _pace(after, alarms)
    if any(alarm.action == "stop" for alarm in alarms):
        after[STOPPED_AT] = float(window)
    if now.steps_refused < now.steps:
        _push(after, "norm", _NORMS, now.gradient_norm)
        if not taken_back(alarms):
            _observe(after, now, settings)
    return after


def _that_can_be_asked(now: WindowSigns) -> Mapping[str, _Rule]:
    """Where no step had a finite gradient, the signs of the update are none."""
    return {"refused": RULES["refused"]} if now.steps_refused == now.steps else RULES


def taken_back(alarms: Sequence[Alarm]) -> Alarm | None:
    """The alarm that the window's update is taken back for."""
    return next((alarm for alarm in alarms if alarm.action in ("undo", "stop")), None)


def _hold(after: dict[str, float], look: _Look, alarms: Sequence[Alarm]) -> None:
    fired = {alarm.name for alarm in alarms}
    for name, rule in _that_can_be_asked(look.now).items():
        if name not in LASTING:
            continue
        beyond = rule(look)
        key = f"{_PREFIX}held.{name}"
        if beyond is None:
            after.pop(key, None)
        elif name in fired:
            after[key] = beyond.excess


def _pace(after: dict[str, float], alarms: Sequence[Alarm]) -> None:
    """The learning rate's factor: powers of two, so that halving and doubling are exact."""
    factor, quiet = after.pop(LEARNING_RATE_FACTOR, 1.0), f"{_PREFIX}quiet"
    if any(alarm.action in ("slow", "undo", "stop") for alarm in alarms):
        factor = max(LEAST_FACTOR, factor / 2)
        after[quiet] = 0.0
    elif factor < 1:
        after[quiet] = after.get(quiet, 0.0) + 1
        if after[quiet] >= QUIET_WINDOWS:
            factor, after[quiet] = min(1.0, factor * 2), 0.0
    if factor < 1:
        after[LEARNING_RATE_FACTOR] = factor
    else:
        after.pop(quiet, None)


def _observe(after: dict[str, float], now: WindowSigns, settings: AlarmSettings) -> None:
    count = after.get(f"{_PREFIX}windows", 0.0)
    begun = count >= settings.beginning
    for sign in _HELD_AGAINST:
        value, key = getattr(now, sign), f"{_PREFIX}beginning.{sign}"
        if not begun:
            after[key] = (after.get(key, 0.0) * count + value) / (count + 1)
        elif sign in _NOISY:
            _push(after, f"recent.{sign}", _RECENT - 1, value)
    after[f"{_PREFIX}windows"] = count + 1


def _ring(memory: Mapping[str, float], name: str, size: int) -> list[float]:
    """What was pushed last, newest first."""
    keys = [f"{_PREFIX}{name}.{index}" for index in range(size)]
    return [memory[key] for key in keys if key in memory]


def _push(memory: dict[str, float], name: str, size: int, value: float) -> None:
    for index, one in enumerate([value, *_ring(memory, name, size)][:size]):
        memory[f"{_PREFIX}{name}.{index}"] = one


# --- the rules --------------------------------------------------------------------------------------------------------


def _above(value: float, bound: float, detail: str) -> _Beyond | None:
    if not value > bound:
        return None
    return _Beyond(value, bound, detail, min(_MOST_EXCESS, value / bound) if bound > 0 else _MOST_EXCESS)


def _below(value: float, bound: float, detail: str) -> _Beyond | None:
    if not value < bound:
        return None
    return _Beyond(value, bound, detail, min(_MOST_EXCESS, bound / value) if value > 0 else _MOST_EXCESS)


def _entropy(look: _Look) -> _Beyond | None:
    now, settings = look.now.entropy, look.settings
    beginning = look.beginning("entropy")
    if beginning is not None and settings.entropy_share * beginning > settings.entropy_floor:
        return _below(now, settings.entropy_share * beginning, f"entropy began at {beginning:.4g} nats a token")
    return _below(now, settings.entropy_floor, "entropy, nats a token")


def _ratio(look: _Look) -> _Beyond | None:
    now, settings = look.now, look.settings
    return _above(now.clip_share, settings.clip_share, "share of tokens outside the clip") or _above(
        abs(now.importance_mean - 1), settings.ratio_drift, f"mean weight proximal : behaviour is {now.importance_mean:.4g}"
    )


def _kl(look: _Look) -> _Beyond | None:
    return _above(look.now.kl_behaviour, look.settings.kl_behaviour, "KL to the behaviour policy, nats a token")


def _reference(look: _Look) -> _Beyond | None:
    return _above(look.now.kl_reference, look.settings.kl_reference, "KL to the reference, nats a token")


def _gradient(look: _Look) -> _Beyond | None:
    norms = look.norms()
    if len(norms) < _LEAST_NORMS:
        return None
    usual = median(norms)
    detail = f"gradient norm; the median of the last {len(norms)} windows is {usual:.4g}"
    return _above(look.now.gradient_norm, look.settings.gradient_factor * usual, detail)


def _refused(look: _Look) -> _Beyond | None:
    now = look.now
    share = now.steps_refused / now.steps if now.steps else 0.0
    return _above(share, look.settings.refused_share, f"share of steps without a finite gradient ({now.steps_refused})")


def _length(look: _Look) -> _Beyond | None:
    beginning, factor = look.beginning("length_mean"), look.settings.length_factor
    if beginning is None:
        return None
    detail = f"mean tokens of a completion; it began at {beginning:.4g}"
    now = look.now.length_mean
    return _above(now, beginning * factor, detail) or _below(now, beginning / factor, detail)


def _truncated(look: _Look) -> _Beyond | None:
    return _above(look.now.truncated_share, look.settings.truncated_share, "share of completions at the policy's limit")


def _form_only(look: _Look) -> _Beyond | None:
    form, success = _gain(look, "well_formed_share"), _gain(look, "success_mean")
    if form is None or success is None or success > 0:
        return None
    return _above(form, look.settings.form_gain, f"well-formed share gained, {success:+.4g} success with it")


def _form_lost(look: _Look) -> _Beyond | None:
    form = _gain(look, "well_formed_share")
    return None if form is None else _above(-form, look.settings.form_loss, "well-formed share lost since the beginning")


def _reward_only(look: _Look) -> _Beyond | None:
    reward, success, spread = _gain(look, "reward_mean"), _gain(look, "success_mean"), look.beginning("reward_deviation")
    if reward is None or success is None or spread is None or spread <= 0 or success > 0:
        return None
    detail = f"reward gained in its standard deviations ({spread:.4g}), {success:+.4g} success with it"
    return _above(reward / spread, look.settings.reward_gain, detail)


def _gain(look: _Look, sign: str) -> float | None:
    """The last windows' mean above the beginning's."""
    beginning, recent = look.beginning(sign), look.recent(sign)
    return None if beginning is None or recent is None else recent - beginning


RULES: Mapping[str, _Rule] = {
    "entropy": _entropy,
    "ratio": _ratio,
    "kl": _kl,
    "reference": _reference,
    "gradient": _gradient,
    "refused": _refused,
    "length": _length,
    "truncated": _truncated,
    "form_only": _form_only,
    "form_lost": _form_lost,
    "reward_only": _reward_only,
}
"""Name → rule; the action is the setting `on_` + name."""

LASTING = ("entropy", "reference", "length", "truncated", "form_only", "form_lost", "reward_only")
"""What a policy stays in, window after window."""
