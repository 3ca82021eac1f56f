"""The validator's model process: what it gives is what was asked, and whatever becomes of it costs one job and no more.

The children here are real processes that speak the real frames; most have no model, so that they break where they are told to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.errors import ConfigurationError, MachineFaultError, OutOfTimeError
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.work import ModelWork, ProofRow
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from grail_validator import model_frames as frames
from grail_validator import model_process
from grail_validator.compare_frames import AlternativeNames, compared_of
from grail_validator.compared_models import ComparedModels
from grail_validator.model_child import _Models
from grail_validator.model_frames import AskedRows
from grail_validator.model_handle import child_environment
from grail_validator.model_process import MAX_FAILED_STARTS, ModelProcess
from tooling.testing import plain_window as plain
from tooling.testing.faults import events
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.scripted_model import COMMAND, FACTS, HIDDEN_SIZE, Does

MANIFEST = plain.manifest(Digest(bytes(32)))
COMPARED = ComparedModels()
SIGNS = np.ones((4, HIDDEN_SIZE), np.float32)
POLICY = GenerationPolicy(max_tokens=8)


class Cache:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def materialise(self, manifest: object) -> Path:
        return self._folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(save_byte_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def models(cache: Cache) -> Iterator[ModelProcess]:
    with ModelProcess(cache, command=COMMAND) as models:
        yield models


def rows(does: Does = Does.ANSWER) -> list[ProofRow]:
    return [ProofRow([1, 5, 6, 7], 2, (0, 1), int(does)), ProofRow([1, 5, 6], 2, (0,), 0)]


def work_of(models: ModelProcess) -> ModelWork:
    return models.model(MANIFEST, {}, COMPARED).work()


def measured(work: ModelWork, does: Does = Does.ANSWER) -> list[list[float]]:
    return [one.z[:, 0].tolist() for one in work.measure(rows(does), SIGNS, POLICY).rollouts]


ANSWER = [[4.0, 4.0], [3.0]]


def test_what_is_asked_is_answered_row_by_row(models: ModelProcess) -> None:
    work = work_of(models)
    assert vars(work.facts) == FACTS
    assert measured(work) == ANSWER


def test_a_batch_is_answered_with_what_the_reference_says_beside_it(models: ModelProcess) -> None:
    work = work_of(models)
    for one in work.measure(rows(), SIGNS, POLICY, proof_class=DEFAULT_CLASS).rollouts:
        assert one.reference is not None
        assert one.reference.finite
        assert (one.reference.z == one.z + 0.5).all()
        figures = {name: np.unique(value).tolist() for name, value in vars(one.reference).items() if name != "z"}
        assert figures == {
            "logprobs": [-0.25],
            "margins": [0.125],
            "twins": [0.0],
            "noise": [np.float32(0.01)],
            "spread": [0.75],
        }


def test_a_batch_that_is_not_held_against_float32_comes_without_a_reference(models: ModelProcess) -> None:
    bare = work_of(models).measure(rows(), SIGNS, POLICY, proof_class=DEFAULT_CLASS, reference=False).rollouts
    assert [one.z[:, 0].tolist() for one in bare] == ANSWER
    assert [one.reference for one in bare] == [None, None]


def test_a_reference_that_is_no_number_is_taken_as_it_is(models: ModelProcess) -> None:
    """It says nothing of the rollout, which is nobody's fault, and no reason to load everything anew."""
    work, before = work_of(models), models.pid
    one, _ = work.measure(rows(Does.LACK_A_FINITE_REFERENCE), SIGNS, POLICY).rollouts
    assert one.finite
    assert one.reference is not None
    assert not one.reference.finite
    assert models.pid == before


def test_rows_are_compared_with_what_was_told_when_the_models_were_loaded(models: ModelProcess) -> None:
    work = work_of(models)
    first, second = work.compare([ProofRow([1, 5, 6], 1, (0, 1), 3), ProofRow([1, 5], 1, (0,), 4)], SIGNS, POLICY)
    assert sorted(first.z) == ["current", "own", "previous-1"]  # the other has no number there, and is left out
    assert sorted(first.leads) == ["previous-1", "temperature x 0.9"]
    assert (first.z["previous-1"] == 0.75).all()
    assert [value.tolist() for value in vars(first.leads["previous-1"]).values()] == [[0.5, 0.5], [-0.5, -0.5], [7, 7]]
    assert (first.positions, first.noise.tolist(), first.spread.tolist()) == ((0, 1), [0.5, 0.5], [0.5, 0.5])
    assert (second.positions, second.z, second.leads) == ((0,), {}, {})  # nothing is known of it


def test_a_batch_that_the_childs_memory_did_not_hold_is_told_as_such(models: ModelProcess) -> None:
    work = work_of(models)
    assert work.measure(rows(Does.MEASURE_ONE_BY_ONE), SIGNS, POLICY).parts == 1
    assert work.measure(rows(), SIGNS, POLICY).parts is None


NO_FAULT = (Does.ANSWER, Does.HANG, Does.MEASURE_ONE_BY_ONE, Does.LACK_A_FINITE_REFERENCE)


@pytest.mark.parametrize("does", [one for one in Does if one not in NO_FAULT], ids=lambda does: does.name)
def test_a_child_that_breaks_costs_the_job_it_had_and_the_next_is_done_by_another(models: ModelProcess, does: Does) -> None:
    work, other = work_of(models), work_of(models)
    before = models.pid
    assert before is not None
    with pytest.raises(MachineFaultError):
        measured(work, does)
    assert measured(other) == ANSWER
    assert models.pid != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_child_that_hangs_is_ended_when_the_time_for_its_job_is_over(
    models: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(models)
    with monkeypatch.context() as patch:
        patch.setattr(model_process, "JOB_SECONDS", 0.05)
        with pytest.raises(MachineFaultError, match="no answer in time"):
            measured(work, Does.HANG)
    assert measured(work) == ANSWER


def test_a_child_that_takes_no_work_is_ended_as_one_that_gives_none(
    models: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest batch is larger than what lies in a connection, so that it cannot be sent."""
    work, longest = work_of(models), [ProofRow(list(range(12_288)), 4_096, (0,), 0)] * 16
    assert models.pid is not None
    with monkeypatch.context() as patch:
        patch.setattr(model_process, "JOB_SECONDS", 0.05)
        patch.setattr(model_process, "LEAST_TOKENS_PER_SECOND", 1e9)
        os.kill(models.pid, signal.SIGSTOP)
        with pytest.raises(MachineFaultError, match="took no more of its work in time"):
            work.measure(longest, SIGNS, POLICY)
    assert len(work.measure(longest, SIGNS, POLICY).rollouts) == 16


def test_a_validators_own_process_imports_no_torch() -> None:
    """It would take the memory of a second child, and nothing in it computes with it."""
    program = "import sys; import grail_validator.start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_time_for_a_job_grows_with_its_tokens() -> None:
    """However slow a machine is that this network can use, an honest batch of the longest rows is not taken for a hang."""
    assert model_process.LEAST_TOKENS_PER_SECOND <= 20
    assert model_process.JOB_SECONDS >= 60


def test_work_that_takes_longer_than_is_left_to_its_file_ends_and_nobody_elses_does(models: ModelProcess) -> None:
    work = work_of(models)
    with pytest.raises(OutOfTimeError, match="over during a forward pass"):
        work.measure(rows(Does.HANG), SIGNS, POLICY, 0.05)
    assert measured(work_of(models)) == ANSWER


def test_work_that_cannot_be_done_in_the_time_left_costs_no_child(models: ModelProcess) -> None:
    """Else whoever seals slow work leaves it a moment, and the validator loads its models anew for every such file."""
    work = work_of(models)
    longest = [ProofRow(list(range(12_288)), 4_096, (0,), 0)] * 16
    assert len(work.measure(longest, SIGNS, POLICY).rollouts) == 16
    before = models.pid
    with pytest.raises(OutOfTimeError, match="before a forward pass can be done"):
        work.measure(longest, SIGNS, POLICY, 1e-6)
    assert models.pid == before
    assert measured(work) == ANSWER


def test_however_many_miners_end_their_child_the_next_ones_work_is_done(models: ModelProcess) -> None:
    """Else a few hotkeys that know how to break a device would take every other verdict of the window with them."""
    works = [work_of(models)] + [models.model(MANIFEST, {}, COMPARED).work()] * MAX_FAILED_STARTS
    for work in works:
        with pytest.raises(MachineFaultError):
            measured(work, Does.ABORT)
    assert measured(works[-1]) == ANSWER


def test_a_child_that_ends_between_two_jobs_costs_nobody_anything(models: ModelProcess) -> None:
    work = work_of(models)
    for _ in range(MAX_FAILED_STARTS + 1):
        assert models.pid is not None
        os.kill(models.pid, signal.SIGKILL)
        os.waitid(os.P_PID, models.pid, os.WEXITED | os.WNOWAIT)
        assert measured(work) == ANSWER


def test_children_that_never_come_to_work_leave_nothing_to_judge_a_window_with_and_the_next_window_tries_again(
    cache: Cache, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    program = f"open({str(started)!r}, 'a').write('.'); raise SystemExit(9)"
    with ModelProcess(cache, command=(COMMAND[0], "-c", program)) as models:
        for window in (1, 2):
            with events() as names, pytest.raises(MachineFaultError, match="nothing to judge with"):
                models.model(MANIFEST, {}, COMPARED)
            assert len(started.read_text()) == window * MAX_FAILED_STARTS
            assert names.count("model_process_not_started") == MAX_FAILED_STARTS


def test_once_a_window_has_nothing_to_judge_with_its_other_miners_start_no_more_children(
    models: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, other = work_of(models), work_of(models)
    monkeypatch.setattr(models, "_command", (COMMAND[0], "-c", "raise SystemExit(9)"))
    models.close()
    with events() as names:
        for one in (work, other, work):
            with pytest.raises(MachineFaultError, match="nothing to judge with"):
                measured(one)
    assert names.count("model_process_not_started") == MAX_FAILED_STARTS


def test_a_device_that_is_not_there_is_told_at_start(cache: Cache) -> None:
    with ModelProcess(cache, device="no such device", command=COMMAND) as models, pytest.raises(ConfigurationError) as raised:
        models.require_ready()
    assert raised.value.where == "GRAIL_DEVICE"


def test_closing_leaves_no_process(models: ModelProcess) -> None:
    work_of(models)
    pid = models.pid
    assert pid is not None
    models.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_sees_nothing_that_is_secret(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "BT_WALLET_PATH",
        "R2_WRITE_SECRET_ACCESS_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GRAIL_STATE_DIR",
        "PYTHONPATH",
        "X_TOKEN",
    )
    for name in secrets:
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    passed = child_environment(os.environ)
    assert passed["OMP_NUM_THREADS"] == "3"  # what decides how numbers come out is the same on either side
    assert not passed.keys() & set(secrets)
    with ModelProcess(cache, command=COMMAND) as models:
        models.require_ready()
        environ = Path(f"/proc/{models.pid}/environ")
        if environ.exists():  # Linux
            assert b"a secret" not in environ.read_bytes()
            descriptors = {os.readlink(one) for one in Path(f"/proc/{models.pid}/fd").iterdir()}
            assert not [one for one in descriptors if one.endswith((".sqlite", ".sqlite-wal", ".lock"))]


@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_a_child_compares_with_all_that_it_names_and_reads_tokens_where_the_policy_allows_it(
    cache: Cache, penalty: float
) -> None:
    """The child's own side, in this process: its answer is as long as its names say, and what one process finds."""
    policy = GenerationPolicy(max_tokens=8, repetition_penalty=penalty)
    folder = cache.materialise(MANIFEST)
    child = _Models(device="cpu", attention="sdpa")

    def told(answer: list[bytes | memoryview]) -> memoryview:
        return memoryview(b"".join(map(bytes, answer)))

    def asked(value: dict[str, Any]) -> memoryview:
        return told(frames.pack(value))

    child.hold(asked({"digest": "d", "folder": str(folder), "wanted": ["d"], "dispensable": False}))
    loading = {"digest": "d", "earlier": {}, "compared": vars(COMPARED), "policy": vars(policy)}
    loaded, _ = frames.unpack(told(child.load(asked(loading))))
    names = AlternativeNames.told(tuple(loaded["weights"]), tuple(loaded["sampled"]))
    assert names.weights == ("int8", "int8-groups", "int4-groups")
    assert len(names.sampled) == (4 if penalty == 1 else 0)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (4, loaded["facts"]["hidden_size"])).astype(np.float32)
    wanted = [ProofRow([1, 5, 6, 7, 9], 2, (0, 2), 3), ProofRow([1, 5, 6], 1, (0, 1), 4)]
    question = AskedRows(wanted, signs, policy, "bf16-eager-cpu-transformers")
    vocabulary = loaded["facts"]["vocabulary_size"]
    found = compared_of(told(child.compare(told(frames.ask_about(question)))), wanted, names, vocabulary)
    for one in found:
        assert sorted(one.z) == sorted(["current", "own", *names.weights])
        assert sorted(one.leads) == (sorted([*names.weights, *names.sampled]) if penalty == 1 else [])
        assert (one.z["int4-groups"] != one.z["current"]).any()
    measured = frames.measured_of(told(child.measure(told(frames.ask_about(question)))), wanted)
    for one, beside in zip(found, measured.rollouts, strict=True):
        assert beside.reference is not None
        np.testing.assert_allclose(one.z["current"], beside.reference.z, atol=1e-5)
        np.testing.assert_allclose(one.z["own"], beside.z, atol=0.02)  # of one row in place of two: another rounding
        np.testing.assert_allclose(one.noise, beside.reference.noise, rtol=1e-3)
