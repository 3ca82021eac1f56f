"""What offline learning remembers: the last window, its training state, and what both are of. A kill costs one window.

The state is written under its own name first, then the journal that names it, in one step; then the state before it goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.protocol.types import Digest, Window
from grail_core.state_file import read_state, write_state
from grail_trainer.learning.optimiser import Masters

FORMAT: Final = 1
JOURNAL: Final = "offline.json"
_RECOVERY: Final = "bring a copy of the folder back, or learn into a new one"


@dataclass(frozen=True)
class OfflineRun:
    """What a run is of; one that is gone on with is of the same."""

    network_id: Digest
    weights_root: Digest  # of the model that it began with
    behaviour: str

    def to_json(self) -> dict[str, str]:
        return {
            "network_id": self.network_id.hex(),
            "weights_root": self.weights_root.hex(),
            "behaviour": self.behaviour,
        }


class OfflineState:
    """The folder of one run. `last` is the last window that was learned from or passed over; None: none yet.

    Raises:
        ConfigurationError: it is of another export, model or way. DamagedStateError: it is not what was written.
    """

    def __init__(self, folder: Path, run: OfflineRun) -> None:
        self.folder, self._run = folder, run
        self.last: Window | None = None
        self.learned = 0
        self.settings: Mapping[str, Any] | None = None  # of the last window
        self._file: str | None = None
        self._sha256 = ""
        self._read()

    @property
    def file(self) -> Path | None:
        """Of the training state; None: nothing was learned yet."""
        return None if self._file is None else self.folder / self._file

    def resume(self, masters: Masters) -> None:
        """Bring masters and moments to the last window. Errors: CheckpointError; DamagedStateError."""
        for path in self.folder.glob("state-*.safetensors"):
            if path.name != self._file:  # of a process that was killed between a state and its journal
                path.unlink(missing_ok=True)
        if self.file is None:
            return
        if _sha256(self.file) != self._sha256:
            raise DamagedStateError("the training state is not what was written", where=str(self.file), hint=_RECOVERY)
        masters.resume(self.file)

    def passed_over(self, window: Window) -> None:
        """Nothing was in it to learn from."""
        self.last = window
        self._write()

    def learned_from(self, window: Window, masters: Masters, settings: Mapping[str, Any]) -> None:
        """The masters are what this window made of them."""
        name, former = f"state-{window}.safetensors", self.file
        masters.save(self.folder / name)
        self.last, self._file, self._sha256 = window, name, _sha256(self.folder / name)
        self.learned, self.settings = self.learned + 1, settings
        self._write()
        if former is not None and former.name != name:
            former.unlink(missing_ok=True)

    def _write(self) -> None:
        value = {"format": FORMAT, **self._run.to_json(), "last": self.last, "learned": self.learned}
        state = {"state_file": self._file, "state_sha256": self._sha256, "settings": self.settings}
        write_state(self.folder / JOURNAL, {**value, **state})

    def _read(self) -> None:
        path = self.folder / JOURNAL
        value = read_state(path, what="the journal of offline learning", recovery=_RECOVERY)
        if value is None:
            return
        mine = self._run.to_json()
        other = [name for name, text in mine.items() if value.get(name) != text]
        if value.get("format") != FORMAT or other:
            raise ConfigurationError(
                f"the run in this folder has another {', '.join(other) or 'format'}",
                where=str(self.folder),
                hint="go on with the same export, model and --behaviour, or learn into a new folder",
            )
        self.last = None if value["last"] is None else Window(int(value["last"]))
        self.learned, self.settings = int(value["learned"]), value["settings"]
        self._file, self._sha256 = value["state_file"], value["state_sha256"]


def _sha256(path: Path) -> str:
    with storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
