"""Every index is held against the devices before anything starts; what contradicts is refused by name, what runs is drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError
from grail_core.participant.settings import Settings, load_settings
from grail_miner.layout import Layout, ProofWorkers, plan
from grail_miner.layout_picture import picture


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


def layout(visible: int, **given: str) -> Layout:
    """Of settings that stand in `.env`, as an operator writes them: `device` is GRAIL_DEVICE, `tp` GRAIL_PIPELINE_VLLM_TP …"""
    names = {
        "device": "GRAIL_DEVICE",
        "url": "GRAIL_SGLANG_URL",
        "python": "GRAIL_SGLANG_PYTHON",
        "tp": "GRAIL_PIPELINE_VLLM_TP",
    }
    lines = [f"{names.get(name, 'GRAIL_PIPELINE_' + name.upper())}={value}" for name, value in given.items()]
    Path(".env").write_text("\n".join(lines))
    return plan(load_settings(), visible)


def test_the_engine_is_sglang_where_cuda_devices_are_visible_and_hf_elsewhere() -> None:
    assert (layout(2).backend, layout(0).backend) == ("sglang", "hf")
    assert layout(2).why == "the default where 2 CUDA devices are visible"
    assert layout(0).why == "the default where no CUDA device is visible"
    said = layout(2, backend="vllm")
    assert (said.backend, said.why) == ("vllm", "GRAIL_PIPELINE_BACKEND says so")


def test_an_engine_that_is_set_up_and_that_nobody_chose_is_told_of() -> None:
    (note,) = layout(0, url="http://127.0.0.1:30000").notes
    assert "GRAIL_SGLANG_URL is set and not used: hf generates" in note
    assert "GRAIL_PIPELINE_BACKEND=sglang" in note
    (note,) = layout(0, python="sglang/bin/python").notes
    assert "GRAIL_SGLANG_PYTHON is set and not used" in note
    assert not layout(0, url="http://127.0.0.1:30000", backend="hf").notes  # somebody chose
    assert not layout(2, python="sglang/bin/python").notes


def test_a_machine_without_gpus_has_one_copy_of_the_weights_on_the_cpu() -> None:
    here = layout(0)
    assert here.generation_device == "cpu"
    assert here.workers == ProofWorkers("in process", ("cpu",))
    assert here.shared_model


def test_two_gpus_generate_and_prove_apart_by_default() -> None:
    here = layout(2)
    assert here.generation_gpus == (0,)
    assert here.workers == ProofWorkers("in process", ("cuda:1",))
    assert not here.notes


def test_the_tensor_parallel_range_and_the_proof_gpus_are_those_that_are_set() -> None:
    here = layout(8, vllm_gpu="2", tp="4", proof_gpu_ids="0,1,6,7", proof_subprocess="true")
    assert here.generation_gpus == (2, 3, 4, 5)
    assert here.workers == ProofWorkers("processes", ("cuda:0", "cuda:1", "cuda:6", "cuda:7"))
    assert layout(4, proof_gpu="3").workers.devices == ("cuda:3",)
    assert layout(4, proof_gpu="3", proof_gpu_ids="1,2").workers == ProofWorkers("threads", ("cuda:1", "cuda:2"))
    two_each = layout(4, proof_gpu_ids="1,2", proof_workers="2")
    assert two_each.workers.devices == ("cuda:1", "cuda:1", "cuda:2", "cuda:2")
    assert layout(0, proof_workers="2", proof_subprocess="true").workers == ProofWorkers("processes", ("cpu", "cpu"))


@pytest.mark.parametrize(
    ("visible", "given", "index", "where"),
    [
        (1, {}, 1, "GRAIL_PIPELINE_PROOF_GPU"),
        (2, {"vllm_gpu": "2"}, 2, "GRAIL_PIPELINE_VLLM_GPU"),
        (4, {"vllm_gpu": "2", "tp": "4"}, 4, "GRAIL_PIPELINE_VLLM_GPU, GRAIL_PIPELINE_VLLM_TP"),
        (4, {"proof_gpu_ids": "1,2,5"}, 5, "GRAIL_PIPELINE_PROOF_GPU_IDS"),
        (2, {"device": "cuda:7"}, 7, "GRAIL_DEVICE"),
        (0, {"device": "cuda:1"}, 1, "GRAIL_DEVICE"),
        (0, {"vllm_gpu": "0"}, 0, "GRAIL_PIPELINE_VLLM_GPU"),
        (0, {"proof_gpu": "0"}, 0, "GRAIL_PIPELINE_PROOF_GPU"),
    ],
)
def test_an_index_that_no_visible_device_has_ends_with_the_index_and_their_number(
    visible: int, given: dict[str, str], index: int, where: str
) -> None:
    with pytest.raises(ProtocolViolationError, match=f"there is no GPU {index} ") as refused:
        layout(visible, **given)
    assert (f"{visible} visible" if visible else "no CUDA device is visible") in refused.value.what
    assert refused.value.where == where
    assert refused.value.exit_code == 11


def test_one_gpu_may_do_both_and_the_shared_memory_is_said() -> None:
    with pytest.raises(ProtocolViolationError) as refused:
        layout(1)
    assert "GRAIL_PIPELINE_PROOF_GPU=0" in refused.value.hint
    here = layout(1, proof_gpu="0", gpu_mem_util="0.55")
    assert here.shared_gpus == (0,)
    (note,) = here.notes
    assert "the server takes 55 % of its memory, and proofs have the 45 % left" in note


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"device": "cuda:1", "proof_gpu": "2"}, ("GRAIL_DEVICE", "GRAIL_PIPELINE_PROOF_GPU")),
        ({"device": "cpu", "proof_gpu": "2"}, ("GRAIL_DEVICE", "GRAIL_PIPELINE_PROOF_GPU")),
        ({"device": "cuda:1", "proof_gpu_ids": "1,2"}, ("GRAIL_DEVICE", "GRAIL_PIPELINE_PROOF_GPU_IDS")),
        ({"url": "http://127.0.0.1:30000", "python": "/opt/sglang/bin/python"}, ("GRAIL_SGLANG_URL", "GRAIL_SGLANG_PYTHON")),
        ({"backend": "vllm", "deterministic": "true"}, ("GRAIL_PIPELINE_DETERMINISTIC",)),
        ({"backend": "hf", "tp": "2"}, ("GRAIL_PIPELINE_VLLM_TP",)),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(given: dict[str, str], names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        layout(4, **given)
    assert refused.value.where == ", ".join(names)
    assert refused.value.hint


def test_grail_device_places_the_proof_model_and_the_indices_agree_with_it_or_are_unset() -> None:
    assert layout(4, device="cuda:3").workers.devices == ("cuda:3",)
    assert layout(4, device="cuda:3", proof_gpu="3").workers.devices == ("cuda:3",)
    assert layout(4, device="cuda").workers.devices == ("cuda:1",)
    assert layout(1, device="cuda").workers.devices == ("cuda:0",)
    cpu = layout(1, device="cpu")
    assert (cpu.backend, cpu.generation_gpus, cpu.workers.devices) == ("sglang", (0,), ("cpu",))


def test_hf_draws_and_proves_with_one_model_unless_a_gpu_is_named_for_either() -> None:
    here = layout(2, backend="hf")
    assert (here.generation_device, here.workers.devices, here.shared_model) == ("cuda:0", ("cuda:0",), True)
    assert layout(1, backend="hf").shared_model
    on_cpu = layout(2, backend="hf", device="cpu")
    assert (on_cpu.generation_device, on_cpu.shared_model) == ("cpu", True)
    apart = layout(2, backend="hf", proof_gpu="1")
    assert (apart.generation_device, apart.workers.devices, apart.shared_model) == ("cuda:0", ("cuda:1",), False)
    assert layout(2, backend="hf", vllm_gpu="1").generation_device == "cuda:1"


def test_flash_attention_in_proofs_is_refused_with_the_reason() -> None:
    with pytest.raises(ProtocolViolationError, match="the proof path must match the validators', and theirs is SDPA"):
        layout(2, proof_flash_attn="true")


def test_somebody_elses_server_runs_where_it_runs() -> None:
    here = layout(2, url="http://127.0.0.1:30000", tp="8")
    assert here.url == "http://127.0.0.1:30000"
    assert here.generation_gpus == ()


def test_a_gpu_that_nothing_runs_on_is_said() -> None:
    assert layout(3).notes == ("GPU 2: visible, and nothing runs on it",)
    assert layout(4).notes == ("GPUs 2, 3: visible, and nothing runs on them",)


TWO = """\
┌─ GPU 0 ────────────────────────────┐  ┌─ GPU 1 ────────────────────────────┐
│ sglang server (90 %)               │  │ proofs: in the miner's process     │
└────────────────────────────────────┘  └────────────────────────────────────┘"""
CPU = """\
┌─ CPU ──────────────────────────────┐
│ generation: hf in process          │
│ proofs: the same weights           │
└────────────────────────────────────┘"""


def test_the_picture_has_a_box_for_each_device_and_in_it_what_runs_there() -> None:
    assert picture(layout(2)) == TWO
    assert picture(layout(0)) == CPU
    eight = picture(layout(8, tp="4", proof_gpu_ids="4,5,6,7", proof_subprocess="true"))
    for said in ("sglang server, rank 3 of 4 (90 %)", "proofs: worker 4 of 4, a process", "GPU 7"):
        assert said in eight
    assert max(map(len, eight.splitlines())) <= 118
    shared = picture(layout(1, proof_gpu="0"))
    assert shared.count("┌") == 1
    outside = picture(layout(1, url="http://127.0.0.1:30000", proof_gpu="0"))
    assert "sglang, run by somebody else" in outside


def refused_or_planned(visible: int, given: dict[str, str]) -> Layout | GrailError:
    try:
        return layout(visible, **given)
    except GrailError as refused:
        return refused


def test_whatever_is_set_either_every_index_is_visible_or_the_settings_are_named() -> None:
    gpus: list[dict[str, str]] = [{}, {"vllm_gpu": "1"}, {"tp": "2"}, {"proof_gpu": "0"}, {"proof_gpu_ids": "0,3"}]
    devices = ["", "cpu", "cpu:0", "cuda", "cuda:0", "cuda:2", "mps", "mps:0"]
    planned = 0
    for visible, backend, device, named in itertools.product((0, 1, 4), ["sglang", "hf"], devices, gpus):
        given = {"backend": backend, "device": device, **named}
        here = refused_or_planned(visible, given)
        if isinstance(here, GrailError):
            assert "GRAIL_" in here.where + here.what, given
            assert here.hint, given
            continue
        planned += 1
        used = [*here.workers.devices, *(f"cuda:{gpu}" for gpu in here.generation_gpus), here.generation_device or "cpu"]
        assert here.workers.devices, given
        assert "cuda" not in used, given
        assert all(int(one[5:]) < visible for one in used if one.startswith("cuda:")), given
        assert max(map(len, picture(here).splitlines())) <= 118
    assert planned > 50
