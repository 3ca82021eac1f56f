"""Intermediate results by the digest of their recipe: a step that was made once is not made again.

A recipe is a canonical-JSON value that names everything the result depends on, the digests of earlier artefacts included.
A result is a folder, built beside its final place and moved there in one step, so a killed run leaves no half results.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from grail_core.protocol.encoding import canonical_json

Recipe = Mapping[str, str | int | bool | list[str] | list[int]]


@dataclass(frozen=True)
class Artefact:
    """A finished result: where it lies, and the digest that later recipes name."""

    folder: Path
    digest: str


class Artefacts:
    """Results under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, name: str, recipe: Recipe, build: Callable[[Path], None]) -> Artefact:
        """The artefact of this recipe; `build` fills an empty folder where it does not exist yet."""
        digest = hashlib.sha256(canonical_json({"artefact": name, "recipe": dict(recipe)})).hexdigest()[:32]
        place = self.folder / f"{name}-{digest}"
        if not place.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            workplace = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))
            try:
                build(workplace)
                os.replace(workplace, place)
            except OSError:
                if not place.is_dir():  # somebody else finished the same artefact first: use theirs
                    raise
            finally:
                shutil.rmtree(workplace, ignore_errors=True)
        return Artefact(place, digest)


def default_folder() -> Path:
    """Below the project's cache folder (GRAIL_CACHE_DIR, else XDG_CACHE_HOME or ~/.cache)."""
    own = os.environ.get("GRAIL_CACHE_DIR")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "grail"
    return base / "power"
