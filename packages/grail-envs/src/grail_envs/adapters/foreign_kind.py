"""The process that holds a foreign package, as the host asks for it: which package, which of its modules, which arguments.

Everything here is looked at before anything of the package is imported: the operator's consent, the arguments' size and
depth, and that each module that a parameter names is one of the package's own files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.adapters.consent import require_consent
from grail_envs.adapters.installed_files import own_file
from grail_envs.adapters.package import ForeignPackage, find_package, installed, is_name
from grail_envs.data_sets import DATA_DIR_VARIABLE
from grail_envs.sandbox.pool import Kind

MAX_ARGUMENTS: Final = 65536
"""Characters of JSON."""

_START_S: Final = 300.0


def package_of(
    package: str, package_version: str, package_digest: str, requires: Mapping[str, str] | None, *, library: str = ""
) -> ForeignPackage:
    """The installed package that a spec names, with the library of the form, if its code may run here.

    Raises:
        ConfigurationError, EnvironmentUnavailableError: as `require_consent` and `find_package`, or the library is not there.
    """
    if is_name(package):
        require_consent(package)
    if library and installed(library) is None:
        raise EnvironmentUnavailableError(
            f"the library {library} is not installed", where=package, hint=f"pip install 'grail-envs[{library}]'"
        )
    return find_package(package, version=package_version, digest=package_digest, requires=requires, library=library)


def arguments_of(given: Mapping[str, Any] | str) -> dict[str, Any]:
    """Arguments as a command line or a spec says them.

    Raises:
        ConfigurationError: they are no JSON object, a long or deep one, or name a folder.
    """
    try:
        if isinstance(given, str) and len(given) > MAX_ARGUMENTS:
            raise ValueError("too long")
        found = json.loads(given) if isinstance(given, str) else dict(given)
        text = json.dumps(found, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f"the arguments are no JSON: {str(error)[:200]}", where="arguments", hint="--param arguments='{\"name\": value}'"
        ) from error
    if not isinstance(found, dict) or len(text) > MAX_ARGUMENTS or not all(isinstance(name, str) for name in found):
        raise ConfigurationError("the arguments are no JSON object", where="arguments", hint='write {"name": value}')
    if _deeper_than(16, found):
        raise ConfigurationError("the arguments are nested too deeply", where="arguments", hint="at most 16 levels")
    if "data_dir" in found:
        raise ConfigurationError(
            "a folder is nothing that a network can say",
            where="arguments",
            hint=f"set {DATA_DIR_VARIABLE} or --data-dir: it reaches a package that takes data_dir, and is not in the spec",
        )
    return found


def _deeper_than(levels: int, value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (levels == 0 or any(_deeper_than(levels - 1, one) for one in inner))


def kind_of(
    form: str,
    package: ForeignPackage,
    own: Mapping[str, Any],
    arguments: Mapping[str, Any],
    most_rows: int,
    data_dir: str | os.PathLike[str] | None,
) -> Kind:
    """The processes that hold the package, with everything that they are told.

    Raises:
        EnvironmentUnavailableError: a module that a parameter names is none of the package's own.
    """
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    folder = str(Path(folder).resolve()) if folder else ""
    options = {
        "form": form,
        "modules": [list(module) for module in package.modules],
        "module": main_module(package, own),
        "digest": package.digest,
        "arguments": dict(arguments),
        "most_rows": most_rows,
        "data_dir": folder,
        **{name: value for name, value in own.items() if name != "module"},
    }
    text = json.dumps(options, sort_keys=True)
    name = f"{form} {package.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    readable = (*((folder,) if folder else ()), *_apart(package))
    return Kind(name, ("json", "asyncio"), foreign=text, site=_site(package), readable=readable, start_s=_START_S)


def _site(package: ForeignPackage) -> tuple[str, ...]:
    """Where the package's process may import from: where wheels are installed, and where editable ones of what it asks for lie.

    The folder of an editable package itself is none: what lies beside its module is not in the digest.
    """
    folders = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages") and os.path.isdir(path)]
    folders += _folders_of_wheel(package)
    for module in (*(name.replace("-", "_") for name in package.requires), "grail_core", "grail_envs"):
        found = importlib.util.find_spec(module) if module.isidentifier() else None
        if found is not None and found.submodule_search_locations:
            folders.append(str(Path(next(iter(found.submodule_search_locations))).parent))
        elif found is not None and found.origin and os.path.isfile(found.origin):
            folders.append(str(Path(found.origin).parent))
    return tuple(dict.fromkeys(folders))


def _folders_of_wheel(package: ForeignPackage) -> list[str]:
    """Where the list of the package's files counts from."""
    found = installed(package.name)
    return [] if found is None else [str(Path(str(found.locate_file(""))).absolute())]


def _apart(package: ForeignPackage) -> list[str]:
    """Folders of modules that lie elsewhere: they are imported by their own finder, and have to be readable."""
    wheel = _folders_of_wheel(package)
    paths = [Path(module.path) for module in package.modules if _import_folder(Path(module.path), module.name) not in wheel]
    return [str(path if path.is_dir() else path.parent) for path in paths]


def _import_folder(root: Path, name: str) -> str:
    """Where a module would be imported from: as many folders up as its name has parts."""
    return str(root.parents[name.count(".")])


def main_module(package: ForeignPackage, own: Mapping[str, Any]) -> str:
    """The module that a name without a colon is looked for in, and every module that a parameter names, looked at.

    Raises:
        EnvironmentUnavailableError: one is not among the package's own files; nothing was imported.
    """
    known = [module.name for module in package.modules]
    default = package.name.replace("-", "_")
    main = str(own.get("module") or (default if default in known or len(known) != 1 else known[0]))
    named = [str(own[name]).rpartition(":") for name in ("entry", "action") if own.get(name)]
    for wanted in dict.fromkeys([place for place, colon, _ in named if colon] or [main]):
        if own_file(package.modules, wanted) is None:
            raise EnvironmentUnavailableError(
                f"{wanted} is no module of the package {package.name}",
                where=f"{package.name} {package.version}",
                hint=f"its own modules are {', '.join(known[:8])}, and what is in them: {_naming(own)}",
            )
    return main


def _naming(own: Mapping[str, Any]) -> str:
    return "--param module=NAME" if "module" in own else "--param entry=module:Class"
