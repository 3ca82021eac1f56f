"""What a miner's share becomes if it goes on, fails once or stops, and what threatens it (sections 9 and 10).

Windows to come are made up and added up by the functions that validators run: `selection.check_probabilities` for its chance to
be drawn, `scores.score_inputs` and `scores.weights` for what follows. What is assumed is said in ASSUMPTIONS and nothing else
is: everybody else stays where it is, the miner declares what it declared last, its audits come as often as its chance says,
evenly, and find the share valid that they found so far. Pure; who forecasts hands in the memory that verdicts publish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Final

from grail_core.protocol.constants import (
    SCORE_MEMORY_WINDOWS,
    SCORE_WINDOWS,
    SUPPORT_FACTOR,
    WINDOW_LENGTH,
)
from grail_core.protocol.scores import (
    WEIGHT_TOTAL,
    MinerWindow,
    ScoreInputs,
    WeightRule,
    counts_inconclusive,
    lookback_windows,
    score_inputs,
    weights,
)
from grail_core.protocol.selection import Candidate, check_probabilities
from grail_core.protocol.types import Hotkey, Window

HORIZON: Final = 84
"""Windows that a forecast reaches: the memory of audits, and the windows of work behind it."""

ASSUMPTIONS: Final = (
    "everybody else keeps the power it has now",
    "this miner declares in every window what it declared in the last one that it sealed (nothing, where that is more than "
    f"{SCORE_WINDOWS} of its windows ago)",
    "it is drawn as often as its chance says, evenly spread, and each draw finds the share of rollouts valid that its draws "
    "without a failure found so far (all of them where there was none)",
    "nobody registers or leaves, and the network's parameters stay",
)


class Course(Enum):
    """What the miner does from the next window on."""

    GOES_ON = "goes on without failing"
    FAILS_ONCE = "fails once"  # in the next window, and goes on honestly
    STOPS = "stops"


@dataclass(frozen=True)
class Field:
    """Where everybody stands as of a scored window: its verdict's own score inputs, and the memory they are added up from.

    `histories` are in ascending order of window and end with `window`; a hotkey without one has done nothing.
    """

    window: Window
    hotkeys: Mapping[int, Hotkey]
    inputs: Mapping[int, ScoreInputs]
    histories: Mapping[Hotkey, Sequence[MinerWindow]]
    rule: WeightRule
    _chances: dict[tuple[int, int, bool, bool], Fraction] = field(init=False, default_factory=dict, compare=False, repr=False)
    _courses: dict[tuple[int, Course, int], tuple[Expected, ...]] = field(
        init=False, default_factory=dict, compare=False, repr=False
    )

    def history(self, uid: int) -> Sequence[MinerWindow]:
        return self.histories.get(self.hotkeys[uid], ())

    def agrees(self, uid: int) -> bool:
        """Do its published windows give the score inputs that the verdict says? Not where its validator remembers others'."""
        return score_inputs(self.history(uid), self.window) == self.inputs[uid]

    def gives(self, stated: Mapping[int, int]) -> bool:
        """Does this rule give the weights that the verdict says?"""
        return weights(self.inputs, self.rule) == dict(stated)

    def chance(self, uid: int, history: Sequence[MinerWindow], at: Window, declared: int) -> Fraction:
        """Of being drawn in a window to come, if it seals so much and everybody else does what it did last."""
        before = score_inputs(history, at)
        own = Candidate(declared, before.supported, before.in_lookback)
        key = (uid, own.counted, own.newcomer, own.in_lookback)  # all that its chance depends on, beside the others
        if key not in self._chances:
            self._chances[key] = check_probabilities({**self._sealed, self.hotkeys[uid]: own})[self.hotkeys[uid]]
        return self._chances[key]

    @cached_property
    def _sealed(self) -> Mapping[Hotkey, Candidate]:
        """Who sealed in this very window, as it is drawn in the next one if it does so again."""
        found = {}
        for uid, hotkey in self.hotkeys.items():
            declared, inputs = _declared_last(self.history(uid), self.window), self.inputs[uid]
            if declared:
                found[hotkey] = Candidate(declared, inputs.supported, inputs.in_lookback)
        return found


@dataclass(frozen=True)
class Expected:
    """A window to come. `share` is of all weight, 0 … 1."""

    window: Window
    power: int
    share: Fraction
    chance: Fraction
    drawn: bool


@dataclass(frozen=True)
class Danger:
    """What threatens a miner. Windows are counted from the next one on; shares are of all weight."""

    share: Fraction  # now
    lookback_left: int  # windows that a failure still makes worthless; 0: none
    paid_again_from: Window | None
    failures: int  # in the memory
    forgotten_from: Window | None  # the first window that remembers none of them
    chance: Fraction  # of being drawn in the next window
    newcomer: bool  # its audits do not support what it seals, so that it is drawn more
    failure_lookback: int  # windows that a failure in the next one would make worthless
    failure_costs: Fraction | None  # what such a failure takes over HORIZON, in windows of its present share; None without one
    inconclusive_counts: bool  # a window that its validator cannot judge would count as work without an audit
    bound_by: str  # "work", "audits" or "draws": what its volume is held down by
    idle: int  # windows since it last sealed anything that counts; SCORE_MEMORY_WINDOWS where it is not known to have


def forecast(field: Field, uid: int, course: Course, windows: int = HORIZON) -> tuple[Expected, ...]:
    """The next windows of one miner, in order; reckoned once for each field."""
    key = (uid, course, windows)
    if key not in field._courses:
        field._courses[key] = tuple(_forecast(field, uid, course, windows))
    return field._courses[key]


def _forecast(field: Field, uid: int, course: Course, windows: int) -> Iterator[Expected]:
    history = list(field.history(uid))
    declared = 0 if course is Course.STOPS else _usual(history)
    valid = _valid_of(history, declared)
    due = Fraction(0)
    for ahead in range(1, windows + 1):
        at = Window(field.window + ahead * WINDOW_LENGTH)
        chance = field.chance(uid, history, at, declared) if declared else Fraction(0)
        fails = course is Course.FAILS_ONCE and ahead == 1 and declared > 0
        due += chance
        drawn = fails or due >= 1
        due -= 1 if due >= 1 else 0
        if declared:
            history.append(_entry(at, declared, valid, chance, drawn=drawn, failed=fails))
        inputs = score_inputs(history[-SCORE_MEMORY_WINDOWS:], at)
        shares = weights({**field.inputs, uid: inputs}, field.rule)
        yield Expected(at, inputs.power, _share(shares, uid, field.rule), chance, drawn)


def danger(field: Field, uid: int) -> Danger:
    """What threatens this miner as of the field's window."""
    history, inputs = field.history(uid), field.inputs[uid]
    following = Window(field.window + WINDOW_LENGTH)
    declared = _usual(history)
    failed = [one for one in history if one.failed and one.forgotten_from > following]
    last = max((one.paid_again_from for one in failed), default=Window(0))
    chance = field.chance(uid, history, following, declared) if declared else Fraction(0)
    share = _share(weights(field.inputs, field.rule), uid, field.rule)
    worked = [one.window for one in history if one.active and one.declared]
    idle = (field.window - worked[-1]) // WINDOW_LENGTH if worked else SCORE_MEMORY_WINDOWS
    return Danger(
        share=share,
        lookback_left=max(0, (last - following) // WINDOW_LENGTH),
        paid_again_from=last if last > following else None,
        failures=len(failed),
        forgotten_from=max((one.forgotten_from for one in failed), default=None),
        chance=chance,
        newcomer=Candidate(declared, inputs.supported, inputs.in_lookback).newcomer,
        failure_lookback=lookback_windows(chance) if chance else 0,
        failure_costs=_costs(field, uid, share),
        inconclusive_counts=declared > 0 and counts_inconclusive(history, following, declared),
        bound_by=_bound(inputs),
        idle=idle,
    )


def _costs(field: Field, uid: int, share: Fraction) -> Fraction | None:
    if not share:
        return None
    on, fails = (forecast(field, uid, course) for course in (Course.GOES_ON, Course.FAILS_ONCE))
    return (sum((one.share for one in on), Fraction(0)) - sum((one.share for one in fails), Fraction(0))) / share


def _entry(at: Window, declared: int, valid: int, chance: Fraction, *, drawn: bool, failed: bool) -> MinerWindow:
    return MinerWindow(
        window=at,
        declared=declared,
        active=not failed,
        checked=drawn,
        unique_valid=valid if drawn and not failed else 0,
        failed=failed,
        probability=chance,
    )


def _usual(history: Sequence[MinerWindow]) -> int:
    """What it declared in the last window in which it sealed anything; 0 where it never did, or not for SCORE_WINDOWS windows
    of its history."""
    return next((one.declared for one in reversed(history[-SCORE_WINDOWS:]) if one.declared), 0)


def _declared_last(history: Sequence[MinerWindow], window: Window) -> int:
    """What it sealed in this very window."""
    return history[-1].declared if history and history[-1].window == window else 0


def _valid_of(history: Sequence[MinerWindow], declared: int) -> int:
    """Rollouts that a draw to come finds, from the share that draws which did not fail found."""
    found = [(min(one.valid, one.declared), one.declared) for one in history if one.audited and one.declared and not one.failed]
    total = sum(of for _, of in found)
    return declared * sum(valid for valid, _ in found) // total if total else declared


def _share(shares: Mapping[int, int], uid: int, rule: WeightRule) -> Fraction:
    """What stands at the burn UID is nobody's pay."""
    return Fraction(0) if uid == rule.burn_uid else Fraction(shares.get(uid, 0), WEIGHT_TOTAL)


def _bound(inputs: ScoreInputs) -> str:
    least = min(inputs.work, SUPPORT_FACTOR * inputs.supported, inputs.estimate)
    if least == inputs.work:
        return "work"
    return "audits" if least == SUPPORT_FACTOR * inputs.supported else "draws"


__all__ = ["ASSUMPTIONS", "HORIZON", "Course", "Danger", "Expected", "Field", "danger", "forecast"]
