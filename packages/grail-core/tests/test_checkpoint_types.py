"""A model that is a cast of its checkpoint: whoever runs in bf16 what float32 checkpoints hold loads them, and never steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.checkpoints.publish import publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.checkpoints.source import CheckpointSource
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest
from grail_core.storage.filesystem import FilesystemDirectory
from tooling.testing.checkpoints import PARAMS, TRAINER, bucket_of, first_window, parts_of
from tooling.testing.models.tiny_qwen2 import BYTES, END_TOKEN_ID, save_byte_model


@dataclass
class Network:
    """A trainer whose checkpoints are of whichever type a test says, and a participant that runs the newest one."""

    root: Path
    chain: LocalChain
    directory: FilesystemDirectory
    model_folder: Path

    @property
    def network_id(self) -> Digest:
        return PARAMS.network_id(self.chain.genesis_hash)

    def publish(self, number: int, dtype: torch.dtype) -> tuple[CheckpointManifest, dict[str, torch.Tensor]]:
        model = AutoModelForCausalLM.from_pretrained(self.model_folder, dtype=torch.float32)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-2)
        state = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        parts = replace(
            parts_of(self.network_id, 30 * number, first_window(number)), end_token_ids=(END_TOKEN_ID,), thinking_mode="none"
        )
        bucket = bucket_of(self.directory.own(), self.root / "trainer", self.network_id)
        manifest = publish(bucket, parts, state, read_model_files(self.model_folder), TRAINER, PARAMS)
        return manifest, {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}

    def reader(self) -> LiveCheckpoint:
        return LiveCheckpoint(CheckpointSource(self.chain, self.directory, PARAMS, self.network_id, self.root / "reader"))


@pytest.fixture
def network(tmp_path: Path) -> Network:
    chain = LocalChain.create(tmp_path / "chain.db", seed=4, clock=ClockMode.VIRTUAL, genesis_time_ms=1_000_000)
    (tmp_path / "buckets").mkdir()
    directory = FilesystemDirectory(tmp_path / "buckets", "trainer", clock=chain.now_ms)
    chain.register(TRAINER)
    chain.advance(2)
    chain.commit(TRAINER, directory.commitment())
    chain.advance(3)
    return Network(tmp_path, chain, directory, save_byte_model(tmp_path / "model", replace(BYTES, spread=0.02)))


def test_a_bf16_model_follows_checkpoints_into_float32_and_back(network: Network) -> None:
    live = network.reader()
    types = (torch.bfloat16, torch.float32, torch.float32, torch.bfloat16, torch.bfloat16)
    models = []
    for number, dtype in enumerate(types):
        manifest, expected = network.publish(number, dtype)
        loaded = live.at(manifest)
        models.append(loaded.model)
        held = loaded.model.state()
        assert held.keys() == expected.keys()
        assert all(torch.equal(held[name], expected[name]) for name in expected), f"checkpoint {number}"
    assert models[4] is models[3]  # what can be stepped in memory is
    assert len({id(model) for model in models[:4]}) == 4
