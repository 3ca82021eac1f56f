"""The installed distribution that an adapted environment comes from, and what of it stands in the spec.

The spec binds three things: the version, a digest of the package's own files, and the versions of what it asks for directly
(`verifiers` among them). What those ask for in turn is not bound. A participant whose installation differs is refused with
the line that mends it; nothing is installed by itself, and nothing of the package is imported here. Whether its code may run
here at all is asked before (`consent`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.adapters.installed_files import NoModuleError, OwnModule, digest_of, own_modules

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_WANTED = re.compile(r"\s*([A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class ForeignPackage:
    """`modules` are its own, `requires` versions by distribution, of what it asks for directly and of the library."""

    name: str
    version: str
    modules: tuple[OwnModule, ...]
    digest: str
    requires: Mapping[str, str]

    def parameters(self) -> dict[str, object]:
        """What the spec says of it."""
        return {
            "package": self.name,
            "package_version": self.version,
            "package_digest": self.digest,
            "requires": dict(self.requires),
        }


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_name(name: object) -> bool:
    """Whether a distribution can have that name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def wanted_by(found: Distribution, *, extras: bool = False) -> list[str]:
    """What a distribution asks for, by normal name, in order; with `extras` also what only those of its ask for."""
    asked = [line for line in found.requires or [] if extras or "extra ==" not in line]
    names = {normal(match[1]) for line in asked if (match := _WANTED.match(line))}
    return sorted(names)


def installed(name: str) -> Distribution | None:
    """The distribution of that name, if it is installed."""
    if not is_name(name):
        return None
    try:
        return distribution(name)
    except (PackageNotFoundError, ValueError):
        return None


def find_package(
    name: str, *, version: str = "", digest: str = "", requires: Mapping[str, str] | None = None, library: str = ""
) -> ForeignPackage:
    """What is installed under that name, if it is what is asked for; what is not given is not compared.

    `library` is bound with the package, whether that asks for it always, in an extra or not at all.

    Raises:
        ConfigurationError: no distribution can have that name.
        EnvironmentUnavailableError: it is not installed, or another version, digest or requirement is; the hint says what to
            install.
    """
    if not is_name(name):
        raise ConfigurationError(
            f"{name!r} is no name of a package", where="package", hint="write --param package=NAME, as `pip install` takes it"
        )
    if type(version) is not str or type(digest) is not str or len(version) > 100 or len(digest) > 100:
        raise ConfigurationError("no version or no digest", where="package_version, package_digest", hint="write them as texts")
    wished = _requirements(requires)
    found = installed(name)
    install = f"pip install '{name}=={version}'" if version else f"pip install {name}"
    if found is None:
        raise EnvironmentUnavailableError(f"the package {name} is not installed", where=name, hint=install)
    package = _read(name, found, library)
    if version and package.version != version:
        raise EnvironmentUnavailableError(
            f"the package {name} is installed in version {package.version}, the network's is {version}",
            where=name,
            hint=install,
        )
    for other, wanted in sorted(wished.items()):
        if package.requires.get(other) != wanted:
            have = package.requires.get(other) or "not what it asks for, or not installed"
            raise EnvironmentUnavailableError(
                f"{name} is judged with {other} {wanted} in the network; here it is {have}",
                where=name,
                hint=f"pip install '{other}=={wanted}'",
            )
    if digest and package.digest != digest:
        raise EnvironmentUnavailableError(
            f"the files of {name} {package.version} are not the network's: digest {package.digest[:16]}…, not {digest[:16]}…",
            where=", ".join(module.name for module in package.modules),
            hint=f"pip install --force-reinstall --no-deps '{name}=={package.version}', from where the network has it",
        )
    return package


def _requirements(given: object) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or len(given) > 200:
        raise ConfigurationError("requires is no object", where="requires", hint='write {"distribution": "version"}')
    if not all(is_name(name) and isinstance(version, str) and len(version) <= 100 for name, version in given.items()):
        raise ConfigurationError("requires names no versions", where="requires", hint='write {"distribution": "version"}')
    return {str(name): str(version) for name, version in given.items()}


def _read(name: str, found: Distribution, library: str) -> ForeignPackage:
    try:
        modules = own_modules(found, normal(name).replace("-", "_"))
        digest = digest_of(modules)
    except (NoModuleError, OSError) as error:
        raise EnvironmentUnavailableError(
            f"the package {name} cannot be read: {error}", where=name, hint=f"pip install --force-reinstall {name}"
        ) from error
    requires = {}
    for other in sorted({*wanted_by(found), *filter(None, [library])}):
        version = installed(other)
        if version is not None:
            requires[other] = version.version
    return ForeignPackage(normal(name), found.version, modules, digest, requires)
