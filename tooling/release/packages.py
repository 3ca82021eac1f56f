"""The five packages as their sources say it: version, where it stands, what they ask of each other, and their changelogs.

A version stands twice, in `pyproject.toml` and in the module's `__version__`; the two are one or nothing is released. Among
each other packages ask for `~=0.Y.Z`, which admits that patch and later ones of 0.Y and nothing else; from 1.0 on for `~=X.Y`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tooling.release.changelog import Changelog, read_changelog
from tooling.release.faults import ReleaseRefusedError
from tooling.testing.wheels import PACKAGES

PARTS = ("release", "patch", "minor", "major")
VERSION = re.compile(r"^(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})$")
MODULE_VERSION = re.compile(r'^__version__ = "([^"\n]+)"$', re.MULTILINE)
PROJECT_VERSION = re.compile(r'^version = "([^"\n]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """One of the five. `needs` are its requirements on the others, as written; `folder` is absolute."""

    name: str
    version: str
    folder: Path
    needs: tuple[str, ...]
    changelog: Changelog

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def project_file(self) -> Path:
        return self.folder / "pyproject.toml"

    @property
    def module_file(self) -> Path:
        return self.folder / "src" / self.module / "__init__.py"

    @property
    def changelog_file(self) -> Path:
        return self.folder / "CHANGELOG.md"


def read_packages(root: Path) -> dict[str, Package]:
    """The five packages of a source tree, in the order in which they are built on each other.

    Raises:
        ReleaseRefusedError: a file is missing or malformed, or versions contradict each other.
    """
    return {name: _read(root / "packages" / name, name) for name in PACKAGES}


def _read(folder: Path, name: str) -> Package:
    project_file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(project_file.read_text("utf-8"))["project"]
        module_text = (folder / "src" / name.replace("-", "_") / "__init__.py").read_text("utf-8")
        log = (folder / "CHANGELOG.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError) as error:
        raise ReleaseRefusedError(f"{name} cannot be read: {error}", where=str(folder)) from error
    version = str(project.get("version"))
    if project.get("name") != name or not VERSION.match(version):
        raise ReleaseRefusedError(f"{name} needs its name and a version X.Y.Z", where=str(project_file))
    said = MODULE_VERSION.findall(module_text)
    if said != [version]:
        raise ReleaseRefusedError(f"__version__ is {said}, the project's version {version}", where=str(folder))
    needs = tuple(text for text in project.get("dependencies", ()) if of_ours(text))
    changelog = read_changelog(log, name, str(folder / "CHANGELOG.md"))
    if Version(changelog.newest.version) < Version(version):
        raise ReleaseRefusedError(f"the changelog says nothing of {version}", where=str(folder / "CHANGELOG.md"))
    return Package(name, version, folder, needs, changelog)


def of_ours(text: str) -> bool:
    """Whether a requirement names one of the five. Raises ReleaseRefusedError where it is none."""
    try:
        return canonicalize_name(Requirement(text).name) in PACKAGES
    except InvalidRequirement as error:
        raise ReleaseRefusedError(f"a requirement cannot be read: {error}", where=text[:200]) from error


def admits(need: str, version: str) -> bool:
    """Whether a requirement on one of ours takes this version of it."""
    return Version(version) in Requirement(need).specifier


def raised(version: str, part: str) -> str:
    """The version after `version`; `release` is the same one, which was not released yet."""
    major, minor, patch = (int(number) for number in version.split("."))
    return {
        "release": version,
        "patch": f"{major}.{minor}.{patch + 1}",
        "minor": f"{major}.{minor + 1}.0",
        "major": f"{major + 1}.0.0",
    }[part]


def dependents(packages: dict[str, Package], name: str) -> dict[str, str]:
    """Who asks for `name`, and how: package to requirement."""
    found = {}
    for package in packages.values():
        for need in package.needs:
            if canonicalize_name(Requirement(need).name) == name:
                found[package.name] = need
    return found


def followed(need: str, version: str) -> str:
    """The requirement as it must be for `version`, extras kept: `~=0.Y.Z` before 1.0, `~=X.Y` after it."""
    asked = Requirement(need)
    extras = f"[{','.join(sorted(asked.extras))}]" if asked.extras else ""
    least = version if version.startswith("0.") else ".".join(version.split(".")[:2])
    return f"{asked.name}{extras}~={least}"
