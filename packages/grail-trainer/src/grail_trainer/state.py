"""What a trainer remembers between windows, so that SIGKILL at any instruction costs nothing but the step it was in.

The training state (masters, moments) of the last window learned from, and of those before it that are not published yet, each
written under its own name first; and a small journal that names them, replaced in one step. What the journal says next is
decided by `steps`; this is its disk. Where adapters are trained, the weights that they stand beside are in a file of their own,
written once. Where several ranks learn together, a training state is a folder of its name with a shard of each
(`sharded_state`); one process and several resume from either. Steps are taken one at a time, whichever thread they come from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from grail_core.disk import remove_any, storage_errors, write_atomically
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.participant.state import adopt_folder
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.state_file import read_state, write_state
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.sharded_state import folder_digest, read_whole
from grail_trainer.steps import Beginning, Event, Journal, StateRecord, Step, TrainedWindow, state_file_of, step

R = TypeVar("R")

FORMAT = 2
_READ = (1, 2)  # 1: at most one window pending, and no list of it
JOURNAL = "journal.json"
FORGOTTEN = "forgotten.json"  # stands where the journal was forgotten on purpose
_RECOVERY = (
    "bring a copy of the folder back, or move it away: with --without-state the trainer then goes on from its last published "
    "checkpoint"
)


class LostStateError(ConfigurationError):
    """This trainer has published before, and its training state is not here, or an older one: only a person knows whether it
    is lost."""


class TrainerState:
    """The journal and the training state of one trainer in one network.

    Raises:
        ConfigurationError: the folder belongs to another network or hotkey, or the journal is not what was written.
        StorageError: it cannot be read.
    """

    def __init__(self, folder: Path, *, network_id: Digest, trainer: Hotkey) -> None:
        self.folder = folder
        self._owner = {"network_id": network_id.hex(), "trainer": trainer.hex()}
        self._lock = threading.RLock()
        self._stated: dict[str, str] = {}  # digests of the training states that the journal names
        self._base: str | None = None  # name of the file with what adapters stand beside
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
        write_atomically(self.folder / FORGOTTEN, b"{}\n")
        self._path.unlink(missing_ok=True)
        self.journal = self.settings = None

    @property
    def forgotten(self) -> bool:
        """Was it forgotten on purpose, by weights that were published from elsewhere?"""
        return (self.folder / FORGOTTEN).exists()

    def begin(self, decided: Window) -> None:
        """A journal where there is none."""
        self.take(Beginning(decided))
        (self.folder / FORGOTTEN).unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / JOURNAL

    @property
    def pending(self) -> tuple[TrainedWindow, ...]:
        """What was learned from and is not published, the oldest first."""
        return () if self.journal is None else self.journal.pending

    def take(self, event: Event, masters: Masters | None = None) -> Step:
        """Take the arrow of an event and write what it asks for. `masters` are needed where training state is written."""
        with self._lock:
            taken = step(self.journal, event)
            if isinstance(event, TrainedWindow):
                self.settings = event.log.get("settings", self.settings)
            if masters is not None and masters.adapted:
                self._base = masters.base_file
            for record in taken.records:
                if isinstance(record, StateRecord):
                    if masters is None:
                        raise TypeError("training state is written from masters")
                    if (self.folder / record.file).is_dir():  # of ranks that were killed before the journal named it
                        remove_any(self.folder / record.file)
                    masters.save(self.folder / record.file)
                    self._stated.pop(record.file, None)
                else:
                    self._write(record.journal)
            if taken.records and self.journal is not None and not isinstance(event, Beginning):
                self._tidy(self.journal)  # a journal that begins knows nothing of the states that lie there
        return taken

    def resume(self, masters: Masters) -> None:
        """Bring masters and moments to the last window learned from.

        Raises:
            CheckpointError: the state cannot be read, or is of another model.
            DamagedStateError: it is not what was written.
            StorageError: it is not there.
        """
        if self.journal is not None and self.journal.state_file is not None:
            self._load(masters, self.journal.state_file)

    def kept(self) -> Callable[[], Mapping[str, Tensor]] | None:
        """Reads the state of the last window learned from, which is what masters are between two windows; None: there is none.

        Raises (when it reads): as `resume`.
        """
        name = None if self.journal is None else self.journal.state_file
        return None if name is None else lambda: self._checked(name, read_whole)

    def unpublished(self, masters: Masters) -> list[tuple[TrainedWindow, Mapping[str, Tensor]]]:
        """What is to be published, and the weights to publish of it; `masters` are as `resume` left them, and are again.

        Raises: as `resume`.
        """
        found: list[tuple[TrainedWindow, Mapping[str, Tensor]]] = []
        for trained in self.pending:
            name = state_file_of(trained.window)
            if self.journal is not None and name != self.journal.state_file:
                self._load(masters, name)
                found.append((trained, masters.published()))
                self.resume(masters)
            else:
                found.append((trained, masters.published()))
        return found

    def _load(self, masters: Masters, name: str) -> None:
        self._checked(name, masters.resume)
        self._base = masters.base_file if masters.adapted else None

    def _checked(self, name: str, read: Callable[[Path], R]) -> R:
        """What is read of a training state, if it is what was written."""
        path = self.folder / name
        with self._lock:
            stated = self._stated.pop(name, None)
            if stated is not None and self._digest(name) != stated:
                raise DamagedStateError("the training state is not what was written", where=str(path), hint=_RECOVERY)
            value = read(path)
            if stated is not None:
                self._stated[name] = stated
        return value

    def _digest(self, name: str) -> str:
        """Hex SHA-256 of a training state; safetensors has no sum, and masters with a turned bit would be published."""
        if name in self._stated:
            return self._stated[name]
        if (self.folder / name).is_dir():
            return folder_digest(self.folder / name)
        with storage_errors(self.folder / name), (self.folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _write(self, journal: Journal) -> None:
        stated = {name: self._digest(name) for name in journal.state_files}
        body: dict[str, Any] = {"format": FORMAT, "owner": self._owner, "states_sha256": stated, "settings": self.settings}
        write_state(self._path, body | dataclasses.asdict(journal))
        self.journal, self._stated = journal, stated

    def _read(self) -> Journal | None:
        value = read_state(self._path, what="the trainer's journal", recovery=_RECOVERY)
        if value is None:
            return None
        try:
            if value["format"] not in _READ:
                raise ValueError(f"format {value['format']}, this is {FORMAT}")
            owner, pending = value["owner"], value["pending"]
            if value["format"] == 1:
                pending = [] if pending is None else [pending]
            journal = Journal(
                Window(int(value["decided"])),
                int(value["learned"]),
                _file_name(value["state_file"]),
                tuple(TrainedWindow(**one | {"window": Window(int(one["window"]))}) for one in pending),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"the trainer's journal cannot be read: {error}", where=str(self._path), hint=_RECOVERY
            ) from error
        settings = value.get("settings")  # an earlier version kept none
        self.settings = settings if _are_settings(settings) else None
        stated = value.get("states_sha256", {journal.state_file: value.get("state_sha256")})
        if isinstance(stated, dict):
            self._stated = {n: digest for n, digest in stated.items() if n in journal.state_files and isinstance(digest, str)}
        if owner != self._owner:
            raise ConfigurationError(
                "this training state is of another network or hotkey",
                where=str(self.folder),
                hint="each hotkey and network has its own folder in GRAIL_STATE_DIR; move this one away",
            )
        return journal

    def _tidy(self, journal: Journal) -> None:
        """Remove states that the journal does not name any more, and what no adapter stands beside."""
        kept = {*journal.state_files, self._base}
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


def require_same_kind(state: TrainerState, chosen: HyperParameters) -> None:
    """Could the training state that lies there be gone on from? What is trained is fixed while there is one.

    Raises:
        ConfigurationError: it was made with another kind of masters, or another rank of adapters.
    """
    journal, before = state.journal, state.settings
    if journal is None or journal.state_file is None or before is None:
        return
    now = chosen.to_json()["optimiser"]
    was = before.get("optimiser", {})
    other = [name for name in ("lora_rank", "master_dtype") if name in was and was[name] != now[name]]
    if other:
        options = " ".join(f"--{name.replace('_', '-')} {was[name]}" for name in other)
        raise ConfigurationError(
            f"the training state that lies there was made with {options}",
            where=str(state.folder),
            hint=f"start with {options}; or, to change it, move that folder away and start with --without-state: "
            "the trainer then goes on from its last published checkpoint, with fresh moments",
        )


def _are_settings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(section, dict) for section in value.values())


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for part, section in settings.items() for name, value in dict(section).items()}


def _file_name(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or "/" in value or value in ("", ".", "..")):
        raise ValueError("it names no file of a training state")
    return value
