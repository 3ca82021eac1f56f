"""The float32 copy, the weights that take its place, and the attention that a validator measures in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof import compared
from grail_core.proof.alternatives import ROUNDED, Alternatives, round_to_nearest, rounded_copies
from grail_core.proof.batch import measure_rollouts
from grail_core.proof.in_process import InThisProcess
from grail_core.proof.reference import Reference
from grail_core.proof.sketches import projections
from grail_core.proof.work import MOST_LEAD, AskedAlternatives, MeasuredBatch, ProofRow
from grail_core.protocol import Randomness
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, save_random_model

SIGNS = projections(Randomness(bytes(32)), b"s" * 32, 32)
POLICY = GenerationPolicy(max_tokens=20)
EAGER = "bf16-eager-cpu-transformers"
ROWS = [ProofRow([1, 2, *(3 + (5 * r + i * i) % 12 for i in range(6 + r))], 2, tuple(range(0, 6 + r, 2)), r) for r in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model"), Qwen2Shape(16))


@pytest.fixture
def model(folder: Path) -> PolicyModel:
    return PolicyModel.load(folder)


def bits(batch: MeasuredBatch) -> list[bytes]:
    """Every number of the model's own pass."""
    return [value.tobytes() for one in batch.rollouts for value in (one.z, one.logprobs, one.margins)]


def test_the_miners_attention_gives_the_bits_of_a_model_that_was_loaded_with_it(folder: Path, model: PolicyModel) -> None:
    work = InThisProcess(model)
    own = bits(work.measure(ROWS, SIGNS, POLICY))
    in_eager = bits(work.measure(ROWS, SIGNS, POLICY, proof_class=EAGER))
    assert in_eager == bits(InThisProcess(PolicyModel.load(folder, attention="eager")).measure(ROWS, SIGNS, POLICY))
    assert in_eager != own
    assert bits(work.measure(ROWS, SIGNS, POLICY)) == own  # put back
    assert bits(work.measure(ROWS, SIGNS, POLICY, proof_class="bf16-flash-cuda-sglang")) == own  # not to be had here


def test_attention_is_put_back_where_a_pass_breaks_off(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def breaks(rows: object) -> list[Tensor]:
        seen.append(model.attention)
        raise ZeroDivisionError

    monkeypatch.setattr(model, "hidden_states", breaks)
    with pytest.raises(ZeroDivisionError):
        InThisProcess(model).measure(ROWS, SIGNS, POLICY, proof_class=EAGER)
    assert (seen, model.attention) == (["eager"], "sdpa")


def test_the_reference_is_the_same_weights_loaded_in_float32(folder: Path, model: PolicyModel) -> None:
    wide = PolicyModel.load(folder, dtype="float32")
    expected = measure_rollouts(
        wide,
        [row.tokens for row in ROWS],
        [row.prompt_length for row in ROWS],
        [row.positions for row in ROWS],
        SIGNS,
        POLICY,
        [row.sampling_seed for row in ROWS],
    )
    for one, other in zip(InThisProcess(model).measure(ROWS, SIGNS, POLICY).rollouts, expected, strict=True):
        assert one.reference is not None
        assert one.reference.z.tobytes() == other.z.tobytes()
        assert one.reference.logprobs.tobytes() == other.logprobs.tobytes()
        assert one.reference.margins.tobytes() == other.margins.astype(np.float32).tobytes()
        assert 0 < np.abs(one.z - one.reference.z).max() < 0.05


def test_twins_are_what_the_models_own_logits_choose_judged_by_the_reference(model: PolicyModel) -> None:
    """Rows of what the model itself draws: its tokens are the twins' then, so both margins are one."""
    work = InThisProcess(model)
    tokens = [1, 2]
    sampler = SeededSampler(POLICY)
    for _ in range(8):
        logits = model.logits(model.hidden_states([tokens])[0][-1:])
        chosen = sampler.sample(logits, np.array([9], np.uint64), np.array([len(tokens) - 1], np.uint32))
        tokens.append(int(chosen[0]))
    row = ProofRow(tokens, 2, tuple(range(8)), 9)
    (one,) = work.measure([row], SIGNS, POLICY).rollouts
    assert one.reference is not None
    assert np.array_equal(one.reference.twins, one.reference.margins)
    changed = [*tokens[:5], (tokens[5] + 1) % 16, *tokens[6:]]
    (other,) = work.measure([ProofRow(changed, 2, tuple(range(8)), 9)], SIGNS, POLICY).rollouts
    assert other.reference is not None
    assert other.reference.margins[3] > other.reference.twins[3]


def test_other_weights_stand_in_the_copy_for_a_time_and_leave_nothing_behind(model: PolicyModel) -> None:
    reference = Reference(model)
    before = {name: value.clone() for name, value in reference.model().state().items()}
    name = next(iter(before))
    changed = reference.under({name: before[name] + 1})
    assert torch.equal(changed.state()[name], before[name] + 1)
    assert all(torch.equal(value, before[other]) for other, value in changed.state().items() if other != name)
    assert all(torch.equal(value, before[other]) for other, value in reference.model().state().items())
    with pytest.raises(ValueError, match="another model"):
        reference.under({"no such tensor": before[name]})


def test_the_copy_follows_a_model_whose_weights_change(model: PolicyModel) -> None:
    reference = Reference(model)
    with model.lock, torch.no_grad():
        for value in model.state().values():
            value.mul_(2)
        model.weights_changed()
    assert all(torch.equal(value, model.state()[name].float()) for name, value in reference.model().state().items())


@pytest.mark.parametrize("most_bytes", [0, 4_000, 1 << 30], ids=["none kept", "some kept", "all kept"])
def test_rounded_copies_are_the_same_kept_or_not(model: PolicyModel, most_bytes: int) -> None:
    copies = rounded_copies(model, most_bytes=most_bytes)
    assert copies.keys() == ROUNDED.keys()
    for _ in range(2):
        for name, (bits_, group) in ROUNDED.items():
            weights = copies[name]()
            assert all(".layers." in of_block for of_block in weights)
            assert len(weights) == 14  # seven matrices in each of two blocks
            for matrix, value in weights.items():
                assert torch.equal(value, round_to_nearest(model.state()[matrix], bits_, group))
                assert len(np.unique(value.numpy())) <= (2**bits_ - 1) * value.numel() // (group or value.shape[-1])


def test_a_rounded_copy_of_weights_that_have_changed_is_not_used(model: PolicyModel) -> None:
    weights = rounded_copies(model)["int8"]()
    model.weights_changed()
    with pytest.raises(ValueError, match="have changed"):
        next(iter(weights.values()))


def counted(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass of this model from now on."""
    counts: list[int] = []
    forward = model.hidden_states

    def counting(rows: Sequence[Sequence[int]]) -> list[Tensor]:
        counts.append(len(rows))
        return forward(rows)

    monkeypatch.setattr(model, "hidden_states", counting)
    return counts


@pytest.mark.parametrize(("kept_bytes", "again"), [(1 << 20, []), (700, [4]), (0, [5])])
def test_own_states_are_kept_from_measuring_to_comparing_as_far_as_memory_is_left(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch, kept_bytes: int, again: list[int]
) -> None:
    everything = InThisProcess(model)
    everything.measure(ROWS, SIGNS, POLICY)
    expected = everything.compare(ROWS, SIGNS, POLICY)
    work = InThisProcess(model, kept_bytes=kept_bytes)
    work.measure(ROWS, SIGNS, POLICY)
    passes = counted(model, monkeypatch)
    found = work.compare(ROWS, SIGNS, POLICY)
    assert passes == again
    for one, other in zip(found, expected, strict=True):
        assert one.z["current"].tobytes() == other.z["current"].tobytes()
        assert np.abs(one.z["own"] - other.z["own"]).max() < 0.05
        assert np.abs(one.noise - other.noise).max() < 1e-3  # rows of another length fill up the batch


def test_states_of_another_attention_or_of_other_weights_are_not_taken_for_ones_own(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = InThisProcess(model)
    work.measure(ROWS, SIGNS, POLICY)
    passes = counted(model, monkeypatch)
    work.compare(ROWS, SIGNS, POLICY, proof_class=EAGER)
    model.weights_changed()
    work.compare(ROWS, SIGNS, POLICY)
    assert passes == [5, 5]


# --- numbers that are none ------------------------------------------------------------------------------------------------


def broken(value: float) -> Callable[[PolicyModel], InThisProcess]:
    """With this value throughout the reference's last norm."""

    def make(model: PolicyModel) -> InThisProcess:
        alternatives = Alternatives(model, {"previous-1": model.state})
        copy = alternatives.reference.model()
        with torch.no_grad():
            copy.state()["model.norm.weight"].fill_(value)
        return InThisProcess(model, alternatives)

    return make


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, 0.0])
@pytest.mark.parametrize("policy", [POLICY, GenerationPolicy(20, 0.7, 0.9, 8), GenerationPolicy(20, repetition_penalty=1.2)])
def test_a_reference_without_numbers_raises_nothing_and_leaves_the_models_own_alone(
    model: PolicyModel, value: float, policy: GenerationPolicy
) -> None:
    whole = InThisProcess(model).measure(ROWS, SIGNS, policy)
    found = broken(value)(model).measure(ROWS, SIGNS, policy)
    for one, other in zip(found.rollouts, whole.rollouts, strict=True):
        assert (one.z.tobytes(), one.margins.tobytes()) == (other.z.tobytes(), other.margins.tobytes())
        assert one.reference is not None
        assert not one.reference.finite


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_a_comparison_without_numbers_is_empty_and_one_alternative_without_them_left_out(
    model: PolicyModel, value: float
) -> None:
    for one in broken(value)(model).compare(ROWS, SIGNS, POLICY):
        assert (one.z, one.leads) == ({}, {})
        assert not one.noise.any()
    odd = {"previous-1": model.state, "previous-2": lambda: {"model.norm.weight": torch.full((32,), value)}}
    for one in InThisProcess(model, Alternatives(model, odd)).compare(ROWS, SIGNS, POLICY):
        assert one.z.keys() == {"current", "own", "previous-1"}
        assert "previous-2" not in one.leads


def test_without_a_reference_nothing_is_compared(model: PolicyModel) -> None:
    work = InThisProcess(model, reference=False)
    assert all(one.reference is None for one in work.measure(ROWS, SIGNS, POLICY).rollouts)
    with pytest.raises(ValueError, match="without a float32 reference"):
        work.compare(ROWS, SIGNS, POLICY)


@pytest.mark.parametrize("name", ["current", "own"])
def test_no_alternative_has_the_name_of_a_yardstick(model: PolicyModel, name: str) -> None:
    def weights() -> dict[str, Tensor]:
        return {}

    with pytest.raises(ValueError, match=f"named {name}"):
        Alternatives(model, {name: weights})


def test_the_own_sketches_of_a_comparison_are_those_that_were_measured_wherever_the_states_are_kept(model: PolicyModel) -> None:
    work = InThisProcess(model)
    for asked in (None, AskedAlternatives(frozenset({"int8"}))):  # with logits, and without
        measured = work.measure(ROWS, SIGNS, POLICY).rollouts
        for one, beside in zip(work.compare(ROWS, SIGNS, POLICY, asked=asked), measured, strict=True):
            assert one.positions == beside.positions
            assert one.z["own"].tobytes() == beside.z.tobytes()


def test_tokens_are_looked_at_only_where_an_alternative_can_turn_the_draw(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is, the numbers are those of looking everywhere; where not, it would have turned nothing there either."""
    everything = {"int8": rounded_copies(model)["int8"], "previous-1": lambda: {n: t * 1.01 for n, t in model.state().items()}}
    rows = [replace(ROWS[0], sampling_seed=seed) for seed in range(40)]
    asked = AskedAlternatives(tokens=frozenset(everything))
    found = InThisProcess(model, Alternatives(model, everything)).compare(rows, SIGNS, POLICY, asked=asked)
    monkeypatch.setattr(compared._Comparing, "_reach", lambda self, model, states, mine: np.full(len(states), np.inf))
    whole = InThisProcess(model, Alternatives(model, everything)).compare(rows, SIGNS, POLICY, asked=asked)
    for name in everything:
        one, other = (
            {part: np.concatenate([getattr(row.leads[name], part) for row in some]) for part in ("own", "other", "rival")}
            for some in (found, whole)
        )
        looked_at = one["rival"] >= 0
        assert 0 < looked_at.sum() < len(looked_at) / 2
        assert (other["rival"] >= 0).all()
        for part in ("own", "other", "rival"):
            np.testing.assert_allclose(one[part][looked_at], other[part][looked_at], atol=1e-4)
        assert (other["other"][~looked_at] < 0).all()
        assert set(one["own"][~looked_at]) == {np.float32(MOST_LEAD)}
        assert set(one["other"][~looked_at]) == {np.float32(-MOST_LEAD)}


def test_a_comparison_is_empty_where_the_own_states_have_no_number(model: PolicyModel) -> None:
    work = InThisProcess(model)
    work.measure(ROWS[:1], SIGNS, POLICY)
    with torch.no_grad():
        model.state()["model.norm.weight"].fill_(float("nan"))
    (one,) = work.compare([replace(ROWS[0], tokens=[*ROWS[0].tokens, 5])], SIGNS, POLICY, asked=AskedAlternatives())
    assert one.z == {}
