"""A window ready to be judged, as plain values: buckets, seals and files of three miners, and truth to measure with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from grail_core.checkpoints.pinned_table import shipped
from grail_core.proof.calibration import Shape
from grail_core.protocol import Seal, WindowHeader
from grail_core.protocol.types import Digest, Hotkey
from grail_validator.cases import Announcement, Case, Means, Memory, Sighting, Standing
from grail_validator.judging import open_docket
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
NEURONS = tuple(plain.neuron(uid) for uid in range(3))
STANDING = Standing(CONTEXT.network_id, CONTEXT.params, NEURONS, Memory({}, {}, {}))
SHAPE = Shape(1, 64)
GROUPS = range(2)


@dataclass
class PlainFiles:
    """The miners' buckets as plain values; `shared` is what this validator put into its own."""

    files: dict[Hotkey, bytes]
    others: dict[Hotkey, bytes] = field(default_factory=dict)
    shared: list[Digest] = field(default_factory=list)

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        return self.files.get(hotkey)

    def elsewhere(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        return self.others.get(hotkey)

    def share(self, hotkey: Hotkey, seal: Seal, data: bytes) -> None:
        self.shared.append(seal.content_digest)


@dataclass(frozen=True)
class Stored:
    """What a miner has in its bucket: a seal, and perhaps the file it names."""

    uid: int
    seal: bytes | None
    file: bytes | None

    @property
    def announcement(self) -> Announcement:
        hotkey = NEURONS[self.uid].hotkey
        sighting = Sighting(hotkey) if self.seal is None else Sighting(hotkey, self.seal, 5)
        return Announcement(NEURONS[self.uid], sighting, self.seal is not None)


def stored(uid: int, data: bytes | None, *, header: WindowHeader | None = None, gone: bool = False) -> Stored:
    """A file with its seal; `gone`: it was removed once it was sealed. No bytes: nothing was there."""
    if data is None:
        return Stored(uid, None, None)
    return Stored(uid, plain.seal(CONTEXT, plain.MINERS[uid], data, header).encode(), None if gone else data)


def honest(uid: int = 0, groups: Sequence[int] = GROUPS) -> bytes:
    return plain.window_file(CONTEXT, plain.MINERS[uid], plain.rollouts(CONTEXT, plain.MINERS[uid], groups))


def case(*miners: Stored, offset: float = 0.0, inconclusive: int = 0, standing: Standing = STANDING) -> Case:
    def sampling(seed: Digest, probability: Fraction) -> plain.TruthfulSampling:
        return plain.TruthfulSampling(seed, offset, inconclusive)

    pinned = shipped()
    means = Means(
        plain.PlainEnvironment(), plain.PlainRenderer(), plain.VOCABULARY, plain.CONTEXT_LENGTH, SHAPE, pinned, sampling
    )
    challenge = plain.challenge(CONTEXT)
    docket = open_docket(CONTEXT, challenge, [one.announcement for one in miners], standing.memory, SHAPE, pinned.table)
    files = PlainFiles({NEURONS[one.uid].hotkey: one.file for one in miners if one.file is not None})
    return Case(CONTEXT, challenge, docket, standing, means, files)
