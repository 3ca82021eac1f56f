"""What a trainer has decided to announce: a file beside its state, which the next checkpoint's manifest takes up.

The command that announces need not stop the trainer that publishes. Once a manifest says it, the next ones say it too, with or
without the file: a disk that is lost withdraws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grail_core.checkpoints.manifests import windows_of_round
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.reading import Node
from grail_core.protocol.types import Window
from grail_core.protocol.upgrade import Upgrade
from grail_core.state_file import read_state, write_state
from grail_core.telemetry import get_logger

log = get_logger(__name__)

LEAST_NOTICE_WINDOWS: Final = 240
"""Between the first window of the checkpoint that announces a version and the version's own: a day on subnet 81."""
_RECOVERY = "announce or withdraw it again with `grail-trainer upgrade`"


@dataclass(frozen=True)
class Announcement:
    """What the next checkpoint says; `upgrade` None: nothing, whatever the one before said."""

    upgrade: Upgrade | None


def write_announcement(path: Path, announcement: Announcement) -> None:
    """Errors: StorageError, DiskFullError."""
    upgrade = announcement.upgrade
    write_state(path, {"upgrade": None if upgrade is None else upgrade.to_json()})


def read_announcement(path: Path) -> Announcement | None:
    """None: nothing was ever decided here. Errors: DamagedStateError, StorageError."""
    value = read_state(path, what="the announcement of an upgrade", recovery=_RECOVERY)
    if value is None:
        return None
    try:
        return Announcement(Node(value, "$").members("upgrade")["upgrade"].optional(Upgrade.from_json))
    except ValueError as error:
        what = f"the announcement of an upgrade cannot be read: {error}"
        raise DamagedStateError(what, where=str(path), hint=_RECOVERY) from error


def next_upgrade(path: Path | None, head: CheckpointManifest | None, valid_from: Window) -> Upgrade | None:
    """What the manifest of the next checkpoint, in force from `valid_from`, says.

    Errors: none: a file that cannot be used, or whose time has come too near since, is told and costs no checkpoint.
    """
    before = None if head is None else head.upgrade
    try:
        decided = None if path is None else read_announcement(path)
        if decided is not None and decided.upgrade != before:
            require_announceable(decided, head, valid_from)
            return decided.upgrade
    except ConfigurationError as error:
        log.event("upgrade_not_announced", reason=error.what, path=str(path))
    return before


def require_announceable(announcement: Announcement, head: CheckpointManifest | None, valid_from: Window) -> None:
    """May a checkpoint that comes into force at `valid_from` say this?

    Raises:
        ConfigurationError: what was announced before is in force by then, or this leaves its readers too little time, or would
            begin within a round.
    """
    before = None if head is None else head.upgrade
    if before is not None and before.block < valid_from:
        raise ConfigurationError(
            f"version {before.version} is in force from block {before.block} on, "
            f"before a checkpoint could say otherwise (window {valid_from})",
            where="upgrade",
            hint="an announcement can be moved or withdrawn only before it is in force",
        )
    upgrade = announcement.upgrade
    if upgrade is None:
        return
    least = valid_from + LEAST_NOTICE_WINDOWS * WINDOW_LENGTH
    if upgrade.block < least:
        raise ConfigurationError(
            f"block {upgrade.block} is too near: {LEAST_NOTICE_WINDOWS} windows of notice are needed",
            where=f"--block {upgrade.block}",
            hint=f"block {least} is the first one that a checkpoint in force from window {valid_from} can name",
        )
    length = WINDOW_LENGTH * (1 if head is None else windows_of_round(head))
    if upgrade.block % length:
        raise ConfigurationError(
            f"block {upgrade.block} begins no round of this network: rounds have {length} blocks",
            where=f"--block {upgrade.block}",
            hint=f"the next one begins at block {-(-upgrade.block // length) * length}",
        )
