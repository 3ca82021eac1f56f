"""A package's next version, written wherever it stands: project file, module, changelog, requirements of its dependents.

Dependents whose requirement does not admit the new version get the new requirement and a line in their changelog, and have to
be released with it. Everything is reckoned before the first file is written.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from grail_core.disk import write_atomically
from tooling.release.changelog import dated, with_entry
from tooling.release.faults import ReleaseRefusedError
from tooling.release.history import is_released, require_clean
from tooling.release.packages import (
    MODULE_VERSION,
    PROJECT_VERSION,
    Package,
    admits,
    dependents,
    followed,
    raised,
    read_packages,
)


@dataclass(frozen=True)
class Bumped:
    """What was done. `files` were written; `followers` are to be released too."""

    package: str
    before: str
    version: str
    files: tuple[Path, ...]
    followers: tuple[str, ...]


def bump(root: Path, name: str, part: str, date: datetime.date, *, allow_dirty: bool = False, floor: bool = False) -> Bumped:
    """Raise a version. `floor`: dependents ask for the new version at least, although their requirement admits it.

    Raises:
        ReleaseRefusedError: something is not committed, the changelog has nothing unreleased, `release` is asked for what was
            released, or another part of what was not.
    """
    if not allow_dirty:
        require_clean(root)
    packages = read_packages(root)
    package = packages[name]
    newest = package.changelog.newest
    if newest.date is not None:
        raise ReleaseRefusedError(
            f"the changelog of {name} has nothing unreleased",
            where=str(package.changelog_file),
            hint=f"## {raised(package.version, 'patch')} (unreleased) on top, and a line for what changed",
        )
    released = is_released(root, name, package.version)
    if part == "release" and released:
        raise ReleaseRefusedError(
            f"{name} {package.version} was released", where=str(package.folder), hint="patch, minor or major"
        )
    if part != "release" and not released:
        hint = f"hatch run release bump {name} release, or tag what was released: {name}-v{package.version}"
        raise ReleaseRefusedError(f"{name} {package.version} was never released", where=str(package.folder), hint=hint)
    version = raised(package.version, part)
    if Version(version) < Version(newest.version):
        where = f"{package.changelog_file}, line {newest.line}"
        raise ReleaseRefusedError(f"{part} makes {version}, and the changelog speaks of {newest.version}", where=where)
    texts = _own(package, version, date)
    followers = []
    for other, need in dependents(packages, name).items():
        if floor or not admits(need, version):
            texts |= _following(packages[other], need, followed(need, version), part)
            followers.append(other)
    changed = {path: text for path, text in texts.items() if path.read_text("utf-8") != text}
    for path, text in changed.items():
        write_atomically(path, text.encode())
    return Bumped(name, package.version, version, tuple(changed), tuple(followers))


def _own(package: Package, version: str, date: datetime.date) -> dict[Path, str]:
    log = package.changelog_file.read_text("utf-8")
    return {
        package.project_file: _replaced(PROJECT_VERSION, f'version = "{version}"', package.project_file),
        package.module_file: _replaced(MODULE_VERSION, f'__version__ = "{version}"', package.module_file),
        package.changelog_file: dated(log, package.changelog.newest, version, date),
        **_images(package, version),
    }


def _images(package: Package, version: str) -> dict[Path, str]:
    """What of `deploy/` names the image of this package, with the new version."""
    named = re.compile(rf"\b{re.escape(package.name)}:{re.escape(package.version)}(?![\w.])")
    found = {}
    for path in sorted((package.folder.parents[1] / "deploy").rglob("*")):
        if path.name in ("compose.yaml", "Containerfile"):
            text = path.read_text("utf-8")
            if named.search(text):
                found[path] = named.sub(f"{package.name}:{version}", text)
    return found


def _replaced(pattern: re.Pattern[str], by: str, path: Path) -> str:
    text, count = pattern.subn(by, path.read_text("utf-8"))
    if count != 1:
        raise ReleaseRefusedError(f"the version stands {count} times, once is right", where=str(path))
    return text


def _following(package: Package, need: str, becomes: str, part: str) -> dict[Path, str]:
    text = package.project_file.read_text("utf-8")
    if text.count(f'"{need}"') != 1:
        raise ReleaseRefusedError(f'"{need}" has to stand there once', where=str(package.project_file))
    log = package.changelog_file.read_text("utf-8")
    version = raised(package.version, "patch" if part == "release" else part)
    return {
        package.project_file: text.replace(f'"{need}"', f'"{becomes}"'),
        package.changelog_file: with_entry(log, package.changelog, version, f"Needs `{becomes}`."),
    }
