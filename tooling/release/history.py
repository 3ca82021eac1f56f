"""What git knows of a tree: its commit and time, whether it is clean, tags of releases, and what changed since one.

A release is tagged `NAME-vX.Y.Z`, one tag a package. What a user's configuration of git changes of contents and output is taken
back (PLAIN), and nothing is written.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tooling.release.faults import ReleaseRefusedError

_TIMEOUT_S = 120
PLAIN = (
    *("-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.attributesFile=/dev/null", "-c", "tar.umask=0022"),
    *("-c", "log.showSignature=false", "-c", "status.showUntrackedFiles=normal", "-c", "column.ui=never"),
)
"""Options of git: line ends are the commit's, and what it prints is what is read here, whoever asks."""


@dataclass(frozen=True)
class Commit:
    """`digest`: 40 hexadecimal digits; `epoch`: seconds of its committer's time."""

    digest: str
    epoch: int


def git(root: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        ReleaseRefusedError: there is no git or no repository, or it refuses.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "--no-pager", *PLAIN, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            env=own_environment(),
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseRefusedError(
            f"git cannot be run: {error}", where=str(root), hint="a release is made from a clone"
        ) from error
    if done.returncode != 0:
        raise ReleaseRefusedError(f"git {arguments[0]}: {done.stderr.strip()[:500]}", where=str(root))
    return done.stdout


def own_environment() -> dict[str, str]:
    """The environment without what would have git look at another repository, or in another language."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}


def head(root: Path) -> Commit:
    """The commit that is checked out."""
    digest, epoch = git(root, "log", "-1", "--format=%H %ct").split()
    return Commit(digest, int(epoch))


def changes_of_the_tree(root: Path) -> tuple[str, ...]:
    """What is not committed, a line each as `git status` prints it; empty for a clean tree."""
    return tuple(git(root, "status", "--porcelain").splitlines())


def require_clean(root: Path) -> None:
    """Raises ReleaseRefusedError, naming up to five files, where something is not committed."""
    changed = changes_of_the_tree(root)
    if changed:
        raise ReleaseRefusedError(
            f"{len(changed)} files are not committed: {', '.join(line[3:] for line in changed[:5])}",
            where=str(root),
            hint="commit them, or give --allow-dirty",
        )


def tag_of(package: str, version: str) -> str:
    return f"{package}-v{version}"


def is_released(root: Path, package: str, version: str) -> bool:
    """Whether the tag of that release is there."""
    return bool(git(root, "tag", "--list", tag_of(package, version)).strip())


def last_tag(root: Path, package: str) -> str | None:
    """The newest tag of a package that this commit comes from."""
    found = git(root, "tag", "--list", f"{package}-v*", "--merged", "HEAD", "--sort=-version:refname").split()
    return found[0] if found else None


def subjects(root: Path, folder: Path, since: str | None) -> tuple[str, ...]:
    """Subjects of the commits that touched what goes into the wheel of `folder`, the newest first; `since`: a tag."""
    span = f"{since}..HEAD" if since else "HEAD"
    shipped = [str(folder / name) for name in ("src", "template", "pyproject.toml")]
    return tuple(git(root, "log", "--format=%s", span, "--", *shipped).splitlines())
