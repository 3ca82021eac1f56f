"""Measure honest drift: generate as a miner does, measure as a validator does, fit the null of every pooled statistic.

What can differ between two honest machines is varied here on one: the attention of either side, whole groups against single
rollouts in another order (other shapes of the matrix products), batches of one, the CPU's bf16 kernels on and off, and states
kept from decoding: no miner may claim those, but their products have other shapes throughout, as another machine's have, and
identical machines would give a null that nobody else's could meet. Rows are generated with the key-value cache, as miners
generate them. The fit takes the worst condition, so a table is wider than any one of them.

Other dtypes (float16 and float32) are measured for the record and never fitted.
`grail-validator calibrate` ends here; the table that ships is made by `tooling/studies/power_sizes`.
"""

from __future__ import annotations

import datetime
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.errors import ConfigurationError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import Attention, PolicyModel
from grail_core.proof.absolute import ABSOLUTE, absolute_values
from grail_core.proof.batch import RolloutProof, measure_rollouts, prove_rollouts
from grail_core.proof.calibration import BOUNDS, STATISTICS, CalibrationTable, PairCalibration, Shape
from grail_core.proof.comparison import Comparison, compare
from grail_core.proof.null import Null
from grail_core.proof.numerics import class_name, numerics_class_of
from grail_core.proof.pooled import Paired, unit_values
from grail_core.proof.reference import Reference
from grail_core.proof.sketches import Projections, parse_sketches, projections, quantise, sketch
from grail_core.proof.statistics import LOGIT_VARIANCE, SKETCH_VARIANCE
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol import challenged_positions
from grail_core.protocol.constants import PROOF_BATCH_SIZE, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness

ATTENTIONS: Final[tuple[Attention, ...]] = get_args(Attention)
_NETWORK = bytes(32)  # seeds of a calibration belong to no network


@dataclass(frozen=True)
class Source:
    """One checkpoint, what it is asked, and how it is sampled. `name` stands in the report."""

    name: str
    folder: Path
    prompts: Sequence[tuple[int, ...]]
    policy: GenerationPolicy
    end_tokens: frozenset[int]


@dataclass(frozen=True)
class Condition:
    """A way to measure the same rows."""

    name: str
    batch: int = PROOF_BATCH_SIZE
    shuffled: bool = False
    other_kernels: bool = False


GROUPS = Condition("groups")
DECODED: Final = "KV-cache states"
_CONDITIONS = (
    GROUPS,
    Condition("singles", shuffled=True),
    Condition("batch 1", batch=1),
    Condition("other kernels", shuffled=True, other_kernels=True),
)


@dataclass(frozen=True)
class HonestRow:
    tokens: tuple[int, ...]  # prompt + completion
    prompt_length: int
    sampling_seed: int
    group: int
    rollout: int
    proof: RolloutProof

    @property
    def completion_length(self) -> int:
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True, eq=False)
class Observation:
    """The rollouts of one checkpoint under one condition of one pair of classes."""

    checkpoint: str
    miner: str
    validator: str
    condition: str
    fitted: bool  # False: for the record
    tokens: int
    positions: float  # mean challenged positions of a rollout
    values: Mapping[str, npt.NDArray[np.float64]]  # pooled: one value per unit; absolute: one per rollout, unclipped

    @property
    def rollouts(self) -> int:
        return len(self.values["energy"])

    @property
    def rms(self) -> npt.NDArray[np.float64]:
        """Root mean square of each rollout's sketch differences."""
        return np.sqrt(self.values["energy"])

    def to_json(self) -> dict[str, Any]:
        """Figures of this condition. `rms` pools the rollouts (the root of the mean energy); maxima are single rollouts'."""
        figures = {"rms": float(np.sqrt(self.values["energy"].mean())), "rms_max": float(self.rms.max())}
        for name in ("margin", "logprob", *STATISTICS):
            figures |= {name: float(self.values[name].mean()), f"{name}_max": float(self.values[name].max())}
        return {
            "checkpoint": self.checkpoint,
            "miner": self.miner,
            "validator": self.validator,
            "condition": self.condition,
            "fitted": self.fitted,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "positions": round(self.positions, 3),
            **{name: float(f"{value:.4g}") for name, value in figures.items()},
        }


@dataclass(frozen=True, eq=False)
class Calibration:
    """A table, and every condition it was fitted from."""

    table: CalibrationTable
    observations: tuple[Observation, ...]

    def conditions_of(self, pair: PairCalibration) -> dict[str, list[Observation]]:
        """One observation per checkpoint by condition, those for the record last."""
        found: dict[str, list[Observation]] = {}
        for one in sorted(self.observations, key=lambda o: not o.fitted):
            if (one.miner, one.validator) == (pair.miner, pair.validator):
                found.setdefault(one.condition, []).append(one)
        return found


class Progress(Protocol):
    def __call__(self, label: str, done: int, total: int) -> None: ...


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
        proofs = prove_rollouts(model, tokens, [len(requests[i].prompt) for i in group], signs)
        for r, (i, row, proof) in enumerate(zip(group, tokens, proofs, strict=True)):
            request = requests[i]
            rows.append(HonestRow(row, len(request.prompt), request.sampling_seed, start // ROLLOUTS_PER_PROBLEM, r, proof))
    return rows


def verify(
    model: PolicyModel,
    policy: GenerationPolicy,
    rows: Sequence[HonestRow],
    signs: Projections,
    reference: PolicyModel | None = None,
) -> list[Comparison]:
    """Claims against measurements, at the positions a challenge would open; batches of 16 as they stand.

    Args:
        reference: the same weights in float32; without it there are no pooled statistics.
    """
    return compared(rows, [row.proof for row in rows], measure(model, policy, rows, signs, reference=reference))


def measure(
    model: PolicyModel,
    policy: GenerationPolicy,
    rows: Sequence[HonestRow],
    signs: Projections,
    batch: int = PROOF_BATCH_SIZE,
    reference: PolicyModel | None = None,
) -> list[RolloutMeasurement]:
    """What a validator sees of every row at the positions a challenge would open, so many rows in one forward pass."""
    measured: list[RolloutMeasurement] = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        seeds = [row.sampling_seed.to_bytes(8, "big") * 4 for row in part]
        measured += measure_rollouts(
            model,
            [row.tokens for row in part],
            [row.prompt_length for row in part],
            [challenged_positions(seed, seed, row.completion_length) for seed, row in zip(seeds, part, strict=True)],
            signs,
            policy,
            [row.sampling_seed for row in part],
            reference=reference,
        )
    return measured


def compared(
    rows: Sequence[HonestRow], claims: Sequence[RolloutProof], measured: Sequence[RolloutMeasurement]
) -> list[Comparison]:
    """Claims about rows beside what was measured of the same rows, in the same order."""
    sample = []
    for row, claim, result in zip(rows, claims, measured, strict=True):
        at = np.array(result.positions)
        sample.append(
            compare(
                row.group,
                row.rollout,
                claimed_sketches=parse_sketches(claim.sketches, row.completion_length + 1)[at + 1],
                claimed_logprobs=claim.logprobs[at],
                z=result.z,
                logprobs=result.logprobs,
                margins=result.margins,
                reference=result.reference,
            )
        )
    return sample


def calibrate(
    sources: Sequence[Source],
    *,
    version: str,
    attentions: Sequence[Attention] = ATTENTIONS,
    device: str = "cpu",
    told: Progress | None = None,
) -> Calibration:
    """Fit every pair (miner's class, validator's class) of these kinds of attention on this device.

    Args:
        sources: checkpoints with their prompts, at least one each; different ones, since their number decides whether the
            table may be enforced.
        version: the text that verdicts name the table by.
        told: called with a label, the steps done and the steps there are.

    Raises:
        CheckpointError: a folder that is no model the proof can load.
        ConfigurationError: nothing to measure, a folder twice, a device without numerics classes, or a checkpoint whose own
            states are not finite (counted as the worst value they would widen every bound).
    """
    if not sources or not attentions or not all(source.prompts for source in sources):
        raise ConfigurationError(
            "nothing to calibrate on", hint="give at least one checkpoint, prompts for each, one attention"
        )
    if len({source.folder.resolve() for source in sources}) < len(sources):
        raise ConfigurationError(
            "the same checkpoint is given twice", hint="a table's claim rests on different checkpoints; name each folder once"
        )
    _require_device(device)
    observations: list[Observation] = []
    shapes: list[Shape] = []
    for index, source in enumerate(sources):
        models = {kind: PolicyModel.load(source.folder, attention=kind, device=device) for kind in attentions}
        one = models[attentions[0]]
        shapes.append(Shape(one.layers, one.hidden_size))
        for number, miner in enumerate(attentions):
            if told is not None:
                told(f"{source.name}, {miner} miner", index * len(attentions) + number, len(sources) * len(attentions))
            observations += _observe(index, source, models, miner, attentions)
    if told is not None:
        told("done", len(sources) * len(attentions), len(sources) * len(attentions))
    pairs = dict.fromkeys((o.miner, o.validator) for o in observations)
    table = CalibrationTable(version, place_of(device), {pair: _fit(*pair, observations, shapes) for pair in pairs})
    return Calibration(table, tuple(observations))


def _observe(
    index: int,
    source: Source,
    models: Mapping[Attention, PolicyModel],
    miner: Attention,
    attentions: Sequence[Attention],
) -> Iterator[Observation]:
    """One checkpoint's rows of one miner's class, as every validator's class sees them."""
    model = models[miner]
    signs = projections(Randomness(_NETWORK), index.to_bytes(32, "big"), model.hidden_size)
    rows = mine(model, source.policy, source.end_tokens, source.prompts, signs, seed=index)
    shuffled = np.random.default_rng(index).permutation(len(rows)).tolist()
    tokens = sum(row.completion_length for row in rows)
    claims_of = _other_claims(source.folder, model, rows, signs)
    reference = Reference(model).model()

    def seen(validator: Attention, condition: str, sample: Sequence[Comparison], *, fitted: bool = True) -> Observation:
        values = {name: absolute_values(name, sample) for name in ABSOLUTE}
        paired = Paired.of(sample)
        sound = paired is not None and not paired.left_out and not paired.undecided
        if paired is not None:
            values |= {name: unit_values(name, paired) for name in STATISTICS}
        if fitted and not (sound and all(np.isfinite(of_rollouts).all() for of_rollouts in values.values())):
            raise ConfigurationError(
                "hidden states of this checkpoint are not finite, or drift by nothing, or by more than 0.05: it cannot be "
                "calibrated on",
                where=f"{source.name}, {condition}",
                hint="leave the checkpoint out; its weights overflow in this dtype, or are no language model's",
            )
        return Observation(
            source.name,
            numerics_class_of(model),
            numerics_class_of(models[validator]),
            condition,
            fitted,
            tokens,
            sum(len(one.margins) for one in sample) / len(sample),
            values,
        )

    for validator in attentions:
        there = models[validator]
        for condition in _conditions(there):
            arranged = [rows[i] for i in shuffled] if condition.shuffled else rows
            with other_kernels() if condition.other_kernels else nullcontext():
                measured = measure(there, source.policy, arranged, signs, condition.batch, reference)
            yield seen(validator, condition.name, compared(arranged, [row.proof for row in arranged], measured))
            if condition is GROUPS:
                for name, claims in claims_of.items():
                    yield seen(validator, name, compared(rows, claims, measured), fitted=name == DECODED)


def _other_claims(
    folder: Path, model: PolicyModel, rows: Sequence[HonestRow], signs: Projections
) -> dict[str, list[RolloutProof]]:
    """Proofs of the same rows that no class admits: states kept from decoding, and other dtypes."""
    kind: Attention = "eager" if model.attention == "eager" else "sdpa"
    groups = [rows[i : i + ROLLOUTS_PER_PROBLEM] for i in range(0, len(rows), ROLLOUTS_PER_PROBLEM)]
    claims = {DECODED: [proof for group in groups for proof in _decoded_proofs(model, group, signs)]}
    for dtype in ("float16", "float32"):
        other = PolicyModel.load(folder, attention=kind, dtype=dtype, device=str(model.device))
        claims[dtype] = [
            proof
            for group in groups
            for proof in prove_rollouts(other, [row.tokens for row in group], [row.prompt_length for row in group], signs)
        ]
    return claims


@torch.inference_mode()
def _decoded_proofs(model: PolicyModel, group: Sequence[HonestRow], signs: Projections) -> list[RolloutProof]:
    """Proofs from the hidden states that Transformers' own cached decoding meets: the prompt at once, then token by token.

    The rows of a group have one prompt.
    """
    from transformers import DynamicCache

    start, longest = group[0].prompt_length, max(len(row.tokens) for row in group)
    tokens = torch.zeros((len(group), longest), dtype=torch.long)
    for index, row in enumerate(group):
        tokens[index, : len(row.tokens)] = torch.as_tensor(row.tokens)
    tokens = tokens.to(model.device)
    cache = DynamicCache(config=model.module.config)
    states: list[Tensor] = []
    for part in (tokens[:, :start], *(tokens[:, at : at + 1] for at in range(start, longest))):
        states.append(model.base(input_ids=part, past_key_values=cache, use_cache=True).last_hidden_state[:, -1])
    hidden = torch.stack(states, dim=1)
    proofs = []
    for index, row in enumerate(group):
        own = hidden[index, : row.completion_length + 1]
        scores = model.logits(own[:-1]).log_softmax(dim=1)
        chosen = tokens[index, start : len(row.tokens), None]
        proofs.append(RolloutProof(quantise(sketch(own, signs)), scores.gather(1, chosen)[:, 0].cpu().numpy()))
    return proofs


def _fit(miner: str, validator: str, observations: Sequence[Observation], shapes: Sequence[Shape]) -> PairCalibration:
    fitted = [o for o in observations if o.fitted and (o.miner, o.validator) == (miner, validator)]
    whole = [o for o in fitted if o.condition == GROUPS.name]  # every rollout once
    rollouts = sum(o.rollouts for o in whole)
    return PairCalibration(
        miner=miner,
        validator=validator,
        tokens=sum(o.tokens for o in whole),
        rollouts=rollouts,
        checkpoints=len(shapes),
        shapes=tuple(dict.fromkeys(shapes)),
        logit_variance=LOGIT_VARIANCE,
        sketch_variance=SKETCH_VARIANCE,
        nulls={name: Null.fit([o.values[name] for o in fitted], *BOUNDS[name], rollouts=rollouts) for name in STATISTICS},
    )


def place_of(device: str) -> str:
    """Processor, software and date of a measurement made now in this process."""
    if device.startswith("cuda"):
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    threads = torch.get_num_threads()
    return (
        f"{machine}, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {version_of('transformers')}, bf16, "
        f"{datetime.datetime.now(datetime.UTC).date().isoformat()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []  # only Linux has it
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if fields.get("model name"):
        return f"{fields['model name']} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
    return platform.processor() or platform.machine()


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
        class_name(attention=ATTENTIONS[0], device=torch.device(device).type)
    except (RuntimeError, AssertionError, ValueError) as error:  # AssertionError: torch was built without CUDA
        raise ConfigurationError(
            f"nothing can be calibrated on {device}: {error}", where="GRAIL_DEVICE", hint="use cpu or cuda"
        ) from error


def _conditions(model: PolicyModel) -> list[Condition]:
    switchable = model.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return [condition for condition in _CONDITIONS if switchable or not condition.other_kernels]


@contextmanager
def other_kernels() -> Iterator[None]:
    """The CPU's other bf16 kernels for as long as the block lasts: a stand-in for another processor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # the switch speaks of GPUs that are not there
        with torch.backends.mkldnn.flags(enabled=False):
            yield
