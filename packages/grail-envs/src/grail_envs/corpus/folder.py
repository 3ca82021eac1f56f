"""A built corpus on disk: `index.json` and its shards, each named by its SHA-256 and hashed once, when the corpus is opened.

The folder may have come from anybody. What does not have the bytes that the digest stands for is refused with the file and the
digest it should have: missing, shorter, longer, altered, or with a token outside of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from grail_core.corpus import CorpusSpec
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.corpus.index import DTYPES, INDEX_FILE, MAX_INDEX_BYTES, CorpusIndex, Shard

_BLOCK: Final = 4 << 20  # bytes; a multiple of every item's size
_AGAIN: Final = "get the file again, or build the corpus again from the same text with `grail-envs corpus build`"


class FolderCorpus:
    """Sequences of an opened folder, mapped and not read. `index`: all that is known of it."""

    def __init__(self, index: CorpusIndex, shards: list[npt.NDArray[Any]]) -> None:
        self.index = index
        self._spec = index.spec
        self._shards = shards
        self._ends = list(accumulate(len(shard) for shard in shards))

    @property
    def spec(self) -> CorpusSpec:
        return self._spec

    def sequence(self, index: int) -> npt.NDArray[np.int32]:
        """int32[sequence_length]. Errors: IndexError outside 0 … sequences + held_out − 1."""
        if not 0 <= index < self._ends[-1]:
            raise IndexError(f"{self._spec.name} has no sequence {index}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        before = self._ends[number - 1] if number else 0
        return np.array(self._shards[number][index - before], dtype=np.int32)


def open_folder(folder: Path, *, digest: str | None = None) -> FolderCorpus:
    """Open a corpus and hash all of it.

    Args:
        digest: that it must have; None: whatever its index says.

    Raises:
        EnvironmentUnavailableError: the index or a shard is missing, altered or not what it must be.
    """
    index = read_index(folder, digest=digest)
    return FolderCorpus(index, [_mapped(folder, shard, index) for shard in index.shards])


def read_index(folder: Path, *, digest: str | None = None) -> CorpusIndex:
    """The index alone. Errors: as `open_folder`."""
    path = folder / INDEX_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        raise EnvironmentUnavailableError(
            f"the corpus has no index that can be read: {error.strerror}", where=str(path), hint=_AGAIN
        ) from error
    return checked_index(raw, digest=digest, where=str(path))


def checked_index(raw: bytes, *, digest: str | None, where: str) -> CorpusIndex:
    """An index from anywhere. Errors: EnvironmentUnavailableError."""
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise EnvironmentUnavailableError(
            f"this is the index of another corpus: its digest is {found}, not {digest}", where=where, hint=_AGAIN
        )
    try:
        return CorpusIndex.from_bytes(raw)
    except ValueError as error:
        raise EnvironmentUnavailableError(f"no index of a corpus: {error}", where=where, hint=_AGAIN) from error


def require_shard(path: Path, shard: Shard, index: CorpusIndex) -> None:
    """Hash one shard and look at every token of it.

    Raises:
        EnvironmentUnavailableError: it names the file and the digest.
    """
    if not path.is_file():
        raise _refused(path, shard, "is not there")
    size = path.stat().st_size
    if size != shard.size:
        raise _refused(path, shard, f"has {size} bytes, not {shard.size}")
    hashed, largest = hashlib.sha256(), 0
    for block in _blocks(path):
        hashed.update(block)
        if len(block) % index.item_bytes == 0:  # else it has become shorter, and its digest says so
            largest = max(largest, int(np.frombuffer(block, DTYPES[index.dtype]).max()))
    if hashed.hexdigest() != shard.sha256:
        raise _refused(path, shard, f"was altered: its digest is {hashed.hexdigest()}")
    if largest >= index.vocabulary:
        raise _refused(path, shard, f"holds token {largest}, outside the vocabulary of {index.vocabulary}")


def _mapped(folder: Path, shard: Shard, index: CorpusIndex) -> npt.NDArray[Any]:
    path = folder / shard.sha256
    try:
        require_shard(path, shard, index)
        tokens = np.memmap(path, DTYPES[index.dtype], mode="r", shape=(shard.size // index.row_bytes, index.sequence_length))
    except (OSError, ValueError) as error:
        raise _refused(path, shard, f"cannot be read: {error}") from error
    return tokens


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _refused(path: Path, shard: Shard, what: str) -> EnvironmentUnavailableError:
    return EnvironmentUnavailableError(f"the corpus shard {shard.sha256} {what}", where=str(path), hint=_AGAIN)
