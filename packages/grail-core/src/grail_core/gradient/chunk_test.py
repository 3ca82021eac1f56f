"""Section 8, the chunk test: one drawn chunk of an update follows from what its miner committed to, exactly.

Every number is public or opened: Δ = fl32(θ_0 − θ_H) (sgd: Δ is what the step made, and the test starts with it), then
a = fl32(fl32(β·e) + Δ), then places and signs are those of the file and its scale is that of a within one code, and what is
left of a after the file's values is under `feedback_after`. No model runs, and nothing here depends on a machine.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from grail_core.gradient.codec import SentChunk, quantised
from grail_core.gradient.feedback import accumulate
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.opening import Committed, OpenedChunk
from grail_core.gradient.roots import ZERO_ROOT, chunk_digest, is_under
from grail_core.protocol.gradient.spec import GradientSpec

SCALE_SLACK = 1  # codes


def check_chunk(
    opened: OpenedChunk,
    theta_start: Floats,
    sent: SentChunk,
    committed: Committed,
    layout: Layout,
    spec: GradientSpec,
    path: str = "$opening.chunk",
) -> None:
    """Hold one opened chunk against the update's bytes.

    Args:
        opened: as `read_opening` gives it, its vectors verified.
        theta_start: the chunk of θ_0 (`Layout.chunk_of`).
        sent: the chunk of what the update's stream of this tensor holds (`Sent.chunk`).
        path: what complaints begin with.

    Raises:
        ValueError: the statement that does not hold.
    """
    with np.errstate(over="ignore"):
        if opened.theta_end is not None and not np.array_equal(theta_start - opened.theta_end, opened.delta):
            raise ValueError(f"{path}.delta: not the checkpoint's weights less those after the last step")
    sums = accumulate(opened.delta, opened.feedback, spec)
    tensor, chunk = layout.place(opened.number)
    one = dataclasses.replace(tensor, shape=(tensor.chunk_size(chunk),), first_chunk=0)
    try:
        honest = quantised(sums, one)
    except ValueError as error:
        raise ValueError(f"{path}.feedback: with the gradient it makes a sum that is not finite") from error
    if not np.array_equal(honest.places, sent.places):
        raise ValueError(f"{path}.places: not those of the greatest magnitudes")
    if not np.array_equal(honest.negative, sent.negative):
        raise ValueError(f"{path}.signs: not those of the sums of feedback and gradient")
    if abs(int(honest.scales[0]) - sent.scale) > SCALE_SLACK:
        raise ValueError(f"{path}.scale: code {sent.scale}, the chosen values have {int(honest.scales[0])}")
    sums[sent.places] -= sent.decoded()
    if committed.feedback_after == ZERO_ROOT:
        held = not opened.after_path and not sums.any()
    else:
        held = is_under(committed.feedback_after, chunk_digest(sums), opened.number, layout, opened.after_path)
    if not held:
        raise ValueError(f"{path}.feedback_after: not what is left of the sums after the values that were sent")
