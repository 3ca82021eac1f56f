"""A1 to A11: forged proofs, each as real files before the real checks.

`ATTACKS` maps each id to what runs it. The scene (network, trained model, miners) is made once a run, of a size in
`scene.WHOLE`, or `scene.SWIFT` with `--quick`; tests take `scene.BRIEF`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from grail_core.environment import Message
from grail_core.files.window_file import header_of
from grail_core.model.policy_model import PolicyModel
from tooling.adversaries.courtroom import Courtroom
from tooling.adversaries.deviations.forged_proofs import asked_otherwise, asked_otherwise_in_secret
from tooling.adversaries.hostile_files import with_a_second_reading, with_a_wished_header, without_sketches
from tooling.adversaries.rows import Row
from tooling.adversaries.scene import Scene, attacks_of, open_scene, run_deviations, try_deviation
from tooling.adversaries.tampering import (
    FORGED_SKETCHES,
    Change,
    last_token_changed,
    map_rollouts,
    one_token_changed,
    order_changed,
)

_NO_MODEL_SCALES = ("0.5", "1", "100", "heavy-tailed")
_ONE_IN_SIXTEEN = "{}, one rollout in 16 run honestly"


def run_a1(scene: Scene) -> Row:
    """Sketch columns that are no sketches. The file is otherwise the honest one, its signature and header untouched."""
    row = Row("A1", "file")
    court = scene.before(0)
    honest = court.pack(scene.honest(0, 1))
    for name, data in without_sketches(honest).items():
        row.add(name, court.examine(data, header=header_of(honest)))
    row.honest(scene.honest_ruling(0, 1))
    return row


def run_a2(scene: Scene, scales: Sequence[str] = _NO_MODEL_SCALES) -> Row:
    """No model run, at every scale of the policy's hidden states: z does not know the scale."""
    row = Row("A2", "file")
    for scale in scales:
        folder = Path(tempfile.mkdtemp(prefix="grail-scaled-"))
        try:
            model = _rescaled(scene.folders.policy, folder / "model", scale)
            with open_scene(scene.extent, store=scene.store, model=model) as scaled:
                for name, change in FORGED_SKETCHES.items():
                    ruling = scaled.examine(0, map_rollouts(change)(scaled.honest(0, 1)))
                    row.add(f"{name}, hidden states × {scale}", ruling)
                row.honest(scaled.honest_ruling(0, 1))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return row


def run_a3(scene: Scene) -> Row:
    return run_deviations(scene, Row("A3", "file"), ["sketches of another model"], 1)


def run_a4(scene: Scene) -> Row:
    row = Row("A4", "miner-window")
    groups = scene.extent.window_groups
    four = ["4-bit weights, per channel", "4-bit weights, groups of 32"]
    run_deviations(scene, row, [*four, *map(_ONE_IN_SIXTEEN.format, four)], groups)
    eight = ["8-bit weights, per channel", "8-bit weights, groups of 32", "8-bit weights, groups of 64 with zero point"]
    forged = [
        "8-bit weights, states moved by a fitted map",
        "8-bit weights, sketches hidden in noise, in a fifth of the rollouts",
    ]
    others = ["8-bit floating-point weights", "8-bit weights, float32 activations", *forged]
    return run_deviations(scene, row, [*eight, *map(_ONE_IN_SIXTEEN.format, eight), *others], groups, power=True)


def run_a5(scene: Scene) -> Row:
    names = [f"previous checkpoint, lr {rate}" for rate in ("1e-6", "3e-6", "1e-5")]
    return run_deviations(scene, Row("A5", "miner-window"), names, scene.extent.window_groups, power=True)


def run_a6(scene: Scene) -> Row:
    names = ["hidden states of the layer before", "hidden states before the norm"]
    return run_deviations(scene, Row("A6", "miner-window"), names, scene.extent.window_groups)


def run_a7(scene: Scene) -> Row:
    """Another prompt: shown in the file, or hidden behind the assigned tokens."""
    row = Row("A7", "miner-window")
    court = scene.before(0)
    for name, messages in _other_prompts(court).items():
        prompts = [court.loaded.renderer.render(messages)]
        scene.submit(row, name, 0, asked_otherwise(scene.bench(0, 1), prompts))
        scene.submit(row, f"{name}, assigned tokens claimed", 0, asked_otherwise_in_secret(scene.bench(0, 1), prompts))
    return run_deviations(scene, row, ["other prompt, right tokens claimed"], scene.extent.window_groups)


def _other_prompts(court: Courtroom) -> dict[str, list[Message]]:
    environment = court.network.environment
    own = environment.messages(environment.problem(court.context.problem_seed(court.hotkey, 0)))
    easier = environment.messages(environment.problem(court.context.problem_seed(court.hotkey, 1)))
    return {
        "system prompt swapped": [Message("system", "Answer in one word."), own[-1]],
        "few-shot prefix added": [*own[:-1], easier[-1], Message("assistant", "<answer>x1=0</answer>"), own[-1]],
        "another problem": easier,
    }


def run_a8(scene: Scene) -> Row:
    """Everything a miner could wish to choose of the window's randomness: in the header, in the projections, in the seeds.

    A wished header is sealed as it stands in the file, or the right one is and the file has the other.
    """
    row = Row("A8", "file")
    court, groups = scene.before(0), scene.honest(0, 1)
    rows = [one for group in groups for one in group.rollouts]
    network_id, other, honest = court.context.network_id, scene.before(1).hotkey, court.pack(groups)
    for name, data in with_a_wished_header(honest, rows, network_id, court.mining.signer, other).items():
        row.add(name, court.examine(data))
        row.add(f"{name}, the right one sealed", court.examine(data, header=header_of(honest)))
    try_deviation(scene, row, "own projections", 0, 1)
    return run_deviations(scene, row, ["wrong seeds"], 1)


def run_a9(scene: Scene) -> Row:
    """Tokens changed after proving, in every rollout of one group; the claims stay those of the tokens proved."""
    row = Row("A9", "file")
    court, vocabulary = scene.before(0), scene.court.model.vocabulary_size
    changes: dict[str, Change] = {
        "one token": one_token_changed(vocabulary),
        "last token": last_token_changed(vocabulary, scene.court.end),
        "order of two": order_changed,
    }
    for name, change in changes.items():
        row.add(name, scene.examine(0, court.graded_again(map_rollouts(change)(scene.honest(0, 1)))))
    row.honest(scene.honest_ruling(0, 1))
    return row


def run_a10(scene: Scene) -> Row:
    """A second reading of the same rollout: there is no place in a file for one."""
    row = Row("A10", "file")
    court = scene.before(0)
    honest = court.pack(scene.honest(0, 1))
    for name, data in with_a_second_reading(honest).items():
        row.add(name, court.examine(data, header=header_of(honest)))
    row.honest(scene.honest_ruling(0, 1))
    return row


def run_a11(scene: Scene) -> Row:
    names = ["middle layer skipped", "middle layer skipped, least-squares patch", "context cut to the last tokens"]
    return run_deviations(scene, Row("A11", "miner-window"), names, scene.extent.window_groups, power=True)


RUNS: dict[str, Callable[[Scene], Row]] = {
    "A1": run_a1,
    "A2": run_a2,
    "A3": run_a3,
    "A4": run_a4,
    "A5": run_a5,
    "A6": run_a6,
    "A7": run_a7,
    "A8": run_a8,
    "A9": run_a9,
    "A10": run_a10,
    "A11": run_a11,
}
"""Every id of the family over a scene that is open already."""

ATTACKS = attacks_of(RUNS)
"""The rows at one size of the study, or a quick run's, over one scene for all of them."""


def _rescaled(model: Path, folder: Path, scale: str) -> Path:
    """The same model with its last norm's weights scaled (the head divided by as much, so it samples alike)."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    norm, head = weights["model.norm.weight"].float(), weights["lm_head.weight"].float()
    if scale == "heavy-tailed":
        factor = torch.ones_like(norm)
        factor[:: max(1, len(factor) // 3)] = 30.0
    else:
        factor = torch.full_like(norm, float(scale))
    weights["model.norm.weight"] = (norm * factor).to(torch.bfloat16)
    weights["lm_head.weight"] = (head / factor).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    PolicyModel.load(folder)  # it must still be a model
    return folder
