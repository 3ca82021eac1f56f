"""Whether one rollout shows that a miner ran the prescribed prefill with these very weights: b, the reproduction of bits.

b = ln(mean (claimed − own z)² / mean n²) over a rollout's challenged positions, n the validator's own drift from its reference.
Equal bits leave the claims' rounding alone; whatever changes a bit anywhere leaves about as much as other rounding does. Two
machines are compared by their digests of weights and states: equal ones have equal bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from tooling.studies.gpu_study import honest, other_machine
from tooling.studies.gpu_study.bench import Bench
from tooling.studies.gpu_study.measuring import Measured, claims_of, reproductions_of
from tooling.studies.gpu_study.random_models import stepped_back
from tooling.studies.gpu_study.sections import Figures, Item, NotHereError, Section

_WAYS = (
    "sdpa, batch 16, again",
    "sdpa, batch 4",
    "sdpa, batch 1",
    "sdpa, padded to 256",
    "eager, batch 16",
    "KV-cache decode, sdpa",
)
STALE = (1e-6, 3e-6, 1e-5)


class _Reproductions:
    """b of an honest text under each way to compute it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @cached_property
    def measured(self) -> Measured:
        return self._bench.validator.measure(self._bench.text)

    def of(self, states: Callable[[], Sequence[Tensor]], head: Callable[[], PolicyModel]) -> Figures:
        bench = self._bench
        claims = claims_of(head(), bench.setting, bench.text, states())
        return reproductions_of(bench.setting, bench.text, claims, self.measured)


def _digests(bench: Bench) -> Figures:
    """SHA-256 of the weights, and of the prescribed prefill of one batch of random tokens that no device has chosen."""
    generator = torch.Generator().manual_seed(11)
    size = (ROLLOUTS_PER_PROBLEM, bench.amount.prompt + bench.amount.completion)
    rows = torch.randint(bench.model.vocabulary_size, size, generator=generator).tolist()
    weights = [bench.model.state()[name] for name in sorted(bench.model.state())]
    return {"weights": _sha256(weights), "states": _sha256(bench.model.hidden_states(rows))}


def _sha256(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def _items(bench: Bench) -> Sequence[Item]:
    found = _Reproductions(bench)

    def right() -> PolicyModel:
        return bench.model

    def under(way: honest.Pass) -> list[Tensor]:
        return honest.states_of(bench.model, bench.text, way)

    def elsewhere() -> list[Tensor]:
        if bench.device.type != "cpu":
            raise NotHereError("an instruction set is a CPU's")
        return other_machine.states_on_older_cpu(bench.model, bench.text)

    def stale(rate: float) -> Figures:
        other = bench.other.become(stepped_back(rate, seed=3))
        return found.of(lambda: honest.states_of(other, bench.text, honest.prescribed), lambda: other)

    return [
        ("digests", partial(_digests, bench)),
        *((name, partial(found.of, partial(under, honest.WAYS[name]), right)) for name in _WAYS),
        ("another instruction set", partial(found.of, elsewhere, right)),
        *((f"previous checkpoint, lr {rate:g}", partial(stale, rate)) for rate in STALE),
    ]


SECTION = Section("bit-equal", 1.0, _items, small_shapes_only=True)
