"""The update that is measured: a random 4-layer Qwen2 and a group of 8 rollouts of one problem, 64 + 64 tokens each.

`python -m tooling.studies.benchmarks.grpo_workload (time FOLDER N | gradient FOLDER FILE | floor | logprob)` makes it with this
project's trainer, in a process of its own, and prints one line of JSON as `grpo_trl` does. Advantages, clip, betas, rates and
the limit of the gradient norm are the same on both sides; behaviour log-probabilities are those of the weights as they are, so
that no weight and no clip acts.
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
    from transformers.utils import logging as transformers_logging

    from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model, save_byte_model

    transformers_logging.disable_progress_bar()  # beside a table it says nothing
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


def updates(mode: str, folder: Path, argument: str) -> dict[str, Any]:
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
        return {}
    wall, cpu, before, drawn = [], [], memory("VmRSS"), group()
    for window in range(int(argument)):
        started, spent = time.perf_counter(), time.process_time()
        update(masters, [drawn], settings, window=window)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - spent)
        drawn = group()
    return {"wall": wall, "cpu": cpu, "before": before, "peak": memory("VmHWM")}


def floor(repeats: int = 9) -> dict[str, Any]:
    """The products of one update alone: of the head for every completion token, of the body for every token once."""
    torch.set_num_threads(1)
    tokens = PROMPT + ROLLOUTS * (COMPLETION - 1)
    narrow, wide = HIDDEN // 2, 2 * HIDDEN  # keys and values; the feed-forward part
    body = [(HIDDEN, HIDDEN)] * 2 + [(HIDDEN, narrow)] * 2 + [(HIDDEN, wide)] * 3
    products = [(ROLLOUTS * COMPLETION, HIDDEN, VOCABULARY)] + [(tokens, one, other) for one, other in body] * LAYERS
    operands = [(torch.randn(n, k), torch.randn(m, k), torch.randn(n, m), torch.empty(m, k)) for n, k, m in products]
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        for states, weight, slopes, to_weight in operands:
            torch.mm(states, weight.t(), out=slopes)
            torch.mm(slopes, weight)
            torch.mm(slopes.t(), states, out=to_weight)
        spent.append(time.process_time() - started)
    return {"floor": min(spent)}


def logprob() -> dict[str, Any]:
    """The head alone at a large vocabulary."""
    from grail_trainer.learning.head import head_pass
    from tooling.testing.weighted_tokens import WeightedTokens

    torch.set_num_threads(1)
    hidden = torch.randn(1024, 896).requires_grad_()
    weight = torch.empty(151_936, 896).normal_(0, 0.02).requires_grad_()
    targets, on_logprob = torch.randint(0, len(weight), (1024,)), torch.randn(1024)
    warm = head_pass(hidden[:8], weight, targets[:8])  # so that code is in memory on both sides of the difference
    before = memory("VmRSS")
    out = head_pass(hidden, weight, targets, WeightedTokens(on_logprob))
    assert out.loss is not None
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    returned = (hidden.grad.nbytes + weight.grad.nbytes + out.logprob.nbytes + out.entropy.nbytes) / 2**20
    del warm
    return {"peak": memory("VmHWM") - before - returned}


def main(mode: str, *arguments: str) -> None:
    if mode in ("time", "gradient"):
        result = updates(mode, Path(arguments[0]), arguments[1])
    else:
        result = {"floor": floor, "logprob": logprob}[mode]()
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
