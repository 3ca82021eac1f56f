"""The one place of the study that calls what validators measure and judge with.

A `Validator` is the core's own work on one model: bf16, a float32 copy, named alternatives. Claims are made on the device, so
that a miner's numerics can be any. Thresholds are those of the shipped table's CPU pairs: they say
what would become of the file if that table held here, and are enforced nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives, Weights, rounded_copies
from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import STATISTICS, PairCalibration, shipped_table
from grail_core.proof.comparison import Comparison, Statistic, compare, compare_named
from grail_core.proof.in_process import InThisProcess
from grail_core.proof.numerics import class_name, numerics_class_of
from grail_core.proof.pooled import Paired, unit_values
from grail_core.proof.sketches import parse_sketches, quantise, sketch
from grail_core.proof.statistics import alternative_statistics, bit_equal, own_statistics
from grail_core.proof.work import ComparedRollout, ProofRow, RolloutMeasurement
from tooling.adversaries.deviations.observation import Rollout, Setting
from tooling.studies.gpu_study.shapes import Amount
from tooling.studies.gpu_study.texts import in_batches

_LOGITS_AT_ONCE = 256  # positions of a claim


@torch.inference_mode()
def claims_of(head: PolicyModel, setting: Setting, rollouts: Sequence[Rollout], states: Sequence[Tensor]) -> list[RolloutProof]:
    """A miner's claims from hidden states [completion + 1, d], with the head of `head`, on its device."""
    signs = setting.projections(head.hidden_size)
    claims = []
    for rollout, hidden in zip(rollouts, states, strict=True):
        there = hidden.to(device=head.device, dtype=head.dtype).contiguous()
        parts = []
        for start in range(0, len(rollout.completion), _LOGITS_AT_ONCE):
            ids = torch.tensor(rollout.completion[start : start + _LOGITS_AT_ONCE], device=head.device)[:, None]
            logits = head.logits(there[:-1][start : start + _LOGITS_AT_ONCE])
            parts.append(logits.gather(1, ids).squeeze(1) - logits.logsumexp(dim=1))
        logprobs = torch.cat(parts).cpu().numpy().astype(np.float32)
        claims.append(RolloutProof(quantise(sketch(there, signs)), logprobs))
    return claims


@dataclass(frozen=True)
class Measured:
    """What a validator measured of a text, in one kind of attention."""

    rollouts: list[RolloutMeasurement]
    pair: PairCalibration | None  # a CPU's, of this kind of attention on either side


class Validator:
    """One model, and everything that its rollouts are held against.

    Args:
        older: earlier checkpoints by name; the rounded copies are there as well.
    """

    def __init__(self, model: PolicyModel, setting: Setting, older: Mapping[str, Weights]) -> None:
        self.model, self.setting = model, setting
        self.alternatives = Alternatives(model, {**rounded_copies(model), **older})
        self._work = InThisProcess(model, self.alternatives)
        self._bare = InThisProcess(model, reference=False)
        self._signs = setting.projections(model.hidden_size)

    @property
    def reference(self) -> PolicyModel:
        """The float32 copy with the model's own weights, until the next comparison."""
        return self.alternatives.reference.model()

    def measure(self, rollouts: Sequence[Rollout], attention: str = "sdpa", *, reference: bool = True) -> Measured:
        """Every batch as checks 7 to 9 measure the work of a miner with this kind of attention."""
        work = self._work if reference else self._bare
        miner = class_name(attention=attention, device=self.model.device.type)
        found: list[RolloutMeasurement] = []
        for batch in in_batches(rollouts):
            rows = [self._row(r, self.setting.positions(r)) for r in batch]
            found += work.measure(rows, self._signs, self.setting.policy, proof_class=miner).rollouts
        return Measured(found, _pair(attention))

    def compare(self, rollouts: Sequence[Rollout], amount: Amount) -> list[ComparedRollout]:
        """The first rollouts of a text under every named alternative, at positions with the challenged ones among them."""
        rows = [self._row(r, self.setting.positions(r, amount.compared_positions)) for r in rollouts[: amount.compared]]
        miner = numerics_class_of(self.model)
        return self._work.compare(rows, self._signs, self.setting.policy, proof_class=miner)

    def _row(self, rollout: Rollout, positions: Sequence[int]) -> ProofRow:
        seed = self.setting.sampling_seed(rollout.group, rollout.rollout)
        return ProofRow(rollout.tokens, rollout.prompt_length, positions, seed)


def figures_of(
    setting: Setting,
    rollouts: Sequence[Rollout],
    claims: Sequence[RolloutProof],
    measured: Measured,
    compared: Sequence[ComparedRollout] = (),
) -> dict[str, Any]:
    """Drift, the values of the pooled tests and what every statistic says of one file. RMS and nats, but for the evidence."""
    sample = [
        _comparison(setting, *one)
        for one in zip(rollouts, claims, measured.rollouts, [*compared, *[None] * len(rollouts)], strict=False)
    ]
    paired = Paired.of(sample)
    if paired is None or paired.undecided:
        raise ValueError(paired.undecided if paired is not None else "nothing was measured against float32")
    named = [one.named for one in sample if one.named is not None]
    statistics = own_statistics(sample, measured.pair)
    found = alternative_statistics(named, measured.pair, sketch_ratio_passes=True)
    return {
        "rollouts": len(sample),
        "own_drift": paired.own_drift,
        "claimed_drift": math.sqrt(float(np.mean([np.square(one.reference.errors).mean() for one in sample if one.reference]))),
        "own_logit_noise": paired.own_noise,
        "units": {name: _spread_of(unit_values(name, paired)) for name in STATISTICS},
        "statistics": {one.name: _said(one) for one in [*statistics, *found]},
    }


def reproductions_of(
    setting: Setting, rollouts: Sequence[Rollout], claims: Sequence[RolloutProof], measured: Measured
) -> dict[str, Any]:
    """b of every rollout alone: mean, spread, and how many lie above the bound of the pinned class."""
    values, rejected = [], 0
    for one in zip(rollouts, claims, measured.rollouts, strict=True):
        statistic = bit_equal([_comparison(setting, *one, None)])
        if statistic is None:
            raise ValueError("a rollout has no float32 reference that says anything")
        values.append(statistic.value)
        rejected += statistic.rejects
    return {"rollouts": len(values), "b": _spread_of(np.array(values)), "rejected": rejected}


def _comparison(
    setting: Setting,
    rollout: Rollout,
    claim: RolloutProof,
    measured: RolloutMeasurement,
    compared: ComparedRollout | None,
) -> Comparison:
    words = parse_sketches(claim.sketches, len(rollout.completion) + 1)[1:]
    at = np.asarray(measured.positions)
    named = None
    if compared is not None:
        others = np.asarray(compared.positions)
        named = compare_named(
            claimed_sketches=words[others],
            tokens=np.asarray(rollout.completion, dtype=np.int32)[others],
            compared=compared,
        )
    return compare(
        rollout.group,
        rollout.rollout,
        claimed_sketches=words[at],
        claimed_logprobs=claim.logprobs[at],
        z=measured.z,
        logprobs=measured.logprobs,
        margins=measured.margins,
        reference=measured.reference,
        named=named,
    )


def _pair(attention: str) -> PairCalibration | None:
    on_a_cpu = class_name(attention=attention, device="cpu")
    return shipped_table().lookup(on_a_cpu, on_a_cpu)


def _spread_of(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "least": float(values.min()),
        "largest": float(values.max()),
    }


def _said(statistic: Statistic) -> dict[str, Any]:
    return {"value": statistic.value, "threshold": statistic.threshold, "exceeds": statistic.exceeds}
