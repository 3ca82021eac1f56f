"""What this machine has seen of a network's checkpoints: a trainer or a store that rewrites history is found out.

The memory only ever protects; losing it loosens that and stops nobody. So a file that is damaged or no file at all is put aside
and begun anew from its own earlier generation, or from what the store shows now, with an event that says so; one that cannot be
written holds for as long as the process lives. An older copy that somebody brought back knows less, and complains of nothing.
"""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from grail_core.checkpoints.manifests import CheckpointSequence, EquivocationError, RollbackError
from grail_core.errors import ConfigurationError, DamagedStateError, DiskFullError, StorageError
from grail_core.state_file import read_state, write_state
from grail_core.telemetry import get_logger

log = get_logger(__name__)

_RECOVERY = "it is put aside, and what the store shows now is remembered instead"


class SeenCheckpoints:
    """Safe to use from several threads; processes of one machine share the file, and each adds what it saw."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._former = path.with_name(f"{path.stem}.before{path.suffix}")
        self._seen: dict[int, str] | None = None
        self._restored = False  # from the earlier generation: there are two again once it is written
        self._lock = threading.Lock()

    def check(self, view: CheckpointSequence) -> None:
        """Compare with what was seen before, then remember what is new.

        Raises:
            EquivocationError: another manifest now stands under a sequence number seen before.
            RollbackError: the newest checkpoint seen is gone and nothing newer is there.
            DiskFullError: it cannot be remembered.
        """
        with self._lock:
            seen = self._seen if self._seen is not None else self._load()
            now = {item.manifest.sequence: item.manifest.digest.hex() for item in view.stored}
            for sequence in seen.keys() & now.keys():
                if seen[sequence] != now[sequence]:
                    raise EquivocationError(
                        f"the trainer signed two manifests for sequence {sequence}",
                        where=f"{seen[sequence]} seen before, {now[sequence]} now",
                        hint="do not continue with this trainer; report both manifests",
                    )
            if seen and max(seen) > max(now, default=-1):
                raise RollbackError(
                    f"the checkpoints end at sequence {max(now, default=-1)}, but {max(seen)} was seen before",
                    hint="the store was rolled back; if you know why, remove the network's seen*.json below GRAIL_STATE_DIR",
                )
            self._seen = {**seen, **now}
            if self._restored or now.keys() - seen.keys():
                self._restored = False
                self._keep(self._seen)

    def _load(self) -> dict[int, str]:
        """The file's content, or its earlier generation's where it is damaged."""
        found = self._read(self._path)
        if found is None:
            found = self._read(self._former) if self._former.exists() else None
            if found is not None:
                self._restored = True
                log.event("seen_restored", path=str(self._path), checkpoints=len(found))
        return found or {}

    def _read(self, path: Path) -> dict[int, str] | None:
        """None: it is not there, or was put aside."""
        try:
            if path.is_dir():
                raise DamagedStateError("a folder stands in its place", where=str(path), hint=_RECOVERY)
            value = read_state(path, what="the memory of the checkpoints seen", recovery=_RECOVERY)
            return None if value is None else _parsed(value, path)
        except DamagedStateError as error:
            aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
            log.event("seen_damaged", path=str(path), reason=error.what, moved_to=str(aside))
            try:
                os.replace(path, aside)
            except OSError as refused:
                log.event("seen_unwritable", path=str(path), reason=str(refused.strerror))
            return None
        except StorageError as error:
            raise ConfigurationError(
                error.what, where=error.where, hint=error.hint or "make it readable for this user"
            ) from error

    def _keep(self, seen: dict[int, str]) -> None:
        there = self._read(self._path)  # another process may have seen more
        if there is not None:
            seen = {**there, **seen}
        value = {"seen": {str(sequence): digest for sequence, digest in sorted(seen.items())}}
        try:
            write_state(self._former, value)
            write_state(self._path, value)
        except DiskFullError:
            raise
        except StorageError as error:
            log.event("seen_unwritable", path=str(self._path), reason=error.what)


def _parsed(value: dict[str, object], path: Path) -> dict[int, str]:
    """Sequence number → digest; earlier versions wrote the mapping alone."""
    entries = value.get("seen", value)
    try:
        if not isinstance(entries, dict):
            raise TypeError
        found = {int(sequence): digest for sequence, digest in entries.items()}
        if any(len(bytes.fromhex(digest)) != 32 for digest in found.values()) or min(found, default=0) < 0:
            raise ValueError
    except (ValueError, TypeError):
        raise DamagedStateError(
            "the memory of the checkpoints seen holds something else", where=str(path), hint=_RECOVERY
        ) from None
    return found
