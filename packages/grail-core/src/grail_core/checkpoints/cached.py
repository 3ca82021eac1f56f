"""A checkpoint that lies in this machine's cache, found by its digest alone: for who checks work without chain or bucket.

The folder's manifest names its network; that it is the trainer's of these parameters is verified like any other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import MAX_MANIFEST_BYTES, CheckpointManifest, parse
from grail_core.protocol.reading import parse_json
from grail_core.protocol.types import Digest, Hotkey


@dataclass(frozen=True)
class CachedCheckpoint:
    """`files` are configuration and tokenizer, each with the digest that the manifest names; weights lie in `folder`."""

    manifest: CheckpointManifest
    folder: Path
    files: dict[str, bytes]


def cached_checkpoint(cache_dir: Path, digest: Digest, trainer: Hotkey) -> CachedCheckpoint | None:
    """The checkpoint of this digest, None where the cache has none of any network that is whole."""
    for folder in sorted((cache_dir / "checkpoints").glob(f"*/checkpoints/{digest.hex()}")):
        try:
            found = read_checkpoint(folder, trainer)
        except CheckpointError:
            continue  # a cache may be damaged; it is made again where it is used
        if found.manifest.digest == digest:
            return found
    return None


def read_checkpoint(folder: Path, trainer: Hotkey) -> CachedCheckpoint:
    """A folder of the cache, or a copy of one.

    Raises:
        CheckpointError: it has no manifest, not this trainer's, or files that are not those it names.
    """
    path = folder / MANIFEST_FILE
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise CheckpointError("the manifest is larger than any", where=str(path))
        raw = path.read_bytes()
        manifest = parse(raw, trainer_hotkey=trainer, network_id=_network_id(raw), where=str(path))
        files = {file.path: (folder / file.path).read_bytes() for file in manifest.files}
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"this folder is no checkpoint of the network: {error}",
            where=str(folder),
            hint=f"a folder of GRAIL_CACHE_DIR/checkpoints, with its {MANIFEST_FILE}",
        ) from error
    for file in manifest.files:
        if hashlib.sha256(files[file.path]).digest() != file.object.sha256:
            raise CheckpointError("the file is not the one that the manifest names", where=str(folder / file.path))
    return CachedCheckpoint(manifest, folder, files)


def _network_id(raw: bytes) -> Digest:
    """Which network a manifest says it is of; the trainer's signature is over it. Raises ValueError."""
    body = parse_json(raw, most=MAX_MANIFEST_BYTES).members("manifest", "signature")["manifest"].value
    told = body.get("network_id") if isinstance(body, dict) else None
    if not isinstance(told, str) or len(told) != 64:
        raise ValueError("the manifest names no network")
    return Digest(bytes.fromhex(told))
