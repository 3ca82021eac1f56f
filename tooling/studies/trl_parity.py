"""Loss and gradient of every loss that TRL has too, held against TRL's own code on the same rows and weights.

    hatch run peers:python -m tooling.studies.trl_parity

It runs where `trl` is installed (the environment `peers`), in 20 seconds on two cores. TRL's `GRPOTrainer._compute_loss` is
called as it stands, in float32, with what generation would have handed to it; here `learning.update.accumulate` makes the same
step's gradient. A row of the table is a setting of both: the losses, and how far apart the two sides are, relative (gradients
in their norm). "tensors": on the same log-probabilities and entropies, with gradients in these, at most 1e-6. "model": through
a tiny Qwen2 and either side's own head, whose roundings differ; gradients in the weights, at most 3e-6.

The last rows are settings in which TRL is another thing on purpose, each with the reason; there the two have to differ, so that
what is said of them stays true. The command fails otherwise.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings, LossKind
from grail_trainer.learning.importance import importance
from grail_trainer.learning.normalisers import StepCounts
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.update import accumulate
from grail_trainer.learning.window_rows import WindowRows
from tooling.testing.given_logprobs import GivenLogprobs

MOST_OF_TENSORS, MOST_OF_A_MODEL = 1e-6, 3e-6
TEMPERATURE = 0.9
TOKEN_LIMIT = 12
PAD = 0
LOSSES: tuple[LossKind, ...] = ("grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo")

PER_BATCH = "TRL divides by the tokens of each micro-batch and takes their mean; here by those of the whole step"
CORRECTED = "TRL's default multiplies k3 by the ratio, for the gradient of the KL itself; here that gradient is k2's"
CLIPPED_TWICE = "TRL's delta under 1 + epsilon_high leaves the clip alone; dual clip's c holds under it as well"


@dataclass(frozen=True)
class Setting:
    """One row of the table. `theirs`: attributes of TRL's trainer, `theirs_args` of its arguments."""

    name: str
    ours: GrpoSettings
    theirs: dict[str, Any]
    theirs_args: dict[str, Any] = field(default_factory=dict)
    begun: bool = True
    masked: tuple[int, ...] = ()
    weighted: bool = False
    micro_batches: int = 1
    differs: str = ""


def settings() -> list[Setting]:
    rows = [row for kind in LOSSES for row in _of_one_loss(kind)]
    two: dict[LossKind, str] = {"bnpo": PER_BATCH}
    rows += [_setting(f"{kind}, two micro-batches", kind, micro_batches=2, differs=two.get(kind, "")) for kind in LOSSES]
    rows.append(
        _setting("grpo, KL with ratio", "grpo", {"kl_coefficient": 0.1}, corrected=True, differs=CORRECTED),
    )
    rows.append(_setting("grpo, c = 1.1", "grpo", {"dual_clip": 1.1}, differs=CLIPPED_TWICE))
    return rows


def _of_one_loss(kind: LossKind) -> list[Setting]:
    asymmetric = {"clip_low": 0.1, "clip_high": 2.0 if kind == "cispo" else 0.3}
    if kind == "cispo":
        del asymmetric["clip_low"]
    rows = [
        _setting(f"{kind}, first step", kind, begun=False),
        _setting(f"{kind}, later step", kind),
        _setting(f"{kind}, other clip", kind, asymmetric),
        _setting(f"{kind}, KL", kind, {"kl_coefficient": 0.1}),
        _setting(f"{kind}, KL, first step", kind, {"kl_coefficient": 0.1}, begun=False),
        _setting(f"{kind}, entropy bonus", kind, {"entropy_bonus": 0.05}),
        _setting(f"{kind}, importance", kind, weighted=True),
        _setting(f"{kind}, a masked row", kind, {"mask_truncated": True}, masked=(1,)),
    ]
    if kind != "cispo":
        bound: dict[str, Any] = {"dual_clip": 1.1} if kind == "gspo" else {"dual_clip": 1.8} | asymmetric
        rows.append(_setting(f"{kind}, delta", kind, bound))
    return rows


def _setting(
    name: str, kind: LossKind, chosen: dict[str, Any] | None = None, *, corrected: bool = False, **more: Any
) -> Setting:
    ours = GrpoSettings(**({"loss": kind, "kl_coefficient": 0.0, "tokens_per_pass": 10**6} | (chosen or {})))
    low, high = ours.clip
    theirs = {
        "loss_type": "grpo" if kind == "gspo" else kind,
        "importance_sampling_level": "sequence" if kind == "gspo" else "token",
        "epsilon_low": low,
        "epsilon_high": 1 + high if kind == "cispo" else high,  # TRL's is the bound itself there
        "beta": ours.kl_coefficient,
        "entropy_coef": ours.entropy_bonus,
        "_entropy_bonus_enabled": ours.entropy_bonus > 0,
        "use_vllm": more.get("weighted", False),
        "current_gradient_accumulation_steps": more.get("micro_batches", 1),
    }
    theirs_args = {
        "delta": ours.dual_clip or None,
        "use_bias_correction_kl": corrected,
        "steps_per_generation": more.get("micro_batches", 1),
    }
    return Setting(name, ours, theirs, theirs_args, **more)


@dataclass(frozen=True)
class Material:
    """Rows of two groups, and log-probabilities of their tokens under three policies near the model's."""

    module: Any
    now: Tensor
    entropy: Tensor
    groups: tuple[RolloutGroup, ...]
    proximal: Tensor
    reference: Tensor

    @staticmethod
    def made(module: Any, vocabulary: int) -> Material:
        rng = np.random.default_rng(3)
        rows = []
        for _ in range(8):
            prompt, completion = int(rng.integers(2, 7)), int(rng.integers(1, TOKEN_LIMIT + 1))
            rows.append(TokenSequence(tuple(map(int, rng.integers(1, vocabulary, prompt + completion))), prompt))
        with torch.no_grad():
            out = Policy(module)(rows, temperature=TEMPERATURE)
        now: Tensor = out.logprob

        def near(spread: float) -> Tensor:
            values: Tensor = now + torch.from_numpy(rng.normal(0, spread, len(now)).astype(np.float32))
            return values

        ends = np.cumsum([row.completion_length for row in rows])[:-1]
        drawn = np.split(near(0.3).numpy(), ends)
        rewards = rng.random(8)
        rollouts = [
            Rollout(row, float(reward), reward > 0.5, part, truncated=index == 1)
            for index, (row, reward, part) in enumerate(zip(rows, rewards, drawn, strict=True))
        ]
        groups = (RolloutGroup("0", tuple(rollouts[:4])), RolloutGroup("1", tuple(rollouts[4:])))
        return Material(module, now, out.entropy, groups, near(0.6), near(0.5))

    def rows(self, setting: Setting) -> WindowRows:
        """What both learn from. Without weights the behaviour policy is the proximal one."""
        rows = WindowRows.of(self.groups, setting.ours)
        everything = range(len(rows.rows))
        if not setting.weighted:
            rows.behaviour = self.proximal.clone() if setting.begun else self.now.clone()
        if setting.begun:
            rows.keep_proximal(everything, self.proximal)
        if setting.ours.kl_coefficient:
            rows.keep_reference(everything, self.reference)
        return rows

    def given(self) -> GivenLogprobs:
        """A policy that has this model's log-probabilities and entropies, and gradients in them alone."""
        return GivenLogprobs([rollout.row for group in self.groups for rollout in group.rollouts], self.now, self.entropy)


Result = tuple[float, dict[str, Tensor]]
"""Of a step: its loss, and its gradients, float64, by the name of the parameter."""


def ours(material: Material, setting: Setting, policy: Policy) -> Result:
    rows = material.rows(setting)
    learned, counts = rows.learned([0, 1]), rows.counts([0, 1], TOKEN_LIMIT)
    halves = np.array_split(np.arange(len(learned)), setting.micro_batches)
    sums = accumulate(
        policy,
        rows,
        learned,
        counts,
        setting.ours,
        begun=setting.begun,
        coefficient=setting.ours.kl_coefficient,
        temperature=TEMPERATURE,
        packs=[half.tolist() for half in halves],
    )
    return sums.loss, _gradients(policy)


def theirs(trainer: Any, material: Material, setting: Setting, given: GivenLogprobs | None) -> Result:
    """The step's loss and gradient by TRL's `_compute_loss`, micro-batch by micro-batch.

    Args:
        given: stands in for the model's pass where it is not None: TRL is handed these log-probabilities and entropies.
    """
    for name, value in setting.theirs.items():
        setattr(trainer, name, value)
    for name, value in setting.theirs_args.items():
        setattr(trainer.args, name, value)
    rows = material.rows(setting)
    trainer.model.train()
    trainer.model.zero_grad()
    total = 0.0
    for part in np.array_split(np.arange(len(rows.rows)), setting.micro_batches):
        inputs = _inputs(rows, part.tolist(), setting)
        if given is not None:
            lengths = [row.completion_length for row in rows.sequences(part.tolist())]
            handed = [_table(values, lengths) for values in given.tokens_of(rows.sequences(part.tolist()))]
            trainer._get_per_token_logps_and_entropies = lambda *_, answer=(*handed, None), **__: answer
        loss = trainer._compute_loss(trainer.model, inputs)
        vars(trainer).pop("_get_per_token_logps_and_entropies", None)
        loss.backward()
        total += loss.item()
    return total, _gradients(Policy(trainer.model) if given is None else given)


def _inputs(rows: WindowRows, part: Sequence[int], setting: Setting) -> dict[str, Tensor]:
    """What TRL's generation hands over: prompts padded on the left, completions on the right."""
    sequences = rows.sequences(part)
    widest = max(row.prompt_length for row in sequences)
    longest = max(row.completion_length for row in sequences)
    prompts, completions = torch.full((len(part), widest), PAD), torch.full((len(part), longest), PAD)
    asked, answered = torch.zeros_like(prompts), torch.zeros_like(completions)
    for index, row in enumerate(sequences):
        tokens, start = torch.tensor(row.tokens), widest - row.prompt_length
        prompts[index, start:], asked[index, start:] = tokens[: row.prompt_length], 1
        completions[index, : row.completion_length] = tokens[row.prompt_length :]
        answered[index, : row.completion_length] = part[index] not in setting.masked

    batch = rows.batch(part, proximal=setting.begun)

    def table(values: Tensor) -> Tensor:
        return _table(values, batch.lengths.tolist())

    counts: StepCounts = rows.counts([0, 1], TOKEN_LIMIT)
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": asked,
        "completion_ids": completions,
        "completion_mask": answered,
        "advantages": table(batch.advantage)[:, 0],
        "num_items_in_batch": torch.tensor(float(counts.tokens)),
    }
    if batch.proximal is not None:
        inputs["old_per_token_logps"] = table(batch.proximal)
    if batch.reference is not None:
        inputs["ref_per_token_logps"] = table(batch.reference)
    if setting.weighted and batch.proximal is not None:
        weights = importance(batch.proximal, batch.proximal, batch.behaviour, batch.lengths, setting.ours)
        inputs["importance_sampling_ratio"] = table(weights.weight)
    return inputs


def _table(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Flat tokens as TRL has them: [rows, longest], 0 behind a row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(lengths))), batch_first=True)


def _gradients(policy: Policy) -> dict[str, Tensor]:
    """0 where a setting asks for none (the entropy's)."""
    named = dict(policy.named_parameters())
    return {name: torch.zeros_like(p).double() if p.grad is None else p.grad.double() for name, p in named.items()}


def difference(one: Result, other: Result) -> float:
    """The larger of the losses' and the gradients', relative."""
    loss = abs(one[0] - other[0]) / max(1.0, abs(other[0]))
    apart = torch.stack([(one[1][name] - value).norm() for name, value in other[1].items()]).norm()
    length = torch.stack([value.norm() for value in other[1].values()]).norm()
    return max(loss, float(apart / length))


def trl_trainer(module: Any, folder: Path) -> Any:
    """TRL's trainer around a copy of the module. Its settings are set row by row; generation is never asked for."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=TOKEN_LIMIT,
        temperature=TEMPERATURE,
        beta=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        vllm_importance_sampling_correction=True,
    )
    return GRPOTrainer(
        model=copy.deepcopy(module),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


def main() -> int:
    if not all(importlib.util.find_spec(name) for name in ("trl", "datasets")):
        print("TRL is not installed here: hatch run peers:python -m tooling.studies.trl_parity", file=sys.stderr)
        return 2
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    from tooling.testing.models.tiny_qwen2 import Qwen2Shape, save_byte_model

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    shape = Qwen2Shape(257, hidden=32, context=64, tied=False)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = save_byte_model(Path(name) / "model", shape)
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        trainer = trl_trainer(module, folder)
        material = Material.made(module, shape.vocabulary)
        print(f"{'setting':28} {'ours':>12} {'TRL':>12} {'tensors':>9} {'model':>9}")
        for setting in settings():
            given = material.given()
            here, there = ours(material, setting, material.given()), theirs(trainer, material, setting, given)
            tensors = difference(here, there)
            through = difference(
                ours(material, setting, Policy(copy.deepcopy(module))), theirs(trainer, material, setting, None)
            )
            equal = tensors <= MOST_OF_TENSORS and through <= MOST_OF_A_MODEL
            failed += equal == bool(setting.differs)
            note = "equal" if equal else "NOT EQUAL"
            if setting.differs:
                note = f"EQUAL, though it is said: {setting.differs}" if equal else f"differs: {setting.differs}"
            print(f"{setting.name:28} {here[0]:12.8f} {there[0]:12.8f} {tensors:9.1e} {through:9.1e}  {note}")
    print(f"{failed} rows are not what they should be" if failed else "every row is what it should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
