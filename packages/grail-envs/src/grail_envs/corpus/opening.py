"""Which corpus a manifest names, and where it is: `bytes-1` anywhere, others in the data folder or in the trainer's bucket.

The digest decides, not the name, the place or whoever offers it. A corpus from a bucket is laid into the data folder as its
shards come, each checked before it gets its name, so a role that is started again goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from grail_core.corpus import Corpus, CorpusSpec
from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import EnvironmentUnavailableError
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import OBJECT_PREFIX
from grail_core.storage.base import ObjectNotFoundError, ObjectStore
from grail_envs.corpus import bytes_1
from grail_envs.corpus.folder import FolderCorpus, checked_index, open_folder, require_shard
from grail_envs.corpus.index import INDEX_FILE, MAX_INDEX_BYTES, Shard
from grail_envs.data_sets import DATA_DIR_VARIABLE

FOLDER: Final = "corpus"
"""Below the data folder; in it every corpus has a folder named by its digest."""

_RANGE: Final = 8 << 20  # bytes of one request


def corpus_of(
    environment: EnvironmentSpec,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    bucket: ObjectStore | None = None,
    tokenizer_digest: bytes | None = None,
) -> Corpus:
    """The corpus that a manifest's gradient work trains on, opened.

    Args:
        data_dir: None: the variable GRAIL_DATA_DIR.
        bucket: the trainer's, asked where the data folder has it not; what comes is kept in the data folder.
        tokenizer_digest: the checkpoint's, 32 bytes; a corpus of another tokenizer is refused.

    Raises:
        ValueError: the spec is no gradient work.
        EnvironmentUnavailableError: no such corpus here, one that is damaged, or one of another tokenizer or other numbers.
        StorageError, DiskFullError: the bucket or the disk fails.
    """
    spec = GradientSpec.of(environment)
    if spec.corpus == bytes_1.NAME:
        corpus: Corpus = bytes_1.Bytes1()
        _require_fitting(corpus.spec, spec, environment.data_digest)
        return corpus
    folder = _folder(environment.data_digest, data_dir)
    if folder is not None and not (folder / INDEX_FILE).is_file() and bucket is not None:
        _fetch(environment.data_digest, folder, bucket)
    if folder is None or not (folder / INDEX_FILE).is_file():
        raise _unavailable(spec.corpus, environment.data_digest, folder)
    found = open_folder(folder, digest=environment.data_digest)
    _require_fitting(found.spec, spec, environment.data_digest)
    _require_tokenizer(found, tokenizer_digest, folder)
    return found


class BoundCorpora:
    """Corpora of checkpoints, each opened once. Called with a manifest's environment; see `corpus_of` for its errors.

    Args:
        bucket: the trainer's, asked for when a corpus is not in the data folder.
    """

    def __init__(self, data_dir: Path | None = None, bucket: Callable[[], ObjectStore] | None = None) -> None:
        self._data_dir, self._bucket = data_dir, bucket
        self._opened: dict[bytes, Corpus] = {}

    def __call__(self, environment: EnvironmentSpec) -> Corpus:
        if environment.digest not in self._opened:
            store = self._bucket() if self._bucket is not None else None
            self._opened[environment.digest] = corpus_of(environment, data_dir=self._data_dir, bucket=store)
        return self._opened[environment.digest]


def _folder(digest: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    root = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    return Path(root) / FOLDER / digest if root else None


def _fetch(digest: str, folder: Path, bucket: ObjectStore) -> None:
    """The index comes first and is written last: a folder that has one has all its shards."""
    try:
        raw = bucket.get(OBJECT_PREFIX + digest, max_bytes=MAX_INDEX_BYTES)
    except ObjectNotFoundError:
        return
    index = checked_index(raw, digest=digest, where=OBJECT_PREFIX + digest)
    if not index.published:
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for shard in index.shards:
        path = folder / shard.sha256
        if not path.is_file():
            write_atomically(path, _ranges(shard, bucket))
        try:
            require_shard(path, shard, index)
        except EnvironmentUnavailableError:
            path.unlink(missing_ok=True)
            raise
    write_atomically(folder / INDEX_FILE, raw)


def _ranges(shard: Shard, bucket: ObjectStore) -> Iterator[bytes]:
    """The object piece by piece; nothing gets its name that has other bytes."""
    key, hashed = OBJECT_PREFIX + shard.sha256, hashlib.sha256()
    for offset in range(0, shard.size, _RANGE):
        length = min(_RANGE, shard.size - offset)
        part = bucket.get(key, max_bytes=length, offset=offset, length=length)
        hashed.update(part)
        yield part
    if hashed.hexdigest() != shard.sha256:
        raise EnvironmentUnavailableError(
            f"the bucket gives other bytes for the corpus shard {shard.sha256}: {hashed.hexdigest()}",
            where=key,
            hint="tell the trainer, or build the corpus from its text with `grail-envs corpus build`",
        )


def _require_fitting(found: CorpusSpec, spec: GradientSpec, digest: str) -> None:
    said = CorpusSpec(spec.corpus, spec.sequence_length, spec.sequences, spec.held_out, found.vocabulary, digest)
    for name in ("digest", "name", "sequence_length", "sequences", "held_out"):
        mine, named = getattr(found, name), getattr(said, name)
        if mine != named:
            raise EnvironmentUnavailableError(
                f"the manifest's corpus has {name} {named}, the one that is here has {mine}",
                where=found.name,
                hint="upgrade grail-envs if the corpus comes with it; else the network's trainer must mend the manifest",
            )


def _require_tokenizer(found: FolderCorpus, tokenizer_digest: bytes | None, folder: Path) -> None:
    if tokenizer_digest is not None and found.index.tokenizer_digest != tokenizer_digest.hex():
        raise EnvironmentUnavailableError(
            f"the corpus was built with tokenizer {found.index.tokenizer_digest}, the checkpoint has {tokenizer_digest.hex()}",
            where=str(folder),
            hint="build the corpus with the tokenizer of the network's checkpoint",
        )


def _unavailable(name: str, digest: str, folder: Path | None) -> EnvironmentUnavailableError:
    place = str(folder) if folder is not None else f"$GRAIL_DATA_DIR/{FOLDER}/{digest}"
    return EnvironmentUnavailableError(
        f"the corpus {name} is not here",
        where=place,
        hint=f"copy the folder {digest} there (index.json and shards), or build it from its text: `grail-envs corpus build "
        f"--out DIR`, and set {DATA_DIR_VARIABLE} to the folder above {FOLDER}/; a bucket has it only if it was published",
    )
