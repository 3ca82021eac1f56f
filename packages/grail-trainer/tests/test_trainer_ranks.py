"""Promises of several ranks: what they learn together is what one process learns, and what they keep any number reads.

The fast tests are of one process whose weights are sharded over itself; the heavy ones start real processes with torchrun.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from grail_core.errors import CheckpointError, ConfigurationError
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning import sharded_state
from grail_trainer.learning.followers import empty_model, packed_groups, unpacked_groups
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.ranks import ALONE, DATA, TENSOR, Ranks, joined_ranks
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.sharded_masters import Lead, ShardedMasters, require_shareable
from grail_trainer.learning.sharded_state import folder_digest, write_sharded
from grail_trainer.learning.sharding import local
from grail_trainer.learning.training_state import state_digest
from grail_trainer.learning.update import update
from tooling.testing import rank_trials
from tooling.testing.killing import killed_at
from tooling.testing.rank_trials import OPTIMISER, chosen, groups, model
from tooling.testing.ranks import together

STARTED = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def itself() -> Iterator[Ranks]:
    """One process as the only rank of a mesh: all of it is sharded, over one."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=(DATA, TENSOR))
        yield Ranks(mesh=mesh, control=dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


def test_sharded_masters_learn_what_masters_learn(itself: Ranks) -> None:
    shared, alone = ShardedMasters(model("qwen2", 0), OPTIMISER, itself), Masters(model("qwen2", 0), OPTIMISER)
    assert all(isinstance(parameter, DTensor) for parameter in shared.module.parameters())
    for masters in (shared, alone):
        masters.scalars["kl_coefficient"] = 0.25
    ours, theirs = (
        update(masters, groups(), chosen("dapo", 4), window=30, reference=model("qwen2", 9)) for masters in (shared, alone)
    )
    assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-6)
    expected, found = alone.tensors(), shared.tensors()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)
    assert shared.finite()
    shared.restore(expected)
    assert shared.digest() == alone.digest()
    assert state_digest(shared.published()) == state_digest(alone.published())


def test_a_pass_after_a_restore_sees_the_restored_weights(itself: Ranks) -> None:
    shared = ShardedMasters(model("qwen2", 0), OPTIMISER, itself)
    rows = [rollout.row for rollout in groups(1)[0].rollouts]
    with torch.no_grad():
        before = shared.policy(rows).logprob.clone()
        shared.restore(Masters(model("qwen2", 1), OPTIMISER).tensors())
        assert not torch.allclose(shared.policy(rows).logprob, before)


def test_a_step_whose_gradient_is_no_number_on_one_rank_is_made_by_none(itself: Ranks) -> None:
    shared = ShardedMasters(model("qwen2", 0), OPTIMISER, itself)
    before = shared.digest()
    for parameter in shared.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    local(next(iter(shared.module.parameters())).grad)[0, 0] = float("nan")
    assert not np.isfinite(shared.step(largest_norm=1.0))
    assert shared.digest() == before


def test_shards_are_read_to_the_bit_by_one_process_and_another_model_is_refused(itself: Ranks, tmp_path: Path) -> None:
    shared = ShardedMasters(model("qwen2", 0), OPTIMISER, itself)
    shared.scalars["kl_coefficient"] = 0.1
    update(shared, groups(), chosen("dapo", 2), window=30, reference=model("qwen2", 9))
    shared.save(tmp_path / "state-30.safetensors")
    alone = Masters(model("qwen2", 1), OPTIMISER)
    alone.resume(tmp_path / "state-30.safetensors")
    assert alone.digest() == shared.digest()
    other = Masters(model("qwen3", 1), OPTIMISER)
    before = other.digest()
    with pytest.raises(CheckpointError, match="of another model"):
        other.resume(tmp_path / "state-30.safetensors")
    assert other.digest() == before
    (tmp_path / "state-30.safetensors" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        alone.resume(tmp_path / "state-30.safetensors")
    assert alone.digest() == shared.digest()


def test_a_kill_while_shards_are_written_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    old, new = (Masters(model("qwen2", seed), OPTIMISER) for seed in (0, 1))
    stays, folder = tmp_path / "state-0.safetensors", tmp_path / "state-30.safetensors"
    write_sharded(old.tensors(), stays)
    calls = [(Path, "mkdir"), (Path, "rename"), (os, "fsync"), (sharded_state, "remove_any"), (sharded_state, "sync_folder")]
    kills = 0
    while killed_at(kills, calls, lambda: write_sharded(new.tensors(), folder)):
        kills += 1
        alone = Masters(model("qwen2", 2), OPTIMISER)
        if folder.exists():
            alone.resume(folder)
            assert alone.digest() == new.digest()
        alone.resume(stays)
        assert alone.digest() == old.digest()
    assert kills >= 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [stays.name, folder.name]


def test_the_digest_of_a_folder_sees_every_byte_and_every_name(tmp_path: Path) -> None:
    write_sharded(Masters(model("qwen2", 0), OPTIMISER).tensors(), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    digest = folder_digest(tmp_path / "a")
    assert folder_digest(tmp_path / "b") == digest
    (tmp_path / "b" / "more").write_bytes(b"")
    assert folder_digest(tmp_path / "b") != digest


def test_rollouts_come_to_followers_to_the_bit() -> None:
    sent = groups()
    sent[0] = dataclasses.replace(sent[0], name="5Fx…, window 30 \N{SNOWMAN}")
    for flag in ("success", "truncated", "well_formed"):
        turned: dict[str, Any] = {flag: not getattr(sent[0].rollouts[0], flag)}
        rollout = dataclasses.replace(sent[0].rollouts[0], **turned)
        sent.append(RolloutGroup(flag, (rollout,)))
    for group, came in zip(sent, unpacked_groups(packed_groups(sent)), strict=True):
        assert (came.name, came.rewards) == (group.name, group.rewards)
        for a, b in zip(group.rollouts, came.rollouts, strict=True):
            assert a.behaviour.tobytes() == b.behaviour.tobytes()
            assert vars(a) | {"behaviour": 0} == vars(b) | {"behaviour": 0}
    assert unpacked_groups(packed_groups([])) == []


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_follower_s_empty_model_computes_what_the_first_rank_s_does(kind: str) -> None:
    module: Any = model(kind, 0)
    made = empty_model(module.config.to_dict() | {"dtype": None}, "sdpa")
    assert [(n, p.shape, p.dtype) for n, p in made.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in module.named_parameters()
    ]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(module.get_parameter(name))
        for (_, buffer), (_, value) in zip(made.named_buffers(), module.named_buffers(), strict=True):
            buffer.copy_(value)
        tokens = torch.arange(12)[None] % rank_trials.VOCABULARY
        assert torch.equal(made(tokens).logits, module.eval()(tokens).logits)


@pytest.mark.parametrize(("count", "rows"), [(1, 5), (2, 5), (3, 2), (4, 8)])
def test_every_micro_batch_is_made_once_and_every_rank_makes_as_many(count: int, rows: int) -> None:
    shares = [list(Ranks(rank=rank, count=count).mine(range(rows))) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(part for share in shares for part, ours in share if ours) == list(range(rows))


def test_ranks_of_one_row_make_the_same_micro_batches() -> None:
    shares = [list(Ranks(rank=rank, count=4, tensor=2).mine(range(3))) for rank in range(4)]
    assert shares[0] == shares[1] != shares[2] == shares[3]


@pytest.mark.parametrize(
    ("settings", "option"), [({"lora_rank": 2}, "--lora-rank"), ({"master_dtype": "bfloat16-stochastic"}, "--master-dtype")]
)
def test_what_one_process_alone_can_do_is_refused_by_name(settings: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        require_shareable(OptimiserSettings(**settings))
    assert raised.value.where == option


@pytest.mark.parametrize(
    ("variables", "device", "tensor", "where"),
    [
        ({}, "cpu", 2, "--tensor-parallel"),
        ({"WORLD_SIZE": "2"}, "cpu", 1, "RANK"),
        (
            {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "cpu",
            2,
            "--tensor-parallel",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "cuda:0",
            1,
            "GRAIL_DEVICE",
        ),
    ],
)
def test_ranks_that_cannot_be_laid_out_are_refused_before_they_meet(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], device: str, tensor: int, where: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised, joined_ranks(device, tensor=tensor):
        pass
    assert raised.value.where == where


def test_one_process_started_by_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined_ranks() as ranks:
        assert ranks == ALONE


def test_a_word_that_broke_off_is_followed_by_no_other() -> None:
    """Followers would take the next one for the rest of it, and wait."""
    said: list[Any] = []

    class Interrupted(Ranks):
        def share(self, value: Any = None) -> Any:
            said.append(value)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Lead(Interrupted()) as lead, lead.call("save", "there"):
        pass
    assert said == [["save", "there"]]


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("count", "tensor", "kind"),
    [
        pytest.param(2, 1, "qwen2", id="two ranks, each with half of the weights and of the rows"),
        pytest.param(2, 2, "qwen2", id="two ranks that share each product"),
        pytest.param(2, 2, "qwen3", id="two ranks that share each product, norms over heads"),
        pytest.param(4, 2, "qwen2", id="both"),
    ],
)
def test_ranks_learn_what_one_process_learns(count: int, tensor: int, kind: str) -> None:
    losses = ["dapo", "gspo"] if count == 2 else ["grpo"]
    found = together(count, rank_trials.beside_one_process, tensor=tensor, kind=kind, losses=losses, passes=[1, 2, 4, 8])
    assert len(found) == 4 * len(losses)
    for trial in found:
        assert trial["norm"] < 1e-6
        assert max(trial["loss"], trial["numbers"], trial["masters"], trial["moments"]) < 1e-5
        assert trial["moved"] > 1e-3


@pytest.mark.heavy
def test_ranks_slow_down_and_take_back_for_the_same_alarms_and_write_what_the_first_one_knows(tmp_path: Path) -> None:
    slowed, undone = ([*end] for end in together(2, rank_trials.answers_that_lose_their_form, folder=str(tmp_path)))
    assert slowed == [["form_lost"], "", 0.5, True]
    assert undone == [["form_lost"], "form_lost", 0.5, True]


@pytest.mark.heavy
@pytest.mark.parametrize("tensor", [1, 2])
def test_a_state_goes_from_two_ranks_to_one_and_back_to_the_bit(tmp_path: Path, tensor: int) -> None:
    first, second, third = (tmp_path / f"state-{window}.safetensors" for window in (30, 60, 90))
    written = together(2, rank_trials.learn_and_save, tensor=tensor, kind="qwen2", resume=None, save=str(first))
    alone = Masters(model("qwen2", 8), OPTIMISER)
    alone.resume(first)
    assert alone.digest() == written
    update(alone, groups(), chosen("dapo", 4), window=60, reference=model("qwen2", 9))
    alone.save(second)
    write_sharded(alone.tensors(), third)
    for path in (second, third):
        assert together(2, rank_trials.resumed_digest, tensor=tensor, kind="qwen2", path=str(path)) == alone.digest()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("architecture", "said"), [("qwen2", "num_key_value_heads 1, which 2 ranks cannot divide"), ("gpt2", "has no plan")]
)
def test_a_model_that_cannot_be_split_is_refused_by_name(architecture: str, said: str) -> None:
    assert said in together(2, rank_trials.layout_is_refused, tensor=2, heads=2, architecture=architecture)
