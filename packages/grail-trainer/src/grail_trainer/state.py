"""What a trainer remembers between windows, so that SIGKILL at any instruction costs nothing but the step it was in.

Two files: the training state of the last window learned from (masters, moments), written under its own name first; and a
small journal that names it, replaced in one step. Before that step the window has not been learned from, after it it has, and
there is nothing in between. What is not published yet stands in the journal too, and is published by whoever comes next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_trainer.optimiser import Masters

FORMAT = 1


@dataclass(frozen=True)
class Learned:
    """A window that was learned from and whose checkpoint or log is not published yet.

    `log` is the body of its training log, `summary` what the manifest will say of it (both canonical-JSON values), `event`
    the fields of its event.
    """

    window: Window
    log: dict[str, Any]
    summary: dict[str, Any]
    event: dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """`decided` is the last window that was learned from or passed over; windows are decided in order, each once."""

    decided: Window
    learned: int = 0  # windows learned from, in all
    state_file: str | None = None  # None: nothing learned yet, the first checkpoint's weights
    pending: Learned | None = None


class TrainerState:
    """The journal and the training state of one trainer in one network.

    Raises:
        ConfigurationError: the folder belongs to another network or hotkey, or the journal does not parse.
    """

    def __init__(self, folder: Path, *, network_id: Digest, trainer: Hotkey) -> None:
        self.folder = folder
        self._owner = {"network_id": network_id.hex(), "trainer": trainer.hex()}
        self.journal: Journal | None = self._read()

    @property
    def _path(self) -> Path:
        return self.folder / "journal.json"

    def begin(self, decided: Window) -> Journal:
        """Start a journal behind `decided`, where there is none."""
        return self._write(Journal(decided))

    def passed_over(self, window: Window) -> Journal:
        """`window` will not be learned from."""
        return self._write(dataclasses.replace(self._known(), decided=window))

    def learned(self, learned: Learned, masters: Masters) -> Journal:
        """`learned.window` was learned from: the state first, then the journal that names it."""
        before = self._known()
        name = f"state-{learned.window}.safetensors"
        masters.save(self.folder / name)
        after = self._write(Journal(learned.window, before.learned + 1, name, learned))
        self._tidy()
        return after

    def published(self) -> Journal:
        """Nothing is pending any more."""
        return self._write(dataclasses.replace(self._known(), pending=None))

    def resume(self, masters: Masters) -> None:
        """Bring masters and moments to the last window learned from.

        Raises:
            CheckpointError: the state cannot be read, or is of another model.
        """
        if self.journal is not None and self.journal.state_file is not None:
            masters.resume(self.folder / self.journal.state_file)

    def _known(self) -> Journal:
        if self.journal is None:
            raise RuntimeError("the journal was not begun")
        return self.journal

    def _write(self, journal: Journal) -> Journal:
        value = {"format": FORMAT, "owner": self._owner} | dataclasses.asdict(journal)
        write_atomically(self._path, json.dumps(value, indent=1).encode())
        self.journal = journal
        return journal

    def _read(self) -> Journal | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            value = json.loads(raw)
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}, this is {FORMAT}")
            owner, pending = value["owner"], value["pending"]
            journal = Journal(
                Window(int(value["decided"])),
                int(value["learned"]),
                value["state_file"],
                None if pending is None else Learned(**pending),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"the trainer's journal cannot be read: {error}",
                where=str(self._path),
                hint="move the folder away; the trainer then goes on from its last published checkpoint",
            ) from error
        if owner != self._owner:
            raise ConfigurationError(
                "this training state is of another network or hotkey",
                where=str(self.folder),
                hint="give every trainer its own GRAIL_CACHE_DIR",
            )
        return journal

    def _tidy(self) -> None:
        """Remove states that the journal does not name any more."""
        for path in self.folder.glob("state-*.safetensors"):
            if path.name != self._known().state_file:
                with contextlib.suppress(OSError):
                    path.unlink()
