"""Honest ways to compute the same states: kernels of attention, shapes of the batch, prefill and decode.

The first is the protocol's own. Each gives the final hidden states of whole groups from the last prompt token on; a kernel that
the device or the model does not take says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from tooling.adversaries.deviations.decoding import replay
from tooling.adversaries.deviations.observation import Rollout
from tooling.studies.gpu_study import device
from tooling.studies.gpu_study.texts import in_batches

Pass = Callable[[PolicyModel, Sequence[Sequence[int]], int], list[Tensor]]
"""(model, rows of one group, prompt length) → states from the last prompt token on, [completion + 1, d] a row."""

PRESCRIBED: Final = "sdpa, batch 16"


def states_of(model: PolicyModel, rollouts: Sequence[Rollout], way: Pass) -> list[Tensor]:
    """One tensor [completion + 1, d] a rollout, in their order."""
    found: list[Tensor] = []
    for batch in in_batches(rollouts):
        found += [state.clone() for state in way(model, [r.tokens for r in batch], batch[0].prompt_length)]
    return found


def prescribed(model: PolicyModel, rows: Sequence[Sequence[int]], prompt: int) -> list[Tensor]:
    """Section 5's prefill, with the attention that the model has."""
    return [states[prompt - 1 :] for states in model.hidden_states(rows)]


def in_parts_of(size: int) -> Pass:
    """So many rows at once."""

    def run(model: PolicyModel, rows: Sequence[Sequence[int]], prompt: int) -> list[Tensor]:
        parts = [prescribed(model, rows[start : start + size], prompt) for start in range(0, len(rows), size)]
        return [state for part in parts for state in part]

    return run


def padded(multiple: int) -> Pass:
    """All rows filled up on the right to a multiple of so many tokens."""

    def run(model: PolicyModel, rows: Sequence[Sequence[int]], prompt: int) -> list[Tensor]:
        longest = -(-max(map(len, rows)) // multiple) * multiple
        states = model.hidden_states([[*row, *[0] * (longest - len(row))] for row in rows])
        return [state[prompt - 1 : len(row)] for row, state in zip(rows, states, strict=True)]

    return run


def _under(context: Callable[[PolicyModel], AbstractContextManager[None]], way: Pass) -> Pass:
    def run(model: PolicyModel, rows: Sequence[Sequence[int]], prompt: int) -> list[Tensor]:
        with context(model):
            return way(model, rows, prompt)

    return run


def _plain(_model: PolicyModel) -> AbstractContextManager[None]:
    return nullcontext()


def _eager(model: PolicyModel) -> AbstractContextManager[None]:
    return model.attending("eager")


def _kernel(name: str) -> Callable[[PolicyModel], AbstractContextManager[None]]:
    return lambda _model: device.kernel(name)


BATCH_SHAPES: Final[Mapping[str, Pass]] = {
    PRESCRIBED: prescribed,
    "sdpa, batch 16, again": prescribed,
    "sdpa, batch 4": in_parts_of(4),
    "sdpa, batch 1": in_parts_of(1),
    "sdpa, padded to 256": padded(256),
}
KERNELS: Final[Mapping[str, Pass]] = {f"sdpa {name}, batch 16": _under(_kernel(name), prescribed) for name in device.KERNELS}
OTHER_ATTENTION: Final[Mapping[str, Pass]] = {
    "eager, batch 16": _under(_eager, prescribed),
    "eager, batch 1": _under(_eager, in_parts_of(1)),
}
DECODE: Final[Mapping[str, Pass]] = {
    "KV-cache decode, sdpa": _under(_plain, replay),
    "KV-cache decode, eager": _under(_eager, replay),
}
WAYS: Final[Mapping[str, Pass]] = {**BATCH_SHAPES, **KERNELS, **OTHER_ATTENTION, **DECODE}
"""Every honest numerics by its name."""


def attention_of(name: str) -> str:
    """The attention kind that a miner of this numerics declares."""
    return "eager" if "eager" in name else "sdpa"
