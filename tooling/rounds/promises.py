"""What a run has to show, each as a sentence that holds or does not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.protocol.gradient.rating import rated
from grail_core.protocol.verdicts import MinerStatus
from tooling.adversaries.gradient_miners import CHEATS
from tooling.rounds.plan import BIG
from tooling.rounds.run import Finished

LOSS_BOUND = 1.02
"""Held-out loss, over that of the same run in which those who lie do nothing."""
LOSS = f"held-out loss at most {LOSS_BOUND} of that with the liars silent"
NEVER_MERGED = ("noise", "flip", "scale", "late")
"""Lies that checks without a model see, before anything of them could be merged."""


@dataclass(frozen=True)
class Promise:
    """`said`: the figures, whether it holds or not."""

    name: str
    holds: bool
    said: str


def promises(run: Finished, silent: Finished | None) -> list[Promise]:
    """All that this run can be asked. `silent`: the same with the liars silent."""
    found = [*_liars(run), *_honest(run, "")]
    if silent is not None:
        found += [*_honest(silent, ", with the liars silent"), _loss(run, silent)]
        if run.plan.cheats and set(run.plan.cheats) <= set(NEVER_MERGED):
            found.append(_untouched(run, silent))
    found.append(_matches(run))
    if run.plan.validators > 1:
        apart = [line.number for line in run.lines if not line.alike]
        found.append(
            Promise("all validators have one verdict body in every round", not apart, f"apart in rounds {apart or '–'}")
        )
    for one in run.roots:
        found.append(
            Promise(f"{one.what}: equal weights_root", one.equal, f"{one.found.hex()[:16]}, {one.said.hex()[:16]} said")
        )
    if run.plan.kill:
        found.append(Promise("somebody was killed", bool(run.deaths), f"{len(run.deaths)} deaths"))
    return found


def _liars(run: Finished) -> list[Promise]:
    found = []
    for part in run.plan.parts:
        if part.honest or run.plan.silent:
            continue
        check, number = run.caught(part)
        right, weight = check in CHEATS[part.strategy].caught_by, run.weight(part.name)
        said = f"weight {weight}, " + (f"caught by {check} in round {number}" if check else "never caught")
        found.append(Promise(f"{part.name} ends at weight 0, caught by its check", right and weight == 0, said))
    return found


def _honest(run: Finished, when: str) -> list[Promise]:
    honest = [part.name for part in run.plan.parts if part.honest]
    failed = sum(line.rows[name].status == MinerStatus.FAILED.value for line in run.lines for name in honest)
    powers = {name: run.power(name) for name in honest}
    first = all(powers[BIG.name] > power for name, power in powers.items() if name != BIG.name)
    paid = [name for name in honest if run.weight(name) > 0]
    shares = ", ".join(f"{name} {power / max(1, powers[BIG.name]):.2f}" for name, power in powers.items())
    return [
        Promise(f"H2 is first{when}", first, f"F over H2's: {shares}"),
        Promise(f"no honest miner failed{when}", failed == 0, f"failed rounds: {failed}"),
        Promise(f"no honest miner is at weight 0{when}", len(paid) == len(honest), f"paid: {', '.join(paid)}"),
    ]


def _loss(run: Finished, silent: Finished) -> Promise:
    ratio = loss_ratio(run, silent)
    said = f"{run.losses[-1]:.4f} over {silent.losses[-1]:.4f} = {ratio:.4f}"
    return Promise(LOSS, ratio <= LOSS_BOUND, said)


def loss_ratio(run: Finished, silent: Finished) -> float:
    return run.losses[-1] / silent.losses[-1]


def loss_of_all(ratios: Sequence[float]) -> Promise:
    """Of all seeds together: losses of two runs differ by chance, whoever lies, and by more than the bound."""
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    said = f"{', '.join(f'{ratio:.4f}' for ratio in ratios)}: {mean:.4f}"
    return Promise(f"{LOSS}, geometric mean of {len(ratios)} seeds", mean <= LOSS_BOUND, said)


def _untouched(run: Finished, silent: Finished) -> Promise:
    """Liars that cannot be merged leave no trace in any checkpoint or rating."""
    roots = [line.weights_root for line in run.lines] == [line.weights_root for line in silent.lines]
    honest = [part.name for part in run.plan.parts if part.honest]
    ratings = all(run.standing(name) == silent.standing(name) for name in honest)
    name = "checkpoints and the honest ratings are those with the liars silent, to the bit"
    return Promise(
        name, roots and ratings, f"checkpoints {'equal' if roots else 'differ'}, ratings {'equal' if ratings else 'differ'}"
    )


def _matches(run: Finished) -> Promise:
    """Who failed is in no match: the honest ratings follow from the ranks of the accepted alone, in every round."""
    wrong, accepted_liars = [], 0
    honest = {run.uids[part.name] for part in run.plan.parts if part.honest}
    for line, body in zip(run.lines, run.bodies, strict=True):
        players = [one for one in body.miners if one.status is MinerStatus.ACCEPTED and one.score is not None]
        accepted_liars += sum(one.uid not in honest for one in players)
        before = [one.rating_before for one in players if one.rating_before is not None]
        after = rated(before, [one.score.rank for one in players if one.score is not None])
        if after != [one.rating_after for one in players]:
            wrong.append(line.number)
    said = f"wrong in rounds {wrong or '–'}; liars took part in {accepted_liars} matches before they were caught or between"
    return Promise("ratings follow from matches of the accepted alone, to the bit", not wrong, said)
