"""A number that is not finite is the worst value, wherever it is put: no statistic falls by it, and no reject goes away."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler, margin_plain
from grail_core.proof.batch import measure_rollouts
from grail_core.proof.calibration import shipped_table
from grail_core.proof.comparison import Comparison, NamedComparison, Statistic, compare
from grail_core.proof.errors import UnprovableError
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.sketches import differences, projections, sketch
from grail_core.proof.statistics import alternative_statistics, evaluate, left_open
from grail_core.proof.work import Leads
from grail_core.protocol.constants import MARGIN_CLIP, SKETCH_LIMIT
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

PAIR = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
NOT_FINITE = (math.nan, math.inf, -math.inf)
POLICIES = [
    GenerationPolicy(8),
    GenerationPolicy(8, temperature=0.6),
    GenerationPolicy(8, top_k=7),
    GenerationPolicy(8, top_p=0.9),
    GenerationPolicy(8, temperature=0.9, top_p=0.95, top_k=20, repetition_penalty=1.3),
]


@st.composite
def samples(draw: st.DrawFn) -> list[Comparison]:
    """Rollouts of any length between honest and junk, without a float32 reference."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    noise = draw(st.sampled_from([0.0, 1e-3, 5e-3, 0.02, 0.3, 1.0]))
    sample = []
    for number in range(draw(st.integers(1, 40))):
        k = int(rng.integers(1, 33))
        sample.append(
            Comparison(
                number // 2,
                number % 2,
                rng.normal(0, noise, (k, 4)).astype(np.float32),
                rng.normal(0, noise, k).astype(np.float32),
                rng.random(k).astype(np.float32),
                np.maximum(0, rng.normal(-1, 1 + noise, k)).clip(0, MARGIN_CLIP),
            )
        )
    return sample


@given(sample=samples(), data=st.data())
@settings(max_examples=150)
def test_putting_one_in_lowers_no_statistic_and_turns_no_reject_into_an_accept(
    sample: list[Comparison], data: st.DataObject
) -> None:
    before = {statistic.name: statistic for statistic in evaluate(sample, PAIR)}
    at = data.draw(st.integers(0, len(sample) - 1))
    one = sample[at]
    arrays: dict[str, np.ndarray] = {
        "errors": one.errors,
        "logprob_errors": one.logprob_errors,
        "margins": one.margins,
        "informative": one.informative,
    }
    array = arrays[data.draw(st.sampled_from(sorted(arrays)))]
    array.flat[data.draw(st.integers(0, array.size - 1))] = data.draw(st.sampled_from(NOT_FINITE))
    for statistic in evaluate(sample, PAIR):
        assert not math.isnan(statistic.value)
        assert statistic.value >= before[statistic.name].value
        assert statistic.rejects >= before[statistic.name].rejects
        assert statistic.enforced >= before[statistic.name].enforced


def test_a_statistic_without_a_number_rejects() -> None:
    assert Statistic("proof", "any", math.nan, 1.0, True, "").rejects
    assert not Statistic("proof", "any", math.nan, 1.0, False, "").rejects


@given(
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 2**64 - 1),
    bad=st.sampled_from([math.nan, math.inf]),
    at=st.integers(0, 63),
    claimed=st.integers(0, 63),
)
def test_a_row_with_a_logit_that_is_no_number_is_won_by_no_token(
    policy: GenerationPolicy, seed: int, bad: float, at: int, claimed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, 64).astype(np.float32)
    logits[at] = bad
    sampler = SeededSampler(policy)
    history = [1, 2, 3]
    assert sampler.margin(logits, seed, 5, claimed, history) == MARGIN_CLIP
    assert sampler.margin(logits, seed, 5, claimed, history, top=int(logits.argmax())) == MARGIN_CLIP
    assert margin_plain(sampler, logits, seed, 5, claimed, history) == MARGIN_CLIP
    logits[at] = -math.inf  # has no chance, and no say
    assert sampler.margin(logits, seed, 5, at, history) == MARGIN_CLIP


def test_no_claim_meets_a_sketch_that_is_not_finite() -> None:
    """Clipped like any other, an infinite one would be met by the largest word."""
    for value, word in ((math.inf, SKETCH_LIMIT), (-math.inf, -SKETCH_LIMIT), (math.nan, 0)):
        claimed = np.full((3, 4), word, np.int16)
        assert np.isnan(differences(claimed, np.full((3, 4), value, np.float32))).all()
    overflowing = torch.full((1, 32), 3e37)  # its norm is finite in float64 alone
    with pytest.raises(UnprovableError):
        sketch(overflowing, projections(Randomness(bytes(32)), b"s" * 32, 32) * np.float32(1.0))


def test_a_model_whose_own_state_is_not_finite_proves_nothing_for_anybody() -> None:
    """The validator measures NaN, and every claim about that rollout counts as the worst."""
    module = in_bfloat16(random_model(Qwen2Shape(64, context=64)))
    with torch.no_grad():
        module.get_input_embeddings().weight[7] = math.nan
    model = PolicyModel(module)
    signs = projections(Randomness(bytes(32)), b"s" * 32, model.hidden_size)
    rows, lengths = [[1, 2, 7, *range(10, 30)], [1, 2, 3, *range(10, 30)]], [3, 3]
    positions = [tuple(range(20))] * 2
    lost, fine = measure_rollouts(model, rows, lengths, positions, signs, GenerationPolicy(20), [1, 2])
    assert np.isnan(lost.z).all()
    assert not np.isfinite(lost.logprobs).any()
    assert (lost.margins == MARGIN_CLIP).all()
    assert np.isfinite(fine.z).all()  # the neighbour in the batch is another matter
    found = compare(
        0,
        0,
        claimed_sketches=np.zeros((20, 4), np.int16),
        claimed_logprobs=np.zeros(20, np.float32),
        z=lost.z,
        logprobs=lost.logprobs,
        margins=lost.margins,
    )
    assert {s.check for s in evaluate([found], None) if s.rejects} == {"proof", "logprob", "sampling"}


def named(rng: np.random.Generator, way: float = 0.0) -> NamedComparison:
    """A rollout that lies `way` of the way to int8, and at whose positions int8 would have written 7, as it did by `way`."""
    delta, drift, noise = (rng.normal(0, 0.005, (32, 4)).astype(np.float32) for _ in range(3))
    lead = np.full(32, 0.01, np.float32)
    return NamedComparison(
        errors=way * delta + noise,
        deltas={"int8": delta},
        drift=drift,
        tokens=np.full(32, 7 if rng.random() < way else 3, np.int32),
        leads={"int8": Leads(lead, lead, np.full(32, 7, np.int32))},
        noise=np.full(32, 1e-4, np.float32),
        spread=np.full(32, 0.5, np.float32),
    )


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_number_missing_under_the_reference_or_an_alternative_leaves_that_rollout_out_and_accuses_nobody(
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    tested = [named(rng) for _ in range(8)]
    at = data.draw(st.integers(0, 7))
    one = tested[at]
    of_leads = {"own": one.leads["int8"].own, "other": one.leads["int8"].other}
    arrays = {"e": one.errors, "Δ": one.deltas["int8"], "drift": one.drift, "noise": one.noise, "spread": one.spread}
    name = data.draw(st.sampled_from(sorted(arrays | of_leads)))
    array = (arrays | of_leads)[name]
    array.flat[data.draw(st.integers(0, array.size - 1))] = data.draw(st.sampled_from(NOT_FINITE))
    found = {s.name: s for s in alternative_statistics(tested, PAIR, sketch_ratio_passes=True)}
    rest = [other for place, other in enumerate(tested) if place != at]
    wanted = {s.name: s for s in alternative_statistics(rest, PAIR, sketch_ratio_passes=True)}
    touched = {"int8", "int8 (tokens)"} if name not in ("Δ", *of_leads) else {"int8"} if name == "Δ" else {"int8 (tokens)"}
    for statistic in touched:
        if len(touched) == 2:  # the reference says nothing of it
            assert found[statistic] == wanted[statistic]
        else:  # its drift still counts
            assert found[statistic].value == pytest.approx(wanted[statistic].value, rel=0.1)
            assert "7 rollouts" in found[statistic].detail
    assert not any(s.rejects for s in found.values())


def test_a_cheat_is_found_beside_rollouts_whose_reference_says_nothing() -> None:
    rng = np.random.default_rng(3)
    tested = [named(rng, 1.0) for _ in range(30)]
    for one in tested[:10]:
        one.drift[:] = math.nan
    found = alternative_statistics(tested, PAIR, sketch_ratio_passes=True)
    assert {s.name for s in found if s.rejects} == {"int8", "int8 (tokens)"}
    for one in tested:
        one.noise[:] = 1e30
    assert alternative_statistics(tested, PAIR, sketch_ratio_passes=True) == []
    assert not left_open(tested, PAIR)


@pytest.mark.parametrize("size", [0.0, 0.06 / 0.005])
def test_alternatives_are_undecided_where_the_validators_own_drift_is_nothing_or_too_much(size: float) -> None:
    rng = np.random.default_rng(4)
    tested = [replace(one, drift=one.drift * np.float32(size)) for one in (named(rng, 1.0) for _ in range(30))]
    for statistic in alternative_statistics(tested, PAIR, sketch_ratio_passes=True):
        assert (statistic.undecided, statistic.rejects) == (True, False)
        assert "undecided" in statistic.detail
