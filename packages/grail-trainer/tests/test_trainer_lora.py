"""Promises of low-rank adapters: they alone are trained, they begin as nothing, and what is published is a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.model.policy_model import PolicyModel
from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
from grail_trainer.learning.lora import AdaptedLinear, is_adapter
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.reference import held_reference
from grail_trainer.learning.rollouts import TokenSequence
from grail_trainer.learning.update import update
from tooling.testing.toy_updates import groups_of, module_of

ADAPTERS = OptimiserSettings(learning_rate=1e-2, warmup_steps=0, lora_rank=2, lora_alpha=8.0)
ROWS = (TokenSequence((1, 2, 3, 4, 5), 2), TokenSequence((6, 7, 8), 1))


def learn(masters: Masters, window: int = 0, kl: float = 0.0) -> None:
    update(masters, groups_of(), GrpoSettings(kl_coefficient=kl), window=window, token_limit=8)


def test_adapters_begin_as_nothing() -> None:
    plain, adapted = Masters(module_of(), OptimiserSettings()), Masters(module_of(), ADAPTERS)
    for one, other in ((plain.policy(ROWS).logprob, adapted.policy(ROWS).logprob),):
        assert torch.equal(one, other)
    published = adapted.published()
    assert published.keys() == plain.published().keys()
    assert all(torch.equal(tensor, plain.published()[name]) for name, tensor in published.items())


def test_adapters_alone_are_trained_and_the_optimiser_holds_nothing_else() -> None:
    masters = Masters(module_of(), ADAPTERS)
    base = {name: p.detach().clone() for name, p in masters.module.named_parameters() if not is_adapter(name)}
    learn(masters)
    after = dict(masters.module.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in base.items())
    assert all(after[name].grad is None for name in base)
    state = masters.tensors()
    held = {name.split(".", 1)[1] for name in state if name.startswith(("master.", "moment1.", "moment2."))}
    assert held == {name for name in after if is_adapter(name)}
    assert len(held) == 2 * sum(isinstance(layer, AdaptedLinear) for layer in masters.module.modules())
    assert all(bool(tensor.any()) for name, tensor in state.items() if name.startswith("master."))


def test_what_is_published_is_a_plain_model_that_computes_the_same(tmp_path: Path) -> None:
    masters = Masters(module_of(), ADAPTERS)
    for window in range(3):
        learn(masters, window)
    plain = module_of(seed=8)
    plain.load_state_dict({name: tensor.float() for name, tensor in masters.published().items()}, strict=False)
    cast = Masters(plain, OptimiserSettings())
    assert (masters.policy(ROWS).logprob - cast.policy(ROWS).logprob).abs().max() < 2e-2  # of bfloat16
    for layer in [part for part in masters.module.modules() if isinstance(part, AdaptedLinear)]:
        x = torch.randn(5, layer.in_features)
        merged = torch.nn.functional.linear(x, layer.merged(), layer.bias)
        assert torch.allclose(layer(x), merged, atol=1e-5)
        assert not torch.allclose(merged, torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)


def test_a_checkpoint_of_adapters_is_loaded_by_who_knows_nothing_of_them(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    masters = Masters(module_of(), ADAPTERS)
    learn(masters)
    masters.module.config.save_pretrained(tmp_path)
    save_file(masters.published(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = PolicyModel.load(tmp_path)
    assert not [part for part in model.module.modules() if isinstance(part, AdaptedLinear)]
    for name, tensor in masters.published().items():
        assert torch.equal(model.state()[name], tensor)


def test_an_update_is_the_gradient_of_the_merged_model() -> None:
    """∂L/∂B = s · ∂L/∂W Aᵀ: adapters see what a full update would."""
    adapted, full = Masters(module_of(), ADAPTERS), Masters(module_of(), OptimiserSettings())
    weights = torch.linspace(-1, 1, 5)

    class Weighted:
        elementwise = True

        def loss(self, logprob: torch.Tensor, entropy: torch.Tensor, tokens: slice) -> torch.Tensor:
            return logprob * weights[tokens]

    for masters in (adapted, full):
        loss: Any = masters.policy(ROWS, Weighted()).loss
        loss.backward()
    gradients = dict(full.module.named_parameters())
    for name, layer in adapted.module.named_modules():
        if isinstance(layer, AdaptedLinear):
            whole, on_a, on_b = gradients[f"{name}.weight"].grad, layer.lora_a.grad, layer.lora_b.grad
            assert on_a is not None
            assert on_b is not None
            assert torch.allclose(on_b, layer.scale * whole @ layer.lora_a.T, atol=1e-5), name
            assert not on_a.any()  # B is zero yet


def test_a_restart_beside_other_weights_finds_the_ones_it_began_with(tmp_path: Path) -> None:
    """The last checkpoint has the adapters in it already: what is loaded first at a restart is not the base."""
    masters = Masters(module_of(), ADAPTERS)
    learn(masters)
    masters.save(tmp_path / "state-30.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"state-30.safetensors", masters.base_file}
    merged = module_of()
    merged.load_state_dict({name: tensor.float() for name, tensor in masters.published().items()}, strict=False)
    resumed = Masters(merged, ADAPTERS)
    assert resumed.base_file != masters.base_file
    resumed.resume(tmp_path / "state-30.safetensors")
    assert resumed.base_file == masters.base_file
    for one in (masters, resumed):
        learn(one, 1)
    assert resumed.digest() == masters.digest()
    assert all(torch.equal(tensor, masters.published()[name]) for name, tensor in resumed.published().items())


@pytest.mark.parametrize("damage", ["gone", "turned", "another"])
def test_a_base_that_is_not_what_was_written_is_told_and_nothing_changes(tmp_path: Path, damage: str) -> None:
    masters, merged = Masters(module_of(), ADAPTERS), Masters(module_of(seed=3), ADAPTERS)
    learn(masters)
    masters.save(tmp_path / "state")
    base = tmp_path / masters.base_file
    raw = base.read_bytes()
    if damage == "gone":
        base.unlink()
    elif damage == "turned":
        base.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    else:
        Masters(module_of(hidden=32), ADAPTERS).save(tmp_path / "other")
        base.write_bytes((tmp_path / Masters(module_of(hidden=32), ADAPTERS).base_file).read_bytes())
    before = merged.digest()
    with pytest.raises(CheckpointError) as caught:
        merged.resume(tmp_path / "state")
    assert masters.base_file in caught.value.where
    assert merged.digest() == before


def test_the_reference_of_adapters_is_the_model_without_them() -> None:
    masters, base = Masters(module_of(), ADAPTERS), Masters(module_of(), OptimiserSettings())
    learn(masters, kl=0.1)
    with held_reference(masters, None) as reference:
        assert reference is not None
        assert torch.equal(reference(ROWS, temperature=1.0).logprob, base.policy(ROWS).logprob)
    assert not torch.equal(masters.policy(ROWS).logprob, base.policy(ROWS).logprob)


def test_layers_are_chosen_by_name_and_a_name_of_none_is_refused() -> None:
    masters = Masters(module_of(), OptimiserSettings(lora_rank=1, lora_modules="q_proj, v_proj"))
    adapted = {name.rpartition(".")[2] for name, part in masters.module.named_modules() if isinstance(part, AdaptedLinear)}
    assert adapted == {"q_proj", "v_proj"}
    for names in ("qproj", "lm_head", ""):
        with pytest.raises(ConfigurationError, match="linear layer") as caught:
            Masters(module_of(), OptimiserSettings(lora_rank=1, lora_modules=names))
        assert "q_proj" in caught.value.hint


def test_first_values_are_a_function_of_seed_and_name() -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        return Masters(module_of(), OptimiserSettings(lora_rank=2, lora_seed=seed)).tensors()

    one, same, other = drawn(0), drawn(0), drawn(1)
    names = [name for name in one if name.endswith("lora_a")]
    assert all(torch.equal(one[name], same[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)
    assert len({one[name].sum().item() for name in names}) == len(names)


def test_adapters_are_not_kept_in_bfloat16() -> None:
    with pytest.raises(ConfigurationError, match="float32"):
        OptimiserSettings(lora_rank=2, master_dtype="bfloat16-stochastic")
