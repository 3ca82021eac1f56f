"""Whether what a role keeps can be kept: cache, state and other folders, and how much room their devices have."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grail_core.errors import ConfigurationError, DiskFullError, GrailError
from grail_core.examination.findings import DISK, Finding, broken, ok, warning
from grail_core.examination.report import refuse
from grail_core.participant.settings import Settings

GIB: Final = 1 << 30
_FULL_GIB: Final = 0.1  # below it nothing is begun: a checkpoint of the smallest model, and what is written beside it


@dataclass(frozen=True)
class Folder:
    """A folder that is written to. `needed_gib`: free, for no warning."""

    name: str
    variable: str
    path: Path
    needed_gib: float = 1.0


def of_role(settings: Settings, cache_gib: float = 1.0) -> list[Folder]:
    """The two that every role has."""
    return [
        Folder("cache", "GRAIL_CACHE_DIR", settings.cache_dir, cache_gib),
        Folder("state", "GRAIL_STATE_DIR", settings.state_dir),
    ]


def folders(asked: Iterable[Folder]) -> Iterator[Finding]:
    """Each can be written, and its device has room. A folder that is not there yet is looked at where it will be made."""
    for one in asked:
        place = existing(one.path)
        try:
            free = shutil.disk_usage(place).free / GIB
        except OSError as error:
            yield broken(DISK, one.name, GrailError(f"the folder cannot be looked at: {error.strerror}", where=str(one.path)))
            continue
        if not place.is_dir():
            hint = f"move it away, or set {one.variable} to another folder"
            yield broken(
                DISK,
                one.name,
                ConfigurationError(f"a file stands where the folder of {one.variable} belongs", where=str(place), hint=hint),
            )
        elif not os.access(place, os.W_OK | os.X_OK):
            hint = f"give this user the right, or set {one.variable} to another folder"
            yield broken(DISK, one.name, ConfigurationError("this folder cannot be written", where=str(place), hint=hint))
        elif free < _FULL_GIB:
            hint = f"free some, or set {one.variable} to a folder on another device"
            yield broken(DISK, one.name, DiskFullError("no space is left on its device", where=str(one.path), hint=hint))
        elif free < one.needed_gib:
            told = f"{one.path}: {free:.1f} GiB are free, {one.needed_gib:.0f} are needed"
            yield warning(DISK, one.name, told, "free some, or move it")
        else:
            yield ok(DISK, one.name, f"{one.path}: {free:.1f} GiB free")


def require_folders(*asked: Folder) -> None:
    """For a command that writes after minutes of work. Raises ConfigurationError, DiskFullError."""
    refuse(folders(asked))


def budget(settings: Settings) -> Iterator[Finding]:
    """What the cache may take, against what its device has."""
    try:
        left = shutil.disk_usage(existing(settings.cache_dir)).free / GIB
    except OSError:
        return
    kept = settings.checkpoint_cache_gib
    if kept > left:
        told = f"checkpoints may take {kept} GiB, and the device has {left:.0f} free: the oldest go when it is full"
        yield warning(DISK, "checkpoint cache", told, "lower GRAIL_CHECKPOINT_CACHE_GIB")


def existing(path: Path) -> Path:
    """The path, or the nearest above it that is there."""
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), Path("/"))
