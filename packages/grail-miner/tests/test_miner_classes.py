"""Who would compute in numerics that the network does not admit is told before it works for nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from grail_core.checkpoints.loaded import LiveCheckpoint, PreparedCheckpoint
from grail_core.checkpoints.pinned_table import shipped
from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.participant.classes import require_class
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import SUBNET_81
from tooling.testing.mining import mining_of
from tooling.testing.network import FIRST_WINDOW, Network


def test_an_admitted_class_is_named_and_another_is_refused_with_the_list(tmp_path: Path) -> None:
    sdpa = LiveCheckpoint(Network(tmp_path, miners=0, validators=0).participant("trainer").checkpoints)
    assert require_class(sdpa, "proof", SUBNET_81) == "bf16-sdpa-cpu-transformers"
    with pytest.raises(ConfigurationError, match="proof classes") as refused:
        require_class(sdpa, "proof", replace(SUBNET_81, proof_classes=("bf16-flash-cuda-vllm",)))
    assert "bf16-flash-cuda-vllm" in str(refused.value.hint)


def test_only_what_the_network_admits_is_asked_before_the_checkpoint_is_known(tmp_path: Path) -> None:
    """Whether a table covers a class depends on the checkpoint, which pins it."""
    sdpa = LiveCheckpoint(Network(tmp_path, miners=0, validators=0).participant("trainer").checkpoints)
    other = replace(SUBNET_81, validator_classes=("bf16-flash-cuda-vllm",))
    assert require_class(sdpa, "generation", other) == "bf16-sdpa-cpu-transformers"


def test_classes_that_the_checkpoints_table_does_not_cover_mine_nothing_where_the_network_refuses_them(
    tmp_path: Path,
) -> None:
    network = Network(tmp_path, miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    mining, context = mining_of(network, "miner-0"), network.participant("miner-0").open_window(FIRST_WINDOW)
    prepared = mining.select_model(context)
    assert prepared.pinned == shipped()
    few = {pair: replace(of_pair, tokens=99_999) for pair, of_pair in prepared.pinned.table.pairs.items()}
    mining.checkpoint = _With(replace(prepared, pinned=replace(shipped(), table=replace(shipped().table, pairs=few))))
    assert mining.select_model(context).pinned.table.pairs == few  # this network reports what no table covers
    strict = replace(context, params=replace(context.params, uncalibrated="refused"))
    with pytest.raises(ProtocolViolationError, match="does not cover proof in bf16-sdpa-cpu-transformers"):
        mining.select_model(strict)


@dataclass
class _With:
    """A checkpoint that is prepared already."""

    prepared: PreparedCheckpoint

    def at(self, manifest: CheckpointManifest) -> PreparedCheckpoint:
        return self.prepared
