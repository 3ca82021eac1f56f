"""Proofs in the miner's own process, by one model or several: of the checkpoint that is loaded, and of no other one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grail_core.checkpoints.loaded import LoadedCheckpoint, PreparedCheckpoint
from grail_core.child_process.frames import FrameError
from grail_core.errors import CheckpointError, MachineFaultError
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import measure_rollouts, prove_rollouts
from grail_core.proof.reference import Reference
from grail_core.protocol.types import Digest
from grail_miner.proving import frames, references
from grail_miner.proving.base import Prover
from grail_miner.proving.frames import MeasureRequest
from grail_miner.proving.in_process import InProcessProver
from grail_miner.proving.threads import ThreadProver, over_the_same_weights
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.proving import Measuring, bytes_of, group, measured_bytes, prepared, signs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("proved"))


@pytest.fixture(scope="module")
def model(folder: Path) -> PolicyModel:
    return PolicyModel.load(folder)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> PreparedCheckpoint:
    return prepared(folder)


def test_a_loaded_checkpoint_is_proved_with_its_own_model_and_a_folder_with_one_like_it(
    checkpoint: PreparedCheckpoint, model: PolicyModel
) -> None:
    rows, prompts = group(1, model.vocabulary_size)
    expected = bytes_of(prove_rollouts(model, rows, prompts, signs(model.hidden_size)))
    prover: Prover = InProcessProver()
    for one in (checkpoint, LoadedCheckpoint(**vars(checkpoint), model=model)):
        prover.load(one)
        assert bytes_of(prover.prove(rows, prompts, signs(model.hidden_size))) == expected
        assert prover.proof_class == "bf16-sdpa-cpu-transformers"


def test_after_a_load_that_failed_nothing_is_proved_with_the_weights_before_it(
    checkpoint: PreparedCheckpoint, model: PolicyModel, tmp_path: Path
) -> None:
    prover = InProcessProver()
    prover.load(checkpoint)
    broken = replace(checkpoint, folder=tmp_path)
    with pytest.raises(CheckpointError):
        prover.load(broken)
    with pytest.raises(MachineFaultError, match="no weights are loaded"):
        prover.prove(*group(1, model.vocabulary_size), signs(model.hidden_size))


def test_threads_over_one_copy_of_the_weights_prove_what_one_model_proves(
    checkpoint: PreparedCheckpoint, model: PolicyModel
) -> None:
    groups = [group(seed, model.vocabulary_size) for seed in range(4)]
    expected = [bytes_of(prove_rollouts(model, *one, signs(model.hidden_size))) for one in groups]
    prover: Prover = ThreadProver(("cpu", "cpu"))
    for one in (checkpoint, LoadedCheckpoint(**vars(checkpoint), model=model)):
        prover.load(one)
        with ThreadPoolExecutor(prover.slots) as pool:
            waiting = [pool.submit(prover.prove, *each, signs(model.hidden_size)) for each in groups]
            assert [bytes_of(each.result()) for each in waiting] == expected
    first, second = model, over_the_same_weights(model)
    assert first.lock is not second.lock
    assert [one.data_ptr() for one in first.state().values()] == [one.data_ptr() for one in second.state().values()]


def test_one_model_and_threads_measure_what_a_validator_does(checkpoint: PreparedCheckpoint, model: PolicyModel) -> None:
    asked = vars(Measuring.of(2, model.vocabulary_size, model.hidden_size))
    expected = measured_bytes(measure_rollouts(model, **asked, reference=Reference(model).model()))
    provers: list[Prover] = [InProcessProver(), ThreadProver(("cpu",))]
    for prover in provers:
        with pytest.raises(MachineFaultError, match="no weights are loaded"):
            prover.measure(**asked)
        prover.load(checkpoint)
        assert measured_bytes(prover.measure(**asked)) == expected


def test_where_memory_holds_no_float32_copy_draws_are_measured_without_one(
    checkpoint: PreparedCheckpoint, model: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = vars(Measuring.of(2, model.vocabulary_size, model.hidden_size))
    needed = 4 * sum(parameter.numel() for parameter in model.module.parameters())
    monkeypatch.setattr(references, "free_bytes", lambda device: 2 * needed - 1)
    prover = InProcessProver()
    prover.load(checkpoint)
    assert measured_bytes(prover.measure(**asked)) == measured_bytes(measure_rollouts(model, **asked))
    monkeypatch.setattr(references, "free_bytes", lambda device: 2 * needed)
    assert prover.measure(**asked)[0].reference is None  # as for the whole window
    prover.load(checkpoint)
    assert prover.measure(**asked)[0].reference is not None


def test_an_answer_with_other_weights_or_with_numbers_that_are_no_measurement_is_not_read(model: PolicyModel) -> None:
    version, other = Digest(bytes(32)), Digest(b"o" * 32)
    asked = vars(Measuring.of(2, model.vocabulary_size, model.hidden_size))
    request = MeasureRequest.of(version, **asked)
    without = measure_rollouts(model, **asked)
    measured = measure_rollouts(model, **asked, reference=Reference(model).model())

    def answered(margin: float | None = None) -> bytes:
        *before, last = measured
        spoilt = last if margin is None else replace(last, margins=np.full(len(last.positions), margin))
        return b"".join(map(bytes, frames.answer_measured(version, [*before, spoilt])))

    answer = answered()
    assert measured_bytes(request.read(memoryview(answer))) == measured_bytes(measured)
    told_without = b"".join(map(bytes, frames.answer_measured(version, without)))
    assert measured_bytes(request.read(memoryview(told_without))) == measured_bytes(without)
    for wrong, told in (
        (answer[:-1], "in place of"),
        (answer + b"0", "in place of"),
        (other + answer[32:], "computed with the weights"),
        (answered(-1.0), "margins that are none"),
        (answered(5.0), "margins that are none"),
        (answer[:32] + b"\2" + answer[33:], "neither yes nor no"),
    ):
        with pytest.raises(FrameError, match=told):
            request.read(memoryview(wrong))
    with pytest.raises(ValueError, match="not all of the positions"):
        MeasureRequest.of(version, **{**asked, "positions": [[999]] * 16})


def test_a_thread_that_waits_for_a_model_is_told_when_there_is_none(checkpoint: PreparedCheckpoint, model: PolicyModel) -> None:
    prover = ThreadProver(("cpu",))
    prover.load(checkpoint)
    prover.close()
    with pytest.raises(MachineFaultError, match="no weights are loaded"):
        prover.prove(*group(1, model.vocabulary_size), signs(model.hidden_size))
    with pytest.raises(ValueError, match="all on GPUs or all on the processor"):
        ThreadProver(("cpu", "cuda:0"))
