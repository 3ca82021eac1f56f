"""The shapes that are measured, and how much text each gets.

Those of Qwen2.5 are its published configurations; `tiny` is for a run that only has to work, the two small ones are the sizes
of the study of power, for a machine without a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from tooling.testing.models.tiny_qwen2 import Qwen2Shape


@dataclass(frozen=True)
class Amount:
    """How much text. Groups have 16 rollouts, all of one length, so that every batch is a rectangle."""

    groups: int = 4  # a file of 64 rollouts
    prompt: int = 64  # tokens
    completion: int = 96  # tokens
    compared: int = 16  # rollouts of a file that are measured under named alternatives
    compared_positions: int = 32  # of each of them, at least as many as a challenge opens
    speed_completion: int = 448  # tokens of the rows whose cost is measured
    repeats: int = 3  # of a timed action, after one that is not counted


@dataclass(frozen=True)
class Measured:
    """One shape by its name, and what is measured of it."""

    name: str
    shape: Qwen2Shape
    amount: Amount = Amount()
    against_cpu: bool = False  # small enough for a CPU to run beside
    share: float = 1.0  # of the time, against the other shapes'


def _qwen25(layers: int, hidden: int, intermediate: int, heads: int, kv: int, vocabulary: int, *, tied: bool) -> Qwen2Shape:
    return Qwen2Shape(
        vocabulary,
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=kv,
        intermediate=intermediate,
        context=32_768,
        tied=tied,
    )


_LARGER = Amount(groups=2, compared=8)
_TINY = Amount(groups=1, prompt=8, completion=12, compared=4, speed_completion=24, repeats=1)
_SMALL = Amount(groups=4, prompt=24, completion=96, compared=16, compared_positions=96, speed_completion=128)

_MIDDLE = Amount(groups=2, prompt=24, completion=72, compared=16, compared_positions=72, speed_completion=128)

SHAPES = {
    one.name: one
    for one in (
        Measured("tiny", Qwen2Shape(512, hidden=64, layers=2, intermediate=176, context=256), _TINY, against_cpu=True),
        Measured("4x128", Qwen2Shape(1024, hidden=128, layers=4, intermediate=352, context=512), _SMALL, against_cpu=True),
        Measured(
            "12x512",
            Qwen2Shape(32_000, hidden=512, layers=12, heads=8, intermediate=1408, context=512),
            _MIDDLE,
            against_cpu=True,
        ),
        Measured("0.5b", _qwen25(24, 896, 4864, 14, 2, 151_936, tied=True), Amount(), against_cpu=True, share=2.0),
        Measured("1.5b", _qwen25(28, 1536, 8960, 12, 2, 151_936, tied=True), _LARGER),
        Measured("7b", _qwen25(28, 3584, 18_944, 28, 4, 152_064, tied=False), _LARGER),
    )
}
"""By name, in the order in which they are measured."""

DEFAULT_SHAPES = ("0.5b", "1.5b", "7b")
