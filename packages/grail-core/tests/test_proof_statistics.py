"""Honest work is accepted, cheating is not: on a real small model, with the table that ships."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grail_core.calibration.measure import HonestRow, mine, verify
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.absolute import ABSOLUTE, absolute_values
from grail_core.proof.alternative_test import WEIGHTS_ALTERNATIVES
from grail_core.proof.alternatives import Alternatives, rounded_copies
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.calibration import STATISTICS, PairCalibration, Shape, shipped_table
from grail_core.proof.comparison import Comparison, NamedComparison, Statistic, compare, compare_named
from grail_core.proof.in_process import InThisProcess
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.reference import Reference
from grail_core.proof.sketches import parse_sketches, projections
from grail_core.proof.statistics import (
    ALTERNATIVE_TESTS,
    OTHER_TESTS,
    SHARE,
    AlternativeTests,
    alternative_statistics,
    evaluate,
    left_open,
    own_statistics,
    share_of_other,
    sketch_ratio_passes,
    token_statistic,
)
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.proof.work import AskedAlternatives, ProofRow
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


def judge(model: PolicyModel, rows: list[HonestRow]) -> list[Statistic]:
    sample = verify(model, POLICY, sampled(rows), SIGNS, Reference(model).model())
    return evaluate(sample, shipped_pair(), shape=Shape(model.layers, model.hidden_size))


def shipped_pair() -> PairCalibration:
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    assert pair is not None
    return pair


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
        *("coarse_error", "coarse_error_share", "sketch_ratio", "sketch_ratio_share", "energy"),
        *("coarse_logprob", "logprob_ratio", "twin_logprob", "logprob", "logprob_tail"),
        *("coarse_margin", "coarse_margin_share", "twin_margin", "margin"),
    ]
    for s in statistics:
        assert s.enforced == (s.name not in ABSOLUTE)
        assert s.threshold is None or s.value < s.threshold / 4


def test_every_whole_group_of_honest_work_is_accepted_alone(current: PolicyModel, honest: list[HonestRow]) -> None:
    reference = Reference(current).model()
    for start in range(0, len(honest), 16):
        sample = verify(current, POLICY, honest[start : start + 16], SIGNS, reference)
        assert rejecting(evaluate(sample, shipped_pair())) == set()


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


@pytest.mark.parametrize("step", [7e-4, 1e-3])
def test_an_earlier_checkpoint_is_rejected_by_its_sketches(
    current: PolicyModel, prompts: list[tuple[int, ...]], step: float
) -> None:
    rows = mine(shifted(current, step), POLICY, END, prompts, SIGNS)
    assert "proof" in rejecting(judge(current, rows))


def eagerly(base: PolicyModel) -> PolicyModel:
    """The same weights in another honest numerics."""
    other = model()
    other.load_state({name: value.clone() for name, value in base.state().items()})
    other.module.set_attn_implementation("eager")
    return other


def compared(base: PolicyModel, rows: list[HonestRow], others: Alternatives) -> list[Comparison]:
    """What a validator measures of these rows, at all their positions, with every alternative."""
    work = InThisProcess(base, others)
    asked = [ProofRow(row.tokens, row.prompt_length, tuple(range(row.completion_length)), row.sampling_seed) for row in rows]
    sample = []
    for start in range(0, len(rows), 16):
        batch = asked[start : start + 16]
        own, under = work.measure(batch, SIGNS, POLICY).rollouts, work.compare(batch, SIGNS, POLICY)
        for row, measured, other in zip(rows[start : start + 16], own, under, strict=True):
            claimed = parse_sketches(row.proof.sketches, row.completion_length + 1)[1:]
            named = compare_named(
                claimed_sketches=claimed,
                tokens=np.array(row.tokens[row.prompt_length :], np.int32),
                compared=other,
            )
            sample.append(
                compare(
                    row.group,
                    row.rollout,
                    claimed_sketches=claimed,
                    claimed_logprobs=row.proof.logprobs,
                    z=measured.z,
                    logprobs=measured.logprobs,
                    margins=measured.margins,
                    reference=measured.reference,
                    named=named,
                )
            )
    return sample


def named_in(sample: list[Comparison]) -> list[NamedComparison]:
    return [one.named for one in sample if one.named is not None]


def by_name(statistics: list[Statistic]) -> dict[str, Statistic]:
    return {statistic.name: statistic for statistic in statistics}


STALE = 3e-4  # changes a sketch by half of what kernels do


@pytest.fixture(scope="module")
def others(current: PolicyModel) -> Alternatives:
    return Alternatives(current, {"previous-1": shifted(current, STALE).state, **rounded_copies(current)})


@pytest.fixture(scope="module")
def elsewhere(current: PolicyModel, prompts: list[tuple[int, ...]], others: Alternatives) -> list[Comparison]:
    """Honest work in other numerics."""
    return compared(current, mine(eagerly(current), POLICY, END, prompts[:4], SIGNS), others)


def test_half_of_the_error_rate_is_split_over_seventeen_tests_whatever_was_measured(elsewhere: list[Comparison]) -> None:
    assert ALTERNATIVE_TESTS == 16
    assert OTHER_TESTS == 17
    found = by_name(evaluate(elsewhere, shipped_pair()))
    few = [replace(one, leads={"int8": one.leads["int8"]}, deltas={}) for one in named_in(elsewhere)]
    (alone,) = alternative_statistics(few, shipped_pair(), sketch_ratio_passes=True)
    assert alone == found[token_statistic("int8")]
    assert alone.threshold == pytest.approx(math.log(2 * 17 / 1e-6), rel=1e-5)
    assert share_of_other(1e-6) == 1e-6 / 34


def test_honest_work_in_other_numerics_is_not_taken_for_an_alternative(elsewhere: list[Comparison]) -> None:
    statistics = by_name(evaluate(elsewhere, shipped_pair()))
    weights = ("previous-1", "int8", "int8-groups", "int4-groups")
    assert set(weights) < set(WEIGHTS_ALTERNATIVES)
    for name in weights:
        assert statistics[name].check == "proof"
        assert statistics[name].enforced
        assert statistics[name].value < 0  # the evidence is against it, not merely short of the threshold
    for name in (*weights, *SAMPLING_ALTERNATIVES):
        statistic = statistics[token_statistic(name)]
        assert statistic.check == "sampling"
        assert statistic.enforced
        assert statistic.threshold is not None
        assert statistic.value < statistic.threshold / 4


def test_what_hides_below_kernel_noise_is_found_by_its_name(
    current: PolicyModel, prompts: list[tuple[int, ...]], others: Alternatives
) -> None:
    older = shifted(current, STALE)
    copies = {name: model() for name in ("int8", "int4-groups")}
    for name, copy in copies.items():
        rounded = {key: value.to(torch.bfloat16) for key, value in rounded_copies(current)[name]().items()}
        copy.load_state({**current.state(), **rounded})
    for cheat, name in ((older, "previous-1"), *((copy, name) for name, copy in copies.items())):
        sample = compared(current, mine(eagerly(cheat), POLICY, END, prompts[: 4 if cheat is older else 1], SIGNS), others)
        (found,) = (
            one
            for one in alternative_statistics(named_in(sample), shipped_pair(), sketch_ratio_passes=True)
            if one.name == name
        )
        assert found.rejects, found


def test_tokens_drawn_at_another_temperature_are_found_by_its_name(
    current: PolicyModel, prompts: list[tuple[int, ...]]
) -> None:
    colder = mine(current, replace(POLICY, temperature=0.9), END, prompts[:4], SIGNS)
    right_prefill = compared(current, proved_again(current, colder), Alternatives(current, {}))
    statistics = by_name(evaluate(right_prefill, shipped_pair()))
    assert statistics[token_statistic("temperature x 0.9")].rejects
    assert not statistics["sketch_ratio"].rejects


def test_alternatives_are_acted_on_where_the_files_own_noise_was_tested(elsewhere: list[Comparison]) -> None:
    pair, named = shipped_pair(), named_in(elsewhere)
    own = own_statistics(elsewhere, pair)
    assert sketch_ratio_passes(own)
    ratio = next(one for one in own if one.name == "sketch_ratio")
    assert not sketch_ratio_passes([replace(ratio, value=2.0)])
    assert not sketch_ratio_passes([replace(ratio, undecided=True)])
    assert not sketch_ratio_passes([one for one in own if one.name != "sketch_ratio"])
    enforced = {True: alternative_statistics(named, pair, sketch_ratio_passes=True)}
    assert all(one.enforced for one in enforced[True])
    for reported in (
        alternative_statistics(named, pair, sketch_ratio_passes=False),
        alternative_statistics(named, None, sketch_ratio_passes=True),
        alternative_statistics(named, pair, shape=Shape(900, 64), sketch_ratio_passes=True),
    ):
        assert not any(one.enforced for one in reported)
        assert [one.value for one in reported] == [one.value for one in enforced[True]]
    drawn = alternative_statistics(named, pair, margins=None, sketch_ratio_passes=True)
    assert {one.check for one in drawn if one.enforced} == {"proof"}


def test_alternatives_without_a_difference_or_of_a_name_unknown_are_reported_and_not_acted_on(
    current: PolicyModel, honest: list[HonestRow]
) -> None:
    same = compared(current, honest[:16], Alternatives(current, {"previous-1": current.state}))
    statistic = by_name(evaluate(same, shipped_pair()))["previous-1"]
    assert (statistic.value, statistic.enforced) == (0.0, False)
    (one,) = named_in(same)[:1]
    unknown = replace(one, deltas={"previous-9": one.errors}, leads={})
    (found,) = alternative_statistics([unknown] * 30, shipped_pair(), sketch_ratio_passes=True)
    assert not found.enforced


def test_the_other_rollouts_are_measured_where_the_first_speak(
    elsewhere: list[Comparison],
) -> None:
    pair, named = shipped_pair(), named_in(elsewhere)[:16]
    # Sketches of far alternatives alone: all of them speak against.
    quiet = [replace(one, leads={}, deltas={"int8": one.deltas["int8"]}) for one in named]
    assert not left_open(quiet, pair)
    tiny = [replace(one, deltas={"int8": one.deltas["int8"] * 0.01}) for one in quiet]
    assert not left_open(tiny, pair)  # never testable
    # One of them speaks for an alternative.
    speaking = [replace(quiet[0], errors=quiet[0].errors + quiet[0].deltas["int8"]), *quiet[1:]]
    assert left_open(speaking, pair) == AskedAlternatives(frozenset({"int8"}))
    assert not left_open(speaking, None)
    # None of them does, and all together: a little beyond the dead zone, which only the other half of the test sees.
    near = [replace(one, deltas={"int8": np.float32(0.4) * one.deltas["int8"]}) for one in quiet]
    leaning = [replace(one, errors=np.float32(0.6) * one.deltas["int8"]) for one in near]
    found = AlternativeTests.of(leaning, pair, None).sketches["int8"]
    assert (found.rollouts > 0).sum() == 0
    assert left_open(leaning, pair) == AskedAlternatives(frozenset({"int8"}))
    assert not left_open(speaking, pair, shape=Shape(900, 64))
    # All of them do: it is found already.
    assert not left_open([replace(one, errors=one.errors + one.deltas["int8"]) for one in quiet], pair)
    # What is not enforced has found nothing: a class without a table stops nobody else's test.
    assert left_open(speaking, pair, margins=None) == AskedAlternatives(frozenset({"int8"}))
    undecided = [replace(one, drift=one.drift * 0) for one in speaking]
    assert not left_open(undecided, pair)
    assert not left_open([], pair)


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
    sample = verify(current, POLICY, sampled(honest), SIGNS, Reference(current).model())
    assert {s.name for s in evaluate(sample, None) if s.enforced} == COARSE
    pair = shipped_pair()
    for uncovered in (
        evaluate(sample, replace(pair, tokens=99_999)),
        evaluate(sample, replace(pair, checkpoints=9)),
        evaluate(sample, pair, shape=Shape(400, 64)),
        evaluate(sample, pair, shape=Shape(3, 8192)),
    ):
        assert {s.name for s in uncovered if s.enforced} == COARSE
        assert all(s.threshold is not None for s in uncovered if s.name not in ABSOLUTE)  # still reported
    assert {s.name for s in evaluate(sample, pair) if s.enforced} == COARSE | {*STATISTICS, SHARE}
    assert evaluate([], pair) == []


def claiming(measured: list[float], claimed: list[float]) -> Comparison:
    k = len(measured)
    z, words = np.zeros((k, 4), np.float32), np.zeros((k, 4), np.int16)
    numbers = [np.array(values, np.float32) for values in (claimed, measured)]
    return compare(1, 0, claimed_sketches=words, claimed_logprobs=numbers[0], z=z, logprobs=numbers[1], margins=np.zeros(k))


def test_a_false_log_probability_counts_where_the_token_was_in_doubt() -> None:
    doubtful = claiming([-3.0] * 8 + [-1e-4] * 24, [-2.9] * 8 + [-1e-4] * 24)
    # 8 of 32 positions say anything, and all of them are off by 0.1: a plain mean would have been 0.025.
    assert absolute_values("logprob", [doubtful])[0] == pytest.approx(0.1, rel=0.01)
    sure = claiming([-1e-6] * 32, [-1e-5] * 32)  # rounding at sure tokens is no evidence
    assert absolute_values("logprob", [sure])[0] < 1e-6
    wild = claiming([-2.0] * 32, [-2.0] * 31 + [-1.0])
    assert absolute_values("logprob_tail", [wild, doubtful]) == pytest.approx([1 / 32, 0.0], abs=1e-6)
    broken = claiming([-2.0] * 4, [math.nan] * 4)
    assert absolute_values("logprob", [broken])[0] == math.inf
    assert absolute_values("logprob_tail", [broken])[0] == math.inf
