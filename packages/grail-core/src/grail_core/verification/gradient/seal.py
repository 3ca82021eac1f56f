"""Check 1 of gradient work: a seal that is not of this round, or promises what no update can be, is as if absent.

No challenge is known yet and nobody's bytes are visible, so nothing is won by a seal that is refused, and an honest mistake
costs one round.
"""

from __future__ import annotations

from typing import Final

from grail_core.gradient.layout import Layout
from grail_core.gradient.update_file import most_bytes
from grail_core.protocol.findings import Finding
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.types import Hotkey
from grail_core.verification.wording import reject

CHECK: Final = "seal"


def read_round_seal(raw: bytes, hotkey: Hotkey, context: RoundContext, layout: Layout) -> GradientSeal | list[Finding]:
    """The seal that these bytes are, or the findings that refuse it.

    Args:
        layout: of the round's checkpoint.
    """
    try:
        seal = GradientSeal.decode(raw)
    except ValueError as error:
        return [reject(CHECK, value=len(raw), detail=f"not a seal of gradient work: {error}")]
    header, spec, params = seal.header, context.spec, context.params
    findings = [
        reject(CHECK, value=found, threshold=wanted, detail=f"wrong {name}")
        for name, found, wanted in (
            ("round", header.window, context.round),
            ("block hash", header.block_hash.hex(), context.window.block_hash.hex()),
            ("hotkey", header.hotkey.hex(), hotkey.hex()),
        )
        if found != wanted
    ]
    if not header.may_declare(spec):
        least, most = spec.declared_sizes()[0], spec.declared_sizes()[-1]
        detail = f"no number of sequences of {spec.inner_steps} steps: {least} … {most} are allowed"
        findings.append(reject(CHECK, value=header.declared, detail=detail))
    if header.proof_class not in params.proof_classes:
        detail = f"proof class is not admitted on {params.name}; admitted: {', '.join(params.proof_classes)}"
        findings.append(reject(CHECK, value=header.proof_class, detail=detail))
    if seal.size > (most_size := most_bytes(layout, spec)):
        findings.append(reject(CHECK, value=seal.size, threshold=most_size, detail="larger than any update of this checkpoint"))
    if not findings and not seal.signed(context.network_id):
        findings.append(reject(CHECK, detail="the signature is not the hotkey's over this seal"))
    return findings or seal
