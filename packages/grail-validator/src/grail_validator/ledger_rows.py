"""What was measured of one file, as a row of the ledger."""

from __future__ import annotations

import hashlib
import json

from grail_core.files.evidence import read_evidence, write_evidence
from grail_core.protocol import MinerVerdict
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest
from grail_validator.cases import Measured

MeasuredRow = tuple[bytes, bytes, bytes, bytes, bytes | None]
"""Hotkey, basis, verdict, identities one after the other, evidence."""


def row_of(measured: Measured) -> MeasuredRow:
    """How it stands in the ledger; `measured_of` reads it again."""
    evidence = None if measured.evidence is None else write_evidence([measured.evidence])
    verdict = canonical_json(measured.verdict.to_json())
    return bytes(measured.verdict.hotkey), bytes(measured.basis), verdict, b"".join(measured.identities), evidence


def measured_of(row: MeasuredRow) -> Measured:
    """Inverse of `row_of`: evidence as float32, every bit of it."""
    _, basis, verdict, identities, evidence = row
    return Measured(
        Digest(basis),
        MinerVerdict.from_json(json.loads(verdict)),
        tuple(Digest(identities[at : at + 32]) for at in range(0, len(identities), 32)),
        next(iter(read_evidence(evidence)), None) if evidence is not None else None,
    )


def sum_of(values: MeasuredRow) -> bytes:
    """SHA-256 over a row, against a flipped bit that SQLite does not see."""
    return hashlib.sha256(repr(values).encode()).digest()
