"""One soak: a localnet on the simulated Bittensor network and an S3 server behind a faulty line, with faults by schedule."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from grail_core.errors import GrailError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Block
from tooling.localnet.agreement import compare, verdicts_of
from tooling.localnet.plan import BITTENSOR_SIM, S3, Layout, Plan, State
from tooling.localnet.running import Running
from tooling.localnet.setup import TRAINER, Network
from tooling.localnet.view import View
from tooling.localnet.windows import Windows
from tooling.soak.accounts import accounts
from tooling.soak.bodies import compared_bodies
from tooling.soak.outside import Broken
from tooling.soak.report import Soaked
from tooling.soak.schedule import faults
from tooling.soak.windows import SoakWindows

BLOCK_MS: Final = 12_000  # of chain time, as on the real network
SAFETY_BLOCKS: Final = 6
"""Of the miners: an upload takes real seconds, and blocks are short here."""
GROUPS: Final = 2  # of 16 rollouts, a miner and window
MINERS, VALIDATORS = 2, 2


class UnfinishedSoakError(GrailError):
    """The run ended before its last window."""

    exit_code = 12


def soak_plan(windows: int, seed: int, window_seconds: float, line: Path) -> Plan:
    """Args: line: the file that says what is wrong with the line to the store."""
    return Plan(
        windows=windows,
        env_id="sat",
        seed=seed,
        quick=True,
        miners=MINERS,
        cheats=(),
        validators=VALIDATORS,
        block_time_ms=BLOCK_MS,
        real_time=True,
        clock_rate=WINDOW_LENGTH * BLOCK_MS / 1000 / window_seconds,
        safety_blocks=SAFETY_BLOCKS,
        groups=GROUPS,
        chain=BITTENSOR_SIM,
        store=S3,
        store_faults=str(line),
    )


class Soak(Running[Soaked]):
    """A network that is watched while what is outside of it fails.

    Args:
        faulty: whether anything fails.
    """

    def __init__(self, plan: Plan, layout: Layout, view: View, *, faulty: bool) -> None:
        super().__init__(plan, layout, view, "hatch run soak")
        self._faulty = faulty
        self._watched: SoakWindows | None = None

    def _begin(self) -> Network:
        self._make_model()
        Broken.make_whole(self._layout.chain, Path(str(self._plan.store_faults)))
        return super()._begin()

    def _windows_of(self, network: Network, state: State) -> Windows:
        windows = SoakWindows(self._plan, self._layout, network, self._supervisor, self._view, state, self._check_stop)
        outside = Broken(network.chain, self._layout.chain, Path(str(self._plan.store_faults)), self._supervisor)
        windows.begin(outside, faults(self._plan.seed, self._plan.windows, WINDOW_LENGTH) if self._faulty else ())
        self._watched = windows
        return windows

    def _conclude(self, network: Network, state: State, why: str) -> Soaked:
        """What was seen, and what the buckets and the chain say of it.

        Raises:
            UnfinishedSoakError: the run was resumed after its end, or did not reach it.
        """
        watched = self._watched
        if why or watched is None:
            said = why or "it has ended before"
            raise UnfinishedSoakError(
                f"the soak ended early: {said}", where=str(self._layout.root), hint="choose another --out"
            )
        first = watched.first_window
        windows = range(first, first + self._plan.windows * WINDOW_LENGTH, WINDOW_LENGTH)
        names = self._plan.validator_names()
        published = {name: verdicts_of(self._layout, network, name, windows) for name in names}
        hotkeys = {name: network.signers[name].hotkey for name in names}
        found = compare(published, network.params, hotkeys, windows)
        roles = [TRAINER, *names, *(name for name, _ in self._plan.miner_strategies())]
        return Soaked(
            seed=self._plan.seed,
            windows=windows,
            samples=watched.samples,
            latencies=watched.latencies,
            faults=watched.told,
            accounts=accounts(watched.events, roles, windows),
            restarts={name: one.restarts for name, one in self._supervisor.processes.items()},
            bodies=compared_bodies(published, windows, [fault for _, fault in watched.told], first, WINDOW_LENGTH),
            unfounded=[one for one in found.problems if "do not follow" in one],
            weights_set={name: _times_set(network, name) for name in names},
            seconds=time.monotonic() - self._started,
        )


def _times_set(network: Network, name: str) -> int:
    """How often the chain heard other weights of a validator."""
    hotkey, times, before = network.signers[name].hotkey, 0, None
    for block in range(network.chain.finalised_block() + 1):
        row = network.chain.weights(Block(block)).get(hotkey)
        times += row is not None and row != before
        before = row
    return times
