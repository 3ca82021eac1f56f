"""The values a window is judged from and what judging it gives. Nothing here reads a store, a chain, a clock or a disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import Protocol

from grail_core.chain.base import Neuron
from grail_core.checkpoints.pinned_table import PinnedTable
from grail_core.environment import Environment
from grail_core.errors import StorageError
from grail_core.files.evidence import MinerEvidence
from grail_core.proof.calibration import Shape
from grail_core.protocol import MinerVerdict, MinerWindow, Seal, Selection, VerdictBody
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.verification.context import CheckContext, Renderer
from grail_core.verification.examine import Examination, Sampling, examine
from grail_core.verification.header import Classes
from grail_core.verification.window_file import OpenFile, in_this_process


class Interrupted(Exception):
    """The validator was asked to stop while files of the window were still to be judged. What was measured stays."""


class NotSoughtError(StorageError):
    """A drawn file was never asked for, or not for as long as it should have been: this machine had no room for it."""


class WindowStage(Enum):
    """How far a window has come; each step is one transaction (`steps` has the arrows)."""

    UNSEEN = "unseen"  # the ledger knows nothing of it
    SIGHTED = "sighted"
    JUDGED = "judged"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Sighting:
    """What first sight found under one registered hotkey's seal key; `seal` None: nothing that could be read.

    `reason` is one line for a person; "" where nothing was there. What the bytes are worth is decided when they are judged.
    """

    hotkey: Hotkey
    seal: bytes | None = None
    stored_at_ms: int = 0
    reason: str = ""


@dataclass(frozen=True)
class SentWeights:
    """Weights that were handed to the chain, and that it has not shown yet."""

    block: Block  # the newest one before the call: what the chain shows after it is of this call
    window: Window
    attempt: int  # from 1


@dataclass(frozen=True)
class Announcement:
    """A registered miner in this window and what first sight saw of it.

    `in_time` says that the store's time of the seal lies after block T and not after the deadline.
    """

    neuron: Neuron
    sighting: Sighting
    in_time: bool


class Examine(Protocol):
    """`verification.examine.examine`, or what stands for it where files are made up."""

    def __call__(self, file: bytes, context: CheckContext, sampling: Sampling, *, content_digest: Digest) -> Examination: ...


class SealedFiles(Protocol):
    """The bytes that seals name, wherever they are had from: none but those of the sealed digest and size."""

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        """From the miner's own bucket; None where it could not be had in all tries.

        Raises:
            NotSoughtError: we had no room for it.
            StorageError: we lost it.
        """
        ...

    def elsewhere(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        """From another validator's bucket: one look, without waiting."""
        ...

    def share(self, hotkey: Hotkey, seal: Seal, data: bytes) -> None:
        """Put it into our own bucket, for other validators and the trainer."""
        ...


@dataclass(frozen=True)
class Memory:
    """What earlier windows say: every hotkey's scores, its counted rollouts, the numerics classes it is bound to."""

    history: Mapping[Hotkey, Sequence[MinerWindow]]
    counted: Mapping[Hotkey, Collection[Digest]]
    classes: Mapping[Hotkey, Classes]


@dataclass(frozen=True)
class Standing:
    """What a window is decided against, whatever becomes of it: the network, who was registered at T, and what was before."""

    network_id: Digest
    params: NetworkParameters
    neurons: tuple[Neuron, ...]
    memory: Memory


@dataclass(frozen=True)
class Measured:
    """What the checks of one drawn file gave: kept from then on, so that a validator that is killed does not do it again.

    `basis` is the digest of all that it follows from (`judging.basis_of`): found with another one, it is made anew.
    `verdict` is the miner's before the whole window is looked at. Of `evidence`, None and no rollouts are one.
    """

    basis: Digest
    verdict: MinerVerdict
    identities: tuple[Digest, ...] = ()
    evidence: MinerEvidence | None = None


@dataclass(frozen=True)
class Means:
    """What a validator judges with. `sampling` gives, for a file's challenge seed and the chance with which its miner was
    drawn, the means to measure what the challenge draws; `pinned` is the checkpoint's calibration table.

    `open_file` opens a stranger's bytes, `examine` runs the checks. `working` is told whose file is being worked on, and None
    when none is; `keep` what it gave; `unforeseen` of an error that nobody foresaw, which costs that miner's verdict alone.
    """

    environment: Environment
    renderer: Renderer
    vocabulary_size: int  # of the checkpoint's model
    context_length: int
    shape: Shape
    pinned: PinnedTable
    sampling: Callable[[Digest, Fraction], Sampling]
    open_file: OpenFile = in_this_process
    examine: Examine = examine
    working: Callable[[Hotkey | None], None] = lambda _: None
    keep: Callable[[Measured], None] = lambda _: None
    unforeseen: Callable[[Hotkey, Exception], None] = lambda *_: None


@dataclass(frozen=True)
class Sealed:
    """A miner whose seal was taken at first sight, and what its coin said."""

    entry: Announcement
    seal: Seal
    coin: Selection


@dataclass(frozen=True)
class Docket:
    """Who stands before the checks of a window: decided from seals, coins and memory, before any file is read.

    `refused`: verdicts of those without a seal, or whose seal is refused. Both by UID.
    """

    sealed: tuple[Sealed, ...]
    refused: tuple[MinerVerdict, ...]

    @property
    def drawn(self) -> tuple[Sealed, ...]:
        return tuple(one for one in self.sealed if one.coin.selected)


def in_order(drawn: Sequence[Sealed]) -> Generator[Sealed]:
    """The files of a window whose bytes are all there."""
    yield from drawn


@dataclass(frozen=True)
class Case:
    """One window ready to be judged.

    `given_up`: hotkeys whose files were in hand when this validator's process ended. `measured`: what was measured before then.
    `arriving` gives the drawn files one after the other, each when it is settled whether `files.of` has it; it may fetch them
    meanwhile. Their order changes nothing in the result. `judging_s`: what their checks may take together
    (`time_budget`), by `clock`; by default no time passes. `line_holds` is asked once, after the last look for files that could
    not be had: whether this validator's own store, on which no miner has any hold, answers.
    """

    context: WindowContext
    challenge: Challenge
    docket: Docket
    standing: Standing
    means: Means
    files: SealedFiles
    given_up: frozenset[Hotkey] = frozenset()
    measured: Mapping[Hotkey, Measured] = field(default_factory=dict)
    arriving: Callable[[Sequence[Sealed]], Generator[Sealed]] = in_order
    judging_s: float = math.inf
    clock: Callable[[], float] = lambda: 0.0
    line_holds: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class WindowResult:
    """What judging a window gave: the verdict's body and what it was decided from, and what later windows depend on."""

    body: VerdictBody
    evidence: tuple[MinerEvidence, ...] = ()
    counted: Mapping[Hotkey, Sequence[Digest]] = field(default_factory=dict)  # rollouts that counted now
    classes: Mapping[Hotkey, Classes] = field(default_factory=dict)  # of every seal that was taken
