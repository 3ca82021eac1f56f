"""Named sets of numbers for gradient work: what `grail-trainer init --work gradient --preset NAME` begins a network with.

A preset fills the gradient spec of the first checkpoint and nothing else: from then on the manifest says it. `tiny` is for
local networks and tests, on processors and with the blocks of localnet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from grail_core.errors import ConfigurationError
from grail_core.protocol.gradient.spec import MICRO, GradientSpec

TINY: Final = GradientSpec(
    corpus="bytes-1",
    sequence_length=64,
    sequences=1 << 20,
    held_out=4096,
    round_windows=1,
    tail_blocks=22,
    reveal_blocks=10,
    inner_steps=4,
    batch_least=4,
    batch_most=8,
    optimiser="adamw",
    beta1=900_000,
    beta2=950_000,
    weight_decay=0,
    clip=MICRO,
    warmup=0,
    learning_rates=(  # linear to 4e-3 over five rounds, then a cosine to a tenth of it, every fifth round
        (0, 800_000),
        (4, 4_000_000),
        (10, 3_547_000),
        (15, 2_631_000),
        (20, 1_562_000),
        (25, 717_000),
        (30, 400_000),
    ),
    compute="fp32",
    codec="rice",
    chunk=1024,
    kept=64,
    feedback=900_000,
    outer="mean",
    outer_rates=((0, 4 * MICRO),),
    divisor="all",
    peers=8,
    commit="all",
    replay_permille=1000,
    chunks_drawn=8,
    floor=50,
    common=64,
    own=16,
    guard=64,
    score_step=500,
)

PRESETS: Final[Mapping[str, GradientSpec]] = MappingProxyType({"tiny": TINY})


def preset(name: str) -> GradientSpec:
    """Errors: ConfigurationError for a name that is none, with those there are."""
    if name not in PRESETS:
        raise ConfigurationError(
            f"there is no preset {name[:64]!r} of gradient work", where="--preset", hint=f"one of: {', '.join(sorted(PRESETS))}"
        )
    return PRESETS[name]
