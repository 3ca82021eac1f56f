"""What surrounds a running role, looked at once a minute: chain, clock, beacon, checkpoints, own bucket, disk, standing.

It feeds the role's metrics, and is there only where metrics go anywhere. It decides nothing and is in nobody's way: a daemon
thread whose every question is bounded in time, whose failures are numbers too, and for which no role waits. Each look goes to
the back-ends; the log has one a window.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from grail_core.chain.base import Neuron, seconds_of
from grail_core.checkpoints.trainer_life import SILENT_ROUNDS, TrainerLife, silent_windows
from grail_core.clock import wall_clock_ms
from grail_core.errors import BeaconError, GrailError
from grail_core.examination.known import Role
from grail_core.examination.relay_clocks import judged, newest_ages_s
from grail_core.keys import ss58
from grail_core.participant.deployment import beacon_relays
from grail_core.participant.monitoring import monitoring_of
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Block, Window
from grail_core.protocol.windows import window_of
from grail_core.storage.layout import seal_key
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger
from grail_core.telemetry.metrics.metric import Metric
from grail_core.telemetry.metrics.monitoring import monitored
from grail_core.telemetry.metrics.shared import PART, SEEN

log = get_logger(__name__)

EVERY_S: Final = 60.0
STORE_S: Final = 10.0
RELAY_S: Final = 5.0
STANDING: Final = "standing_seen"

Fields = dict[str, Any]
OwnStanding = Callable[[Participant], Mapping[str, Any]]
"""How this hotkey stands by what validators have published, as fields of `standing_seen`."""
Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass
class RoleWatch:
    """Looks for one role. `tell` gets every look; `standing` is asked once a window."""

    participant: Participant
    settings: Settings
    role: Role
    tell: Tell
    standing: OwnStanding | None = None
    _window: Window | None = field(default=None, init=False)  # of the last look that the log has
    _life: TrainerLife | None = field(default=None, init=False)
    _neuron: Neuron | None = field(default=None, init=False)
    _round_at: float | None = field(default=None, init=False)  # monotonic: when the newest verified round was as old as it is

    def look(self) -> Fields:
        """One look: what could be seen, and in `failed` which parts could not be."""
        seen: Fields = {"failed": dict.fromkeys(PART.values, 0)}
        seen["block_seconds"] = seconds_of(1, self.participant.params.block_time_ms)
        self._part("chain", self._chain, seen)
        window = window_of(Block(seen["block"])) if "block" in seen else None
        begins = window is not None and window != self._window
        self._part("beacon", self._beacon, seen)
        self._part("storage", self._storage, seen)
        self._part("disk", self._disk, seen)
        if window is not None:
            self._part("checkpoint", lambda into: self._checkpoint(into, window, anew=begins or self._life is None), seen)
            if self.role.permit:
                self._part("chain", lambda into: self._weights(into, anew=begins), seen)
        if begins and self.standing is not None:
            self._part("standing", self._standing, seen)
        self.tell(SEEN, seen)
        if begins:
            self._window = window
            log.event(SEEN, **seen)
        return seen

    def _part(self, name: str, look: Callable[[Fields], None], seen: Fields) -> None:
        try:
            look(seen)
        except (GrailError, OSError) as error:
            seen["failed"][name] = 1
            what = error.what if isinstance(error, GrailError) else str(error.strerror)
            seen.setdefault("reasons", {})[name] = what[:300]

    def _chain(self, into: Fields) -> None:
        chain = self.participant.chain
        head = chain.current_block()
        now_ms = chain.now_ms() if self._own_time else wall_clock_ms()
        into["head_age_seconds"] = (now_ms - chain.block(head).timestamp_ms) / 1000
        into["block"] = int(head)

    def _beacon(self, into: Fields) -> None:
        """By the newest round that any relay shows; while none shows one, the last one grows older."""
        params = self.participant.params
        if params.beacon_policy == "off":
            return
        relays = beacon_relays(self.settings, params)
        clock = self.participant.chain.now_ms if self._own_time else wall_clock_ms
        ages = newest_ages_s(relays, params.beacon, clock, RELAY_S)
        now = time.monotonic()
        if ages:
            self._round_at = now - min(ages)
        if self._round_at is not None:
            into["beacon_lag_seconds"] = max(0.0, now - self._round_at - params.beacon.period_s)
        if not ages:
            raise BeaconError("no relay shows a round that verifies")
        skew = judged(ages, params.beacon.period_s).off_s
        if not self._own_time and skew is not None:
            into["clock_skew_seconds"] = skew

    def _storage(self, into: Fields) -> None:
        into["storage_reachable"] = 0
        key = seal_key(ss58(self.participant.signer.hotkey), Window(0))
        began = time.monotonic()
        with at_most(STORE_S):
            self.participant.own_store.head(key)
        into |= {"storage_reachable": 1, "storage_seconds": round(time.monotonic() - began, 3)}

    def _disk(self, into: Fields) -> None:
        folders = {"cache": self.participant.cache_dir, "state": self.participant.state_dir}
        into["disk_free"] = {name: shutil.disk_usage(_there(path)).free for name, path in folders.items()}

    def _checkpoint(self, into: Fields, window: Window, *, anew: bool) -> None:
        fault: GrailError | None = None
        if anew:
            try:
                self._life = self.participant.checkpoints.life(window)
            except GrailError as error:  # the one that was seen last grows older all the same
                fault = error
        self._age_of_checkpoint(into, window)
        if fault is not None:
            raise fault

    def _age_of_checkpoint(self, into: Fields, window: Window) -> None:
        life = self._life
        every = SILENT_ROUNDS if life is None else life.alarm_every
        into["window_seconds"] = into["block_seconds"] * WINDOW_LENGTH * every / SILENT_ROUNDS
        newest = None if life is None else life.newest
        if life is None or newest is None:
            return
        into["checkpoint_sequence"] = newest.sequence
        into["checkpoint_age_windows"] = (window - newest.valid_from) // WINDOW_LENGTH
        into["silence_windows"] = life.alarm_every
        into["silent_windows"] = silent_windows(newest, window, life.alarm_every)

    def _weights(self, into: Fields, *, anew: bool) -> None:
        if anew or self._neuron is None:
            self._neuron = self.participant.chain.metagraph().by_hotkey(self.participant.signer.hotkey)
        neuron = self._neuron
        into["permit"] = int(neuron is not None and neuron.validator_permit)
        into["weight_interval"] = self.participant.params.weight_interval
        if neuron is not None:
            into["weights_age_blocks"] = into["block"] - max(neuron.last_update, neuron.registered_at)

    def _standing(self, into: Fields) -> None:
        assert self.standing is not None
        fields = self.standing(self.participant)
        self.tell(STANDING, fields)
        log.event(STANDING, **fields)

    @property
    def _own_time(self) -> bool:
        """A development chain has a clock of its own, which everybody follows."""
        return self.settings.bt_network == "local"

    @contextmanager
    def running(self, every_s: float = EVERY_S) -> Iterator[None]:
        """Looks beside the block, from its beginning on. A look in hand at its end is left: nobody waits for it."""
        over = threading.Event()

        def looks() -> None:
            told = False
            while not over.is_set():
                try:
                    self.look()
                except Exception as error:
                    if not told:
                        log.error("unforeseen while looking at what surrounds this role", exc_info=error)
                    told = True
                over.wait(every_s)

        threading.Thread(target=looks, name="role-watch", daemon=True).start()
        try:
            yield
        finally:
            over.set()


@contextmanager
def watched(
    participant: Participant, settings: Settings, role: Role, table: Sequence[Metric], standing: OwnStanding | None = None
) -> Iterator[None]:
    """Around what a role does: its metrics go where its operator wants them, if anywhere."""
    wanted = monitoring_of(settings, role.name, participant.params.name)
    if not wanted.wanted:
        yield
        return
    with (
        monitored(wanted, table) as follower,
        RoleWatch(participant, settings, role, follower.take, standing).running(),
    ):
        yield


def _there(path: Path) -> Path:
    """The folder, or where it will be made."""
    return next(one for one in (path, *path.parents) if one.exists())
