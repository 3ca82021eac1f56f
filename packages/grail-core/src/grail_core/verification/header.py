"""A header against the window it is for, whether it stands in a seal or in a file: same fields, same words.

What it may name besides is the network's to say: the numerics classes of proof and generation, and whether a class may be
used for which the pinned calibration has no table (section 6).
"""

from __future__ import annotations

from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.coverage import uncovered
from grail_core.protocol import Finding, WindowHeader
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.context import WindowContext
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Hotkey
from grail_core.verification.wording import reject

Classes = tuple[str, str]
"""Proof class and generation class."""


def wrong_fields(check: str, header: WindowHeader, hotkey: Hotkey, window: WindowContext) -> list[Finding]:
    """One reject for each field that is not this miner's and window's."""
    beacon = window.beacon
    expected = {
        "protocol version": (header.protocol_version, PROTOCOL_VERSION),
        "window": (header.window, window.window),
        "block hash": (header.block_hash, window.block_hash),
        "hotkey": (header.hotkey, hotkey),
        "checkpoint digest": (header.checkpoint_digest, window.checkpoint_digest),
        "environment digest": (header.env_digest, window.env_digest),
        "policy digest": (header.policy_digest, window.manifest.policy_digest),
        "beacon round": (header.beacon_round, beacon.round if beacon else 0),
        "beacon signature": (header.beacon_signature, beacon.signature if beacon else None),
    }
    return [
        reject(check, value=_text(found), threshold=_text(wanted), detail=f"wrong {name}")
        for name, (found, wanted) in expected.items()
        if found != wanted
    ]


def refused_classes(
    check: str,
    header: WindowHeader,
    params: NetworkParameters,
    *,
    known: Classes | None,
    table: CalibrationTable,
    shape: Shape,
) -> list[Finding]:
    """Rejects of classes that the network does not admit, that changed too soon, or that no table covers.

    Validators must refuse alike, so a table is asked for every class that validators of this network may measure it in, and
    not for one's own alone.

    Args:
        known: what the hotkey is bound to, None if it is free to choose. shape: the checkpoint model's.
    """
    findings: list[Finding] = []
    for kind, name, admitted in (
        ("proof", header.proof_class, params.proof_classes),
        ("generation", header.generation_class, params.generation_classes),
    ):
        if name not in admitted:
            detail = f"{kind} class is not admitted on {params.name}; admitted: {', '.join(admitted)}"
            findings.append(reject(check, value=name, detail=detail))
    if not findings and params.uncalibrated == "refused":
        findings += _uncovered(check, header, params, table, shape)
    if not findings and known is not None and header.classes != known:
        findings.append(
            reject(
                check,
                value=" ".join(header.classes),
                threshold=" ".join(known),
                detail="numerics class changed too soon: a hotkey keeps its classes for 36 windows",
            )
        )
    return findings


def _uncovered(
    check: str, header: WindowHeader, params: NetworkParameters, table: CalibrationTable, shape: Shape
) -> list[Finding]:
    """At most one of each use."""
    open_pairs = uncovered(table, params, shape, proof=header.proof_class, generation=header.generation_class)
    first = {one.use: one for one in reversed(open_pairs)}
    found = []
    for one in reversed(first.values()):
        larger = "" if one.pair is None else f" for {shape.layers} layers of {shape.hidden_size}"
        detail = f"{one.use} class has no table{larger} measured in {one.measured_in} in calibration {table.version}"
        found.append(reject(check, value=one.miner, detail=detail))
    return found


def _text(value: object) -> str | int | None:
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, int) or value is None else str(value)
