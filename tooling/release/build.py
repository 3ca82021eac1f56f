"""Build the files of a release from a commit, so that the same commit gives the same bytes.

The sources are what git has of the commit, taken out into a folder of its own: nothing of the working tree that git ignores can
get into a wheel. Times in wheels and bills are the commit's (`SOURCE_DATE_EPOCH`). Bytes are equal where the builder is the
same, which `release.json` names.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from grail_core.disk import write_atomically
from tooling.release.bill import Described, make_bill, pins_of
from tooling.release.contents import CONSTRAINTS, FORMAT, RELEASE, SIGNATURE, SUMS, Names, Release, Released
from tooling.release.faults import ReleaseRefusedError
from tooling.release.history import PLAIN, Commit, changes_of_the_tree, head, own_environment, require_clean
from tooling.release.packages import Package, admits, dependents, of_ours, read_packages
from tooling.release.signing import sign
from tooling.release.wheel_archive import WheelArchive

_TIMEOUT_S = 600
_MAX_MODULE_BYTES = 256 * 2**10  # parsed it is a thousand times as large


def build_release(root: Path, out: Path, *, allow_dirty: bool = False, allow_unreleased: bool = False) -> Release:
    """Write every file of a release but the signature into `out`, which is empty or not there.

    `allow_dirty` builds the working tree as it is; `allow_unreleased` takes versions whose changelog has no date. Both are told
    in `release.json`, and `verify` refuses such a folder unless it is asked not to.

    Raises:
        ReleaseRefusedError: the tree, a changelog, versions among each other or the folder are not fit for it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReleaseRefusedError("the folder is not empty", where=str(out), hint="give one that is not there yet")
    clean = not changes_of_the_tree(root)
    if not allow_dirty:
        require_clean(root)
    commit = head(root)
    with contextlib.ExitStack() as stack:
        source = root if allow_dirty and not clean else stack.enter_context(_taken_out(root, commit))
        packages = read_packages(source)
        _require_ready(packages, allow_unreleased=allow_unreleased)
        out.mkdir(parents=True, exist_ok=True)
        return _written(source, packages, commit, out, clean=clean)


def _require_ready(packages: dict[str, Package], *, allow_unreleased: bool) -> None:
    for package in packages.values():
        newest = package.changelog.newest
        if not allow_unreleased and (newest.date is None or newest.version != package.version):
            raise ReleaseRefusedError(
                f"the changelog of {package.name} has {newest.version} unreleased",
                where=str(package.changelog_file.relative_to(package.folder.parents[1])),
                hint=f"hatch run release bump {package.name} release (or patch, minor, major)",
            )
        for other, need in dependents(packages, package.name).items():
            if not admits(need, package.version):
                raise ReleaseRefusedError(
                    f"{other} asks for {need}, this tree has {package.name} {package.version}",
                    where=str(packages[other].project_file),
                )


def _written(source: Path, packages: dict[str, Package], commit: Commit, out: Path, *, clean: bool) -> Release:
    pinned = _constraints(source, packages)
    (out / CONSTRAINTS).write_text(pinned, "utf-8")
    released = {}
    for package in packages.values():
        names = Names(package.name, package.version)
        _wheel(package, commit.epoch, out)
        data = (out / names.wheel).read_bytes()
        metadata = WheelArchive(names.wheel, data).metadata()
        described = Described(
            package.name,
            package.version,
            metadata.license_expression or "",
            names.wheel,
            data,
            tuple(str(one) for one in metadata.requires_dist or ()),
            pins_of(pinned),
            commit.epoch,
        )
        (out / names.bill).write_bytes(make_bill(described))
        (out / names.changelog).write_bytes(package.changelog_file.read_bytes())
        newest = package.changelog.newest
        released[package.name] = Released(
            version=package.version,
            unreleased=newest.date is None,
            wheel=names.wheel,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            bill=names.bill,
            changelog=names.changelog,
            requires=sorted(str(one) for one in metadata.requires_dist or () if of_ours(str(one))),
        )
    release = Release(
        format=FORMAT,
        commit=commit.digest,
        clean=clean,
        epoch=commit.epoch,
        protocol_version=protocol_version(
            (packages["grail-core"].folder / "src/grail_core/protocol/constants.py").read_bytes(),
            "grail_core/protocol/constants.py",
        ),
        built_with={"hatchling": importlib.metadata.version("hatchling"), "python": platform.python_version()},
        packages=released,
    )
    (out / RELEASE).write_bytes(release.to_bytes())
    (out / SUMS).write_bytes(sums(out))
    return release


def sums(folder: Path) -> bytes:
    """`SHA256SUMS` of a folder, in the form of `sha256sum`, itself and its signature left out."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (SUMS, SIGNATURE))
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names).encode()


def sign_folder(folder: Path, key: Path) -> Path:
    """Write the signature of a folder's `SHA256SUMS` beside it, return its place. Raises ReleaseRefusedError as `sign` does."""
    listed = folder / SUMS
    if not listed.is_file():
        raise ReleaseRefusedError(f"there is no {SUMS}", where=str(folder), hint=f"hatch run release build --out {folder}")
    if listed.read_bytes() != sums(folder):
        raise ReleaseRefusedError("the folder was changed since it was built", where=str(listed), hint="build it again")
    write_atomically(folder / SIGNATURE, sign(listed.read_bytes(), key))
    return folder / SIGNATURE


def protocol_version(module: bytes, where: str) -> int:
    """The number that `PROTOCOL_VERSION` is given in the protocol's constants; nothing of the module is run.

    Raises:
        ReleaseRefusedError: there is none.
    """
    if len(module) > _MAX_MODULE_BYTES:
        raise ReleaseRefusedError(f"it is larger than {_MAX_MODULE_BYTES:,} bytes", where=where)
    try:
        for node in ast.parse(module).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "PROTOCOL_VERSION":
                value = ast.literal_eval(node.value) if node.value else None
                if type(value) is int:
                    return value
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ReleaseRefusedError(f"it cannot be read: {str(error)[:200]}", where=where) from error
    raise ReleaseRefusedError("it names no protocol version", where=where)


def _wheel(package: Package, epoch: int, out: Path) -> None:
    passed = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out.absolute())],
        cwd=package.folder,
        timeout=_TIMEOUT_S,
        env=passed | {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ReleaseRefusedError(f"{package.name} does not build: {done.stderr[-1500:]}", where=str(package.folder))


def _constraints(source: Path, packages: dict[str, Package]) -> str:
    ours = "".join(f"{package.name}=={package.version}\n" for package in packages.values())
    return (source / CONSTRAINTS).read_text("utf-8") + ours


@contextlib.contextmanager
def _taken_out(root: Path, commit: Commit) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="grail-release-") as scratch:
        done = subprocess.run(
            ["git", "-C", str(root), *PLAIN, "archive", "--format=tar", commit.digest],
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env=own_environment(),
        )
        if done.returncode != 0:
            raise ReleaseRefusedError(f"git archive: {done.stderr.decode(errors='replace')[:500]}", where=str(root))
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(scratch, filter="data")
        yield Path(scratch)
