"""Many replicas of one strategy side by side in float64, each alone in a network with a crowd of honest full-time miners.

For the table, whose cells are 20,000 windows each. What it computes are the rules of sections 9 and 10 written for arrays; it
stands only because `network.live`, which calls the protocol's own functions, gives the same pay within 1e-9 (tested on
strategies that do everything a plan can).
"""

from __future__ import annotations

import numpy as np

from grail_core.protocol.constants import (
    AUDITS_OF_A_PRODUCT,
    CHECK_PROBABILITY_FLOOR,
    CHECKED_MINERS_EXPECTED,
    INCONCLUSIVE_FREE,
    INCONCLUSIVE_FREE_AUDITS,
    LOOKBACK_AUDITS,
    LOOKBACK_WINDOWS,
    NEWCOMERS_CHECKED,
    ROLLOUTS_PER_PROBLEM,
    SCORE_MEMORY_WINDOWS,
    SCORE_WINDOWS,
    SUPPORT_FACTOR,
    UNIQUE_ROLLOUTS_CAP,
)
from grail_validator.simulation.coins import coin_table, sample_touches
from grail_validator.simulation.network import Lived
from grail_validator.simulation.plans import NEVER, Bools, Floats, IfDrawn, Ints, Plans, Strategy, View

_FLOOR = CHECK_PROBABILITY_FLOOR[0] / CHECK_PROBABILITY_FLOOR[1]


class _Memory:
    """The last 72 windows of every replica, rings by window. Sizes are shares of the cap."""

    def __init__(self, replicas: int) -> None:
        rings = (SCORE_MEMORY_WINDOWS, replicas)
        self.declared, self.valid = np.zeros(rings), np.zeros(rings)  # 0 where there was no audit
        self.estimate = np.zeros(rings)  # v/p
        self.inconclusive = np.zeros(rings, dtype=np.bool_)
        self.active = np.zeros((SCORE_WINDOWS, replicas))
        self.last_failure, self.last_audit = np.full(replicas, -NEVER), np.full(replicas, -NEVER)
        self.lookback_end = np.full(replicas, -1)
        self.age = np.zeros(replicas, dtype=np.int64)

    def open(self, t: int) -> None:
        i = t % SCORE_MEMORY_WINDOWS
        self.declared[i] = self.valid[i] = self.estimate[i] = self.active[t % SCORE_WINDOWS] = 0
        self.inconclusive[i] = False

    def leave(self, gone: Bools) -> None:
        for ring in (self.declared, self.valid, self.estimate, self.inconclusive, self.active):
            ring[:, gone] = 0
        self.last_failure[gone] = self.last_audit[gone] = -NEVER
        self.lookback_end[gone], self.age[gone] = -1, 0

    def view(self, t: int, rng: np.random.Generator) -> View:
        def rollouts(shares: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.rint(shares * UNIQUE_ROLLOUTS_CAP).astype(np.int64)

        left = np.maximum(0, self.lookback_end - t + 1)
        return View(
            t,
            rng,
            (self.declared > 0).sum(0),
            (self.valid > 0).sum(0),
            rollouts(self.valid.sum(0)),
            rollouts(self.active.sum(0)),
            np.minimum(NEVER, t - self.last_failure - 1),
            np.minimum(NEVER, t - self.last_audit - 1),
            left > 0,
            left,
            self.inconclusive.sum(0),
            self.age.copy(),
        )

    def pay(self, t: int) -> Floats:
        """Power of every replica as of window t, 1 for a full one."""
        replicas = self.declared.shape[1]
        both = np.concatenate((self.valid, self.declared), axis=1)
        sums = np.zeros((AUDITS_OF_A_PRODUCT + 1, 2 * replicas))
        sums[0] = 1
        for row in both[both.any(axis=1)]:
            sums[1:] += sums[:-1] * row
        audits = (self.declared > 0).sum(0)
        degree = np.minimum(AUDITS_OF_A_PRODUCT, audits)
        at = np.arange(replicas)
        ratio = np.where(audits > 0, sums[degree, at] / np.maximum(sums[degree, at + replicas], 1e-300), 0)
        work = self.active.sum(0) / SCORE_WINDOWS
        supported = np.minimum(SUPPORT_FACTOR * self.valid.sum(0), self.estimate.sum(0))
        volume = np.minimum(work, supported / SCORE_WINDOWS)
        return np.where(t <= self.lookback_end, 0, work**3 * volume * ratio)


def chances(sizes: Floats, view: View, crowd: int, company: Ints | int = 0) -> Floats:
    """Check probabilities, each replica beside its own crowd and its company of newcomers. Sizes are shares of the cap."""
    newcomer = view.supported < AUDITS_OF_A_PRODUCT * np.rint(sizes * UNIQUE_ROLLOUTS_CAP)
    among = crowd + sizes + np.where(newcomer, company, 0)
    p = np.clip(CHECKED_MINERS_EXPECTED * sizes / np.maximum(among, 1e-300), _FLOOR, 1.0)
    p = np.where(newcomer, np.maximum(p, np.minimum(0.5, NEWCOMERS_CHECKED / (1 + np.asarray(company)))), p)
    return np.where(view.in_lookback, _FLOOR, p)


def _speaks_for(valid: Floats, p: Floats) -> Floats:
    """⌊v/p⌋ in whole rollouts, as a share of the cap; a float of one that is whole must not fall below it."""
    return np.floor(valid * UNIQUE_ROLLOUTS_CAP / np.maximum(p, _FLOOR) + 1e-6) / UNIQUE_ROLLOUTS_CAP


def live_replicas(strategy: Strategy, crowd: int, windows: int, replicas: int, seed: int, *, unpaid: int = 0) -> Lived:
    """As `network.live([strategy] * replicas, …, apart=True)`; the pay of the first `unpaid` windows is left at 0."""
    rng = np.random.default_rng(seed)
    coins = coin_table(seed, windows, replicas).astype(np.float64) / 2.0**64
    memory = _Memory(replicas)
    lived = Lived.blank(windows, replicas)
    for t in range(windows):
        memory.open(t)
        view = memory.view(t, rng)
        if strategy.leaves is not None and (fresh := strategy.leaves(view)).any():
            memory.leave(fresh)
            lived.registered[t] = fresh
            view = memory.view(t, rng)
        plan = strategy.plan(view)
        unlucky = rng.random(replicas) < plan.false_reject
        lived.cost[t] = plan.cost
        sizes = np.minimum(plan.groups * ROLLOUTS_PER_PROBLEM, UNIQUE_ROLLOUTS_CAP) / UNIQUE_ROLLOUTS_CAP
        company = 0 if strategy.company is None else strategy.company(view)
        p = np.where(sizes > 0, chances(sizes, view, crowd, company), 0)
        drawn = coins[t] < p
        lived.probability[t], lived.drawn[t] = p, drawn
        _conclude(memory, seed, t, plan, sizes, p, drawn, unlucky, view)
        memory.age += 1
        if t >= unpaid:
            lived.pay[t] = memory.pay(t)
    return lived


def _conclude(
    memory: _Memory, seed: int, t: int, plan: Plans, sizes: Floats, p: Floats, drawn: Bools, unlucky: Bools, view: View
) -> None:
    """Write window t into the memory."""
    inconclusive = drawn & (plan.if_drawn == IfDrawn.INCONCLUSIVE)
    judged = drawn & ~inconclusive
    touched = judged & (plan.junk > 0)
    for r in np.flatnonzero(touched & (plan.junk < plan.groups)):
        touched[r] = sample_touches(seed, t, int(r), int(plan.groups[r]), int(plan.junk[r]))
    failed = judged & (touched | unlucky | (plan.if_drawn == IfDrawn.NO_FILE))
    unsupported = view.supported < INCONCLUSIVE_FREE_AUDITS * np.rint(sizes * UNIQUE_ROLLOUTS_CAP)
    counted = judged | (inconclusive & ((view.inconclusive >= INCONCLUSIVE_FREE) | unsupported))
    i = t % SCORE_MEMORY_WINDOWS
    memory.declared[i] = np.where(counted, sizes, 0)
    unique = (plan.groups - plan.equal) * ROLLOUTS_PER_PROBLEM / UNIQUE_ROLLOUTS_CAP
    memory.valid[i] = np.where(judged & ~failed, np.minimum(sizes, unique), 0)
    memory.estimate[i] = _speaks_for(memory.valid[i], p)
    memory.inconclusive[i] = inconclusive
    memory.active[t % SCORE_WINDOWS] = np.where(failed | inconclusive, 0, sizes)
    least, most = LOOKBACK_WINDOWS
    # Chances are fractions; a float of one that is 5 / k must not round up to k + 1.
    lookback = np.clip(np.ceil(LOOKBACK_AUDITS / np.maximum(p, 1e-9) - 1e-9), least, most).astype(np.int64)
    memory.last_audit = np.where(counted, t, memory.last_audit)
    memory.last_failure = np.where(failed, t, memory.last_failure)
    memory.lookback_end = np.where(failed, np.maximum(memory.lookback_end, t + lookback - 1), memory.lookback_end)
