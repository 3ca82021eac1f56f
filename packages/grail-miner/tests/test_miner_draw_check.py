"""What an engine draws is held against the proof model: honest drift passes over many seeds, and what is another draw is found
in the first group that comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grail_core.generation.base import Completion, GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import Shape, shipped_table
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.sketches import Projections
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.pipeline.draw_check import FIRST_ROLLOUTS, POSITIONS, DrawCheck, Otherwise
from grail_miner.proving import references
from grail_miner.proving.in_process import InProcessProver
from tooling.testing.models.tiny_qwen2 import BYTES, save_byte_model
from tooling.testing.proving import prepared, signs

POLICY = GenerationPolicy(16)
FIRM = replace(BYTES, spread=0.3, tied=False)
SIGNS = signs(FIRM.hidden)
NO_TABLE = "bf16-flash-cuda-sglang"
"""A class that no calibration is shipped for."""


class Engine:
    """Draws with a model of its own, and with the requests that it makes of those it is handed."""

    def __init__(self, folder: Path, dtype: str = "bfloat16") -> None:
        self.model = PolicyModel.load(folder, dtype=dtype)
        self.seeds: list[int] | None = None  # in place of those that are asked for

    def draw(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        seeds = self.seeds or [request.sampling_seed for request in requests]
        asked = [replace(request, sampling_seed=seed) for request, seed in zip(requests, seeds, strict=True)]
        return HfGenerator(self.model, POLICY, frozenset({256})).generate(asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("model"), FIRM)


@pytest.fixture(scope="module")
def prover(folder: Path) -> InProcessProver:
    prover = InProcessProver()
    prover.load(prepared(folder))
    return prover


@pytest.fixture
def check() -> DrawCheck:
    return DrawCheck(DEFAULT_CLASS, DEFAULT_CLASS, Shape(FIRM.layers, FIRM.hidden), shipped_table())


def requests_of(group: int) -> list[GenerationRequest]:
    draw = np.random.default_rng(group)
    prompt = tuple(draw.integers(0, 256, 6).tolist())
    return [GenerationRequest(prompt, int(seed)) for seed in draw.integers(0, 2**63, 16)]


def judged(check: DrawCheck, prover: InProcessProver, group: int, completions: Sequence[Completion]) -> Otherwise | None:
    """As `Mining.check_draws` does."""
    requests = requests_of(group)
    prompt = requests[0].prompt
    rows = [(*prompt, *one.tokens) for one in completions]
    proofs = prover.prove(rows, [len(prompt)] * 16, SIGNS)
    sampled = check.sample(group, completions)
    measured = prover.measure(
        [rows[one.rollout] for one in sampled],
        [len(prompt)] * len(sampled),
        [one.positions for one in sampled],
        SIGNS,
        POLICY,
        [requests[one.rollout].sampling_seed for one in sampled],
    )
    return check.judge(group, completions, proofs, sampled, measured)


def honest(check: DrawCheck, prover: InProcessProver, engine: Engine, groups: range) -> list[Otherwise]:
    found = [judged(check, prover, group, engine.draw(requests_of(group))) for group in groups]
    return [one for one in found if one is not None]


def test_honest_draws_pass_in_their_own_numerics_and_in_another_ones(folder: Path, prover: InProcessProver) -> None:
    """Two windows of each: a class with a calibration table in its own numerics, one without drawn in float32."""
    for dtype, drawn_in, groups in (("bfloat16", DEFAULT_CLASS, range(12)), ("float32", NO_TABLE, range(100, 112))):
        check = DrawCheck(drawn_in, DEFAULT_CLASS, Shape(FIRM.layers, FIRM.hidden), shipped_table())
        assert honest(check, prover, Engine(folder, dtype), groups) == []
        assert check.passed


@pytest.mark.heavy
def test_honest_draws_pass_over_many_windows(folder: Path, prover: InProcessProver) -> None:
    for dtype, drawn_in in (("bfloat16", DEFAULT_CLASS), ("float32", NO_TABLE)):
        engine = Engine(folder, dtype)
        for window in range(40):
            check = DrawCheck(drawn_in, DEFAULT_CLASS, Shape(FIRM.layers, FIRM.hidden), shipped_table())
            assert honest(check, prover, engine, range(1000 * window, 1000 * window + 10)) == []


@pytest.mark.parametrize("drawn_in", [DEFAULT_CLASS, NO_TABLE])
def test_other_draws_are_found_in_the_first_group(folder: Path, prover: InProcessProver, drawn_in: str) -> None:
    requests = requests_of(1)
    torn, seeded, cloned, swapped = (Engine(folder) for _ in range(4))
    _tear(torn.model)
    seeded.seeds = [request.sampling_seed ^ 1 for request in requests]
    cloned.seeds = [0] * 16
    swapped.seeds = [requests[(index + (index == 5)) % 16].sampling_seed for index in range(16)]  # one row, another's tokens
    for engine, cause in ((torn, "other_draws"), (seeded, "other_draws"), (cloned, "clones"), (swapped, "single_rows")):
        check = DrawCheck(drawn_in, DEFAULT_CLASS, Shape(FIRM.layers, FIRM.hidden), shipped_table())
        found = judged(check, prover, 1, engine.draw(requests))
        assert found is not None
        assert found.cause == cause
        assert found.clearly_lost <= found.lost <= found.positions
        assert not check.passed


def test_an_engine_that_goes_wrong_in_mid_window_is_found(check: DrawCheck, folder: Path, prover: InProcessProver) -> None:
    engine = Engine(folder)
    assert honest(check, prover, engine, range(8)) == []
    engine.seeds = list(range(16))
    assert len(honest(check, prover, engine, range(8, 9))) == 1


def test_fine_differences_beyond_the_calibration_are_found(check: DrawCheck, folder: Path, prover: InProcessProver) -> None:
    """Weights two hundredths larger than they are to be: a fine difference, which takes more than one group to see."""
    engine = Engine(folder, "float32")
    _enlarge(engine.model, 1.02)
    found = (judged(check, prover, group, engine.draw(requests_of(group))) for group in range(30))
    first = next(one for one in found if one is not None)
    assert first.why == "twin_margin"


def test_proofs_that_the_prover_itself_measures_otherwise_are_told_as_such(
    check: DrawCheck, folder: Path, prover: InProcessProver
) -> None:
    class Faulty(InProcessProver):
        def prove(self, rows: Any, prompt_lengths: Any, projections: Projections) -> list[RolloutProof]:
            return [
                replace(proof, sketches=bytes(len(proof.sketches)))
                for proof in super().prove(rows, prompt_lengths, projections)
            ]

    faulty = Faulty()
    faulty.load(prepared(folder))
    found = judged(check, faulty, 1, Engine(folder).draw(requests_of(1)))
    assert found is not None
    assert found.cause == "proof"
    assert found.clearly_lost == 0


def test_every_group_is_sampled_and_every_place_of_it_in_turn(check: DrawCheck, folder: Path, prover: InProcessProver) -> None:
    long = [Completion(tuple(range(100)))] * 16
    first = check.sample(0, long)
    assert len(first) == FIRST_ROLLOUTS
    assert all(one.positions == tuple(range(100)) for one in first)
    assert honest(check, prover, Engine(folder), range(1)) == []
    later = [check.sample(group, long) for group in range(16)]
    assert sorted(one.rollout for sampled in later for one in sampled) == list(range(16))
    for sampled in later:
        (one,) = sampled
        assert len(set(one.positions)) == POSITIONS
        assert (one.positions[0], one.positions[-1]) == (0, 99)
    assert check.sample(3, [Completion((7,))] * 16)[0].positions == (0,)


def test_without_a_float32_copy_another_draw_is_found_and_a_fine_difference_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "free_bytes", lambda device: 0)
    prover = InProcessProver()
    prover.load(prepared(folder))
    found = {}
    for factor in (1.02, 1.1):
        engine = Engine(folder, "float32")
        _enlarge(engine.model, factor)
        check = DrawCheck(DEFAULT_CLASS, DEFAULT_CLASS, Shape(FIRM.layers, FIRM.hidden), shipped_table())
        found[factor] = [one.why for one in honest(check, prover, engine, range(6))]
    assert found[1.02] == []
    assert found[1.1][0] == "lost_share"


def _enlarge(model: PolicyModel, factor: float) -> None:
    with torch.no_grad():
        for tensor in model.state().values():
            tensor.mul_(factor)
    model.weights_changed()


def _tear(model: PolicyModel) -> None:
    """Half of its tensors are those of another checkpoint."""
    generator = torch.Generator().manual_seed(5)
    state = model.state()
    with torch.no_grad():
        for name in sorted(state)[: len(state) // 2]:
            tensor = state[name]
            tensor.copy_(torch.where(torch.rand(tensor.shape, generator=generator) < 0.3, tensor * 1.5, tensor))
    model.weights_changed()
