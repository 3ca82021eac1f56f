"""The calibration table of the checkpoint in force, asked for at a role's start: a wrong one is told before a window is lost.

What cannot be had yet (no checkpoint, a store that does not answer) is no reason not to start: every window asks again.
"""

from __future__ import annotations

from grail_core.checkpoints.pinned_table import PinnedTable
from grail_core.errors import CheckpointError, StorageError
from grail_core.participant.participant import Participant
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.telemetry import get_logger

log = get_logger(__name__)


def table_in_force(participant: Participant) -> tuple[CheckpointManifest, PinnedTable] | None:
    """The running window's checkpoint and its table; None where it is not known yet.

    Raises:
        CheckpointError: the checkpoint pins no table that this network follows.
        ConfigurationError: GRAIL_CALIBRATION is another table than the checkpoint's.
    """
    source = participant.checkpoints
    try:
        manifest = source.valid_at(participant.current_window())
    except (CheckpointError, StorageError) as error:
        log.event("calibration_not_known_yet", reason=error.what)
        return None
    try:
        pinned = source.table(manifest)
    except StorageError as error:
        log.event("calibration_not_known_yet", reason=error.what)
        return None
    log.event("calibration", version=pinned.table.version, digest=pinned.digest.hex(), checkpoint=manifest.sequence)
    return manifest, pinned
