"""Miners of a simulated subnet, each kind a small class: what it does in a window, decided before anything of it is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from grail_core.keys import LocalSigner
from grail_core.protocol import Seal, WindowHeader
from grail_core.protocol.constants import PROTOCOL_VERSION, WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.rollouts.groups import declared_rollouts
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.types import Block, Digest
from grail_validator.simulation.subnet.made_up_files import MadeUpFile
from grail_validator.simulation.subnet.world import World

FULL: Final = 12
"""Groups of a full file here: sizes are relative, and a simulation of validators wants many windows. One kind seals more."""
_BEGINS = 2  # blocks after T at which a miner reads the block's hash
_SEALS = 27  # and at which it seals


@dataclass(frozen=True)
class Deed:
    """One window's work of one miner."""

    groups: int  # 0: absent
    gaps: int = 0
    junk: int = 0
    equal: int = 0
    readable: bool = True
    withheld: bool = False  # the file is removed once the challenge is known
    late: bool = False  # sealed after the deadline
    forged: bool = False  # the seal is another's
    careless: bool = False  # starts on the best block and does not look again

    @property
    def cost(self) -> int:
        """Groups that were worked for."""
        return self.groups - self.junk


ABSENT = Deed(0)


class Miner(Protocol):
    """`chance` gives a number in [0, 1) for a word, this miner's and window's own."""

    @property
    def honest(self) -> bool: ...

    def deed(self, chance: Callable[[str], float]) -> Deed: ...


@dataclass(frozen=True)
class Honest:
    """Works in every window."""

    groups: int = FULL
    honest: bool = True

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(self.groups)


@dataclass(frozen=True)
class Intermittent:
    """Honest, in a share of the windows."""

    share: float
    honest: bool = True

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL) if chance("works") < self.share else ABSENT


@dataclass(frozen=True)
class Gaps:
    """Honest, and lost a group now and then."""

    honest: bool = True

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, gaps=int(chance("gap") < 0.2))


@dataclass(frozen=True)
class Repeating:
    """Honest; some of its rollouts are equal to ones that were counted in the window before."""

    groups: int = 2
    honest: bool = True

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, equal=self.groups)


@dataclass(frozen=True)
class Junk:
    """Junk in some groups, in a share of the windows; with many groups a sample may miss it."""

    share: float
    groups: int = FULL
    junk: int = FULL
    honest: bool = False

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(self.groups, junk=self.junk if chance("junk") < self.share else 0)


@dataclass(frozen=True)
class Unreadable:
    """Seals what is no window file, now and then."""

    share: float = 0.2
    honest: bool = False

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, readable=chance("bad") >= self.share)


@dataclass(frozen=True)
class Withholding:
    """Takes its file away once the challenge is known, now and then."""

    share: float = 0.2
    honest: bool = False

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, withheld=chance("withheld") < self.share)


@dataclass(frozen=True)
class Late:
    """Misses the deadline now and then."""

    share: float = 0.2
    honest: bool = False

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, late=chance("late") < self.share)


@dataclass(frozen=True)
class Forger:
    """Seals with a key that is not its own, now and then."""

    share: float = 0.2
    honest: bool = False

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, forged=chance("forged") < self.share)


@dataclass(frozen=True)
class Careless:
    """Starts on the best block and never looks whether it became final."""

    honest: bool = False

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL, careless=True)


@dataclass(frozen=True)
class Bursts:
    """Full files in a third of the windows, one group in the others."""

    honest: bool = True

    def deed(self, chance: Callable[[str], float]) -> Deed:
        return Deed(FULL if chance("full") < 1 / 3 else 1)


_CHEATS: tuple[Miner, ...] = (
    *(Junk(0.2), Junk(0.8), Junk(1.0, 40, 1), Unreadable(), Withholding(), Late(), Forger(), Careless()),
    *(Repeating(), Bursts(), Intermittent(0.5), Gaps(), Honest(1)),
)


def cast(miners: int) -> dict[int, Miner]:
    """By UID from 1: of eight miners five are honest and full, the others go through everything else."""
    found: dict[int, Miner] = {}
    others = 0
    for uid in range(1, miners + 1):
        if uid % 8 in (3, 5, 7):
            found[uid] = _CHEATS[others % len(_CHEATS)]
            others += 1
        else:
            found[uid] = Honest()
    return found


def name_of(miner: Miner) -> str:
    """For reports."""
    return repr(miner).replace(f", honest={miner.honest}", "").replace(f"honest={miner.honest}", "")


def seal_key(window: int) -> str:
    return f"seal/{window}"


def file_key(window: int) -> str:
    return f"file/{window}"


@dataclass(frozen=True)
class Done:
    """What a miner did, and what lies in its bucket."""

    deed: Deed
    file: MadeUpFile | None = None
    content_digest: Digest | None = None
    in_time: bool = False  # on its store's clock

    @property
    def declared(self) -> int:
        return declared_rollouts(self.deed.groups, self.deed.gaps) if self.deed.groups else 0


def work(world: World, uid: int, miner: Miner, window: int) -> Done:
    """One miner's window: file and seal are put into its bucket. Called once the seal's block is there."""
    deed = miner.deed(lambda word: world.faults.chance("miner", uid, window, word))
    if not deed.groups:
        return Done(deed)
    key = world.owner(uid, window)
    begun_on, final = _hash_at(world, window, window + _BEGINS), world.final_hash(window)
    if begun_on != final and not deed.careless:
        deed = replace(deed, groups=max(1, deed.groups - 1), junk=min(deed.junk, max(1, deed.groups - 1)), equal=0)
    file = MadeUpFile(key.hotkey.hex(), window, deed.groups, deed.gaps, deed.junk, deed.equal, deed.readable)
    data = file.encode()
    context = world.context(window, begun_on if deed.careless else None)
    header = WindowHeader(
        protocol_version=PROTOCOL_VERSION,
        window=context.window,
        block_hash=context.block_hash,
        beacon_round=context.beacon.round if context.beacon else 0,
        beacon_signature=context.beacon.signature if context.beacon else None,
        hotkey=key.hotkey,
        checkpoint_digest=context.checkpoint_digest,
        env_digest=context.env_digest,
        policy_digest=context.manifest.policy_digest,
        groups=deed.groups,
        gaps=deed.gaps,
        declared=declared_rollouts(deed.groups, deed.gaps),
        merkle_root=Digest(hashlib.sha256(b"rows" + data).digest()),
        proof_class=_class_of(world.params),
        generation_class=_class_of(world.params),
    )
    digest = Digest(hashlib.sha256(data).digest())
    signer = LocalSigner.from_seed(b"forger".ljust(32)) if deed.forged else key
    signature = signer.sign(Seal.message(world.network_id, ROLLOUTS, header, digest, len(data)))
    seal = Seal(ROLLOUTS, header, digest, len(data), signature).encode()
    off = world.faults.store_clock_off(uid, window)
    at = world.time_ms(Block(window + WINDOW_LENGTH + 1 if deed.late else window + _SEALS))
    world.put(key.hotkey, file_key(window), data, at, off)
    world.put(key.hotkey, seal_key(window), seal, at, off)
    in_time = world.time_ms(window) < at + off <= world.time_ms(window + WINDOW_LENGTH)
    return Done(deed, file, digest, in_time)


def _hash_at(world: World, block: int, now: int) -> bytes:
    """A block's hash as it was read when `now` was the newest."""
    before, world.now = world.now, now
    try:
        return world.best_hash(block)
    finally:
        world.now = before


def _class_of(params: NetworkParameters) -> str:
    return params.proof_classes[0]
