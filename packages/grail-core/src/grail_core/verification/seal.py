"""First sight's refusals: a seal that speaks of another window, hotkey or model, or that nobody signed, is as if absent.

No coin is known yet, so nothing is won by a seal that is refused, and an honest mistake costs one window.
"""

from __future__ import annotations

from typing import Final

from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.protocol import Finding, Seal
from grail_core.protocol.context import WindowContext
from grail_core.protocol.rollouts.groups import allowed_gaps
from grail_core.protocol.types import Hotkey
from grail_core.verification.header import Classes, refused_classes, wrong_fields
from grail_core.verification.wording import reject

CHECK: Final = "seal"


def read_seal(
    raw: bytes,
    hotkey: Hotkey,
    window: WindowContext,
    *,
    known: Classes | None = None,
    table: CalibrationTable,
    shape: Shape,
) -> Seal | list[Finding]:
    """The seal that these bytes are, or the findings that refuse it.

    Args:
        known: the classes that the hotkey is bound to, None if it is free to choose.
        table: the pinned calibration. shape: the checkpoint model's.
    """
    try:
        seal = Seal.decode(raw)
    except ValueError as error:
        return [reject(CHECK, value=len(raw), detail=f"not a seal: {error}")]
    header = seal.header
    findings = wrong_fields(CHECK, header, hotkey, window)
    findings += refused_classes(CHECK, header, window.params, known=known, table=table, shape=shape)
    allowed = allowed_gaps(header.groups + header.gaps)
    if header.gaps > allowed:
        findings.append(reject(CHECK, value=header.gaps, threshold=allowed, detail="more groups are missing than may be"))
    if not findings and not seal.signed(window.network_id):
        findings.append(reject(CHECK, detail="the signature is not the hotkey's over this seal"))
    return findings or seal
