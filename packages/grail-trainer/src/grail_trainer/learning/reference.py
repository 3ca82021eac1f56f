"""The policy that a KL term holds on to: in memory while its passes run, at the beginning of an update, and not between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from grail_trainer.learning.lora import without_adapters
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.policy import PassResult, Policy
from grail_trainer.learning.rollouts import TokenSequence


class ReferencePolicy(Protocol):
    def __call__(self, rows: Sequence[TokenSequence], *, temperature: float) -> PassResult: ...


@dataclass(frozen=True)
class Offloaded:
    """A model that is on disk alone until it is asked for. `load` returns a Transformers causal model, on any device."""

    load: Callable[[], Any]


@contextmanager
def held_reference(masters: Masters, reference: Any | None) -> Iterator[ReferencePolicy | None]:
    """What the KL term of an update is made with; None where there is nothing to hold on to.

    Where adapters are trained, it is the model without them: what training began from is in memory anyway.

    Args:
        reference: a Transformers causal model, or an `Offloaded` one.
    """
    if masters.adapted:
        yield _Unadapted(masters)
    elif reference is None:
        yield None
    else:
        module = reference.load() if isinstance(reference, Offloaded) else reference
        held = _Loaded(masters.laid_out(Policy(module, compute=masters.policy.compute)))
        try:
            yield held
        finally:
            held.policy = None  # whoever still has `held` does not keep the weights with it


@dataclass
class _Loaded:
    policy: Policy | None

    def __call__(self, rows: Sequence[TokenSequence], *, temperature: float) -> PassResult:
        if self.policy is None:
            raise RuntimeError("the reference was given back")
        result: PassResult = self.policy(rows, temperature=temperature)
        return result


@dataclass(frozen=True)
class _Unadapted:
    masters: Masters

    def __call__(self, rows: Sequence[TokenSequence], *, temperature: float) -> PassResult:
        with without_adapters(self.masters.module):
            result: PassResult = self.masters.policy(rows, temperature=temperature)
            return result
