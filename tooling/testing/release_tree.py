"""A source tree to release in tests: this one's packages in a git repository of its own, with a commit and no other history."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from pathlib import Path

from tooling import REPOSITORY
from tooling.testing.wheels import PACKAGES

DATE = datetime.date(2026, 12, 1)
_IDENTITY = {
    "GIT_AUTHOR_NAME": "Someone",
    "GIT_AUTHOR_EMAIL": "someone@example.org",
    "GIT_COMMITTER_NAME": "Someone",
    "GIT_COMMITTER_EMAIL": "someone@example.org",
    "GIT_AUTHOR_DATE": "2026-12-01T12:00:00Z",
    "GIT_COMMITTER_DATE": "2026-12-01T12:00:00Z",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def make_tree(root: Path) -> Path:
    """What the wheels are built from, committed."""
    leave = shutil.ignore_patterns("__pycache__", "tests", "examples", "*.egg-info", ".*_cache")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / "packages" / package, root / "packages" / package, ignore=leave)
    shutil.copytree(REPOSITORY / "deploy", root / "deploy", ignore=shutil.ignore_patterns("settings.env", "wallets"))
    for name in ("constraints.txt", ".gitignore", "LICENSE"):
        shutil.copy(REPOSITORY / name, root / name)
    run_git(root, "init", "-q", "-b", "main")
    commit(root, "feat: everything")
    return root


def commit(root: Path, message: str) -> None:
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", message)


def run_git(root: Path, *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _IDENTITY
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, env=environment, timeout=60)
