"""Measure honest drift: generate as a miner does, measure as a validator does, fit the null of every pooled statistic.

What can differ between two honest machines of one class is varied here on one machine: whole groups against single rollouts in
another order (other shapes of the matrix products), SDPA against eager attention, and the CPU's bf16 kernels on and off as
a stand-in for another processor generation. Rows are generated with the key-value cache, as miners generate them. The fit
takes the worst condition, so a table is wider than any one of them.

    python -m grail_core.calibrate --model CHECKPOINT… --prompts PROMPTS.jsonl --end-token 1 --out calibration.json
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grail_core.generation.base import GenerationPolicy, GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.proof.calibration import STATISTICS, CalibrationTable, Null, PairCalibration, Shape
from grail_core.proof.group import RowProof, measure_rows, prove_rows
from grail_core.proof.model import Attention, PolicyModel
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import Projections, parse_sketches, projections
from grail_core.proof.statistics import Comparison, clip_of, compare, rollout_values
from grail_core.protocol import challenged_positions
from grail_core.protocol.constants import PROOF_BATCH_SIZE, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.randomness import Randomness

_NETWORK = bytes(32)  # seeds of a calibration belong to no network


@dataclass(frozen=True)
class HonestRow:
    tokens: tuple[int, ...]  # prompt + completion
    prompt_length: int
    sampling_seed: int
    group: int
    rollout: int
    proof: RowProof

    @property
    def completion_length(self) -> int:
        return len(self.tokens) - self.prompt_length


def mine(
    model: PolicyModel,
    policy: GenerationPolicy,
    end_tokens: frozenset[int],
    prompts: Sequence[tuple[int, ...]],
    signs: Projections,
    seed: int = 0,
) -> list[HonestRow]:
    """Honest rollouts of every prompt, generated and proved as a miner does it. Sampling seeds follow from `seed`."""
    rng = np.random.default_rng(seed)
    requests = [GenerationRequest(p, int(rng.integers(2**63))) for p in prompts for _ in range(ROLLOUTS_PER_PROBLEM)]
    completions = HfGenerator(model, policy, end_tokens).generate(requests)
    rows: list[HonestRow] = []
    for start in range(0, len(requests), ROLLOUTS_PER_PROBLEM):
        group = range(start, start + ROLLOUTS_PER_PROBLEM)
        tokens = [requests[i].prompt + completions[i].tokens for i in group]
        proofs = prove_rows(model, tokens, [len(requests[i].prompt) for i in group], signs)
        for r, (i, row, proof) in enumerate(zip(group, tokens, proofs, strict=True)):
            request = requests[i]
            rows.append(HonestRow(row, len(request.prompt), request.sampling_seed, start // ROLLOUTS_PER_PROBLEM, r, proof))
    return rows


def verify(
    model: PolicyModel,
    policy: GenerationPolicy,
    rows: Sequence[HonestRow],
    signs: Projections,
    order: Sequence[int] | None = None,
) -> list[Comparison]:
    """Claims against measurements, at the positions a challenge would open; batches of 16 in `order` (None: as they stand)."""
    sequence = list(range(len(rows))) if order is None else list(order)
    sample: list[Comparison] = []
    for start in range(0, len(sequence), PROOF_BATCH_SIZE):
        batch = [rows[i] for i in sequence[start : start + PROOF_BATCH_SIZE]]
        seeds = [row.sampling_seed.to_bytes(8, "big") * 4 for row in batch]
        positions = [challenged_positions(seed, seed, row.completion_length) for seed, row in zip(seeds, batch, strict=True)]
        measured = measure_rows(
            model,
            [row.tokens for row in batch],
            [row.prompt_length for row in batch],
            positions,
            signs,
            policy,
            [row.sampling_seed for row in batch],
        )
        for row, at, result in zip(batch, positions, measured, strict=True):
            claimed = parse_sketches(row.proof.sketches, row.completion_length + 1)
            sample.append(
                compare(
                    row.group,
                    row.rollout,
                    claimed_sketches=claimed[np.array(at) + 1],
                    claimed_logprobs=row.proof.logprobs[at],
                    z=result.z,
                    logprobs=result.logprobs,
                    margins=result.margins,
                )
            )
    return sample


def conditions(folder: Path, attention: Attention) -> Iterator[tuple[str, PolicyModel, AbstractContextManager[object], bool]]:
    """(name, validator's model, context to measure in, whether rows are measured in another order)."""
    same = PolicyModel.load(folder, attention=attention)
    other: Attention = "eager" if attention == "sdpa" else "sdpa"
    yield "groups", same, nullcontext(), False
    yield "singles", same, nullcontext(), True
    yield other, PolicyModel.load(folder, attention=other), nullcontext(), False
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # the switch below speaks of GPUs that are not there
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        yield "other kernels", same, torch.backends.mkldnn.flags(enabled=False), True


def calibrate(
    folders: Sequence[Path],
    prompts: Sequence[Sequence[tuple[int, ...]]],
    policy: GenerationPolicy,
    end_tokens: frozenset[int],
    *,
    attention: Attention = "sdpa",
    report: bool = False,
) -> PairCalibration:
    """Fit one pair (a class against itself) from checkpoints; `prompts[i]` are those of `folders[i]`."""
    values: dict[str, list[np.ndarray]] = {name: [] for name in STATISTICS}
    tokens = rollouts = positions = 0
    largest = Shape(0, 0)
    name = ""
    for index, (folder, asked) in enumerate(zip(folders, prompts, strict=True)):
        model = PolicyModel.load(folder, attention=attention)
        name = numerics_class_of(model)
        largest = Shape(max(largest.layers, model.layers), max(largest.hidden_size, model.hidden_size))
        signs = projections(Randomness(_NETWORK), index.to_bytes(32, "big"), model.hidden_size)
        rows = mine(model, policy, end_tokens, asked, signs, seed=index)
        tokens += sum(row.completion_length for row in rows)
        rollouts += len(rows)
        for condition, validator, numerics, shuffled in conditions(folder, attention):
            order = np.random.default_rng(index).permutation(len(rows)).tolist() if shuffled else None
            with numerics:
                sample = verify(validator, policy, rows, signs, order)
            if condition == "groups":
                positions += sum(len(one.margins) for one in sample)
            for statistic in STATISTICS:
                values[statistic].append(rollout_values(statistic, sample))
            if report:
                means = {s: f"{values[s][-1].mean():.3g} (max {values[s][-1].max():.3g})" for s in STATISTICS}
                print(f"{folder.name:30s} {condition:14s} {means}", flush=True)
    return PairCalibration(
        miner=name,
        validator=name,
        tokens=tokens,
        rollouts=rollouts,
        checkpoints=len(folders),
        positions=round(positions / rollouts, 3),
        largest=largest,
        nulls={statistic: Null.fit(values[statistic], clip_of(statistic)) for statistic in STATISTICS},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit a calibration table from checkpoints of one numerics class.")
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoint folders, at least 10 to be enforced")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines, one list of token ids each")
    parser.add_argument("--end-token", type=int, nargs="*", default=[], help="ids that end a completion")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--attention", choices=("sdpa", "eager"), nargs="+", default=["sdpa"])
    parser.add_argument("--version", default="local/1", help="text that verdicts name the table by")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    asked = [tuple(json.loads(line)) for line in options.prompts.read_text().splitlines() if line.strip()]
    shares = [asked[i :: len(options.model)] for i in range(len(options.model))]
    policy = GenerationPolicy(options.max_tokens, options.temperature)
    pairs = [
        calibrate(options.model, shares, policy, frozenset(options.end_token), attention=attention, report=True)
        for attention in options.attention
    ]
    table = CalibrationTable(options.version, {(pair.miner, pair.validator): pair for pair in pairs})
    options.out.write_text(json.dumps(table.to_json(), indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {', '.join(f'{p.miner} {p.tokens} tokens, {p.checkpoints} checkpoints' for p in pairs)}")


if __name__ == "__main__":
    main()
