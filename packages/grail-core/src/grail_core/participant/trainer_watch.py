"""What a role says of its trainer: an upgrade that is announced, and silence. A window of a version unknown here is not begun.

Told at first sight and again from time to time, so that a log of weeks has it near its end. While a trainer is silent
the checkpoint in force stays in force: miners mine with it, validators judge by it and set weights. A store may show an older
list after a newer one: what the newest one said goes on to hold, and nothing is withdrawn that the trainer did not withdraw.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from grail_core.checkpoints.trainer_life import TrainerLife, silent_windows, upgrade_line
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.protocol.upgrade import Upgrade
from grail_core.telemetry import get_logger

log = get_logger(__name__)

TOLD_EVERY = 20  # windows; two hours on subnet 81
LAST_WINDOWS = 5  # before an upgrade, each


class TrainerWatch:
    """Of one role's process. Safe to use from several threads. `package`: what the role is installed as."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._lock = threading.Lock()
        self._life: TrainerLife | None = None  # of the newest checkpoint seen
        self._upgrade: tuple[Upgrade, Window] | None = None  # told last, in which window
        self._silent: Window | None = None  # told last

    def look(self, window: Window, life: TrainerLife) -> None:
        """Tell what is to be told before a window is begun.

        Raises:
            UpgradeRequiredError: a later version is in force in it; the role ends.
        """
        with self._lock:
            newest = self._newest(window, life)
            self._tell_upgrade(window, newest.announced)
            self._tell_silence(window, newest)
        life.require(window, self._package)

    def _newest(self, window: Window, life: TrainerLife) -> TrainerLife:
        """This life, or in place of an older one that of the newest checkpoint seen, as it is in this window."""
        known = self._life
        if known is not None and _sequence(life) < _sequence(known):
            return replace(known, silent_windows=silent_windows(known.newest, window, known.alarm_every))
        self._life = life
        return life

    def _tell_upgrade(self, window: Window, announced: Upgrade | None) -> None:
        told, at = self._upgrade or (None, window)
        if announced is None or window < at:
            if announced is None and told is not None:
                self._upgrade = None
                log.event("upgrade_withdrawn", level=logging.WARNING, version=told.version, block=told.block, windows_left=-1)
            return
        left = announced.windows_left(window)
        due = told != announced or window - at >= (WINDOW_LENGTH if left <= LAST_WINDOWS else TOLD_EVERY * WINDOW_LENGTH)
        if due:
            self._upgrade = announced, window
            log.event(
                "upgrade_announced",
                level=logging.WARNING,
                version=announced.version,
                block=announced.block,
                windows_left=left,
                command=upgrade_line(self._package),
            )

    def _tell_silence(self, window: Window, life: TrainerLife) -> None:
        if not life.silent_windows:
            if self._silent is not None and life.newest is not None and life.newest.valid_from > self._silent:
                log.event("trainer_heard_again", window=window, valid_from=life.newest.valid_from)
                self._silent = None
            return
        if self._silent is not None and window - self._silent < life.alarm_every * WINDOW_LENGTH:
            return
        self._silent = window
        newest = life.newest
        log.event(
            "trainer_silent",
            level=logging.WARNING,
            window=window,
            windows=life.silent_windows,
            checkpoint=None if newest is None else newest.sequence,
            valid_from=None if newest is None else newest.valid_from,
        )


def _sequence(life: TrainerLife) -> int:
    return -1 if life.newest is None else life.newest.sequence
