"""Which neighbouring versions of the wheels work together, tried: installed by pip, and writing and reading each other's files.

The tree is built as it stands, with grail-core a patch later, and with grail-core a minor version later (its dependents
following, as `bump` does it). Each mixture goes into an environment of its own, beside the third-party packages of this one.
What requirements admit has to install, agree with itself (`pip check`) and read what the others wrote; what they forbid pip has
to refuse, naming the two packages. That later versions keep to this is what the test holds them to: there is one version yet.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tooling import REPOSITORY
from tooling.release.bump import bump
from tooling.release.faults import NotTheReleaseError
from tooling.release.packages import raised, read_packages
from tooling.testing.release_tree import commit, make_tree, run_git
from tooling.testing.wheels import PACKAGES

_DAY = datetime.date(2026, 12, 1)
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True)
class Mixture:
    """Versions by package. `about` says which neighbours they are."""

    about: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Neighbours:
    """What was tried: mixtures that worked, each with whose files it read; and those that pip refused, with what it said."""

    worked: dict[str, tuple[str, ...]]
    refused: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def try_neighbours() -> Neighbours:
    """Build, install and try every mixture.

    Raises:
        NotTheReleaseError: one that is admitted does not work, or one that is forbidden is installed.
    """
    with tempfile.TemporaryDirectory(prefix="grail-neighbours-") as scratch:
        place = Path(scratch)
        now, patch, minor = _built(place)
        admitted = (
            Mixture("all as they are", now),
            Mixture("grail-core a patch later, roles as they are", now | {"grail-core": patch["grail-core"]}),
            Mixture("everything a minor version later", minor),
        )
        forbidden = (
            Mixture("grail-core a minor version later, roles as they are", now | {"grail-core": minor["grail-core"]}),
            Mixture("roles a minor version later, grail-core as it is", minor | {"grail-core": now["grail-core"]}),
        )
        pythons = [_installed(mixture, place) for mixture in admitted]
        made = list(zip(admitted, pythons, strict=True))
        files = {mixture.about: _exchanged(mixture, python, "write", place / f"by {mixture.about}") for mixture, python in made}
        for mixture, python in made:
            for folder in files.values():
                _exchanged(mixture, python, "read", folder)
        worked = {mixture.about: tuple(files) for mixture in admitted}
        refused = {mixture.about: _refused(mixture, place, pythons[0]) for mixture in forbidden}
    return Neighbours(worked, refused)


def _built(place: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The wheels of the three trees, in `place/wheels`. Returns the versions of each."""
    tree = make_tree(place / "tree")
    for package in PACKAGES:
        bump(tree, package, "release", _DAY, allow_dirty=True)
    commit(tree, "chore: release")
    for package, one in read_packages(tree).items():
        run_git(tree, "tag", f"{package}-v{one.version}")
    now = _wheels(tree, place)
    return now, _later(tree, place, "patch"), _later(tree, place, "minor")


def _later(tree: Path, place: Path, part: str) -> dict[str, str]:
    """grail-core raised by a part, and whoever has to follow."""
    changed = Path(shutil.copytree(tree, place / part))
    waiting = ["grail-core"]
    while waiting:
        name = waiting.pop(0)
        log = changed / "packages" / name / "CHANGELOG.md"
        package = read_packages(changed)[name]
        if package.changelog.newest.date is not None:
            later = raised(package.version, part)
            head, rest = log.read_text("utf-8").split("\n", 1)
            log.write_text(f"{head}\n\n## {later} (unreleased)\n\n- Later.\n{rest}", "utf-8")
        done = bump(changed, name, part, _DAY, allow_dirty=True)
        waiting += [one for one in done.followers if one not in waiting]
    return _wheels(changed, place)


def _wheels(tree: Path, place: Path) -> dict[str, str]:
    for package in PACKAGES:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "wheels")]
        subprocess.run(command, cwd=tree / "packages" / package, check=True, capture_output=True, timeout=120)
    return {name: package.version for name, package in read_packages(tree).items()}


def _pins(mixture: Mixture) -> list[str]:
    return [f"{name}=={version}" for name, version in mixture.versions.items()]


def _installed(mixture: Mixture, place: Path) -> Path:
    """An environment with the mixture; its interpreter."""
    folder = place / f"with {mixture.about}"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    inside = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (inside / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheels = ["--no-index", "--no-deps", "--ignore-installed", "--find-links", str(place / "wheels")]
    _run([*_PIP, "--python", str(python), "install", "-q", *wheels, *_pins(mixture)], mixture.about)
    checked = _run([*_PIP, "--python", str(python), "check"], mixture.about, may_fail=True)
    ours = [line for line in checked.stdout.splitlines() if line.startswith(tuple(PACKAGES))]
    if ours:
        raise NotTheReleaseError(f"pip check: {'; '.join(ours)[:1000]}", where=mixture.about)
    return python


def _exchanged(mixture: Mixture, python: Path, action: str, folder: Path) -> Path:
    """Write into, or read from, a folder with the mixture's own code."""
    folder.mkdir(exist_ok=True)
    done = _run(
        [str(python), "-m", "tooling.release.exchange", action, str(folder)], f"{mixture.about}, {action} {folder.name}"
    )
    told = json.loads(done.stdout)
    if told["versions"] != mixture.versions or told["imported"] != mixture.versions["grail-core"]:
        raise NotTheReleaseError(f"it ran with other versions: {done.stdout[:500]}", where=mixture.about)
    return folder


def _refused(mixture: Mixture, place: Path, python: Path) -> str:
    """What pip says to a mixture that requirements forbid."""
    install = ["install", "--dry-run", "--no-index", "--find-links", str(place / "wheels"), *_pins(mixture)]
    done = _run([*_PIP, "--python", str(python), *install], mixture.about, may_fail=True)
    said = done.stderr + done.stdout
    lines = [line for line in said.splitlines() if "depends on grail-core" in line or "requested grail-core" in line]
    if done.returncode == 0 or len(lines) < 2:
        raise NotTheReleaseError(f"pip does not refuse it as a conflict of the two: {said[-1500:]}", where=mixture.about)
    return "\n".join(lines)


def _run(command: list[str], where: str, *, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "GRAIL_"))}
    environment = kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    if done.returncode != 0 and not may_fail:
        raise NotTheReleaseError(f"{' '.join(command[1:4])}: {(done.stderr or done.stdout)[-2000:]}", where=where)
    return done


def told(tried: Neighbours) -> str:
    """What was tried, for a person."""
    lines = [f"works: {about}; read what was written by: {', '.join(read)}" for about, read in tried.worked.items()]
    for about, said in tried.refused.items():
        lines += [f"refused by pip: {about}", *(f"  {line.strip()}" for line in said.splitlines())]
    return "\n".join(lines)
