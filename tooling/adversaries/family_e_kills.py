"""E6: a validator as shipped, killed by SIGKILL at some call of a window, started again, and held against one nobody touched.

From first sight to weights. A try is accepted unless ledger, published verdict, look-backs, counted rollouts and the weights on
chain are those of the undisturbed run. (That weights were set is not compared: a validator killed between chain and ledger sets
the same ones again.) Killed twice over one file, that file alone is inconclusive and the window goes on (section 9). The twin
is the honest miner of the window, accepted by whoever went on.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from grail_core import database
from grail_core.chain.development.local import LocalChain
from grail_core.files.confined.opening import Confined
from grail_core.protocol import MinerStatus, VerdictBody, WindowStatus
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemStore
from grail_validator.service import ValidatorService
from tooling.adversaries.crowd import HONEST, Crowd, Lie, crowd_of, published
from tooling.adversaries.rows import Row, Try
from tooling.adversaries.tampering import zero_sketches
from tooling.testing.killing import killed_at
from tooling.testing.small_network import FIRST_WINDOW

CHEAT, SECOND = "no model behind its sketches", "a second honest miner"
CALLS = (
    (database._Cursor, "execute"),
    (database._Connection, "__exit__"),
    (os, "replace"),
    (os, "link"),
    (FilesystemStore, "put"),
    (Confined, "open_file"),
    (LocalChain, "set_weights"),
)
"""Before any of which the process may end: each statement of the ledger, each name that a file gets, what goes to the chain."""

QUICK, WHOLE = 5, 24
_CALLS_OF_A_WAIT = 4  # the ledger is told before files are waited for, and after


def e6(*, seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """At calls spread over the window, the first and the last among them; then twice over one file."""
    row = Row("E6", "kills of a validator")
    lies: dict[str, Lie] = {CHEAT: lambda liar: liar.made(zero_sketches), SECOND: lambda liar: liar.pack(liar.groups())}
    with crowd_of(lies) as crowd:
        crowd.mine()
        crowd.network.advance_to(FIRST_WINDOW + 30)
        undisturbed = _World.copied(crowd, "undisturbed")
        with _counted() as calls:
            undisturbed.go()
        expected = undisturbed.state()
        for step in _steps(calls.total, tries or (QUICK if quick else WHOLE), seed):
            world, killed = _killed(crowd, step)
            world.go()
            found = world.state()
            other = [name for name in expected if found[name] != expected[name]]
            message = f"killed before call {step} of {calls.total}; other than undisturbed: {', '.join(other) or 'nothing'}"
            row.tries.append(Try(f"call {step}", bool(other) or not killed, "ledger", message))
            _twin(row, world)
            world.remove()
        _twice_over_one_file(row, crowd)
    return row.to_json()


def _killed(crowd: Crowd, step: int) -> tuple[_World, bool]:
    """A world whose validator was killed before this call. A life has some calls more or fewer, as files come before they are
    waited for or after; one that had fewer than this is lived anew to a call before."""
    for earlier in range(0, 4 * _CALLS_OF_A_WAIT, _CALLS_OF_A_WAIT):
        world = _World.copied(crowd, f"killed-{step}")
        if killed_at(max(0, step - earlier), CALLS, world.go):
            return world, True
        world.remove()
    world = _World.copied(crowd, f"killed-{step}")
    return world, False


def _steps(total: int, count: int, seed: int) -> list[int]:
    """The first and the last call, and others at random between them."""
    between = random.Random(seed).sample(range(1, total - 1), min(total - 2, max(0, count - 2)))
    return sorted({0, total - 1, *between})


def _twice_over_one_file(row: Row, crowd: Crowd) -> None:
    """The first end is forgiven, the second gives up the file that was in hand, and nobody else's."""
    world = _World.copied(crowd, "twice")
    opened = [(Confined, "open_file")]
    first = killed_at(1, opened, world.go)  # over the second file
    second = killed_at(0, opened, world.go)  # the first is measured already
    world.go()
    body = world.body()
    statuses = {name: crowd.verdict(body, name).status for name in (HONEST, CHEAT, SECOND)}
    lost = [name for name, status in statuses.items() if status is MinerStatus.INCONCLUSIVE]
    others_stand = all(status is _due(name) for name, status in statuses.items() if name not in lost)
    fair = first and second and body.status is WindowStatus.SCORED and len(lost) == 1 and others_stand
    said = ", ".join(f"{name}: {status.value}" for name, status in statuses.items())
    row.tries.append(Try("twice over one file", not fair, "inconclusive", said))
    world.remove()


def _due(name: str) -> MinerStatus:
    return MinerStatus.FAILED if name == CHEAT else MinerStatus.ACCEPTED


def _twin(row: Row, world: _World) -> None:
    row.honest_tries += 1
    row.honest_false_rejects += world.crowd.verdict(world.body(), HONEST).status is not MinerStatus.ACCEPTED


@dataclass(frozen=True)
class _World:
    """A copy of chain, buckets and state, in which one validator goes through the window."""

    crowd: Crowd

    @classmethod
    def copied(cls, crowd: Crowd, name: str) -> _World:
        network = copy.copy(crowd.network)
        network.root = crowd.network.root.with_name(name)
        shutil.copytree(crowd.network.root, network.root)
        network.chain = LocalChain.open(network.root / "chain.sqlite")
        return cls(Crowd(network, crowd.lies, []))

    def go(self) -> None:
        """From wherever a process before has left it: what a validator does first, its window, its weights."""
        network, stop = self.crowd.network, threading.Event()
        network.chain = LocalChain.open(network.root / "chain.sqlite")  # a new process: only what is on disk is left
        validator = self.validator()
        validator.publish_the_rest(stop)
        if network.chain.current_block() <= FIRST_WINDOW + 30:
            validator.first_sight.sight(FIRST_WINDOW)
            network.advance_to(FIRST_WINDOW + 42)
        validator.advance(FIRST_WINDOW, stop)
        validator._set_weights_if_due()

    def validator(self) -> ValidatorService:
        return self.crowd.validator()

    def body(self) -> VerdictBody:
        return published(self.validator())

    def state(self) -> Mapping[str, object]:
        """All that a window leaves behind, but for signatures."""
        network, ledger = self.crowd.network, self.validator().ledger
        hotkeys = [network.signers[self.crowd.miner(name)].hotkey for name in (HONEST, *self.crowd.lies)]
        after = Window(FIRST_WINDOW + 30)
        memory = ledger.memory(after, hotkeys)
        for _ in range(3):  # blocks go by: what was sent is looked for, and sent again where the chain does not show it
            network.chain.advance(5)
            self.validator()._set_weights_if_due()
        return {
            "verdict": self.body().canonical(),
            "stage": ledger.stage(FIRST_WINDOW),
            "history": {hotkey: list(windows) for hotkey, windows in memory.history.items()},
            "counted": {hotkey: frozenset(digests) for hotkey, digests in memory.counted.items()},
            "classes": dict(memory.classes),
            "unpublished": ledger.unfinished(),
            "weights awaited": ledger.weights_sent(),
            "weights on chain": dict(network.chain.weights()[network.signers["validator-0"].hotkey]),
        }

    def remove(self) -> None:
        shutil.rmtree(self.crowd.network.root, ignore_errors=True)


class _counted:  # noqa: N801 - a block
    """Counts `CALLS` in this process while the block lasts."""

    def __init__(self) -> None:
        self.total = 0
        self._stack = ExitStack()

    def __enter__(self) -> _counted:
        for place, name in CALLS:
            self._stack.enter_context(patch.object(place, name, self._counting(getattr(place, name))))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _counting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.total += 1
            return original(*arguments, **options)

        return wrapped


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"E6": e6}
