"""What an engine was started with names the class it draws in, and what nobody has looked at has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.participant.classes import require_class_named, require_covered
from grail_core.proof.calibration import Shape, shipped_table
from grail_core.proof.numerics import NUMERICS_CLASSES, engine_class, rounds_head
from grail_core.protocol.network import LOCALNET, SUBNET_81

SGLANG: dict[str, Any] = {"engine": "sglang", "version": "0.5.23", "attention": "fa3", "device": "cuda:1", "head": "fp32"}
VLLM: dict[str, Any] = {"engine": "vllm", "version": "0.33.0", "attention": "FLASH_ATTN", "device": "cuda", "head": "fp32"}


@pytest.mark.parametrize(
    ("started", "name"),
    [
        (SGLANG, "bf16-flash-cuda-sglang"),
        (SGLANG | {"attention": "flashinfer", "deterministic": True}, "bf16-flashinfer-cuda-sglang"),
        (SGLANG | {"head": "bf16"}, "bf16-flash-cuda-sglang-bf16head"),
        (SGLANG | {"attention": "torch_native", "device": "cpu"}, "bf16-torchnative-cpu-sglang"),
        (VLLM, "bf16-flash-cuda-vllm"),
        (VLLM | {"attention": "TRITON_ATTN", "version": "0.33.1.dev4"}, "bf16-triton-cuda-vllm"),
        (VLLM | {"attention": "CPU_ATTN", "device": "cpu", "version": "0.32.0+cpu"}, "bf16-sdpa-cpu-vllm"),
        (VLLM | {"attention": "CPU_ATTN", "device": "cpu", "head": "bf16"}, "bf16-sdpa-cpu-vllm-bf16head"),
    ],
)
def test_an_engine_has_the_class_of_what_it_was_started_with(started: dict[str, Any], name: str) -> None:
    assert engine_class(**started) == name
    assert name in NUMERICS_CLASSES
    assert rounds_head(name) == (started["head"] == "bf16")


@pytest.mark.parametrize(
    ("started", "why"),
    [
        (SGLANG | {"engine": "mystery"}, "mystery on cuda"),
        (SGLANG | {"device": "xpu"}, "sglang on xpu"),
        (SGLANG | {"version": "0.5.22"}, "from 0.5.23 to before 0.6"),
        (SGLANG | {"version": "0.6.0"}, "sglang 0.6.0"),
        (VLLM | {"version": "0.34"}, "vllm 0.34"),
        (VLLM | {"version": "unknown"}, "vllm unknown"),
        (SGLANG | {"attention": "torch_native"}, "known: fa3, fa4, flashinfer, triton"),
        (SGLANG | {"attention": "torch_native", "device": "cpu", "deterministic": True}, "no deterministic mode"),
        (VLLM | {"attention": "FLASHINFER", "deterministic": True}, "no deterministic mode"),
        (VLLM | {"dtype": "float32"}, "networks compute in bfloat16"),
    ],
)
def test_what_nobody_has_looked_at_has_no_class_and_the_error_says_what_has(started: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        engine_class(**started)


def test_a_head_that_rounds_is_a_class_that_no_network_admits_by_admitting_the_other() -> None:
    network = replace(LOCALNET, generation_classes=("bf16-flash-cuda-vllm",))
    where = "GRAIL_PIPELINE_BACKEND"
    assert require_class_named("bf16-flash-cuda-vllm", "generation", network, where=where)
    with pytest.raises(ConfigurationError, match="bf16head is not among the generation classes") as refused:
        require_class_named("bf16-flash-cuda-vllm-bf16head", "generation", network, where=where)
    assert "admitted generation classes: bf16-flash-cuda-vllm;" in str(refused.value.hint)


def test_an_engine_without_a_table_does_not_mine_where_the_network_refuses_what_no_table_covers() -> None:
    flash, sdpa = "bf16-flash-cuda-vllm", "bf16-sdpa-cpu-transformers"
    table, largest = shipped_table(), Shape(4, 128)
    network = replace(SUBNET_81, generation_classes=(flash, sdpa))
    with pytest.raises(ProtocolViolationError, match=f"does not cover generation in {flash} measured in {sdpa}"):
        require_covered(sdpa, flash, table, largest, network)
    require_covered(sdpa, flash, table, largest, replace(network, uncalibrated="reported"))
    require_covered(sdpa, sdpa, table, largest, network)
    with pytest.raises(ProtocolViolationError, match="for 80 layers of 8192"):
        require_covered(sdpa, sdpa, table, Shape(80, 8192), network)
