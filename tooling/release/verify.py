"""Whether a folder of files is the release that it says it is, from the files alone and a list of whose signatures count.

In this order, so that nothing is opened before it is signed for: the folder's names and sizes, the signature of `SHA256SUMS`,
every digest and that nothing more lies there, then `release.json`, and against it each wheel, bill and changelog. The folder
may be a stranger's: links, odd names, huge files and archives are refused before they are read, and each file is read once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tooling.release.bill import check_bill, pins_of
from tooling.release.build import protocol_version
from tooling.release.changelog import read_changelog
from tooling.release.contents import CONSTRAINTS, RELEASE, SIGNATURE, SUMS, Names, Release, Released, read_release
from tooling.release.faults import NotTheReleaseError, ReleaseRefusedError
from tooling.release.packages import admits, of_ours
from tooling.release.signing import MAX_SIGNATURE_BYTES, verify
from tooling.release.wheel_archive import WheelArchive
from tooling.testing.wheels import PACKAGES

MAX_ENTRIES = 64
MAX_BYTES = {SUMS: 64 * 2**10, SIGNATURE: MAX_SIGNATURE_BYTES, RELEASE: 256 * 2**10}
MAX_FILE_BYTES = 64 * 2**20  # of a wheel
MAX_TEXT_BYTES = 2 * 2**20  # of a bill, a changelog, the constraints: what reads them takes long over large ones
MAX_TOTAL_BYTES = 256 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_PROTOCOL = "grail_core/protocol/constants.py"


@dataclass(frozen=True)
class Verified:
    """A folder that holds. `signer` is `None` where the signature was not asked for."""

    release: Release
    signer: str | None
    files: int


def verify_folder(folder: Path, signers: Path | None, *, unreleased: bool = False, own_paths: tuple[str, ...] = ()) -> Verified:
    """Hold a folder against what it says. `signers` is a file of allowed signers; `None` leaves the signature out.

    `unreleased` takes versions without a date and a tree with changes too, as a dry run has them.

    Raises:
        NotTheReleaseError: it does not hold; every failure of the first stage that has one is named.
        ReleaseRefusedError: the signers' file or ssh-keygen are not there.
    """
    names = _names(folder)
    listed = _read(folder, SUMS)
    signer = _signer(folder, names, listed, signers)
    contents = _contents(folder, names, listed)
    release = read_release(contents[RELEASE])
    if sorted(release.packages) != sorted(PACKAGES):
        told = ", ".join(sorted(release.packages))[:500] or "no package"
        raise NotTheReleaseError(f"it names {told}, not the five", where=RELEASE)
    problems = _of_release(release, contents, unreleased=unreleased)
    for name, package in release.packages.items():
        problems += _of_package(name, package, release, contents, own_paths)
    if problems:
        raise NotTheReleaseError("\n".join(problems[:50]), where=str(folder), hint="do not install it")
    return Verified(release, signer, len(names))


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for _, entry in zip(range(MAX_ENTRIES + 1), entries, strict=False)]
    except OSError as error:
        raise NotTheReleaseError(f"it cannot be read: {error.strerror}", where=str(folder)) from error
    if len(names) > MAX_ENTRIES:
        raise NotTheReleaseError(f"it holds more than {MAX_ENTRIES} files", where=str(folder))
    for name in sorted(names):
        if not _NAME.fullmatch(name):
            raise NotTheReleaseError("a name that no file of a release has", where=name)
    for name in (SUMS, RELEASE, CONSTRAINTS):
        if name not in names:
            raise NotTheReleaseError(f"{name} is not there", where=str(folder))
    return sorted(names)


def _read(folder: Path, name: str) -> bytes:
    """A regular file, whole. Neither a link is followed nor a pipe waited for."""
    path = folder / name
    limit = MAX_BYTES.get(name, MAX_FILE_BYTES if name.endswith(".whl") else MAX_TEXT_BYTES)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotTheReleaseError(f"it cannot be opened as a file: {error.strerror}", where=path.name) from error
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotTheReleaseError("it is no regular file", where=path.name)
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise NotTheReleaseError(f"it is larger than {limit:,} bytes", where=path.name)
    return data


def _signer(folder: Path, names: list[str], listed: bytes, signers: Path | None) -> str | None:
    if signers is None:
        return None
    if SIGNATURE not in names:
        raise NotTheReleaseError(f"{SIGNATURE} is not there: nobody signed it", hint="do not install it")
    return verify(listed, _read(folder, SIGNATURE), signers)


def _contents(folder: Path, names: list[str], sums: bytes) -> dict[str, bytes]:
    """What the listed files hold, after it was held against the list."""
    listed: dict[str, str] = {}
    for line in sums.decode(errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None or found[2] in listed:
            raise NotTheReleaseError(f"a line that it cannot have: {line[:200]}", where=SUMS)
        listed[found[2]] = found[1]
    there = set(names) - {SUMS, SIGNATURE}
    problems = [f"{name} is there and not listed" for name in sorted(there - listed.keys())]
    problems += [f"{name} is listed and not there" for name in sorted(listed.keys() - there)]
    contents: dict[str, bytes] = {}
    for name in sorted(there & listed.keys()):
        contents[name] = _read(folder, name)
        if sum(map(len, contents.values())) > MAX_TOTAL_BYTES:
            raise NotTheReleaseError(f"it holds more than {MAX_TOTAL_BYTES:,} bytes", where=str(folder))
        if hashlib.sha256(contents[name]).hexdigest() != listed[name]:
            problems.append(f"{name} has another digest than is listed")
    if problems:
        raise NotTheReleaseError("\n".join(problems), where=SUMS, hint="do not install it; fetch it again")
    return contents


def _of_release(release: Release, contents: dict[str, bytes], *, unreleased: bool) -> list[str]:
    problems = []
    named = {RELEASE, CONSTRAINTS}
    for name, package in release.packages.items():
        names = Names(name, package.version)
        if (package.wheel, package.bill, package.changelog) != (names.wheel, names.bill, names.changelog):
            problems.append(f"{RELEASE} calls files of {name} otherwise than they are called")
        named |= {names.wheel, names.bill, names.changelog}
        if package.unreleased and not unreleased:
            problems.append(f"{name} {package.version} is not released: its changelog has no date")
    if not release.clean and not unreleased:
        problems.append("it was built from a tree with changes that no commit has")
    problems += [f"{name} belongs to no release" for name in sorted(contents.keys() - named)]
    problems += [f"{name} is not there" for name in sorted(named - contents.keys())]
    pins = pins_of(contents[CONSTRAINTS].decode(errors="replace"))
    for name, package in release.packages.items():
        if pins.get(canonicalize_name(name)) != package.version:
            problems.append(f"{CONSTRAINTS} does not pin {name}=={package.version}")
    return problems


def _of_package(
    name: str, package: Released, release: Release, contents: dict[str, bytes], own_paths: tuple[str, ...]
) -> list[str]:
    data = contents.get(package.wheel)
    if data is None or package.bill not in contents or package.changelog not in contents:
        return []  # named by `_of_release`
    problems = []
    if hashlib.sha256(data).hexdigest() != package.sha256 or len(data) != package.bytes:
        problems.append(f"{package.wheel} is not the wheel that {RELEASE} names")
    try:
        wheel = WheelArchive(package.wheel, data)
        problems += [f"{package.wheel}: {problem}" for problem in wheel.problems(own_paths)]
        problems += _of_metadata(name, package, release, wheel)
        _require_bill(package, contents[package.bill])
    except NotTheReleaseError as error:
        return [*problems, f"{error.where}: {error.what}"]
    return problems + _of_changelog(name, package, contents[package.changelog])


def _of_metadata(name: str, package: Released, release: Release, wheel: WheelArchive) -> list[str]:
    metadata = wheel.metadata()
    problems = []
    if (metadata.name, str(metadata.version)) != (name, package.version):
        problems.append(f"{package.wheel}: its metadata say {metadata.name} {metadata.version}")
    elsewhere = [str(one)[:200] for one in metadata.requires_dist or () if one.url is not None]
    problems += [f"{package.wheel}: it requires a file of its own choice: {one}" for one in elsewhere]
    requires = sorted(str(one) for one in metadata.requires_dist or () if of_ours(str(one)))
    if requires != package.requires:
        problems.append(f"{package.wheel}: it requires {requires}, {RELEASE} says {package.requires}")
    for need in requires:
        other = canonicalize_name(Requirement(need).name)
        if not admits(need, release.packages[other].version):
            problems.append(f"{name} requires {need}, and this release has {other} {release.packages[other].version}")
    if name == "grail-core":
        try:
            version = protocol_version(wheel.files.get(_PROTOCOL, b""), f"{package.wheel}: {_PROTOCOL}")
        except ReleaseRefusedError as error:
            return [*problems, f"{error.where}: {error.what}"]
        if version != release.protocol_version:
            problems.append(f"{package.wheel} speaks protocol version {version}, {RELEASE} says {release.protocol_version}")
    return problems


def _require_bill(package: Released, data: bytes) -> None:
    check_bill(data, package.bill)
    value: Any = json.loads(data)
    subject = value.get("metadata", {}).get("component", {})
    hashes = [one.get("content") for one in subject.get("hashes", ())]
    if subject.get("version") != package.version or hashes != [package.sha256]:
        raise NotTheReleaseError("it is the bill of materials of another wheel", where=package.bill)


def _of_changelog(name: str, package: Released, data: bytes) -> list[str]:
    try:
        log = read_changelog(data.decode(), name, package.changelog)
    except (ReleaseRefusedError, UnicodeDecodeError) as error:
        return [f"{package.changelog}: {str(error).splitlines()[0]}"]
    section, unreleased = log.section(package.version), log.newest.date is None
    if section is None:
        return [f"{package.changelog} says nothing of {package.version}"]
    if unreleased != package.unreleased or (section != log.newest and not unreleased):
        return [f"{package.changelog} and {RELEASE} contradict each other about whether {package.version} is released"]
    return []
