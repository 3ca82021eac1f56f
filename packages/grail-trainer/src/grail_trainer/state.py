"""What a trainer remembers between windows, so that SIGKILL at any instruction costs nothing but the step it was in.

Two files: the training state of the last window learned from (masters, moments), written under its own name first; and a
small journal that names it, replaced in one step. Where adapters are trained, the weights that they stand beside are a third,
written once. Where several ranks learn together, the training state is a folder of that name with a shard of each
(`sharded_state`); one process and several resume from either. What the journal says next is decided by `steps`; this is its
disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grail_core.disk import remove_any, storage_errors
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.participant.state import adopt_folder
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.state_file import read_state, write_state
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.sharded_state import folder_digest
from grail_trainer.steps import Event, Journal, StateRecord, Step, TrainedWindow, step

FORMAT = 1
JOURNAL = "journal.json"
_RECOVERY = "bring a copy of the folder back, or move it away: the trainer then goes on from its last published checkpoint"


class TrainerState:
    """The journal and the training state of one trainer in one network.

    Raises:
        ConfigurationError: the folder belongs to another network or hotkey, or the journal is not what was written.
        StorageError: it cannot be read.
    """

    def __init__(self, folder: Path, *, network_id: Digest, trainer: Hotkey) -> None:
        self.folder = folder
        self._owner = {"network_id": network_id.hex(), "trainer": trainer.hex()}
        self._stated: tuple[str, str] | None = None  # the training state that the journal names, and its digest
        self.settings: Mapping[str, Any] | None = None  # of the last window learned from, as its training log says them
        self.journal: Journal | None = self._read()

    @classmethod
    def adopt(cls, former: Path, folder: Path, *, network_id: Digest, trainer: Hotkey) -> bool:
        """Bring the state from where an earlier version kept it, if it is this network's and hotkey's."""
        try:
            owner = json.loads((former / JOURNAL).read_bytes())["owner"]
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"the journal of an earlier version is here and cannot be read: {error}",
                where=str(former / JOURNAL),
                hint="make it readable for this user, or move the folder away to begin with fresh moments",
            ) from error
        ours = owner == {"network_id": network_id.hex(), "trainer": trainer.hex()}
        return ours and adopt_folder(former, folder, last=JOURNAL)

    def forget(self) -> None:
        """Begin anew from the last published checkpoint, with fresh moments."""
        self._path.unlink(missing_ok=True)
        self.journal = None

    @property
    def _path(self) -> Path:
        return self.folder / JOURNAL

    @property
    def pending(self) -> TrainedWindow | None:
        """What was learned from and is not published."""
        return None if self.journal is None else self.journal.pending

    def take(self, event: Event, masters: Masters | None = None) -> Step:
        """Take the arrow of an event and write what it asks for. `masters` are needed where training state is written."""
        taken = step(self.journal, event)
        if isinstance(event, TrainedWindow):
            self.settings = event.log.get("settings", self.settings)
        for record in taken.records:
            if isinstance(record, StateRecord):
                if masters is None:
                    raise TypeError("training state is written from masters")
                if (self.folder / record.file).is_dir():  # of ranks that were killed before the journal named it
                    remove_any(self.folder / record.file)
                masters.save(self.folder / record.file)
                self._stated = None
            else:
                self._write(record.journal)
        if masters is not None and self.journal is not None:
            self._tidy(self.journal, masters)
        return taken

    def resume(self, masters: Masters) -> None:
        """Bring masters and moments to the last window learned from.

        Raises:
            CheckpointError: the state cannot be read, or is of another model.
            DamagedStateError: it is not what was written.
            StorageError: it is not there.
        """
        if self.journal is None or self.journal.state_file is None:
            return
        path = self.folder / self.journal.state_file
        stated = self._stated
        self._stated = None
        if stated is not None and self._digest(self.journal.state_file) != stated[1]:
            raise DamagedStateError("the training state is not what was written", where=str(path), hint=_RECOVERY)
        masters.resume(path)
        self._stated = stated

    def _digest(self, name: str) -> str:
        """Hex SHA-256 of a training state; safetensors has no sum, and masters with a turned bit would be published."""
        if self._stated is not None and self._stated[0] == name:
            return self._stated[1]
        if (self.folder / name).is_dir():
            return folder_digest(self.folder / name)
        with storage_errors(self.folder / name), (self.folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _write(self, journal: Journal) -> None:
        named = None if journal.state_file is None else self._digest(journal.state_file)
        kept = {"format": FORMAT, "owner": self._owner, "state_sha256": named, "settings": self.settings}
        write_state(self._path, kept | dataclasses.asdict(journal))
        self.journal = journal
        self._stated = None if named is None or journal.state_file is None else (journal.state_file, named)

    def _read(self) -> Journal | None:
        value = read_state(self._path, what="the trainer's journal", recovery=_RECOVERY)
        if value is None:
            return None
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}, this is {FORMAT}")
            owner, pending = value["owner"], value["pending"]
            journal = Journal(
                Window(int(value["decided"])),
                int(value["learned"]),
                _file_name(value["state_file"]),
                None if pending is None else TrainedWindow(**pending),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"the trainer's journal cannot be read: {error}", where=str(self._path), hint=_RECOVERY
            ) from error
        settings = value.get("settings")  # an earlier version kept none
        self.settings = settings if _are_settings(settings) else None
        digest = value.get("state_sha256")
        self._stated = (journal.state_file, digest) if journal.state_file is not None and isinstance(digest, str) else None
        if owner != self._owner:
            raise ConfigurationError(
                "this training state is of another network or hotkey",
                where=str(self.folder),
                hint="each hotkey and network has its own folder in GRAIL_STATE_DIR; move this one away",
            )
        return journal

    def _tidy(self, journal: Journal, masters: Masters) -> None:
        """Remove states that the journal does not name any more, and what no adapter stands beside."""
        kept = {journal.state_file, masters.base_file if masters.adapted else None}
        for form in ("state-*.safetensors", "base-*.safetensors", ".state-*.shards"):
            for path in self.folder.glob(form):
                if path.name not in kept:
                    remove_any(path)


def settings_changed(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Section and name of every hyper-parameter that is another → [before, now]; None: there was or is none of this name.

    Both are values of `HyperParameters.to_json`; without one of before nothing is known to be different.
    """
    if before is None:
        return {}
    old, new = _flat(before), _flat(now)
    return {name: [old.get(name), new.get(name)] for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def _are_settings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(section, dict) for section in value.values())


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for part, section in settings.items() for name, value in dict(section).items()}


def _file_name(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or "/" in value or value in ("", ".", "..")):
        raise ValueError("it names no file of a training state")
    return value
