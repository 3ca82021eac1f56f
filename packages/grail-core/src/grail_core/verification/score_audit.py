"""Scores and weights of a window, computed again from published verdicts alone (section 10).

What a verdict's weights rest on is what its validator remembers: its own verdicts of the 71 windows before, and where it had
scored none, those that it adopted from another and said so (section 11). All of that is published, so anybody can add it up
again. What counted for a miner in one window (was it drawn, what was found) is that window's verdict's own word here; that is
asked of the files and the evidence, not of the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from grail_core.protocol import Adopted, MinerWindow, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.scores import ScoreInputs, WeightRule, score_inputs, weights
from grail_core.protocol.types import Digest, Hotkey, Window


class Outcome(Enum):
    EQUAL = "equal"
    DIFFERS = "differs"


@dataclass(frozen=True)
class Counted:
    """One validator's verdict of one window, as much of it as later windows' scores rest on."""

    validator: Hotkey
    window: Window
    body: Digest
    scored: bool
    adopted: Adopted | None
    miners: Mapping[Hotkey, MinerWindow]

    @classmethod
    def of(cls, verdict: SignedVerdict) -> Counted:
        body = verdict.body
        return cls(
            verdict.validator,
            body.window,
            body.digest(),
            body.status is WindowStatus.SCORED,
            verdict.adopted,
            {miner.hotkey: miner.miner_window(body.window) for miner in body.miners},
        )


@dataclass(frozen=True)
class Recomputed:
    """One window's scores and weights computed again, beside what its verdict says."""

    window: Window
    outcome: Outcome
    score_inputs: Mapping[int, ScoreInputs]  # by UID
    weights: Mapping[int, int]  # by UID
    scores_equal: bool
    weights_equal: bool
    filled_in: Mapping[Hotkey, tuple[Window, ...]]  # windows remembered from this validator's verdicts
    lacked: tuple[Window, ...]  # of the memory, of which no verdict was found
    contradicted: tuple[tuple[Hotkey, Window], ...]  # of which there are two verdicts of one validator


@dataclass
class PublishedMemory:
    """Verdicts of one validator and of those it may have adopted from, in ascending order of window.

    Bounded: what no window to come can remember is forgotten.
    """

    validator: Hotkey
    _counted: dict[Window, dict[Hotkey, Counted]] = field(default_factory=dict)
    _contradicted: dict[Window, set[Hotkey]] = field(default_factory=dict)
    _told: list[Adopted] = field(default_factory=list)

    def add(self, verdict: SignedVerdict) -> None:
        """A verdict whose signature was verified. Of two that contradict each other the first stays, and it is said."""
        window, known = verdict.body.window, self._counted.setdefault(verdict.body.window, {})
        there = known.get(verdict.validator)
        if there is None:
            known[verdict.validator] = found = Counted.of(verdict)
            if verdict.validator == self.validator and found.adopted is not None:
                self._told.append(found.adopted)
        elif there.body != verdict.body.digest() or there.adopted != verdict.adopted:
            self._contradicted.setdefault(window, set()).add(verdict.validator)
        oldest = window - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH
        for old in [w for w in self._counted if w < oldest]:
            del self._counted[old]
            self._contradicted.pop(old, None)
        self._told = [adopted for adopted in self._told if adopted.last >= oldest]

    def recompute(self, body: VerdictBody, rule: WeightRule) -> Recomputed:
        """Scores and weights of the window added last, from what this validator said it remembers."""
        window = body.window
        history: dict[Hotkey, list[MinerWindow]] = {}
        filled: dict[Hotkey, list[Window]] = {}
        lacked: list[Window] = []
        used = {(self.validator, window)}
        oldest = max(0, window - (SCORE_MEMORY_WINDOWS - 1) * WINDOW_LENGTH)
        for past in range(oldest, window, WINDOW_LENGTH):
            found = self._remembered(Window(past))
            if found is None:
                lacked.append(Window(past))
                continue
            used.add((found.validator, found.window))
            if found.validator != self.validator:
                filled.setdefault(found.validator, []).append(found.window)
            for hotkey, entry in found.miners.items():
                history.setdefault(hotkey, []).append(entry)
        own = {miner.hotkey: miner.miner_window(window) for miner in body.miners}
        for hotkey, entry in own.items():
            history.setdefault(hotkey, []).append(entry)
        inputs = {uid: score_inputs(history.get(hotkey, ()), window) for uid, hotkey in body.hotkeys.items()}
        found_weights = weights(inputs, rule) if inputs or body.status is WindowStatus.SCORED else {}
        scores_equal, weights_equal = inputs == dict(body.score_inputs), found_weights == dict(body.weights)
        return Recomputed(
            window,
            Outcome.EQUAL if scores_equal and weights_equal else Outcome.DIFFERS,
            inputs,
            found_weights,
            scores_equal,
            weights_equal,
            {validator: tuple(windows) for validator, windows in filled.items()},
            tuple(lacked),
            tuple(sorted(pair for pair in used if pair[0] in self._contradicted.get(pair[1], ()))),
        )

    def _remembered(self, window: Window) -> Counted | None:
        """The verdict of which this validator remembers a window: its own where that has miners, else what it adopted."""
        known = self._counted.get(window, {})
        own = known.get(self.validator)
        if own is not None and own.miners:
            return own
        others = [known.get(adopted.validator) for adopted in self._told if adopted.first <= window <= adopted.last]
        if scored := next((other for other in others if other is not None and other.scored), None):
            return scored
        return None if None in others else own  # it may be remembered from a verdict that is not here


def spans(windows: Iterable[Window]) -> list[tuple[Window, Window]]:
    """Runs of windows that follow each other, both ends included."""
    found: list[tuple[Window, Window]] = []
    for window in sorted(windows):
        if found and window == found[-1][1] + WINDOW_LENGTH:
            found[-1] = (found[-1][0], window)
        else:
            found.append((window, window))
    return found
