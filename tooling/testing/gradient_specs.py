"""The spec that tests of gradient work begin with; others are this one with what they need changed (`dataclasses.replace`).

The numbers are those of a local network's preset but for its learning rates, so that a preset may change and no vector with it.
"""

from __future__ import annotations

from grail_core.protocol.gradient.spec import MICRO, GradientSpec

TINY = GradientSpec(
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
    learning_rates=((0, 800_000), (5, 4_000_000), (30, 400_000)),
    compute="fp32",
    codec="rice",
    chunk=1024,
    kept=64,
    feedback=950_000,
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
