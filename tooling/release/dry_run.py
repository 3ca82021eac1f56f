"""A release from end to end in a folder that is thrown away: built twice and compared, signed with a throwaway key, verified.

What is left of it is what it says. Versions without a date are built too, and told.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tooling.release.build import build_release, sign_folder
from tooling.release.contents import Names
from tooling.release.faults import NotTheReleaseError, ReleaseRefusedError
from tooling.release.history import tag_of
from tooling.release.signing import NAMESPACE
from tooling.release.verify import verify_folder

SIGNER = "throwaway@example.org"


@dataclass(frozen=True)
class DryRun:
    """`uploads`: name to bytes, what an index would get; `beside`: what lies beside them for who verifies; `waits`: what a real
    one would be refused for.
    """

    commit: str
    protocol_version: int
    uploads: dict[str, int]
    beside: dict[str, int]
    tags: tuple[str, ...]
    waits: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def throwaway_key(folder: Path) -> tuple[Path, Path]:
    """A fresh key without a passphrase, and a file of allowed signers that has it alone.

    Raises:
        ReleaseRefusedError: ssh-keygen is not there.
    """
    key, signers = folder / "throwaway", folder / "allowed_signers"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", SIGNER, "-f", str(key)]
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise ReleaseRefusedError(f"ssh-keygen made no key: {error}", hint="install OpenSSH 8.2 or later") from error
    public = key.with_suffix(".pub").read_text().split()
    signers.write_text(f'{SIGNER} namespaces="{NAMESPACE}" {public[0]} {public[1]}\n')
    return key, signers


def dry_run(root: Path, *, allow_dirty: bool = False) -> DryRun:
    """All of a release, for nothing.

    Raises:
        ReleaseRefusedError: the tree is not fit for it.
        NotTheReleaseError: what was built does not verify, or a second build gives other bytes.
    """
    with tempfile.TemporaryDirectory(prefix="grail-dry-run-") as scratch:
        first, second = Path(scratch) / "release", Path(scratch) / "again"
        release = build_release(root, first, allow_dirty=allow_dirty, allow_unreleased=True)
        build_release(root, second, allow_dirty=allow_dirty, allow_unreleased=True)
        for path in sorted(first.iterdir()):
            if path.read_bytes() != (second / path.name).read_bytes():
                raise NotTheReleaseError("a second build has other bytes", where=path.name)
        key, signers = throwaway_key(Path(scratch))
        sign_folder(first, key)
        verify_folder(first, signers, unreleased=True, own_paths=(str(root), scratch))
        sizes = {path.name: path.stat().st_size for path in sorted(first.iterdir())}
    waits = [f"{name} {one.version} has no date in its changelog" for name, one in release.packages.items() if one.unreleased]
    waits += [] if release.clean else ["the tree has changes that no commit has"]
    wheels = {Names(name, one.version).wheel for name, one in release.packages.items()}
    return DryRun(
        release.commit,
        release.protocol_version,
        {name: size for name, size in sizes.items() if name in wheels},
        {name: size for name, size in sizes.items() if name not in wheels},
        tuple(tag_of(name, one.version) for name, one in release.packages.items()),
        tuple(waits),
    )


def told(run: DryRun) -> str:
    """What a dry run found, for a person."""
    lines = [
        f"commit {run.commit[:12]}, protocol version {run.protocol_version}: built twice to the same bytes, signed, verified"
    ]
    lines += ["would be uploaded:", *(f"  {name}  {size:,} bytes" for name, size in run.uploads.items())]
    lines += ["would lie beside it:", *(f"  {name}  {size:,} bytes" for name, size in run.beside.items())]
    lines += ["would be tagged: " + ", ".join(run.tags)]
    lines += [f"a real one waits for this: {wait}" for wait in run.waits]
    lines.append("nothing was uploaded, tagged or kept; the key is gone")
    return "\n".join(lines)
