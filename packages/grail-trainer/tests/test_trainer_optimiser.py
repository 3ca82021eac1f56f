"""Promises of the optimiser: one schedule by its own steps, masters of either type, and states that only their kind takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.errors import CheckpointError, ConfigurationError, OutOfMemoryError
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning import guarded
from grail_trainer.learning.alarms import LEARNING_RATE_FACTOR
from grail_trainer.learning.guarded import learn_window
from grail_trainer.learning.optimiser import Masters, state_digest
from grail_trainer.learning.reference import Offloaded
from grail_trainer.learning.schedule import learning_rate
from grail_trainer.learning.training_state import read_state_file
from grail_trainer.learning.update import update
from grail_trainer.state import settings_changed
from tooling.testing.toy_updates import groups_of, module_of

STOCHASTIC = OptimiserSettings(learning_rate=1e-3, master_dtype="bfloat16-stochastic")
ADAPTERS = OptimiserSettings(learning_rate=1e-3, lora_rank=2)
PLAIN = OptimiserSettings(learning_rate=1e-3)


def masters_of(settings: OptimiserSettings, seed: int = 0) -> Masters:
    return Masters(module_of(seed), settings)


def learned(masters: Masters, window: int = 0, **chosen: Any) -> guarded.LearnedWindow:
    settings = HyperParameters(GrpoSettings(**{"kl_coefficient": 0.0, **chosen}), masters.settings)
    return learn_window(masters, groups_of(), settings, window=window, temperature=1.0, token_limit=8)


def weights_and_moments(masters: Masters) -> str:
    """Digest of what an update that is taken back leaves as it was; alarms remember that it was."""
    return state_digest({name: tensor for name, tensor in masters.tensors().items() if not name.startswith("scalar.")})


# --- the schedule -----------------------------------------------------------------------------------------------------


def test_schedules_rise_over_the_warmup_and_end_at_their_least() -> None:
    rates = {
        kind: [
            learning_rate(
                OptimiserSettings(
                    learning_rate=2.0, warmup_steps=4, schedule=kind, schedule_steps=14, min_learning_rate_share=0.25
                ),
                step,
            )
            for step in range(20)
        ]
        for kind in ("constant", "linear", "cosine")
    }
    for rate in rates.values():
        assert rate[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates["constant"][4:] == [2.0] * 16
    for kind in ("linear", "cosine"):
        assert rates[kind][14:] == [0.5] * 6
        assert rates[kind][4:15] == sorted(rates[kind][4:15], reverse=True)
        assert rates[kind][9] == pytest.approx(1.25)  # half-way
    assert rates["linear"][5] == pytest.approx(1.85)
    assert rates["cosine"][5] == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 10)))


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(OptimiserSettings(learning_rate=0.5, warmup_steps=0), 0) == 0.5


def test_a_schedule_that_ends_in_its_warmup_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="12"):
        OptimiserSettings(schedule="linear", schedule_steps=12, warmup_steps=12)


def test_the_rate_moves_by_optimiser_steps_whatever_the_micro_batches() -> None:
    settings = OptimiserSettings(learning_rate=1e-3, warmup_steps=0, schedule="linear", schedule_steps=20)
    rates = []
    for tokens in (1, 10_000):
        masters = masters_of(settings)
        learned(masters, epochs=2, minibatches=3, tokens_per_pass=tokens)
        rates.append(masters.learning_rate)
    assert rates[0] == rates[1] == learning_rate(settings, 6)


def test_a_factor_of_an_alarm_scales_the_rate_and_is_resumed(tmp_path: Path) -> None:
    masters = masters_of(OptimiserSettings(learning_rate=1e-3, warmup_steps=0))
    masters.scalars[LEARNING_RATE_FACTOR] = 0.5
    masters.save(tmp_path / "state")
    resumed = masters_of(OptimiserSettings(learning_rate=1e-3, warmup_steps=0), seed=4)
    resumed.resume(tmp_path / "state")
    assert resumed.learning_rate == masters.learning_rate == 5e-4


# --- a step -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "bfloat16-stochastic"])
def test_weight_decay_shrinks_matrices_and_leaves_norms_and_biases(kind: Any) -> None:
    settings = OptimiserSettings(learning_rate=0.1, warmup_steps=0, weight_decay=0.5, master_dtype=kind)
    masters = masters_of(settings)
    before = {name: p.detach().float().clone() for name, p in masters.module.named_parameters()}
    for parameter in masters.module.parameters():
        parameter.grad = torch.zeros(parameter.shape)
    masters.step(largest_norm=1.0)
    for name, parameter in masters.module.named_parameters():
        expected = before[name] * (0.95 if before[name].dim() > 1 else 1.0)
        tolerance = 0.0 if kind == "float32" else 2**-7 * float(expected.abs().max())
        assert torch.allclose(parameter.float(), expected, rtol=1e-6, atol=tolerance), name
    assert {before[name].dim() for name in before} == {1, 2}


def test_the_largest_norm_is_a_knob_that_the_update_obeys() -> None:
    """Adam forgets a gradient's scale; its moments do not."""
    squares = {}
    for largest in (1e-3, 1e9):
        masters = masters_of(OptimiserSettings(learning_rate=1e-3, max_gradient_norm=largest))
        norm = learned(masters, epochs=1, minibatches=1).statistics.gradient_norm
        state = masters.tensors()
        squares[largest] = sum(float(t.square().sum()) for name, t in state.items() if name.startswith("moment1."))
    assert norm > 1e-3
    assert math.sqrt(squares[1e-3]) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # (1 − β1) of it
    assert math.sqrt(squares[1e9]) == pytest.approx(0.1 * norm, rel=1e-3)


def test_bfloat16_masters_add_up_micro_batches_in_float32() -> None:
    masters = masters_of(STOCHASTIC)
    weight = masters.module.get_input_embeddings().weight
    for _ in range(300):
        (weight.float() * 1e-3).sum().backward()
    assert weight.dtype is torch.bfloat16
    assert weight.grad.dtype is torch.float32
    assert torch.allclose(weight.grad, torch.full_like(weight.grad, 0.3), atol=1e-3)


def test_bfloat16_masters_learn_and_what_is_published_is_what_they_are() -> None:
    masters = masters_of(STOCHASTIC)
    before = masters.published()
    tables = [buffer.dtype for buffer in masters.module.buffers()]
    assert learned(masters).undone == ""
    after = masters.published()
    assert all(dtype is torch.float32 for dtype in tables)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, parameter in masters.module.named_parameters():
        assert torch.equal(after[name], parameter)
        assert after[name].data_ptr() != parameter.data_ptr()
    state = masters.tensors()
    assert {tensor.dtype for name, tensor in state.items() if name.startswith("moment")} == {torch.float32}


def test_a_step_keeps_one_copy_of_gradients_and_frees_it() -> None:
    masters = masters_of(PLAIN)
    learned(masters)
    assert all(parameter.grad is None for parameter in masters.module.parameters())


# --- numbers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PLAIN, STOCHASTIC, ADAPTERS], ids=["float32", "bfloat16", "adapters"])
def test_bad_steps_in_a_row_end_in_the_window_taken_back(settings: OptimiserSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    masters = masters_of(settings)
    learned(masters)
    before = weights_and_moments(masters)
    step, met = masters.step, iter([False, True, True, True, True, *[False] * 20])

    def spoiled(*, largest_norm: float) -> float:
        if next(met):
            masters.spoil_gradients()
        return step(largest_norm=largest_norm)

    monkeypatch.setattr(masters, "step", spoiled)
    result = learned(masters, window=1)
    assert result.statistics.steps_refused == result.statistics.steps_refused_in_row == 4
    assert "4 steps in a row" in result.undone
    assert weights_and_moments(masters) == before


def test_bad_steps_that_are_not_in_a_row_are_counted_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    masters = masters_of(PLAIN)
    before = weights_and_moments(masters)
    step, count = masters.step, iter(range(100))

    def spoiled(*, largest_norm: float) -> float:
        if next(count) % 2:
            masters.spoil_gradients()
        return step(largest_norm=largest_norm)

    monkeypatch.setattr(masters, "step", spoiled)
    result = learned(masters)
    assert (result.undone, result.statistics.steps, result.statistics.steps_refused) == ("", 9, 4)
    assert int(masters.tensors()["steps"]) == 5
    assert weights_and_moments(masters) != before


def test_a_loss_that_is_no_number_makes_no_step_though_its_gradient_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from grail_trainer.learning.losses import PolicyObjective

    loss = PolicyObjective.loss

    def with_a_constant(self: Any, logprob: Any, entropy: Any, tokens: slice) -> Any:
        return loss(self, logprob, entropy, tokens) + math.inf

    monkeypatch.setattr(PolicyObjective, "loss", with_a_constant)
    masters = masters_of(PLAIN)
    before = weights_and_moments(masters)
    result = learned(masters)
    assert result.statistics.steps == result.statistics.steps_refused == 9
    assert result.undone
    assert weights_and_moments(masters) == before


@pytest.mark.parametrize("settings", [PLAIN, STOCHASTIC, ADAPTERS], ids=["float32", "bfloat16", "adapters"])
def test_no_memory_in_mid_window_is_told_with_what_helps_and_nothing_is_kept(
    settings: OptimiserSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    masters = masters_of(settings)
    learned(masters)
    before = weights_and_moments(masters)
    step, calls = masters.step, iter(range(100))

    def exhausted(*, largest_norm: float) -> float:
        if next(calls) == 3:
            raise MemoryError
        return step(largest_norm=largest_norm)

    monkeypatch.setattr(masters, "step", exhausted)
    with pytest.raises(OutOfMemoryError) as caught:
        learned(masters, window=1)
    assert "--tokens-per-pass" in caught.value.hint
    assert weights_and_moments(masters) == before
    assert all(parameter.grad is None for parameter in masters.module.parameters())


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PLAIN, STOCHASTIC, ADAPTERS], ids=["float32", "bfloat16", "adapters"])
def test_a_state_comes_back_to_the_bit_in_mid_schedule(settings: OptimiserSettings, tmp_path: Path) -> None:
    straight = masters_of(settings)
    learned(straight)
    straight.save(tmp_path / "state.safetensors")
    resumed = masters_of(settings, seed=5)
    resumed.resume(tmp_path / "state.safetensors")
    for masters in (straight, resumed):
        learned(masters, window=1)
    assert resumed.digest() == straight.digest() == state_digest(straight.tensors())
    assert all(torch.equal(tensor, straight.published()[name]) for name, tensor in resumed.published().items())


def test_a_parameter_that_some_steps_did_not_reach_keeps_its_own_count() -> None:
    masters = masters_of(PLAIN)
    named = dict(masters.module.named_parameters())
    for reached in (named, dict(list(named.items())[:3]), named):
        for parameter in reached.values():
            parameter.grad = torch.ones_like(parameter)
        masters.step(largest_norm=1.0)
    other = masters_of(PLAIN, seed=3)
    other.restore(masters.tensors())
    for one in (masters, other):
        for parameter in one.module.parameters():
            parameter.grad = torch.ones_like(parameter)
        one.step(largest_norm=1.0)
    assert other.digest() == masters.digest()


@pytest.mark.parametrize(
    ("made", "taken", "where"),
    [
        (PLAIN, STOCHASTIC, "master_dtype"),
        (STOCHASTIC, PLAIN, "master_dtype"),
        (PLAIN, ADAPTERS, "lora_rank"),
        (ADAPTERS, PLAIN, "lora_rank"),
        (ADAPTERS, OptimiserSettings(lora_rank=3), "lora_"),
        (ADAPTERS, OptimiserSettings(lora_rank=2, lora_modules="q_proj"), "lora_"),
    ],
)
def test_a_state_of_another_kind_is_refused_with_what_to_do(
    made: OptimiserSettings, taken: OptimiserSettings, where: str, tmp_path: Path
) -> None:
    former = masters_of(made)
    learned(former)
    former.save(tmp_path / "state")
    masters = masters_of(taken)
    before = masters.digest()
    with pytest.raises(CheckpointError) as caught:
        masters.resume(tmp_path / "state")
    assert where in caught.value.where
    assert "move the folder" in caught.value.hint
    assert masters.digest() == before


@pytest.mark.parametrize(
    "change",
    [
        {"steps": None},
        {"steps": torch.tensor(-1)},
        {"steps": torch.tensor(1.5)},
        {"scalar.kl_coefficient": torch.zeros(2, dtype=torch.float64)},
        {"master.unknown": torch.zeros(1)},
        {"moment1.model.norm.weight": None},
        {"moment1.model.norm.weight": torch.zeros(3)},
        {"moment2.model.norm.weight": torch.zeros(16, dtype=torch.float64)},
        {"base": torch.zeros(32, dtype=torch.uint8)},
        {"made.model.norm.weight": torch.tensor(-3)},
    ],
    ids=str,
)
def test_tensors_that_no_masters_left_are_refused_before_anything_changes(change: dict[str, torch.Tensor | None]) -> None:
    masters = masters_of(PLAIN)
    learned(masters)
    tensors = {name: tensor for name, tensor in {**masters.tensors(), **change}.items() if tensor is not None}
    before = masters.digest()
    with pytest.raises(CheckpointError):
        masters.restore(tensors)
    assert masters.digest() == before


def test_every_difference_of_two_settings_is_named() -> None:
    before = HyperParameters().to_json()
    now = HyperParameters(GrpoSettings(epochs=9), OptimiserSettings(learning_rate=0.5)).to_json()
    assert settings_changed(before, before) == settings_changed(None, now) == {}
    assert settings_changed(before, now) == {"optimiser.learning_rate": ["0.001", "0.5"], "update.epochs": [3, 9]}
    del before["optimiser"]["schedule"]
    assert settings_changed(before, now)["optimiser.schedule"] == [None, "constant"]


# --- the reference ----------------------------------------------------------------------------------------------------


def test_a_reference_is_in_memory_only_while_its_passes_run() -> None:
    import weakref

    loads: list[weakref.ref[Any]] = []

    def load() -> Any:
        module = module_of(seed=7)
        loads.append(weakref.ref(module))
        return module

    settings = GrpoSettings(kl_coefficient=0.1, epochs=1)
    offloaded, whole = masters_of(PLAIN), masters_of(PLAIN)
    offloaded_steps = offloaded.step
    alive: list[bool] = []

    def looking(*, largest_norm: float) -> float:
        import gc

        gc.collect()
        alive.append(any(one() is not None for one in loads))
        return offloaded_steps(largest_norm=largest_norm)

    offloaded.step = looking  # type: ignore[method-assign]
    update(offloaded, groups_of(), settings, window=0, reference=Offloaded(load))
    update(whole, groups_of(), settings, window=0, reference=module_of(seed=7))
    assert len(loads) == 1
    assert alive == [False] * 3
    assert offloaded.digest() == whole.digest()


def test_without_a_kl_term_no_reference_is_loaded() -> None:
    def load() -> Any:
        raise AssertionError("nobody asked for it")

    update(masters_of(PLAIN), groups_of(), GrpoSettings(kl_coefficient=0.0), window=0, reference=Offloaded(load))


@pytest.mark.parametrize("settings", [PLAIN, STOCHASTIC, ADAPTERS], ids=["float32", "bfloat16", "adapters"])
def test_a_window_is_taken_back_to_the_state_on_disk_without_a_copy_of_it(
    settings: OptimiserSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masters = masters_of(settings)
    learned(masters)
    masters.save(tmp_path / "state.safetensors")
    before, step = weights_and_moments(masters), masters.step

    def spoiled(*, largest_norm: float) -> float:
        if masters.digest() != before:
            masters.spoil_gradients()
        return step(largest_norm=largest_norm)

    monkeypatch.setattr(masters, "step", spoiled)
    monkeypatch.setattr(masters, "tensors", lambda: pytest.fail("a copy was made"))
    chosen = HyperParameters(GrpoSettings(kl_coefficient=0.0), settings)
    result = learn_window(
        masters,
        groups_of(),
        chosen,
        window=1,
        temperature=1.0,
        token_limit=8,
        kept=lambda: read_state_file(tmp_path / "state.safetensors"),
    )
    monkeypatch.undo()
    assert result.undone
    assert weights_and_moments(masters) == before


def test_a_state_file_is_what_the_library_would_have_written(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for settings in (PLAIN, STOCHASTIC, ADAPTERS):
        masters = masters_of(settings)
        learned(masters)
        masters.scalars["some"] = 0.25
        masters.save(tmp_path / "ours")
        save_file(masters.tensors(), tmp_path / "theirs")
        ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)
        assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


def test_a_resumed_step_does_not_write_into_the_file_that_it_came_from(tmp_path: Path) -> None:
    masters = masters_of(PLAIN)
    learned(masters)
    masters.save(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    masters.resume(tmp_path / "state")
    learned(masters, window=1)
    assert (tmp_path / "state").read_bytes() == before
