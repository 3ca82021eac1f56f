"""B1 to B8: text that was not sampled from the policy, each as real files before the real checks.

Unless a row says otherwise, the text is proved honestly: right model, right prefill, right log-probabilities, so that only
the way it came about is wrong. Scene and sizes as in `family_a`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from tooling.adversaries.rows import Row
from tooling.adversaries.scene import WINDOW_GROUPS, Scene, attacks_of, open_scene, run_deviations, try_deviations
from tooling.testing.models.language_model import CONTROLS

_ONE_GROUP = 1


def run_b1(scene: Scene) -> Row:
    row = Row("B1", "file")
    run_deviations(scene, row, ["smaller model, right prefill"], _ONE_GROUP)
    names = [
        "4-bit generation, right prefill",
        "8-bit generation, right prefill",
        "8-bit generation by groups of 64 with zero point, right prefill",
    ]
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
    return run_deviations(scene, row, ["temperature × 0.95", "top-p 0.99"], scene.extent.window_groups, power=True)


def run_b4(scene: Scene) -> Row:
    """Text from a corpus, what was sampled for another window, and a template."""
    row = run_deviations(scene, Row("B4", "file"), ["cached text", "wrong seeds", "5 % of tokens replaced"], _ONE_GROUP)
    return try_deviations(scene, row, ["one rollout's text in all sixteen"], _ONE_GROUP)


def run_b5(scene: Scene) -> Row:
    """Stopping where nothing ends, and taking the end where it is merely possible."""
    row = Row("B5", "miner-window")
    try_deviations(scene, row, ["cut without an end token", "end token put where none was sampled"], _ONE_GROUP)
    return run_deviations(scene, row, ["early end"], scene.extent.window_groups)


def run_b6(scene: Scene) -> Row:
    names = ["text after the end token", "padded with end tokens up to the limit"]
    return run_deviations(scene, Row("B6", "file"), names, _ONE_GROUP)


def run_b7(scene: Scene) -> Row:
    """The end is never taken. The tiny models seldom end in time, so here a frequent token is the end token."""
    completions = [token for r in scene.bench(0, 2).sample() for token in r.completion]
    frequent = Counter(token for token in completions if token >= len(CONTROLS)).most_common(1)[0][0]
    extent = replace(scene.extent, limit=2 * scene.extent.limit, window_groups=WINDOW_GROUPS)
    with open_scene(extent, store=scene.store, end=frequent) as ending:
        return run_deviations(ending, Row("B7", "miner-window"), ["end suppressed"], extent.window_groups)


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

ATTACKS = attacks_of(RUNS)
"""As in `family_a`."""
