"""Honest work is accepted, cheating is not: on a real small model, with the table that ships."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grail_core.calibration.measure import HonestRow, mine, verify
from grail_core.errors import ConfigurationError
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternative_test import Sums, project, sums
from grail_core.proof.alternatives import Alternatives, eight_bit, round_to_nearest
from grail_core.proof.batch import RolloutProof, measure_sketches, prove_rollouts
from grail_core.proof.calibration import STATISTICS, CalibrationTable, Null, PairCalibration, Shape, shipped_table
from grail_core.proof.comparison import AlternativeSketches, Comparison, Statistic, compare
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.sketches import parse_sketches, projections
from grail_core.proof.statistics import clip_of, evaluate, rollout_values
from grail_core.proof.work import REFERENCE, RolloutTokens
from grail_core.protocol.constants import FALSE_REJECT_RATE
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

COARSE = {"coarse_error", "coarse_error_share", "coarse_logprob", "coarse_margin", "coarse_margin_share"}
VOCABULARY, END = 64, frozenset({1, 2, 3})
POLICY = GenerationPolicy(14)
SIGNS = projections(Randomness(bytes(32)), b"s" * 32, 64)
# About 2.5 nats a token: neither certain nor uniform.
SHAPE = Qwen2Shape(VOCABULARY, hidden=64, layers=3, context=128, spread=0.15)


def model(seed: int = 0) -> PolicyModel:
    return PolicyModel(in_bfloat16(random_model(SHAPE, seed)))


def shifted(base: PolicyModel, step: float, seed: int = 1) -> PolicyModel:
    """The same model some optimiser steps away: every weight moved by about `step`, as Adam moves it."""
    moved = model()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in base.state().items():
        direction = torch.sign(torch.randn(tensor.shape, generator=generator))
        state[name] = (tensor.float() + step * direction).to(tensor.dtype)
    moved.load_state(state)
    return moved


@pytest.fixture(scope="module")
def current() -> PolicyModel:
    return model()


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(rng.integers(4, VOCABULARY, int(rng.integers(20, 50))).tolist()) for _ in range(16)]


@pytest.fixture(scope="module")
def honest(current: PolicyModel, prompts: list[tuple[int, ...]]) -> list[HonestRow]:
    return mine(current, POLICY, END, prompts, SIGNS)


def sampled(rows: list[HonestRow]) -> list[HonestRow]:
    """What a validator opens of 16 groups: two whole ones and one rollout of each other."""
    rng = np.random.default_rng(9)
    whole = [row for row in rows if row.group in (4, 11)]
    return whole + [rows[16 * g + int(rng.integers(16))] for g in range(16) if g not in (4, 11)]


def judge(model: PolicyModel, rows: list[HonestRow], **changes: float) -> list[Statistic]:
    sample = verify(model, POLICY, sampled(rows), SIGNS)
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    return evaluate(sample, pair, shape=Shape(model.layers, model.hidden_size), **changes)


def rejecting(statistics: list[Statistic]) -> set[str]:
    return {statistic.check for statistic in statistics if statistic.rejects}


def proved_again(model: PolicyModel, rows: list[HonestRow]) -> list[HonestRow]:
    """The same tokens with proofs of `model`."""
    out = []
    for start in range(0, len(rows), 16):
        group = rows[start : start + 16]
        proofs = prove_rollouts(model, [row.tokens for row in group], [row.prompt_length for row in group], SIGNS)
        out += [replace(row, proof=proof) for row, proof in zip(group, proofs, strict=True)]
    return out


def test_honest_work_is_accepted_with_room_to_spare(current: PolicyModel, honest: list[HonestRow]) -> None:
    statistics = judge(current, honest)
    assert rejecting(statistics) == set()
    assert [s.name for s in statistics] == [
        *("coarse_error", "coarse_error_share", "energy"),
        *("coarse_logprob", "logprob", "logprob_tail"),
        *("coarse_margin", "coarse_margin_share", "margin"),
    ]
    assert all(s.enforced for s in statistics)
    assert all(s.threshold is not None and s.value < s.threshold / 4 for s in statistics)


def test_every_whole_group_of_honest_work_is_accepted_alone(current: PolicyModel, honest: list[HonestRow]) -> None:
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    for start in range(0, len(honest), 16):
        assert rejecting(evaluate(verify(current, POLICY, honest[start : start + 16], SIGNS), pair)) == set()


@pytest.mark.parametrize("constant", [0, 1, 0x1111])
def test_sketches_without_a_model_are_rejected(current: PolicyModel, honest: list[HonestRow], constant: int) -> None:
    filler = constant.to_bytes(2, "little") * 4
    forged = [replace(row, proof=RolloutProof(filler * (row.completion_length + 1), row.proof.logprobs)) for row in honest]
    statistics = judge(current, forged)
    assert "proof" in rejecting(statistics)
    assert statistics[0].rejects  # the coarse bound alone is enough


def test_another_model_of_the_same_shape_is_rejected(
    current: PolicyModel, prompts: list[tuple[int, ...]], honest: list[HonestRow]
) -> None:
    assert judge(current, proved_again(model(seed=5), honest))[0].rejects
    generated_elsewhere = proved_again(current, mine(model(seed=5), POLICY, END, prompts, SIGNS))
    assert rejecting(judge(current, generated_elsewhere)) == {"sampling"}


@pytest.mark.parametrize(
    "policy",
    [
        GenerationPolicy(14, temperature=0.7),
        GenerationPolicy(14, temperature=1.4),
        GenerationPolicy(14, top_k=1),
        GenerationPolicy(14, top_p=0.8),
        GenerationPolicy(14, repetition_penalty=1.3),
    ],
)
def test_another_sampling_policy_is_rejected(
    current: PolicyModel, prompts: list[tuple[int, ...]], policy: GenerationPolicy
) -> None:
    assert rejecting(judge(current, mine(current, policy, END, prompts, SIGNS))) == {"sampling"}


def test_wrong_seeds_and_best_of_n_are_rejected(
    current: PolicyModel, prompts: list[tuple[int, ...]], honest: list[HonestRow]
) -> None:
    other = mine(current, POLICY, END, prompts, SIGNS, seed=1)
    assigned = {(row.group, row.rollout): row.sampling_seed for row in honest}
    wrong = [replace(row, sampling_seed=assigned[row.group, row.rollout]) for row in other]
    assert rejecting(judge(current, wrong)) == {"sampling"}
    # Best of two by length: half of the rollouts are honest draws.
    best = [a if len(a.tokens) >= len(b.tokens) else b for a, b in zip(honest, wrong, strict=True)]
    assert rejecting(judge(current, best)) == {"sampling"}


@pytest.mark.parametrize("step", [3e-4, 1e-3])
def test_an_earlier_checkpoint_is_rejected_by_energy(current: PolicyModel, prompts: list[tuple[int, ...]], step: float) -> None:
    rows = mine(shifted(current, step), POLICY, END, prompts, SIGNS)
    assert "proof" in rejecting(judge(current, rows))


def eagerly(base: PolicyModel) -> PolicyModel:
    """The same weights in another honest numerics."""
    other = model()
    other.load_state({name: value.clone() for name, value in base.state().items()})
    other.module.set_attn_implementation("eager")
    return other


def with_alternatives(base: PolicyModel, rows: list[HonestRow], others: Alternatives) -> list[Comparison]:
    """What a validator measures of these rows, at all their positions."""
    positions = [list(range(row.completion_length)) for row in rows]
    asked = RolloutTokens([row.tokens for row in rows], [row.prompt_length for row in rows], positions)
    found = others.sketches(asked, SIGNS)
    sample = []
    for start in range(0, len(rows), 16):
        batch = slice(start, start + 16)
        z = measure_sketches(base, asked.tokens[batch], asked.prompt_lengths[batch], asked.positions[batch], SIGNS)
        for row, own, measured in zip(rows[batch], z, found[batch], strict=True):
            claimed = parse_sketches(row.proof.sketches, row.completion_length + 1)[1:]
            sample.append(
                compare(
                    row.group,
                    row.rollout,
                    claimed_sketches=claimed,
                    claimed_logprobs=row.proof.logprobs,
                    z=own,
                    logprobs=row.proof.logprobs,
                    margins=np.zeros(row.completion_length),
                    others=AlternativeSketches(claimed, measured, np.arange(row.completion_length)),
                )
            )
    return sample


def named(sample: list[Comparison], name: str) -> Statistic:
    statistics = evaluate(sample, shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS))
    return next(statistic for statistic in statistics if statistic.name == name)


STALE = 1.5e-4  # changes a sketch by less than kernels do


@pytest.fixture(scope="module")
def compared(current: PolicyModel) -> Alternatives:
    older = shifted(current, STALE)
    return Alternatives(current, {"previous-1": older.state, "int8": lambda: eight_bit(current)})


def test_what_hides_below_kernel_noise_is_found_by_its_name(
    current: PolicyModel, prompts: list[tuple[int, ...]], compared: Alternatives
) -> None:
    older, copied = shifted(current, STALE), model()
    copied.load_state({name: value.to(torch.bfloat16) for name, value in eight_bit(current).items()})
    for cheat, name in ((eagerly(older), "previous-1"), (eagerly(copied), "int8")):
        sample = with_alternatives(current, mine(cheat, POLICY, END, prompts, SIGNS), compared)
        assert named(sample, name).rejects, named(sample, name)


def test_honest_work_in_other_numerics_is_not_taken_for_an_alternative(
    current: PolicyModel, prompts: list[tuple[int, ...]], compared: Alternatives
) -> None:
    for miner in (current, eagerly(current)):
        sample = with_alternatives(current, mine(miner, POLICY, END, prompts, SIGNS), compared)
        for name in compared.names:
            assert named(sample, name).enforced
            assert named(sample, name).value < 0  # the evidence is against it, not merely short of the threshold


def test_measuring_alternatives_moves_no_other_threshold(
    current: PolicyModel, honest: list[HonestRow], compared: Alternatives
) -> None:
    sample = with_alternatives(current, honest[:64], compared)
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    without = {s.name: s.threshold for s in evaluate([replace(one, in_float32=None) for one in sample], pair)}
    with_them = {s.name: s.threshold for s in evaluate(sample, pair)}
    assert with_them.keys() - without.keys() == set(compared.names)
    assert {name: with_them[name] for name in without} == without


def test_alternatives_without_a_difference_are_reported_and_not_acted_on(current: PolicyModel, honest: list[HonestRow]) -> None:
    sample = with_alternatives(current, honest[:64], Alternatives(current, {"previous-1": current.state}))
    statistic = named(sample, "previous-1")
    assert (statistic.value, statistic.enforced) == (0.0, False)


def test_only_the_drawn_share_is_measured_and_the_reference_is_no_alternative(current: PolicyModel) -> None:
    assert [Alternatives(current, {}, share).count(64) for share in (1.0, 0.5, 0.01)] == [64, 32, 1]
    for others, share in (({REFERENCE: current.state}, 1.0), ({}, 0.0), ({}, 1.5)):
        with pytest.raises(ValueError, match="share in"):
            Alternatives(current, others, share)


def test_an_eight_bit_copy_has_at_most_255_values_to_a_scale() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    for group, blocks in ((None, weight.shape[0]), (32, 16), (48, weight.shape[0])):  # 48 does not divide: whole channels
        rounded = round_to_nearest(weight, 8, group).reshape(blocks, -1)
        original = weight.reshape(blocks, -1)
        steps = rounded / (original.abs().amax(dim=1, keepdim=True) / 127)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert (rounded - original).abs().max() <= original.abs().max() / 254 + 1e-6


@pytest.mark.parametrize("change", ["zeros", "shifted", "half"])
def test_false_log_probabilities_are_rejected(current: PolicyModel, honest: list[HonestRow], change: str) -> None:
    def forge(values: np.ndarray) -> np.ndarray:
        if change == "zeros":
            return np.zeros_like(values)
        if change == "shifted":
            return values + np.float32(0.3)
        forged = values.copy()
        forged[::2] = -1
        return forged

    rows = [replace(row, proof=RolloutProof(row.proof.sketches, forge(row.proof.logprobs))) for row in honest]
    assert rejecting(judge(current, rows)) == {"logprob"}


def test_one_changed_token_changes_what_follows(current: PolicyModel, honest: list[HonestRow]) -> None:
    def change(row: HonestRow) -> HonestRow:
        at = row.prompt_length + row.completion_length // 2
        token = 4 + (row.tokens[at] + 1) % (VOCABULARY - 4)
        return replace(row, tokens=(*row.tokens[:at], token, *row.tokens[at + 1 :]))

    assert "proof" in rejecting(judge(current, [change(row) for row in honest]))


def test_without_calibration_only_the_coarse_bounds_are_enforced(current: PolicyModel, honest: list[HonestRow]) -> None:
    sample = verify(current, POLICY, sampled(honest), SIGNS)
    statistics = evaluate(sample, None)
    assert {s.name for s in statistics if s.enforced} == COARSE
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    assert pair is not None
    for uncovered in (
        evaluate(sample, replace(pair, tokens=99_999)),
        evaluate(sample, replace(pair, checkpoints=9)),
        evaluate(sample, pair, shape=Shape(400, 64)),
        evaluate(sample, pair, shape=Shape(3, 8192)),
    ):
        assert {s.name for s in uncovered if s.enforced} == COARSE
        assert all(s.threshold is not None for s in uncovered)  # still reported
    assert evaluate([], pair) == []


def claiming(measured: list[float], claimed: list[float]) -> Comparison:
    k = len(measured)
    z, words = np.zeros((k, 4), np.float32), np.zeros((k, 4), np.int16)
    numbers = [np.array(values, np.float32) for values in (claimed, measured)]
    return compare(1, 0, claimed_sketches=words, claimed_logprobs=numbers[0], z=z, logprobs=numbers[1], margins=np.zeros(k))


def test_a_false_log_probability_counts_where_the_token_was_in_doubt() -> None:
    doubtful = claiming([-3.0] * 8 + [-1e-4] * 24, [-2.9] * 8 + [-1e-4] * 24)
    # 8 of 32 positions say anything, and all of them are off by 0.1: a plain mean would have been 0.025.
    assert rollout_values("logprob", [doubtful])[0] == pytest.approx(0.1, rel=0.01)
    sure = claiming([-1e-6] * 32, [-1e-5] * 32)  # rounding at sure tokens is no evidence
    assert rollout_values("logprob", [sure])[0] < 1e-6
    wild = claiming([-2.0] * 32, [-2.0] * 31 + [-1.0])
    assert rollout_values("logprob_tail", [wild, doubtful]) == pytest.approx([1 / 32, 0.0], abs=1e-6)
    broken = claiming([-2.0] * 4, [math.nan] * 4)
    assert rollout_values("logprob", [broken])[0] == math.inf
    assert rollout_values("logprob_tail", [broken])[0] == math.inf


def test_the_bound_holds_for_heavy_tails_and_loosens_for_small_samples() -> None:
    rng = np.random.default_rng(1)
    heavy = np.minimum(rng.pareto(1.2, 40_000) * 1e-3, 1.0)
    null = Null.fit([heavy[:20_000], heavy[20_000:]], 1.0)
    thresholds = [null.threshold(n, 1e-3) for n in (16, 46, 256)]
    assert thresholds == sorted(thresholds, reverse=True)
    for n, threshold in zip((16, 46, 256), thresholds, strict=True):
        means = rng.choice(heavy, (20_000, n)).mean(axis=1)
        assert (means > threshold).mean() <= 1e-3
    assert null.threshold(46, 1e-9) > null.threshold(46, 1e-6)
    with pytest.raises(ValueError, match="finite"):
        Null.fit([heavy, np.array([0.0, math.nan])], 1.0)  # as the worst value it would widen the bound


def drawn_sums(rng: np.random.Generator, rollouts: int, way: float, noise: float = 0.01, delta: float = 0.005) -> Sums:
    """Rollouts of 10 positions that lie `way` of the way to the alternative, with heavy-tailed noise."""
    deltas = [rng.normal(0, delta * rng.lognormal(0, 0.5), (10, 4)).astype(np.float32) for _ in range(rollouts)]
    noises = [(noise * rng.standard_t(3, (10, 4))).astype(np.float32) for _ in range(rollouts)]
    drifts = [rng.normal(0, noise, (10, 4)).astype(np.float32) for _ in range(rollouts)]
    return sums([way * d + e for d, e in zip(deltas, noises, strict=True)], deltas, drifts)


def test_the_projection_says_how_far_the_way_to_the_alternative_is() -> None:
    rng = np.random.default_rng(2)
    for way in (0.0, 0.5, 1.0):
        assert project(drawn_sums(rng, 400, way), 1e-7).t == pytest.approx(way, abs=0.06)
    assert project(drawn_sums(rng, 64, 1.0), 1e-7).log_evidence > math.log(1e7)
    assert not project(drawn_sums(rng, 64, 0.0, delta=1e-4), 1e-7).testable
    nothing = project(drawn_sums(rng, 64, 0.0, delta=0.0), 1e-7)
    assert (nothing.t, nothing.log_evidence, nothing.testable) == (0.0, 0.0, False)


def test_honest_noise_reaches_the_evidence_for_alpha_less_often_than_alpha_whatever_its_tails() -> None:
    """At the edge of what the test allows: every rollout lies the whole dead zone of the way to the alternative."""
    rng = np.random.default_rng(4)
    for way in (0.0, 0.25):
        found = [project(drawn_sums(rng, 24, way), 0.1).log_evidence for _ in range(1500)]
        for alpha in (0.1, 0.01):
            assert np.mean(np.array(found) >= math.log(1 / alpha)) <= alpha


def test_predicted_power_is_near_the_power_and_below_it_for_milder_noise() -> None:
    rng = np.random.default_rng(5)
    for delta in (0.006, 0.01):
        results = [project(drawn_sums(rng, 64, 1.0, delta=delta), 1e-7) for _ in range(200)]
        power = np.mean([result.log_evidence >= math.log(1e7) for result in results])
        assert np.mean([result.power for result in results]) <= power + 0.05


def test_the_table_survives_json_and_refuses_another_form() -> None:
    table = shipped_table()
    text = json.dumps(table.to_json())
    assert CalibrationTable.from_json(json.loads(text)) == table
    pair = table.lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    assert isinstance(pair, PairCalibration)
    assert pair.covers(Shape(4, 128))
    assert table.lookup("bf16-flash-cuda-vllm", DEFAULT_CLASS) is None
    for name in STATISTICS:
        assert pair.nulls[name].clip == clip_of(name)
        assert pair.nulls[name].threshold(46, FALSE_REJECT_RATE / 3) < pair.nulls[name].clip
    other = json.loads(text.replace('"clip": 1.0', '"clip": NaN'))
    spoilt: list[Any] = [{}, [], None, {"version": 1, "pairs": [{}]}, other]
    for broken in spoilt:
        with pytest.raises(ConfigurationError, match="not a calibration table"):
            CalibrationTable.from_json(broken)
