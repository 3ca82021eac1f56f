"""Lives a subnet block by block from a seed, and says what happened, line by line: same seed, same lines."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grail_core.keys import LocalSigner
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_validator.ledger import Ledger
from grail_validator.simulation.subnet.faults import Fault, Faults
from grail_validator.simulation.subnet.memory_ledger import MemoryLedger
from grail_validator.simulation.subnet.miners import Honest, Miner, cast, file_key, name_of, seal_key, work
from grail_validator.simulation.subnet.promises import Promises
from grail_validator.simulation.subnet.validator import SimulatedValidator, shared_key
from grail_validator.simulation.subnet.world import World

_OWNERS = 40  # of one UID, one after the other
_SEALED_BY = 28  # blocks after T: everybody who will seal in time has begun
_KEPT = 48 * WINDOW_LENGTH  # blocks for which a bucket keeps a file


@dataclass(frozen=True)
class Plan:
    """One run. `faults` are names of `Fault`; after the first `faulty` windows nothing goes wrong any more."""

    seed: int
    windows: int
    miners: int = 64
    validators: int = 2
    faults: tuple[str, ...] = ()
    faulty: int | None = None  # None: in all windows
    ledgers: Path | None = None  # a folder for real ledgers; None: in memory

    @property
    def until(self) -> int:
        return WINDOW_LENGTH * (self.windows if self.faulty is None else self.faulty)


@dataclass(frozen=True)
class Outcome:
    """What a run gave. `digest` is over all lines."""

    plan: Plan
    broken: tuple[str, ...]
    counts: dict[str, int]
    pay: dict[str, float]  # by kind of miner
    digest: str


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """A window leaves next to nothing in cycles, and looking for them is a tenth of its time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@_seldom_collected()
def live(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Live it. `say` gets every line of the log."""
    lines = hashlib.sha256()

    def told(line: str) -> None:
        lines.update(line.encode() + b"\n")
        say(line)

    world, validators = _made(plan, told)
    miners = cast(plan.miners)
    honest = frozenset(uid for uid, miner in miners.items() if miner.honest)
    promises = Promises(world, honest, validators)
    paid: dict[int, int] = dict.fromkeys(miners, 0)
    last = dict.fromkeys(range(plan.validators), -1)
    # What was sealed in the last window is judged to the end.
    for block in range((plan.windows + 2) * WINDOW_LENGTH + world.params.challenge_after_D):
        world.now = block
        window = block - block % WINDOW_LENGTH
        if block - window == _SEALED_BY and window < plan.windows * WINDOW_LENGTH:
            promises.done[window] = {uid: work(world, uid, miner, window) for uid, miner in miners.items()}
            _forget(world, promises, window - _KEPT)
        _withhold(world, promises, block - WINDOW_LENGTH - world.params.challenge_after_D)
        for validator in validators:
            before = world.weights_block.get(validator.index)
            validator.act()
            for index, judged, raw in world.verdicts:
                if judged < plan.windows * WINDOW_LENGTH:
                    body = promises.check(validators[index], raw, judged)
                    last[index] = max(last[index], judged)
                    for uid, one in body.score_inputs.items() if index == 0 else ():
                        paid[uid] += one.power
            world.verdicts.clear()
            if world.weights_block.get(validator.index) != before and validator.weighed is not None:
                promises.check_weights(validator.index, validator.weighed)
    for index, at in last.items():
        if at < (plan.windows - 1) * WINDOW_LENGTH and plan.until < (plan.windows - 1) * WINDOW_LENGTH:
            promises.broken.append(f"validator {index}: its last verdict is of window {at}, though nothing goes wrong any more")
    for line in promises.broken:
        told(f"broken: {line}")
    return Outcome(plan, tuple(promises.broken), dict(sorted(promises.counts.items())), _pay(miners, paid), lines.hexdigest())


def _made(plan: Plan, told: Callable[[str], None]) -> tuple[World, list[SimulatedValidator]]:
    faults = Faults.named(plan.seed, plan.faults, plan.until)
    uids = range(1, plan.miners + 1)
    owners = _OWNERS if Fault.RECYCLE in faults.kinds else 1
    keys = {(uid, number): _key("miner", plan.seed, uid, number) for uid in uids for number in range(owners)}
    signers = tuple(_key("validator", plan.seed, index, 0) for index in range(plan.validators))
    world = World(faults, keys, signers)
    validators = []
    for index, signer in enumerate(signers):
        ledger: Ledger | MemoryLedger = MemoryLedger()
        if plan.ledgers is not None:
            ledger = Ledger(plan.ledgers / f"{index}.sqlite", network_id=world.network_id, hotkey=signer.hotkey)
        validators.append(SimulatedValidator(index, signer, world, ledger, _speaker(world, index, told)))
    return world, validators


def _key(who: str, seed: int, number: int, owner: int) -> LocalSigner:
    return LocalSigner.from_seed(hashlib.sha256(f"{who}/{seed}/{number}/{owner}".encode()).digest())


def _speaker(world: World, index: int, told: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: told(f"block {world.now}, validator {index}: {line}")


def _withhold(world: World, promises: Promises, window: int) -> None:
    """The challenge of this window is known now."""
    for uid, done in promises.done.get(window, {}).items():
        if done.deed.withheld:
            world.remove(world.owner(uid, window).hotkey, file_key(window))


def _forget(world: World, promises: Promises, window: int) -> None:
    """Buckets keep files of 48 windows."""
    for uid, done in promises.done.pop(window, {}).items():
        hotkey = world.owner(uid, window).hotkey
        world.remove(hotkey, seal_key(window))
        world.remove(hotkey, file_key(window))
        if done.content_digest is not None:
            for signer in world.validators:
                world.remove(signer.hotkey, shared_key(done.content_digest))


def _pay(miners: Mapping[int, Miner], paid: Mapping[int, int]) -> dict[str, float]:
    """Mean power of each kind of miner, relative to honest full-time work's."""
    by_kind: dict[str, list[int]] = {}
    for uid, miner in miners.items():
        by_kind.setdefault(name_of(miner), []).append(paid[uid])
    means = {name: sum(powers) / len(powers) for name, powers in by_kind.items()}
    full = means[name_of(Honest())]
    return {name: mean / full if full else 0.0 for name, mean in means.items()}
