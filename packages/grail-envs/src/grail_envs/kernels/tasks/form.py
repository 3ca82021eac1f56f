"""A task of our own: a module in KernelBench's form whose sizes are drawn, so that a kernel is asked for and not a shape.

The module defines `Model`, `get_inputs()` and `get_init_inputs()`; its sizes stand in constants at its top. A problem shows one
choice of sizes, and an answer meets others too: sides that no block divides, and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grail_envs.draws import Draws
from grail_envs.kernels.drawing import Task

SHOWN_DRAWS: Final = 2
OTHER_DRAWS: Final = 3
_SCALED: Final = """

_inputs = get_inputs


def get_inputs():
    return [(one * {scale}).to(one.dtype) if one.is_floating_point() else one for one in _inputs()]
"""
_IMPORTS: Final = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


_SHIFTED: Final = _SCALED.replace("* {scale}", "+ {shift}")


@dataclass(frozen=True)
class OwnTask:
    """`body` is the module without imports and sizes; `sizes` are the values that each size may have.

    `scales` are factors of inputs: each brings one more draw whose floating inputs are multiplied by it. A large one makes an
    exponential overflow that is taken without the maximum, a small one tells a norm with its epsilon from one without.
    `shifts` are added to floating inputs, each in one more draw: a negative one tells a maximum from that of 0 and it.
    """

    name: str
    body: str
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()

    def source(self, chosen: Mapping[str, int]) -> str:
        """The module with these sizes."""
        lines = "".join(f"{name} = {value}\n" for name, value in chosen.items())
        return f"{_IMPORTS}\n{lines}\n\n{self.body.strip()}\n"

    def drawn(self, draws: Draws) -> Task:
        """The task of one problem: the shown sizes twice, then other ones, then the shown ones with scaled and shifted inputs.

        What is shown and the last one leave the least value of every size out, with which some tasks have one answer for all.
        """
        shown = self._choice(draws, 1)
        others = [self._choice(draws, 0) for _ in range(OTHER_DRAWS - 1)] + [self._choice(draws, 1)]
        source = self.source(shown)
        scaled = [source + _SCALED.format(scale=scale) for scale in self.scales]
        shifted = [source + _SHIFTED.format(shift=shift) for shift in self.shifts]
        return Task(self.name, source, (*[source] * SHOWN_DRAWS, *(self.source(one) for one in others), *scaled, *shifted))

    def _choice(self, draws: Draws, first: int) -> dict[str, int]:
        return {name: draws.choice(values[first:]) for name, values in self.sizes.items()}


def model(forward: str, *, init: str = "", given: str = "", inputs: str, init_inputs: str = "") -> str:
    """The body of a task: `forward` is the text behind `def forward(self, `, `init` the statements of `__init__`."""
    made = [f"    def __init__(self{', ' + given if given else ''}):", "        super().__init__()"]
    made += [f"        {line}" for line in init.splitlines()]
    head, _, rest = forward.partition("\n")
    lines = [f"    def forward(self, {head}", *(f"        {line}" for line in rest.splitlines())]
    asked = ["def get_inputs():", f"    return [{inputs}]", "", "", "def get_init_inputs():", f"    return [{init_inputs}]"]
    return "\n".join(["class Model(nn.Module):", *made, "", *lines, "", "", *asked])
