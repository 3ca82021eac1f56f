"""What a validator keeps of a round of gradient work, as values: siblings of those of a window (`cases`).

Bodies are canonical JSON and stay bytes here: what they mean is decided by the rules of gradient work, not by who keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from grail_core.protocol.types import Digest, Hotkey, Window


class RoundStage(Enum):
    """How far a round has come; each step is one transaction. A round whose reveal was missed is judged from `SEALED`, one
    whose seals were missed from `UNSEEN`: recorded with its reason, never skipped."""

    UNSEEN = "unseen"  # the ledger knows nothing of it
    SEALED = "sealed"  # first sight of seals is over
    REVEALED = "revealed"  # the sight of updates and openings is over
    JUDGED = "judged"
    PUBLISHED = "published"


class SightOf(Enum):
    """What is looked for in a miner's bucket."""

    SEAL = "seal"
    UPDATE = "update"
    OPENING = "opening"


@dataclass(frozen=True)
class ObjectSighting:
    """What lay under one registered hotkey's key; `stored_at_ms` None: nothing that could be read.

    `digest` is the SHA-256 of what was read (None where only its size was asked for), `data` the bytes of a seal. `reason` is
    one line for a person; "" where nothing was there.
    """

    hotkey: Hotkey
    stored_at_ms: int | None = None
    size: int = 0  # bytes
    digest: Digest | None = None
    data: bytes | None = None
    reason: str = ""


@dataclass(frozen=True)
class RoundMeasured:
    """What was measured of one file before its round was judged; void where `basis`, of what it depends on, is another."""

    basis: Digest
    body: bytes
    evidence: bytes | None = None


@dataclass(frozen=True)
class RoundFiles:
    """A round's result as it is published; the evidence leaves the ledger once the store has it."""

    verdict: bytes
    evidence: bytes


@dataclass(frozen=True)
class RoundMemory:
    """What later rounds depend on, beside the bodies of judged rounds."""

    ratings: Mapping[Hotkey, bytes] = field(default_factory=dict)  # canonical JSON
    feedback: Mapping[Hotkey, Digest] = field(default_factory=dict)  # `feedback_after` of files in time with accepted layout
    failures: Mapping[Hotkey, str] = field(default_factory=dict)  # the check that a hotkey failed in this round


@dataclass(frozen=True)
class Failure:
    round: Window
    check: str


@dataclass(frozen=True)
class KnownFeedback:
    """A hotkey's last feedback digest and the round whose file said it."""

    round: Window
    digest: Digest
