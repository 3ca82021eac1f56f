"""How a package's own modules are imported in its process: from the files that the digest covers, and from nowhere else.

A finder in front of all others answers for the package's modules. A folder earlier on the path, a compiled file beside
the source, and a module that the package happens to import are none of its own, and no entry can name them. Standard library
only.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

from grail_envs.adapters.installed_files import LEFT_OUT, OwnModule, own_file


class NotOwnError(Exception):
    """What was named is not the package's own. `hint` says what may be named."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class _SourceLoader(SourceFileLoader):
    """Compiles the source at every import: a compiled file beside it may hold something else.

    `instead`: modules that the source's own imports find in the place of others of their names.
    """

    instead: Mapping[str, ModuleType] = MappingProxyType({})

    def exec_module(self, module: ModuleType) -> None:
        def imported(name: str, space: Any = None, names: Any = None, wanted: Any = (), level: int = 0) -> Any:
            found = builtins.__import__(name, space, names, wanted, level)
            return found if level else _SourceLoader.instead.get(name, found)

        vars(module)["__builtins__"] = vars(builtins) | {"__import__": imported}
        super().exec_module(module)

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


_KINDS: tuple[tuple[Any, list[str]], ...] = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES))


class OwnModules(importlib.abc.MetaPathFinder):
    """The modules of one package; `sys.meta_path` holds it first."""

    def __init__(self, modules: Sequence[OwnModule]) -> None:
        self.modules = tuple(modules)

    def owns(self, name: str) -> bool:
        """Whether a module of that name is, or would be, the package's own."""
        return any(name == module.name or name.startswith(f"{module.name}.") for module in self.modules)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self.owns(fullname):
            return None
        beside = [str(Path(module.path).parent) for module in self.modules if fullname == module.name]
        for folder in beside or [folder for folder in path or () if self._is_inside(folder)]:
            found = FileFinder(folder, *_KINDS).find_spec(fullname)
            if LEFT_OUT.intersection(fullname.split(".")):
                break  # no file of the digest
            places = [found.origin] if found and found.origin else list(found.submodule_search_locations or ()) if found else []
            if found is not None and places and all(self._is_inside(place) for place in places):
                return found
        raise ModuleNotFoundError(f"the package has no module {fullname} among its files", name=fullname)

    def imported(self, name: str) -> ModuleType:
        """A module of the package, imported.

        Raises:
            NotOwnError: it is not one of the package's own; it was not imported.
        """
        expected = own_file(self.modules, name)
        if expected is None:
            known = ", ".join(module.name for module in self.modules[:8])
            raise NotOwnError(f"{name} is no module of the package's own", f"its modules are {known}, and what is in them")
        module = importlib.import_module(name)
        file = getattr(getattr(module, "__spec__", None), "origin", None)
        if file is None or Path(file) != expected:
            raise NotOwnError(f"{name} was already there, from {file or 'no file'}", "its modules need names of their own")
        return module

    def defines(self, value: Any) -> bool:
        """Whether a class or a function was defined in a module of the package."""
        inner = value.__func__ if isinstance(value, MethodType) else value
        home = getattr(inner, "__module__", None)
        return isinstance(inner, type | FunctionType) and isinstance(home, str) and self.owns(home) and home in sys.modules

    def attribute(self, name: str, module: str) -> Any:
        """The class or function that `module:attribute` names; without a colon, an attribute of `module`.

        Raises:
            NotOwnError: it is not there, or was not defined in the package (an imported name is not its own).
        """
        place, colon, inner = name.rpartition(":")
        found: Any = self.imported(place if colon else module)
        for part in inner.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise NotOwnError(f"there is no {part!r} in {name!r}", "write module:attribute") from None
            if not self.defines(found):
                raise NotOwnError(
                    f"{part!r} of {name!r} is not a class or function that the package defines",
                    "name one of its own, by its module",
                )
        return found

    def _is_inside(self, folder: str) -> bool:
        return any(folder == module.path or folder.startswith(f"{module.path}/") for module in self.modules)


def put_first(modules: Sequence[OwnModule], instead: Mapping[str, ModuleType]) -> OwnModules:
    """From now on the modules are imported from these files alone, and `instead` is what they import by those names."""
    _SourceLoader.instead = instead
    own = OwnModules(modules)
    sys.meta_path.insert(0, own)
    importlib.invalidate_caches()
    return own
