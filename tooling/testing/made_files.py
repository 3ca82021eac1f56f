"""Files of the repository that code makes (`hatch run settings`, `hatch run monitoring`): written, or held against the code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MadeFiles = Callable[[Path], Iterable[tuple[Path, str]]]
"""Of a repository's root: each file's path below it, and what its text should be."""


@dataclass(frozen=True)
class Maker:
    """One module that makes files. `made_of` and `command` are said of a file that differs."""

    module: str
    about: str
    files: MadeFiles
    made_of: str
    command: str

    def main(self, arguments: list[str] | None, root: Path) -> int:
        """Write them all, or with --check none: 1 if one differs."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", description=self.about.partition("\n")[0])
        parser.add_argument("--check", action="store_true", help=f"write nothing; exit 1 if a file differs from {self.made_of}")
        check = parser.parse_args(arguments).check
        differing = []
        for path, text in self.files(root):
            place = root / path
            if not check:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
            elif not place.is_file() or place.read_text(encoding="utf-8") != text:
                differing.append(path)
        for path in differing:
            print(f"{path} differs from {self.made_of}: {self.command}", file=sys.stderr)
        return 1 if differing else 0
