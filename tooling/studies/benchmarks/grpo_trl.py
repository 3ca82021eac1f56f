"""One GRPO update by TRL's `GRPOTrainer`, in its own trainer loop; run by a Python that has `trl`, not imported by anything.

    python grpo_trl.py FOLDER CONFIGURATION (time N | gradient FILE)

Generation and rewards are left out: what they would hand to the update is read from the folder (`grpo_workload`). A step is what
lies between the trainer's own events, from the beginning of a step to its end: loss, backward, clip, optimiser. Prints one line
of JSON. Nothing of this project is imported.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {"optim": "adamw_torch_fused"},
    "foreach": {"optim": "adamw_torch"},
    "small-optimiser": {"optim": "adamw_torch", "optim_args": "foreach=False"},
    "eager-attention": {"optim": "adamw_torch_fused", "_attention": "eager"},
    "compiled": {"optim": "adamw_torch_fused", "torch_compile": True},
    "micro-batches-of-2": {"optim": "adamw_torch_fused", "_micro": 2},
}
"""Everything that could be faster or smaller than the default on a CPU. In all: no gradient checkpointing, beta 0, float32, no
KL, entropies because 1.16 computes them always, and the chunked head, which 1.16 always uses."""


def memory(key: str) -> float:
    """MB of this process: VmRSS now, VmHWM the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.before = self.peak = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.wall:
            self.before = memory("VmRSS")
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.wall.append(time.perf_counter() - self._wall)
        self.cpu.append(time.process_time() - self._cpu)
        self.peak = memory("VmHWM")


class Gradients(TrainerCallback):
    """Saves what the first step's backward made, before it is clipped."""

    def __init__(self, file: str) -> None:
        self._file = file

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        save_file({name: p.grad.clone() for name, p in model.named_parameters()}, self._file)


def main() -> None:
    folder, name, mode, argument = sys.argv[1:5]
    torch.set_num_threads(1)
    options = dict(CONFIGURATIONS[name])
    attention, micro = options.pop("_attention", "sdpa"), options.pop("_micro", 8)
    rows = np.load(f"{folder}/rows.npz")
    prompts, completions = torch.from_numpy(rows["prompts"]), torch.from_numpy(rows["completions"])
    batches = [
        {
            "prompt_ids": prompts[part : part + micro],
            "prompt_mask": torch.ones_like(prompts[part : part + micro]),
            "completion_ids": completions[part : part + micro],
            "completion_mask": torch.ones_like(completions[part : part + micro]),
            "advantages": torch.from_numpy(rows["advantages"])[part : part + micro],
            "num_items_in_batch": torch.tensor(float(completions.numel())),
        }
        for part in range(0, len(prompts), micro)
    ]
    clock, turn = Clock(), 0
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    arguments = GRPOConfig(
        output_dir=f"{folder}/trl",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(prompts) // micro,
        num_generations=len(prompts),
        max_completion_length=completions.shape[1],
        max_steps=1 if mode == "gradient" else int(argument),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0 if mode == "time" else 1e9,
        beta=0.0,
        loss_type="dapo",
        epsilon_high=0.28,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["x"] * 64}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[clock if mode == "time" else Gradients(argument)],
    )

    def prepared(_: Any) -> Any:
        nonlocal turn
        turn += 1
        return batches[(turn - 1) % len(batches)]

    trainer._prepare_inputs = prepared
    trainer.train()
    print(json.dumps({"wall": clock.wall, "cpu": clock.cpu, "before": clock.before, "peak": clock.peak}))


if __name__ == "__main__":
    main()
