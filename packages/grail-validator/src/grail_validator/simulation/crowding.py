"""Section 10's chances: can hotkeys that bring nothing take the audits of those that work?

A whole network by `network.live`: honest full-time miners with histories of their own beside hotkeys that seal the cap and have
no file. Who is drawn comes from `select_miners` over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grail_core.protocol.constants import AUDITS_OF_A_PRODUCT, ROLLOUTS_PER_PROBLEM, UNIQUE_ROLLOUTS_CAP
from grail_core.protocol.selection import Candidate, check_probabilities
from grail_validator.simulation.coins import hotkey
from grail_validator.simulation.measure import HONEST
from grail_validator.simulation.network import TRUSTED, live
from grail_validator.simulation.plans import Bools, IfDrawn, Plans, Strategy, View, plans
from grail_validator.simulation.strategies import failed

_SETTLING = 100
"""Windows until honest miners have their audits."""


def _sealers(trusted: bool, idle: bool) -> Callable[[View], Plans]:
    def plan(view: View) -> Plans:
        empty = (view.supported >= AUDITS_OF_A_PRODUCT * UNIQUE_ROLLOUTS_CAP) | view.in_lookback | (not trusted)
        size = np.where(view.in_lookback & idle, 0, 1.0)
        return plans(view, size, junk=empty, if_drawn=np.where(empty, IfDrawn.NO_FILE, IfDrawn.JUDGED))

    return plan


def one_a_window(view: View) -> Bools:
    """One hotkey of those that failed is replaced, as where registrations are rationed."""
    gone = failed(view)
    first: Bools = gone & (np.cumsum(gone) == 1)
    return first


def sealers() -> dict[str, Strategy]:
    """By what they do; who is trusted earned it by honest work, and earns it again."""
    made = {}
    for trusted, who in ((False, "newcomers"), (True, "trust earned")):
        for idle, leaves, what in (
            (False, None, "sealing on through every look-back"),
            (True, None, "idle through every look-back"),
            (True, one_a_window, "one new hotkey a window"),
            (True, failed, "a new hotkey after every failure"),
        ):
            made[f"{who}, {what}"] = Strategy(f"{who}, {what}", _sealers(trusted, idle), leaves)
    return made


@dataclass(frozen=True)
class Crowding:
    """Check chance of an honest full-time miner, and audits a window that the others took beside it."""

    alone: float
    chance: float
    chance_pm: float  # half of a 95 % interval, from means of ten stretches of windows
    audits_of_sealers: float
    registrations: float  # new hotkeys a window
    windows: int


def crowded(honest: int, sealing: Strategy, count: int, windows: int, seed: int) -> Crowding:
    """`count` such hotkeys beside `honest` full-time miners."""
    lived = live([HONEST] * honest + [sealing] * count, 0, _SETTLING + windows, seed, paid=False)
    chances = lived.probability[_SETTLING:, :honest].mean(1)
    stretches = np.array([part.mean() for part in np.array_split(chances, 10)])
    audits = float(lived.drawn[_SETTLING:, honest:].sum(1).mean())
    registrations = float(lived.registered[_SETTLING:].sum(1).mean())
    pm = float(1.96 * stretches.std(ddof=1) / len(stretches) ** 0.5)
    alone = check_probabilities({hotkey(i): TRUSTED for i in range(honest)})[hotkey(0)]
    return Crowding(float(alone), float(chances.mean()), pm, audits, registrations, windows)


def chance_beside_tiny_files(honest: int, tiny: int) -> tuple[float, float, float]:
    """Check chances, exact: a full miner alone, beside `tiny` hotkeys of one honest group each, and such a hotkey's own."""
    full = {hotkey(i): TRUSTED for i in range(honest)}
    small = Candidate(ROLLOUTS_PER_PROBLEM, 4 * ROLLOUTS_PER_PROBLEM)
    beside = check_probabilities(full | {hotkey(honest + i): small for i in range(tiny)})
    return float(check_probabilities(full)[hotkey(0)]), float(beside[hotkey(0)]), float(beside[hotkey(honest)])
