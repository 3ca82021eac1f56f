"""The folders that an engine reads: a checkpoint's weights, with what the manifest says of end tokens and nothing else.

A model's folder has its own opinion of where completions end (`eos_token_id`) and of how they are drawn
(`generation_config.json`), and SGLang follows the first whatever a request says. So an engine is handed a folder of its own:
weights and tokenizer are the checkpoint's files (hard links where the file system is the same, copies on a RAM disk),
`config.json` names the manifest's end tokens, `generation_config.json` nothing beside.

A folder is whole or has no name, never changes, and is never believed after a restart: each process makes its own, under names
of its own. Since links hold the files, nothing that becomes of the cache touches weights in use. `current` in the same place is
a symbolic link to what is served now, switched in one step, for servers that somebody else starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from grail_core.disk import remove_any, storage_errors
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.generation.base import ServedWeights

CURRENT: Final = "current"
_WRITTEN: Final = frozenset({"config.json", "generation_config.json"})


class EngineFolders:
    """The folders below `root`, which no other process may use. Safe to use from several threads.

    Raises:
        ConfigurationError: another process uses it. StorageError: it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staged: dict[str, Path] = {}
        self._lock = threading.Lock()
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            self._held = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._held)
            raise ConfigurationError(
                "another process keeps an engine's weights in this folder",
                where=str(root),
                hint="give each miner of a machine a GRAIL_PIPELINE_SYMLINK_DIR, or a GRAIL_STATE_DIR, of its own",
            ) from error
        self._remove_others()

    def stage(self, weights: ServedWeights) -> ServedWeights:
        """The same weights in a folder of ours. Costs a link a file, or a copy of the weights on another file system.

        Raises:
            CheckpointError: the folder's configuration cannot be read.
            DiskFullError, StorageError: nothing of it is left.
        """
        if weights.folder.parent == self.root:
            return weights
        with self._lock:
            if weights.version not in self._staged:
                self._staged[weights.version] = self._make(weights)
            return replace(weights, folder=self._staged[weights.version])

    def point(self, folder: Path) -> None:
        """Let `current` lead to this folder; whoever opens it finds the one before or this one, each whole."""
        with self._lock, storage_errors(self.root / CURRENT):
            temporary = self.root / f".{CURRENT}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(folder.name)
            temporary.replace(self.root / CURRENT)

    def retain(self, versions: Collection[str]) -> None:
        """Remove all but these. What an engine has open stays readable to it."""
        with self._lock:
            self._staged = {version: folder for version, folder in self._staged.items() if version in versions}
            self._remove_others()

    def forget(self, version: str) -> None:
        """Make this one's folder anew when it is asked for again; the next `retain` removes it."""
        with self._lock:
            self._staged.pop(version, None)

    def close(self) -> None:
        """Let another process have it. Folders stay, for servers that go on."""
        with self._lock:
            if self._held >= 0:
                os.close(self._held)
            self._held = -1

    def _make(self, weights: ServedWeights) -> Path:
        folder = self.root / f"{weights.version[:16]}-{secrets.token_hex(4)}"
        building = self.root / f".{folder.name}"
        with storage_errors(building):
            try:
                building.mkdir()
                for file in sorted(weights.folder.iterdir()):
                    if file.is_file() and file.name not in _WRITTEN:
                        _link(file, building / file.name)
                for name, text in _told(weights).items():
                    (building / name).write_text(text, encoding="utf-8")
                building.rename(folder)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        return folder

    def _remove_others(self) -> None:
        """All that is neither staged here nor what `current` leads to; what a process that was killed has left too."""
        kept = {folder.name for folder in self._staged.values()} | {".lock", CURRENT}
        with contextlib.suppress(OSError):
            kept.add(os.readlink(self.root / CURRENT))
        for path in self.root.iterdir():
            if path.name not in kept:
                remove_any(path)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target, follow_symlinks=True)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, target)


def _told(weights: ServedWeights) -> dict[str, str]:
    """Configuration as the manifest has it."""
    path = weights.folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError("the model's configuration cannot be read", where=str(path)) from error
    if not isinstance(config, dict):
        raise CheckpointError("the model's configuration is no object", where=str(path))
    ends = {"eos_token_id": sorted(weights.end_tokens)}
    return {"config.json": json.dumps(config | ends), "generation_config.json": json.dumps(ends)}
