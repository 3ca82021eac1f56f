"""Who would compute in numerics that the network does not admit is told before it works for nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.errors import ConfigurationError
from grail_core.participant.classes import require_class
from grail_core.protocol.network import SUBNET_81
from tooling.testing.network import Network


def test_an_admitted_class_is_named_and_another_is_refused_with_the_list(tmp_path: Path) -> None:
    sdpa = LiveCheckpoint(Network(tmp_path, miners=0, validators=0).participant("trainer").checkpoints)
    assert require_class(sdpa, "proof", SUBNET_81) == "bf16-sdpa-cpu-transformers"
    with pytest.raises(ConfigurationError, match="proof classes") as refused:
        require_class(sdpa, "proof", replace(SUBNET_81, proof_classes=("bf16-flash-cuda-vllm",)))
    assert "bf16-flash-cuda-vllm" in str(refused.value.hint)


def test_a_class_without_a_table_is_refused_where_the_network_refuses_it_and_not_where_it_reports(tmp_path: Path) -> None:
    sdpa = LiveCheckpoint(Network(tmp_path, miners=0, validators=0).participant("trainer").checkpoints)
    other = replace(SUBNET_81, validator_classes=("bf16-flash-cuda-vllm",))
    with pytest.raises(
        ConfigurationError, match="no table of bf16-sdpa-cpu-transformers with validators' bf16-flash-cuda-vllm"
    ):
        require_class(sdpa, "generation", other)
    assert require_class(sdpa, "generation", replace(other, uncalibrated="reported"))
