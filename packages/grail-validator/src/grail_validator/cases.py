"""The values a window is judged from and what judging it gives. Nothing here reads a store, a chain, a clock or a disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from grail_core.chain.base import Neuron
from grail_core.environment import Environment
from grail_core.files.accepted_files import AcceptedFile
from grail_core.files.evidence import MinerEvidence
from grail_core.protocol import MinerWindow, VerdictBody
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.context import Renderer
from grail_core.verification.examine import Sampling


class WindowStage(Enum):
    """How far a window has come; each step is one transaction (`steps` has the arrows)."""

    UNSEEN = "unseen"  # the ledger knows nothing of it
    SIGHTED = "sighted"
    JUDGED = "judged"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Sighting:
    """What a HEAD of one registered hotkey's key said at first sight; `etag` None: nothing was there."""

    hotkey: Hotkey
    etag: str | None = None
    size: int = 0
    stored_at_ms: int = 0


@dataclass(frozen=True)
class FetchedFile:
    """An announced file's bytes, or why they cannot be had. `gone`: changed or removed after first sight (the miner's
    failure); otherwise the fault is ours or the store's."""

    data: bytes | None
    content_digest: Digest | None
    gone: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Announcement:
    """A registered miner in this window: what first sight saw, and what was fetched (None: nothing was there).

    `in_time` says that the store's time of the write lies after block T and not after the deadline.
    """

    neuron: Neuron
    sighting: Sighting
    file: FetchedFile | None
    in_time: bool


@dataclass(frozen=True)
class Memory:
    """What earlier windows say: every hotkey's scores, its counted rollouts, the numerics class it is bound to."""

    history: Mapping[Hotkey, Sequence[MinerWindow]]
    counted: Mapping[Hotkey, Collection[Digest]]
    classes: Mapping[Hotkey, str]


@dataclass(frozen=True)
class Standing:
    """What a window is decided against, whatever becomes of it: the network, who was registered at T, and what was before."""

    network_id: Digest
    params: NetworkParameters
    neurons: tuple[Neuron, ...]
    memory: Memory


@dataclass(frozen=True)
class Means:
    """What a validator judges with. `sampling` gives, for a file's challenge seed, the means to measure what it draws."""

    environment: Environment
    renderer: Renderer
    vocabulary_size: int  # of the checkpoint's model
    context_length: int
    sampling: Callable[[Digest], Sampling]


@dataclass(frozen=True)
class Case:
    """One window ready to be judged. `announcements`: one per hotkey registered with a commitment at T, in UID order."""

    context: WindowContext
    challenge: Challenge
    announcements: tuple[Announcement, ...]
    means: Means


@dataclass(frozen=True)
class WindowResult:
    """What judging a window gave: the verdict's body and what it was decided from, and what later windows depend on."""

    body: VerdictBody
    evidence: tuple[MinerEvidence, ...] = ()
    accepted: tuple[AcceptedFile, ...] = ()
    counted: Mapping[Hotkey, Sequence[Digest]] = field(default_factory=dict)  # rollouts that counted now
    classes: Mapping[Hotkey, str] = field(default_factory=dict)  # the numerics class of every readable file
