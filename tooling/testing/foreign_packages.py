"""A package of somebody else, written as a wheel is installed: modules, METADATA, and RECORD, the list of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_package(folder: Path, name: str, files: Mapping[str, str], release: str = "1.2", requires: str = "click>=8") -> None:
    """Into a folder that stands on the path; `files` by their names there. What is written again replaces what was there."""
    about = folder / f"{name.replace('-', '_')}-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    for relative, text in files.items():
        place = folder / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\nRequires-Dist: {requires}\n")
    (about / "RECORD").write_text("".join(f"{relative},,\n" for relative in (*files, f"{about.name}/METADATA")))
