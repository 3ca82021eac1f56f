"""What a network's checkpoints say of its trainer's life: a protocol version that is coming or in force, and silence.

A pure look at a sequence that was verified before. What a role does about it is `participant.trainer_watch`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from grail_core.checkpoints.manifests import CheckpointSequence, ruling, windows_of_round
from grail_core.errors import UpgradeRequiredError
from grail_core.protocol.constants import PROTOCOL_VERSION, WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest, NewerManifestError
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Window
from grail_core.protocol.upgrade import Upgrade, in_force
from grail_core.storage.layout import valid_from_of_key

SILENT_ROUNDS: Final = 10
"""So many windows (rounds, where work is gradient work) after the newest checkpoint came into force its trainer is silent: an
hour on subnet 81. One that learns publishes every window; one that finds nothing to learn from is silent too."""


@dataclass(frozen=True)
class TrainerLife:
    """As of one window.

    `announced`: of the newest checkpoint, whether it is in force or not. `required`: why this software may not begin the
    window; None: it may. `silent_windows`: since the newest checkpoint came into force, 0 while that is no silence.
    """

    newest: CheckpointManifest | None
    announced: Upgrade | None = None
    required: str | None = None
    silent_windows: int = 0
    alarm_every: int = SILENT_ROUNDS  # windows

    def require(self, window: Window, package: str) -> None:
        """Raises UpgradeRequiredError, with the line that upgrades `package`, where a later version is in force."""
        if self.required is not None:
            raise UpgradeRequiredError(self.required, where=f"window {window}", hint=upgrade_line(package))


def upgrade_line(package: str) -> str:
    """What an operator types."""
    return f"pip install --upgrade {package}"


def trainer_life(
    view: CheckpointSequence, window: Window, params: NetworkParameters, block_time_of: Callable[[Block], int]
) -> TrainerLife:
    """What a sequence says in a window. The chain is asked for times only where a version may be in force.

    Raises:
        ChainError: it was asked, and does not answer.
    """
    newest = view.head
    announced = None if newest is None else newest.upgrade
    every = SILENT_ROUNDS * (1 if newest is None else windows_of_round(newest))
    return TrainerLife(
        newest=newest,
        announced=announced,
        required=_newer_manifest(view, window) or _active(view, window, params, block_time_of),
        silent_windows=silent_windows(newest, window, every),
        alarm_every=every,
    )


def silent_windows(newest: CheckpointManifest | None, window: Window, every: int) -> int:
    """Since the newest checkpoint came into force; 0 where they are fewer than `every`."""
    silent = 0 if newest is None else max(0, window - newest.valid_from) // WINDOW_LENGTH
    return silent if silent >= every else 0


def _active(
    view: CheckpointSequence, window: Window, params: NetworkParameters, block_time_of: Callable[[Block], int]
) -> str | None:
    upgrades = [item.manifest.upgrade for item in view.stored]
    if not any(upgrade is not None and upgrade.block <= window for upgrade in upgrades):
        return None
    rows = ((one.valid_from, one.upgrade) for one in ruling(view, window, params, block_time_of))
    active = in_force(rows, window)
    if active is None:
        return None
    return (
        f"protocol version {active.version} is in force from block {active.block} on, "
        f"and this software knows version {PROTOCOL_VERSION}"
    )


def _newer_manifest(view: CheckpointSequence, window: Window) -> str | None:
    """A checkpoint that the trainer signed and that cannot be read here rules its windows all the same: an older one would be
    taken for theirs."""
    for refused in view.refused:
        valid_from = valid_from_of_key(refused.key)
        if isinstance(refused.error, NewerManifestError) and valid_from is not None and valid_from <= window:
            return refused.error.what
    return None
