"""The files of an installed package: which modules are its own, and their digest.

A module is the package's own if the list of its files (RECORD) holds it, or if it lies in the one folder of an editable
install. Nothing is imported to find that out. The digest covers every file below each own module but compiled caches, which
`own_modules` never runs; it is the same for a wheel and for an editable folder of the same sources. Both sides compute it:
the host for the spec, and the process that loads the package. Standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

MAX_FILES = 20_000
MAX_BYTES = 512 * 2**20
MAX_DEPTH = 40
LEFT_OUT = frozenset({"__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
"""Folders that the digest does not hold, and from which nothing is imported."""

_CODE = tuple(importlib.machinery.SOURCE_SUFFIXES + importlib.machinery.EXTENSION_SUFFIXES)


class NoModuleError(Exception):
    """A module is not there, is not the package's own, or has more files than are read."""


class OwnModule(NamedTuple):
    """A module of the package: its dotted name, and its folder or its one file. Everything below a folder is its own too."""

    name: str
    path: str


def own_modules(found: Distribution, main: str) -> tuple[OwnModule, ...]:
    """The topmost modules of an installed distribution, by its own list of files; `main` is the one an editable install has.

    A folder without `__init__` is no module of anybody's, so what lies in it is looked at by itself.

    Raises:
        NoModuleError: it has no list of files, or no module in it, or one with the name of a module of Python's or of ours.
    """
    editable = _editable_folder(found)
    if editable is not None:
        modules = _of_folder(editable, main)
    elif found.files is None or found.read_text("RECORD") is None:
        raise NoModuleError("it was installed without a list of its files (RECORD)")
    else:
        modules = _of_record(found)
    if not modules:
        raise NoModuleError("there is no module of its own in the list of its files")
    for module in modules:
        top = module.name.partition(".")[0]
        if top in sys.stdlib_module_names or top == "verifiers" or (top.startswith("grail_") and main != top):
            raise NoModuleError(f"it brings a module {top}, which is not its own to bring")
    return modules


def own_file(modules: Sequence[OwnModule], dotted: str) -> Path | None:
    """The file of a module by its name, if it is one of the package's own. Nothing is imported."""
    for module in modules:
        if dotted != module.name and not dotted.startswith(f"{module.name}."):
            continue
        inner = dotted[len(module.name) + 1 :].split(".") if dotted != module.name else []
        if not all(part.isidentifier() and part not in LEFT_OUT for part in inner):
            return None
        root = Path(module.path)
        if root.is_file():
            return None if inner else root
        place = root.joinpath(*inner)
        candidates = [place / f"__init__{suffix}" for suffix in _CODE]
        candidates += [place.with_name(place.name + suffix) for suffix in _CODE] if inner else []
        return next((path for path in candidates if path.is_file()), None)
    return None


def sources_of(module: OwnModule) -> list[tuple[str, Path]]:
    """Every file of a module by its name within it, in the order of the names.

    Raises:
        NoModuleError: it is not there, or has more than `MAX_FILES`.
    """
    root = Path(module.path)
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise NoModuleError(f"there is no module {module.name}")
    found: list[tuple[str, Path]] = []
    for path in _walk(root, 0):
        found.append((path.relative_to(root).as_posix(), path))
        if len(found) > MAX_FILES:
            raise NoModuleError(f"the module {module.name} has more than {MAX_FILES} files")
    return sorted(found)


def digest_of(modules: Sequence[OwnModule]) -> str:
    """Hex SHA-256 over the names and contents of all files of the modules.

    Raises:
        NoModuleError: as `sources_of`, or more than `MAX_BYTES` together.
    """
    digest, size = hashlib.sha256(), 0
    for module in sorted(modules):
        for name, path in sources_of(module):
            size += path.stat().st_size
            if size > MAX_BYTES:
                raise NoModuleError(f"its modules have more than {MAX_BYTES} bytes")
            raw = path.read_bytes()
            label = f"{module.name}/{name}".encode("utf-8", "surrogateescape")
            digest.update(struct.pack(">QQ", len(label), len(raw)) + label + raw)
    return digest.hexdigest()


def _of_record(found: Distribution) -> tuple[OwnModule, ...]:
    files = [PurePosixPath(str(file)) for file in found.files or []]
    inside = [path for path in files if not _is_none_of_its_modules(path)]
    packages = {path.parent for path in inside if path.name in {f"__init__{suffix}" for suffix in _CODE}}
    modules: dict[str, PurePosixPath] = {}
    for path in inside:
        above = [folder for folder in reversed(path.parents) if folder in packages]
        root = above[0] if above else path if path.name.endswith(_CODE) else None
        if root is not None:
            parts = [*root.parts[:-1], root.name if above else root.name.partition(".")[0]]
            if all(part.isidentifier() for part in parts):
                modules[str(root)] = root
    return tuple(
        sorted(
            OwnModule(".".join([*root.parts[:-1], root.name.partition(".")[0]]), str(found.locate_file(str(root))))
            for root in modules.values()
        )
    )


def _is_none_of_its_modules(path: PurePosixPath) -> bool:
    first = path.parts[0] if path.parts else ".."
    outside = path.is_absolute() or ".." in path.parts or "__pycache__" in path.parts
    return outside or first.endswith((".dist-info", ".data", ".egg-info", ".pth")) or first.startswith("__editable__")


def _editable_folder(found: Distribution) -> Path | None:
    """Where the sources of an editable install lie, as pip wrote it down (PEP 610)."""
    try:
        said = json.loads(found.read_text("direct_url.json") or "{}")
        address = urlsplit(said["url"]) if said.get("dir_info", {}).get("editable") is True else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return Path(unquote(address.path)) if address is not None and address.scheme == "file" else None


def _of_folder(folder: Path, main: str) -> tuple[OwnModule, ...]:
    for place in (folder, folder / "src"):
        if (place / main / "__init__.py").is_file():
            return (OwnModule(main, str(place / main)),)
        if (place / f"{main}.py").is_file():
            return (OwnModule(main, str(place / f"{main}.py")),)
    return ()


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if depth > MAX_DEPTH:
        raise NoModuleError(f"its folders are more than {MAX_DEPTH} deep")
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if entry.name in LEFT_OUT:
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), depth + 1)
        elif entry.is_file():
            yield Path(entry.path)
