"""B1 to B8: text that was not sampled from the policy, each as real files before the real checks.

Unless a row says otherwise, the text is proved honestly: right model, right prefill, right log-probabilities, so that only
the way it came about is wrong. Scene and sizes as in `family_a`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from tooling.adversaries.deviations.observation import Rollout
from tooling.adversaries.deviations.rules import WithoutEnd
from tooling.adversaries.deviations.workbench import Bench, edited
from tooling.adversaries.scene import WHOLE, WINDOW_GROUPS, Row, Scene, open_scene, run_deviations, shared_scene
from tooling.testing.models.language_model import CONTROLS

_ONE_GROUP = 1


def run_b1(scene: Scene) -> Row:
    row = Row("B1", "file")
    run_deviations(scene, row, ["smaller model, right prefill"], _ONE_GROUP)
    names = ["4-bit generation, right prefill", "8-bit generation, right prefill"]
    return run_deviations(scene, row, names, scene.extent.window_groups, power=True)


def run_b2(scene: Scene) -> Row:
    row = Row("B2", "file")
    run_deviations(scene, row, ["wrong seeds", "best of 2", "best of 16"], _ONE_GROUP)
    names = [f"steering, {flips} per 1,000 tokens" for flips in ("1 flip", "3 flips", "10 flips")]
    return run_deviations(scene, row, names, scene.extent.window_groups, power=True)


def run_b3(scene: Scene) -> Row:
    row = Row("B3", "file")
    run_deviations(scene, row, ["greedy", "temperature × 0.7", "top-k 50"], _ONE_GROUP)
    names = ["temperature × 0.9", "temperature × 1.2", "repetition penalty 1.1", "top-p 0.95"]
    run_deviations(scene, row, names, scene.extent.window_groups)
    return run_deviations(scene, row, ["top-p 0.99"], scene.extent.window_groups, power=True)


def run_b4(scene: Scene) -> Row:
    """Text from a corpus, a template, and what was sampled for the window before."""
    row = run_deviations(scene, Row("B4", "file"), ["cached text", "wrong seeds", "5 % of tokens replaced"], _ONE_GROUP)
    for miner in range(scene.extent.tries):
        bench = scene.bench(miner, _ONE_GROUP)
        one = bench.sample()[0]
        template = [Rollout(0, r, one.tokens, one.prompt_length) for r in range(ROLLOUTS_PER_PROBLEM)]
        _submit(row, scene, miner, bench, "one rollout's text in all sixteen", template)
    return row


def run_b5(scene: Scene) -> Row:
    """Stopping where nothing ends, and taking the end where it is merely possible."""
    row = Row("B5", "miner-window")
    for miner in range(scene.extent.tries):
        bench = scene.bench(miner, _ONE_GROUP)
        cut = [edited(r, r.completion[: max(1, len(r.completion) // 2)]) for r in bench.sample()]
        _submit(row, scene, miner, bench, "cut without an end token", cut)
        ended = [edited(r, (*r.completion[: max(1, len(r.completion) // 2)], bench.end)) for r in bench.sample()]
        _submit(row, scene, miner, bench, "end token put where none was sampled", ended)
    return run_deviations(scene, row, ["early end"], scene.extent.window_groups)


def run_b6(scene: Scene) -> Row:
    row = Row("B6", "file")
    for miner in range(scene.extent.tries):
        bench = scene.bench(miner, _ONE_GROUP)
        full = bench.sample(ends=False)
        half = bench.limit // 2
        middle = [edited(r, (*r.completion[:half], bench.end, *r.completion[half + 1 :])) for r in full]
        _submit(row, scene, miner, bench, "text after the end token", middle)
        padded = [edited(r, (*r.completion[:half], *[bench.end] * (bench.limit - half))) for r in full]
        _submit(row, scene, miner, bench, "padded with end tokens up to the limit", padded)
        row.honest(scene.honest_ruling(miner, _ONE_GROUP))
    return row


def run_b7(scene: Scene) -> Row:
    """The end is never taken. The tiny models seldom end in time, so here a frequent token is the end token."""
    row = Row("B7", "miner-window")
    completions = [token for r in scene.bench(0, 2).sample() for token in r.completion]
    frequent = Counter(token for token in completions if token >= len(CONTROLS)).most_common(1)[0][0]
    extent = replace(scene.extent, limit=2 * scene.extent.limit, window_groups=WINDOW_GROUPS)
    with open_scene(extent, store=scene.store, end=frequent) as ending:
        for miner in range(extent.tries):
            bench = ending.bench(miner, extent.window_groups)
            endless = bench.sample(chooser=WithoutEnd(bench.honest, bench.end))
            _submit(row, ending, miner, bench, "end suppressed", endless)
            row.honest(ending.honest_ruling(miner, extent.window_groups))
    return row


def run_b8(scene: Scene) -> Row:
    names = [f"log-probabilities: {how}" for how in ("zeros", "shifted by −0.1", "half of them right")]
    return run_deviations(scene, Row("B8", "miner-window"), names, scene.extent.window_groups)


RUNS: dict[str, Callable[[Scene], Row]] = {
    "B1": run_b1,
    "B2": run_b2,
    "B3": run_b3,
    "B4": run_b4,
    "B5": run_b5,
    "B6": run_b6,
    "B7": run_b7,
    "B8": run_b8,
}
"""Every id of the family over a scene that is open already."""


def _whole(id_: str, *, seed: int = 0, tries: int = WHOLE.tries) -> dict[str, Any]:
    return RUNS[id_](shared_scene(replace(WHOLE, seed=seed, tries=tries))).to_json()


ATTACKS: dict[str, Callable[[], dict[str, Any]]] = {id_: partial(_whole, id_) for id_ in RUNS}
"""The rows at the size of the published table, over one scene for all of them."""


def _submit(row: Row, scene: Scene, miner: int, bench: Bench, name: str, rollouts: list[Rollout]) -> None:
    """Prove honestly, pack and judge."""
    court = scene.before(miner)
    claims = bench.prove(rollouts)
    row.add(name, court.judge(court.pack(court.groups_of(rollouts, claims))))
