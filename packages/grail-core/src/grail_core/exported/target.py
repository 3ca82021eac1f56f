"""A folder that an export is written into: begun, or gone on with, by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import ConfigurationError
from grail_core.exported.folder import ABOUT, CARD, About, ExportFolder, card_of
from grail_core.participant.state import only_process

LOCK = ".lock"


@contextmanager
def writing(root: Path, wanted: About) -> Iterator[ExportFolder]:
    """The export that is in a folder, of the same network and format, or a new one where the folder is empty or absent.

    Raises:
        ConfigurationError: something else is in the folder. AlreadyRunningError: another process writes into it.
        StorageError, DiskFullError: it cannot be written.
    """
    hint = "wait for it, or name another folder"
    with only_process(root / LOCK, "another export writes into this folder", hint=hint):
        yield _begun(root, wanted)


def _begun(root: Path, wanted: About) -> ExportFolder:
    if not (root / ABOUT).exists():
        with storage_errors(root):
            others = sorted(path.name for path in root.iterdir() if path.name not in (LOCK, CARD, f".{ABOUT}.tmp"))
        if others:
            raise ConfigurationError(
                f"there is something else in this folder: {others[0]}", where=str(root), hint="name a new folder"
            )
        if wanted.form == "hf":
            write_atomically(root / CARD, card_of(wanted))
        write_atomically(root / ABOUT, wanted.encode())
    found = ExportFolder.open(root)
    if (found.about.form, found.about.network_id) != (wanted.form, wanted.network_id):
        raise ConfigurationError(
            f"this is an export of network {found.about.network_id.hex()[:16]}… as {found.about.form}, "
            f"and {wanted.network_id.hex()[:16]}… as {wanted.form} is asked for",
            where=str(root),
            hint="name a new folder, or this one's format",
        )
    return found
