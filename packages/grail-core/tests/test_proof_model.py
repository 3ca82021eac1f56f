"""One forward pass for both sides; what cannot be loaded, or must not reach a model, is one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from grail_core.errors import CheckpointError
from grail_core.model import policy_model as model_module
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import measure_rollouts, prove_rollouts
from grail_core.proof.errors import UnprovableError
from grail_core.proof.numerics import DEFAULT_CLASS, NUMERICS_CLASSES, class_name, numerics_class_of
from grail_core.proof.sketches import differences, parse_sketches, projections
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

VOCABULARY = 80
SIGNS = projections(Randomness(bytes(32)), b"s" * 32, 32)


def module(seed: int = 0, *, tied: bool = False) -> Qwen2ForCausalLM:
    return in_bfloat16(random_model(Qwen2Shape(VOCABULARY, tied=tied), seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    module().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> PolicyModel:
    return PolicyModel.load(folder)


def batch(seed: int = 0, rows: int = 16, prompt: int = 9) -> tuple[list[list[int]], list[int]]:
    rng = np.random.default_rng(seed)
    head = rng.integers(0, VOCABULARY, prompt).tolist()
    return [head + rng.integers(0, VOCABULARY, int(rng.integers(1, 20))).tolist() for _ in range(rows)], [prompt] * rows


def test_a_proof_is_what_the_validator_measures(model: PolicyModel) -> None:
    rows, lengths = batch()
    proofs = prove_rollouts(model, rows, lengths, SIGNS)
    positions = [range(len(row) - length) for row, length in zip(rows, lengths, strict=True)]
    measured = measure_rollouts(model, rows, lengths, positions, SIGNS, GenerationPolicy(20), list(range(16)))
    for row, length, proof, result in zip(rows, lengths, proofs, measured, strict=True):
        sketches = parse_sketches(proof.sketches, len(row) - length + 1)
        # Sketch i + 1 stands at completion index i; the half step of rounding is all the difference in the same batch.
        assert np.abs(differences(sketches[1:], result.z)).max() < 1.5e-4
        assert np.array_equal(proof.logprobs, result.logprobs)
        assert np.isfinite(result.z).all()


def test_log_probabilities_are_those_of_the_unwarped_model(model: PolicyModel) -> None:
    rows, lengths = batch(rows=3)
    proofs = prove_rollouts(model, rows, lengths, SIGNS)
    weight = model.module.lm_head.weight.float()
    for hidden, row, length, proof in zip(model.hidden_states(rows), rows, lengths, proofs, strict=True):
        logits = hidden[length - 1 : -1].float() @ weight.t()
        expected = logits.log_softmax(-1)[torch.arange(len(row) - length), row[length:]]
        assert np.allclose(proof.logprobs, expected.numpy(), atol=1e-5)


def test_positions_asked_for_are_the_ones_measured(model: PolicyModel) -> None:
    rows, lengths = batch()
    everything = [range(len(row) - length) for row, length in zip(rows, lengths, strict=True)]
    some = [list(p)[:: max(1, len(p) // 3)] for p in everything]
    policy = GenerationPolicy(20, repetition_penalty=1.2, top_k=30)
    whole = measure_rollouts(model, rows, lengths, everything, SIGNS, policy, list(range(16)))
    part = measure_rollouts(model, rows, lengths, some, SIGNS, policy, list(range(16)))
    for all_, few, at in zip(whole, part, some, strict=True):
        assert few.positions == tuple(at)
        assert np.array_equal(few.z, all_.z[at])
        assert np.allclose(few.logprobs, all_.logprobs[at], atol=1e-5)
        assert np.allclose(few.margins, all_.margins[at], atol=1e-4)


def test_padding_and_neighbours_do_not_reach_a_rows_states() -> None:
    wide = PolicyModel(module().float())
    rows, _ = batch(rows=5)
    together = wide.hidden_states(rows)
    alone = [wide.hidden_states([row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_head_in_blocks_is_the_head_at_once(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(7, 32).to(torch.bfloat16)
    at_once = model.logits(hidden)
    assert at_once.dtype == torch.float32
    monkeypatch.setattr(model_module, "_HEAD_COPY_BYTES", 0)
    monkeypatch.setattr(model_module, "_HEAD_BLOCK_BYTES", 4 * 32 * 13)
    assert torch.allclose(model.logits(hidden), at_once, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ([1, VOCABULARY], OutOfVocabularyError),
        ([1, -1], OutOfVocabularyError),
        ([1, 2**40], OutOfVocabularyError),
        ([1] * 65, OverlongSequenceError),
    ],
)
def test_hostile_rows_never_reach_the_model(
    model: PolicyModel, row: list[int], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_base", None)  # a forward pass would fail with another error
    for call in (
        lambda: model.hidden_states([[1], row]),
        lambda: prove_rollouts(model, [[1, 2], row], [1, 1], SIGNS),
        lambda: measure_rollouts(model, [[1, 2], row], [1, 1], [[0], [0]], SIGNS, GenerationPolicy(9), [1, 2]),
    ):
        with pytest.raises(error, match=r"token id|context"):
            call()


def test_weights_change_in_place_and_all_or_nothing(folder: Path) -> None:
    model, other = PolicyModel.load(folder), PolicyModel(module(seed=1))
    rows, lengths = batch(rows=2)
    before = prove_rollouts(model, rows, lengths, SIGNS)
    good = dict(other.state())
    name = next(iter(good))
    for broken in (
        {k: v for k, v in good.items() if k != name},
        good | {"surplus": torch.zeros(1)},
        good | {name: good[name].float()},
        good | {name: good[name][:-1]},
    ):
        with pytest.raises(CheckpointError):
            model.load_state(broken)
    assert prove_rollouts(model, rows, lengths, SIGNS)[0].sketches == before[0].sketches
    model.load_state(good)
    assert prove_rollouts(model, rows, lengths, SIGNS)[0].sketches == prove_rollouts(other, rows, lengths, SIGNS)[0].sketches
    assert np.array_equal(
        prove_rollouts(model, rows, lengths, SIGNS)[1].logprobs, prove_rollouts(other, rows, lengths, SIGNS)[1].logprobs
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_one_tensor_of_the_state_as_in_the_file(tmp_path: Path, tied: bool) -> None:
    from safetensors import safe_open

    module(tied=tied).save_pretrained(tmp_path)
    with safe_open(str(tmp_path / "model.safetensors"), "pt") as file:
        assert sorted(PolicyModel.load(tmp_path).state()) == sorted(file.keys())


def test_a_model_with_infinite_weights_is_unprovable_for_the_miner_and_flagged_for_the_validator() -> None:
    broken = module()
    with torch.no_grad():
        broken.model.norm.weight[3] = torch.inf
    model = PolicyModel(broken)
    rows, lengths = batch(rows=2)
    with pytest.raises(UnprovableError, match="zero or not finite"):
        prove_rollouts(model, rows, lengths, SIGNS)
    result = measure_rollouts(model, rows, lengths, [[0], [0]], SIGNS, GenerationPolicy(9), [1, 2])
    assert not any(np.isfinite(one.z).any() for one in result)


def corrupt(folder: Path, how: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "garbage":
        weights.write_bytes(b"\xff" * 64)
    else:
        changes = {
            "remote code": {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}},
            "quantised": {"quantization_config": {"quant_method": "bitsandbytes"}},
            "unknown": {"model_type": "no-such-model", "architectures": ["NoSuchModel"]},
            "more layers": {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            "fewer layers": {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
            "wider": {"hidden_size": 64},
        }[how]
        (folder / "config.json").write_text("[]" if how == "list" else json.dumps(config | changes))


@pytest.mark.parametrize(
    "how",
    [
        "no config",
        "no weights",
        "pickle",
        "truncated",
        "garbage",
        "remote code",
        "quantised",
        "unknown",
        "more layers",
        "fewer layers",
        "wider",
    ],
)
def test_an_unreadable_model_is_one_clear_error(folder: Path, tmp_path: Path, how: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    corrupt(copy, how)
    with pytest.raises(CheckpointError) as caught:
        PolicyModel.load(copy)
    assert str(copy) in str(caught.value)


def test_a_folder_that_is_not_there_says_where(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model folder"):
        PolicyModel.load(tmp_path / "nowhere")


def test_logits_the_protocol_does_not_describe_are_refused() -> None:
    strange = module()
    strange.config.final_logit_softcapping = 30.0
    with pytest.raises(CheckpointError, match="softcapping"):
        PolicyModel(strange)


def test_a_model_whose_rotary_table_was_rounded_is_refused() -> None:
    with pytest.raises(CheckpointError, match="inv_freq was rounded"):
        PolicyModel(module().float().to(torch.bfloat16))


def test_the_class_of_a_loaded_model_is_on_the_closed_list(folder: Path) -> None:
    assert numerics_class_of(PolicyModel.load(folder)) == DEFAULT_CLASS == "bf16-sdpa-cpu-transformers"
    assert numerics_class_of(PolicyModel.load(folder, attention="eager")) in NUMERICS_CLASSES
    with pytest.raises(ValueError, match="no such numerics class"):
        numerics_class_of(PolicyModel(module().float()))
    with pytest.raises(ValueError, match="no such numerics class"):
        class_name(attention="magic", device="cpu")
