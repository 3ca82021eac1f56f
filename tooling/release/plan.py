"""What each package would be released as: its changelog and commits since its last tag, a proposed bump, and who must follow.

The rule for the proposal, which is semantic versioning with its zero (docs/releases.md): while the major version is 0 a minor
version may break and a patch may not; from 1 on a major may break, a minor adds, a patch mends.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from tooling.release.history import is_released, last_tag, subjects
from tooling.release.packages import PARTS, Package, admits, dependents, followed, raised, read_packages

_SUBJECT = re.compile(r"^(?P<kind>[a-z]+)(?:\([^)]*\))?(?P<breaking>!?): ")
SUBJECTS_SHOWN = 8


@dataclass(frozen=True)
class Follower:
    """A package whose requirement does not admit the proposed version, and what it has to become."""

    package: str
    requires: str
    becomes: str


@dataclass(frozen=True)
class Proposal:
    """One package. `part` is `None` where nothing is to be released: no entry in the changelog since the last release."""

    package: str
    version: str
    since: str | None
    commits: tuple[str, ...]
    entries: tuple[str, ...]
    breaking: tuple[str, ...]
    part: str | None
    next_version: str | None
    followers: tuple[Follower, ...]
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(root: Path) -> tuple[Proposal, ...]:
    """The proposals for a source tree, in the order in which packages are built on each other."""
    packages = read_packages(root)
    return tuple(_propose(root, packages, package) for package in packages.values())


def _propose(root: Path, packages: dict[str, Package], package: Package) -> Proposal:
    since = last_tag(root, package.name)
    commits = subjects(root, package.folder, since)
    newest = package.changelog.newest
    entries = newest.entries if newest.date is None else ()
    breaking = (*(newest.breaking if newest.date is None else ()), *(one for one in commits if _breaks(one)))
    released = is_released(root, package.name, package.version)
    part = None
    if entries:
        part = proposed_part(package.version, commits, breaking=bool(breaking)) if released else "release"
        part = _as_said(package.version, part, newest.version)
    version = raised(package.version, part) if part else None
    followers: tuple[Follower, ...] = ()
    if version is not None:
        asking = dependents(packages, package.name).items()
        followers = tuple(Follower(name, need, followed(need, version)) for name, need in asking if not admits(need, version))
    problem = f"{len(commits)} commits and no line in the changelog" if commits and not entries else None
    return Proposal(package.name, package.version, since, commits, entries, breaking, part, version, followers, problem)


def proposed_part(version: str, commits: tuple[str, ...], *, breaking: bool) -> str:
    """Which part a released version is raised by."""
    before_one = version.startswith("0.")
    if breaking:
        return "minor" if before_one else "major"
    adds = any((found := _SUBJECT.match(subject)) and found["kind"] == "feat" for subject in commits)
    return "minor" if adds and not before_one else "patch"


def _as_said(version: str, part: str, said: str) -> str:
    """The part that makes at least the version that the changelog's heading says."""
    later = PARTS[PARTS.index(part) :]
    return next((one for one in later if Version(raised(version, one)) >= Version(said)), part)


def _breaks(subject: str) -> bool:
    found = _SUBJECT.match(subject)
    return found is not None and found["breaking"] == "!"


def told(proposals: tuple[Proposal, ...]) -> str:
    """The plan for a person."""
    lines = []
    for one in proposals:
        goal = f"{one.part}: {one.version} → {one.next_version}" if one.part else "nothing to release"
        if one.part == "release":
            goal = f"release of {one.version}, which was never released"
        lines.append(f"{one.package}  {goal}")
        lines.append(
            f"  since {one.since or 'the beginning (no tag)'}: {len(one.commits)} commits, {len(one.entries)} changelog entries"
        )
        lines += [f"  breaking: {text[:140]}" for text in one.breaking[:SUBJECTS_SHOWN]]
        lines += [f"  must follow: {f.package} asks for {f.requires}, has to ask for {f.becomes}" for f in one.followers]
        lines += [f"  problem: {one.problem}"] if one.problem else []
    return "\n".join(lines)
