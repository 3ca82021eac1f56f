"""Windows of one network by the protocol's own functions: `select_miners` draws, `score_inputs` and `power` pay.

Every hotkey of the strategies has a history of `MinerWindow`s; the crowd beside them works honestly, always full and trusted.
What each hotkey's own tally says before a window (audits, Σv, look-back) is kept up entry by entry and equals what
`score_inputs` adds up (tested).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from grail_core.protocol.constants import (
    AUDITS_OF_A_PRODUCT,
    SCORE_MEMORY_WINDOWS,
    SCORE_WINDOWS,
    UNIQUE_ROLLOUTS_CAP,
    WINDOW_LENGTH,
)
from grail_core.protocol.rollouts.groups import declared_rollouts
from grail_core.protocol.scores import MAX_POWER, MinerWindow, counts_inconclusive, score_inputs
from grail_core.protocol.selection import Candidate, Selection, select_miners
from grail_core.protocol.types import Window
from grail_validator.simulation.coins import hotkey, sample_touches, window_seed
from grail_validator.simulation.plans import NEVER, Bools, Floats, IfDrawn, Plans, Strategy, View

TRUSTED = Candidate(UNIQUE_ROLLOUTS_CAP, AUDITS_OF_A_PRODUCT * UNIQUE_ROLLOUTS_CAP)
"""An honest full-time miner of long standing."""

_CROWD = 2**32  # number of the crowd's first hotkey
_COMPANY = 2**33  # and of the companies'


def window_at(t: int) -> Window:
    return Window(t * WINDOW_LENGTH)


@dataclass
class Account:
    """One hotkey's last 72 windows."""

    history: deque[MinerWindow] = field(default_factory=deque)
    audits: int = 0
    valid: int = 0
    supported: int = 0
    inconclusive: int = 0
    last_failure: int = -NEVER
    last_audit: int = -NEVER
    lookback_end: int = -1  # last window of it
    age: int = 0

    def _count(self, entry: MinerWindow, sign: int) -> None:
        counted = min(entry.declared, UNIQUE_ROLLOUTS_CAP)
        if (entry.checked or entry.failed) and counted:
            self.audits += sign
            self.valid += sign * (entry.unique_valid > 0)
            self.supported += sign * min(entry.unique_valid, counted)
        self.inconclusive += sign * entry.inconclusive

    def open(self, t: int) -> None:
        """Forget what the memory of window t no longer holds."""
        while self.history and self.history[0].window <= window_at(t - SCORE_MEMORY_WINDOWS):
            self._count(self.history.popleft(), -1)

    def close(self, t: int, entry: MinerWindow | None) -> None:
        self.age += 1
        if entry is None:
            return
        self.history.append(entry)
        self._count(entry, 1)
        if entry.checked:
            self.last_audit = t
        if entry.failed:
            self.last_failure = t
            self.lookback_end = max(self.lookback_end, t + entry.lookback - 1)

    def work(self, t: int) -> int:
        """Σ of the windows t − 11 … t − 1."""
        oldest = window_at(t - SCORE_WINDOWS + 1)
        return sum(min(one.declared, UNIQUE_ROLLOUTS_CAP) for one in self.history if one.active and one.window >= oldest)

    def power(self, t: int) -> float:
        """As of window t, 1 for a full one."""
        return score_inputs(self.history, window_at(t)).power / MAX_POWER


@dataclass(frozen=True)
class Lived:
    """What became of each replica; every array is [windows, replicas]."""

    pay: Floats  # power, 1 for a full one
    cost: Floats
    drawn: Bools
    probability: Floats  # 0 where nothing was sealed
    registered: Bools  # a new hotkey in place of the one before

    @classmethod
    def blank(cls, windows: int, replicas: int) -> Lived:
        shape = (windows, replicas)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape), np.zeros(shape, np.bool_))


def view_of(accounts: Sequence[Account], t: int, rng: np.random.Generator) -> View:
    def since(last: int) -> int:
        return min(NEVER, t - last - 1)

    ints = [
        (
            *(one.audits, one.valid, one.supported, one.work(t), one.inconclusive, one.age),
            *(since(one.last_failure), since(one.last_audit), max(0, one.lookback_end - t + 1)),
        )
        for one in accounts
    ]
    audits, valid, supported, work, inconclusive, age, failure, audit, left = np.array(ints, dtype=np.int64).T
    return View(t, rng, audits, valid, supported, work, failure, audit, left > 0, left, inconclusive, age)


@dataclass(frozen=True)
class Sealed:
    """One replica's part of a plan."""

    groups: int
    junk: int
    equal: int
    if_drawn: int
    unlucky: bool  # an audit would reject it though it is honest

    @property
    def declared(self) -> int:
        return declared_rollouts(self.groups, 0)

    @property
    def unique(self) -> int:
        """Rollouts that count once the sample has passed."""
        return declared_rollouts(self.groups - self.equal, 0) if self.groups > self.equal else 0


def judged(seed: int, t: int, replica: int, sealed: Sealed, selection: Selection, account: Account) -> MinerWindow:
    """What window t counts for one sealed hotkey."""
    window, declared, p = window_at(t), sealed.declared, selection.probability
    if not selection.selected:
        return MinerWindow(window, declared, active=True, checked=False, unique_valid=0, failed=False, probability=p)
    if sealed.if_drawn == IfDrawn.INCONCLUSIVE:
        counts = counts_inconclusive(account.history, window, declared)
        return MinerWindow(window, declared, False, counts, unique_valid=0, failed=False, probability=p, inconclusive=True)
    missing = sealed.if_drawn == IfDrawn.NO_FILE
    found = sealed.junk > 0 and sample_touches(seed, t, replica, sealed.groups, sealed.junk)
    if missing or found or sealed.unlucky:
        return MinerWindow(window, declared, active=False, checked=True, unique_valid=0, failed=True, probability=p)
    return MinerWindow(window, declared, active=True, checked=True, unique_valid=sealed.unique, failed=False, probability=p)


def live(hotkeys: Sequence[Strategy], crowd: int, windows: int, seed: int, *, apart: bool = False, paid: bool = True) -> Lived:
    """Let one hotkey of each of these strategies live beside a crowd of honest full-time miners.

    Args:
        hotkeys: the same strategy several times is several replicas of it.
        apart: each hotkey in a network of its own with such a crowd; else all in one.
        paid: False leaves pay at 0, which is most of the work.
    """
    count = len(hotkeys)
    rng = np.random.default_rng(seed)
    accounts = [Account() for _ in hotkeys]
    others = {hotkey(_CROWD + i): TRUSTED for i in range(crowd)}
    networks = [[r] for r in range(count)] if apart else [list(range(count))]
    members: dict[int, list[int]] = {}
    for r, one in enumerate(hotkeys):
        members.setdefault(id(one), []).append(r)
    lived = Lived.blank(windows, count)
    for t in range(windows):
        for account in accounts:
            account.open(t)
        sealed: dict[int, Sealed] = {}
        beside: dict[int, int] = {}
        for places in members.values():
            plan, fresh, company = _planned(hotkeys[places[0]], accounts, places, t, rng)
            beside |= dict(zip(places, company, strict=True))
            unlucky = rng.random(len(places)) < plan.false_reject
            lived.cost[t, places], lived.registered[t, places] = plan.cost, fresh
            columns = (plan.groups.tolist(), plan.junk.tolist(), plan.equal.tolist(), plan.if_drawn.tolist(), unlucky.tolist())
            sealed |= {r: Sealed(*row) for r, row in zip(places, zip(*columns, strict=True), strict=True) if row[0]}
        for network in networks:
            candidates = {
                hotkey(r): Candidate(sealed[r].declared, accounts[r].supported, accounts[r].lookback_end >= t)
                for r in network
                if r in sealed
            }
            newcomers = range(_COMPANY, _COMPANY + sum(beside[r] for r in network))
            everybody = candidates | others | {hotkey(i): Candidate(UNIQUE_ROLLOUTS_CAP) for i in newcomers}
            selections = select_miners(window_seed(seed, t), everybody) if candidates else ()
            selected = {one.hotkey: one for one in selections}
            for r in network:
                entry = None
                if r in sealed:
                    selection = selected[hotkey(r)]
                    entry = judged(seed, t, r, sealed[r], selection, accounts[r])
                    lived.drawn[t, r], lived.probability[t, r] = selection.selected, float(selection.probability)
                accounts[r].close(t, entry)
                if paid:
                    lived.pay[t, r] = accounts[r].power(t)
    return lived


def _planned(
    strategy: Strategy, accounts: list[Account], places: list[int], t: int, rng: np.random.Generator
) -> tuple[Plans, Bools, list[int]]:
    """What a strategy's replicas do, which of them do it under a new hotkey, and how many newcomers each brings along."""
    view = view_of([accounts[r] for r in places], t, rng)
    fresh = np.zeros(len(places), dtype=np.bool_)
    if strategy.leaves is not None and (fresh := strategy.leaves(view)).any():
        for at in np.flatnonzero(fresh):
            accounts[places[at]] = Account()
        view = view_of([accounts[r] for r in places], t, rng)
    plan = strategy.plan(view)
    company = [0] * len(places) if strategy.company is None else strategy.company(view).tolist()
    return plan, fresh, company
