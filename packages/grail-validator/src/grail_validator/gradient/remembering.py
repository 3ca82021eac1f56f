"""What a validator remembers when it judges a round: its bodies, one after the other, and whether they lead up to it.

Judging and whoever judges again fold them alike. Where a round has passed of which there is no body, files have come that are
not known, of hotkeys that may never have been met: nobody is held to what it left then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.types import Window


def remembered(
    bodies: Iterable[GradientVerdictBody], round_: Window, spec: GradientSpec, *, first: Callable[[], bool]
) -> GradientMemory:
    """Memory before a round.

    Args:
        bodies: of earlier rounds, own or adopted, in ascending order. first: is it the network's first round of gradient work?
            Asked where there is no body.
    """
    memory = GradientMemory()
    for body in bodies:
        memory = memory.after(body, spec)
    goes_on = memory.last == round_ - spec.round_blocks if memory.last is not None else first()
    return memory if goes_on else memory.with_files_missed()
