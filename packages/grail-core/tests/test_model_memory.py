"""Running out of memory is tried once more with everything freed, and is then one error of this machine's, nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from grail_core.errors import MachineFaultError
from grail_core.model.memory import on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import measure_rollouts, prove_rollouts
from grail_core.proof.sketches import projections
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

EXHAUSTED = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("could not create a primitive"),
]
SIGNS = projections(Randomness(bytes(32)), b"s" * 32, 32)
ROWS, LENGTHS, POSITIONS = [[1, 2, 3, 4], [1, 2, 5, 6]], [2, 2], [(0, 1), (0, 1)]


@pytest.fixture(scope="module")
def model() -> PolicyModel:
    return PolicyModel(in_bfloat16(random_model(Qwen2Shape(16))))


def calls(model: PolicyModel) -> list[Callable[[], object]]:
    policy = GenerationPolicy(2)
    return [
        lambda: prove_rollouts(model, ROWS, LENGTHS, SIGNS),
        lambda: measure_rollouts(model, ROWS, LENGTHS, POSITIONS, SIGNS, policy, [1, 2]),
    ]


@pytest.mark.parametrize("error", EXHAUSTED, ids=str)
def test_every_forward_pass_is_tried_again_and_then_given_up_with_one_error(
    model: PolicyModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = model.hidden_states
    failures: list[Exception] = []

    def failing(rows: object) -> object:
        if failures:
            raise failures.pop()
        return real(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden_states", failing)
    for call in calls(model):
        failures[:] = [error]
        assert call()
        failures[:] = [error, error]
        with pytest.raises(MachineFaultError, match="ran out of memory, twice") as raised:
            call()
        assert raised.value.hint


def test_what_the_device_breaks_is_this_machines_and_what_is_a_mistake_stays_one() -> None:
    @on_this_machine
    def raises(error: Exception) -> None:
        raise error

    with pytest.raises(MachineFaultError, match="the device failed"):
        raises(RuntimeError("CUDA error: an illegal memory access was encountered\nmore"))
    for mistake in (RuntimeError("shapes cannot be multiplied"), ValueError("a proof batch has 1 to 16 rows")):
        with pytest.raises(type(mistake)):
            raises(mistake)
