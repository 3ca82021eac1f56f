"""How far honest miners lie from an honest validator on this device: batch shapes, kernels of attention, decode."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from tooling.studies.gpu_study import honest
from tooling.studies.gpu_study.bench import Bench
from tooling.studies.gpu_study.measuring import Measured, claims_of, figures_of
from tooling.studies.gpu_study.sections import Figures, Item, NotHereError, Section
from tooling.studies.gpu_study.texts import in_batches

_DECODED_GROUPS: Final = 1  # token by token is slow
_NO_KERNEL: Final = ("No viable backend", "No available kernel", "not compiled", "execution plan")


class _Own:
    """The validator's own measurements of the honest text, by kind of attention."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._known: dict[str, Measured] = {}

    def of(self, attention: str) -> Measured:
        if attention not in self._known:
            self._known[attention] = self._bench.validator.measure(self._bench.text, attention)
        return self._known[attention]


def _way(bench: Bench, own: _Own, name: str) -> Figures:
    """One numerics: against the validator's pass in the kind it declares, and in the other one."""
    text = bench.text
    if name in honest.DECODE:
        text = text[: _DECODED_GROUPS * len(next(in_batches(text)))]
    try:
        states = honest.states_of(bench.model, text, honest.WAYS[name])
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_KERNEL):
            raise NotHereError(str(error).splitlines()[0][:160]) from error
        raise
    claims = claims_of(bench.model, bench.setting, text, states)
    declared = honest.attention_of(name)
    found = {}
    for attention in ("sdpa", "eager"):
        key = "declared" if attention == declared else f"measured in {attention}"
        found[key] = figures_of(bench.setting, text, claims, own.of(attention))
    return {"declared": found["declared"], **found}


def _items(bench: Bench) -> Sequence[Item]:
    own = _Own(bench)
    return [(name, partial(_way, bench, own, name)) for name in honest.WAYS]


SECTION = Section("drift", 3.0, _items)
