"""The update that is measured: a random 4-layer Qwen2 and a group of 8 rollouts of one problem, 64 + 64 tokens each.

`python -m tooling.studies.benchmarks.grpo_workload FOLDER (time N | gradient FILE)` makes it with this project's trainer, in a
process of its own, and prints one line of JSON as `grpo_trl` does. Advantages, clip, betas, rates and the limit of the gradient
norm are the same on both sides; behaviour log-probabilities are those of the weights as they are, so no weight and no clip acts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROLLOUTS, PROMPT, COMPLETION = 8, 64, 64
VOCABULARY, HIDDEN, LAYERS = 32_000, 256, 4


def make(folder: Path) -> Path:
    """Model, tokenizer and rows. Returns `folder`."""
    from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model, save_byte_model

    save_byte_model(folder)
    random_model(Qwen2Shape(VOCABULARY, hidden=HIDDEN, layers=LAYERS, context=1024, spread=0.02), 0).save_pretrained(folder)
    rng = np.random.default_rng(0)
    rewards = rng.random(ROLLOUTS)
    centred = rewards - rewards.mean()
    np.savez(
        folder / "rows.npz",
        prompts=np.tile(rng.integers(0, VOCABULARY, PROMPT), (ROLLOUTS, 1)),
        completions=rng.integers(0, VOCABULARY, (ROLLOUTS, COMPLETION)),
        rewards=rewards,
        advantages=(centred / (rewards.std() + 1e-4)).astype(np.float32),
    )
    return folder


def memory(key: str) -> float:
    """MB of this process: VmRSS now, VmHWM the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def main(folder: Path, mode: str, argument: str) -> None:
    """Make N updates and time each, or write the gradient of the first."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
    from grail_trainer.learning.optimiser import Masters
    from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
    from grail_trainer.learning.update import update

    torch.set_num_threads(1)
    rows = np.load(folder / "rows.npz")
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    masters = Masters(module, OptimiserSettings(learning_rate=1e-3, warmup_steps=0))
    sequences = [
        TokenSequence((*map(int, prompt), *map(int, completion)), PROMPT)
        for prompt, completion in zip(rows["prompts"], rows["completions"], strict=True)
    ]
    settings = GrpoSettings(epochs=1, minibatches=1, loss="dapo", kl_coefficient=0.0)

    def group() -> RolloutGroup:
        drawn = np.split(masters.policy(sequences).logprob.numpy(), ROLLOUTS)
        members = zip(sequences, rows["rewards"], drawn, strict=True)
        return RolloutGroup("g", tuple(Rollout(row, float(reward), False, part) for row, reward, part in members))

    if mode == "gradient":
        step = masters.step

        def saving(**named: Any) -> float:
            save_file({name: p.grad.clone() for name, p in module.named_parameters()}, argument)
            return step(**named)

        masters.step = saving  # type: ignore[method-assign]
        update(masters, [group()], settings, window=0)
        return
    wall, cpu, before = [], [], 0.0
    for window in range(int(argument)):
        drawn = group()
        before = before or memory("VmRSS")
        started, spent = time.perf_counter(), time.process_time()
        update(masters, [drawn], settings, window=window)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - spent)
    print(json.dumps({"wall": wall, "cpu": cpu, "before": before, "peak": memory("VmHWM")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
