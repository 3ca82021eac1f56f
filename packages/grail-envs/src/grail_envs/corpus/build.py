"""Making a corpus of a folder of text: `grail-envs corpus build`.

Documents are taken in the order of their files' names, each followed by the tokenizer's end token, laid end to end and cut into
sequences of one length; what does not fill the last one is left out. The last sequences are the held-out ones. The same text,
tokenizer and length give the same digest on every machine. Text that looks like a special token is text: a document cannot end
itself. Parquet is not read: no reader of ours is made for files of others, so web text is written out as JSON lines first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from grail_core.checkpoints.safety import MODEL_FILES, tokenizer_digest
from grail_core.disk import storage_errors, sync_folder
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.corpus.index import DTYPES, INDEX_FILE, MAX_SHARD_BYTES, CorpusIndex, Shard

MAX_TEXT_BYTES: Final = 256 << 20
"""Of one text file, which is read whole, and of one line of JSON."""
MAX_TOKENIZER_BYTES: Final = 64 << 20
_SUFFIXES: Final = (".txt", ".jsonl")


@dataclass(frozen=True)
class TokenizerFolder:
    """A fast tokenizer, the token that ends a document, and the digest that a manifest has of these files."""

    tokenizer: Any
    end: int
    vocabulary: int
    digest: str

    @classmethod
    def read(cls, folder: Path) -> TokenizerFolder:
        """Of the model folder, or the tokenizer alone.

        Raises:
            ConfigurationError: no tokenizer.json, one that cannot be loaded, or no end token.
            EnvironmentUnavailableError: the package `tokenizers` is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise EnvironmentUnavailableError(
                "the package `tokenizers` is not installed", where="corpus build", hint="pip install 'grail-core[model]'"
            ) from error
        files = {}
        for name in sorted(MODEL_FILES):
            path = folder / name
            if path.is_file():
                if path.stat().st_size > MAX_TOKENIZER_BYTES:
                    raise ConfigurationError(f"more than {MAX_TOKENIZER_BYTES} bytes", where=str(path), hint=_ANEW)
                files[name] = path.read_bytes()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if name not in files:
                what = f"no tokenizer with an end token can be read: there is no {name}"
                raise ConfigurationError(what, where=str(folder), hint=_ANEW)
        try:
            tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
            said = json.loads(files["tokenizer_config.json"])["eos_token"]
            end = tokenizer.token_to_id(said["content"] if isinstance(said, dict) else said)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the Rust side raises plain Exception, and a panic there is no Exception
            raise ConfigurationError(
                f"no tokenizer with an end token can be read: {error}", where=str(folder), hint=_ANEW
            ) from error
        if end is None:
            raise ConfigurationError(f"the end token {said!r:.80} has no number", where=str(folder), hint=_ANEW)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # what a document says is text
        vocabulary = int(tokenizer.get_vocab_size(with_added_tokens=True))
        return cls(tokenizer, int(end), vocabulary, tokenizer_digest(files).hex())

    def tokens(self, text: str) -> list[int]:
        """A document's, with the end token."""
        return [*self.tokenizer.encode(text, add_special_tokens=False).ids, self.end]


_ANEW: Final = "save a fast tokenizer with save_pretrained(folder): tokenizer.json, and eos_token in tokenizer_config.json"


def build(
    out: Path,
    documents: Iterable[str],
    tokenizer: TokenizerFolder,
    *,
    name: str,
    length: int,
    held_out: int,
    published: bool = False,
    shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[Path, CorpusIndex]:
    """Write the corpus into a folder of `out` that is named by its digest; the folder and the index.

    Args:
        out: `corpus/` of the data folder, or any other. documents: one text each. length: tokens of a sequence.
        held_out: sequences at the end that are never assigned. published: others may fetch it from the trainer's bucket.

    Raises:
        ConfigurationError: too little text for the held-out sequences and two more, or numbers that make no corpus.
        DiskFullError, StorageError: the disk refuses; nothing is left behind.
    """
    dtype = next(one for one, item in DTYPES.items() if tokenizer.vocabulary <= 256**item.itemsize)
    if length < 2 or held_out < 0:
        raise ConfigurationError(f"no corpus of length {length} with {held_out} held out", where="--length, --held-out")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building.", dir=out))
    try:
        with storage_errors(building):
            writer = _Shards(building, DTYPES[dtype], length, shard_bytes)
            for text in documents:
                writer.add(_checked(tokenizer.tokens(text), tokenizer.vocabulary))
            shards, rows = writer.finish()
        if rows < held_out + 2:
            raise ConfigurationError(
                f"the text makes {rows} sequences of {length} tokens, of which {held_out} are held out",
                where="--text",
                hint="give more text, or ask for fewer held-out sequences with --held-out",
            )
        try:
            index = CorpusIndex(
                name, tokenizer.digest, tokenizer.vocabulary, dtype, length, rows - held_out, held_out, published, shards
            )
        except ValueError as error:
            raise ConfigurationError(f"no corpus can be made of this: {error}", where="corpus build") from error
        return _placed(building, out, index), index
    finally:
        shutil.rmtree(building, ignore_errors=True)


def documents_of(folder: Path) -> Iterator[str]:
    """Texts of a folder's *.txt files, one each, and *.jsonl files, one a line in the member "text"; by the files' names.

    Raises:
        ConfigurationError: no such file, or one that cannot be read; it names the file and line.
    """
    paths = sorted((path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file()), key=_place_in(folder))
    if not paths:
        raise ConfigurationError("no text is here", where=str(folder), hint="a folder with *.txt or *.jsonl files is expected")
    for path in paths:
        line = 0
        try:
            with path.open("rb") as file:
                if path.suffix == ".txt":
                    yield _read(file, MAX_TEXT_BYTES, whole=True).decode("utf-8")
                    continue
                while raw := _read(file, MAX_TEXT_BYTES, whole=False):
                    line += 1
                    if raw.strip():
                        text = json.loads(raw)["text"]
                        if not isinstance(text, str):
                            raise ValueError('"text" holds no text')
                        yield text
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            place = f"{path}, line {line}" if line else str(path)
            raise ConfigurationError(
                f"the text cannot be read: {error}", where=place, hint='UTF-8 is expected, and {"text": …} on each JSON line'
            ) from error


def _place_in(folder: Path) -> Any:
    return lambda path: path.relative_to(folder).as_posix().encode("utf-8", "surrogatepass")


def _read(file: BinaryIO, most: int, *, whole: bool) -> bytes:
    raw = file.read(most + 1) if whole else file.readline(most + 1)
    if len(raw) > most:
        raise ValueError(f"more than {most} bytes at once")
    return raw


def _checked(tokens: list[int], vocabulary: int) -> npt.NDArray[np.int64]:
    found = np.array(tokens, np.int64)
    if found.min() < 0 or found.max() >= vocabulary:
        raise ConfigurationError(
            f"the tokenizer gives a token outside of its vocabulary of {vocabulary}", where="--tokenizer", hint=_ANEW
        )
    return found


@dataclass
class _Shards:
    """Tokens on their way into shards, which get their names when they are full."""

    folder: Path
    dtype: np.dtype[Any]
    length: int
    limit: int
    done: list[Shard] = field(default_factory=list)
    rows: int = 0
    _rest: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _file: BinaryIO | None = None
    _hashed: Any = None
    _size: int = 0

    def add(self, tokens: npt.NDArray[np.int64]) -> None:
        tokens = np.concatenate([self._rest, tokens])
        whole = len(tokens) // self.length * self.length
        self._rest = tokens[whole:]
        row_bytes = self.length * self.dtype.itemsize
        data = memoryview(tokens[:whole].astype(self.dtype).tobytes())
        while data:
            if self._file is None:
                self._file, self._hashed, self._size = (self.folder / "shard").open("wb"), hashlib.sha256(), 0
            room = max(row_bytes, self.limit // row_bytes * row_bytes) - self._size
            part, data = data[:room], data[room:]
            self._file.write(part)
            self._hashed.update(part)
            self._size += len(part)
            self.rows += len(part) // row_bytes
            if len(part) == room:
                self._close()

    def finish(self) -> tuple[tuple[Shard, ...], int]:
        self._close()
        return tuple(self.done), self.rows

    def _close(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        shard = Shard(self._size, self._hashed.hexdigest())
        (self.folder / "shard").rename(self.folder / shard.sha256)
        self.done.append(shard)


def _placed(building: Path, out: Path, index: CorpusIndex) -> Path:
    """The finished folder under its digest; one that stands there already is the same corpus."""
    folder = out / index.digest
    with storage_errors(folder):
        (building / INDEX_FILE).write_bytes(index.to_bytes())
        building.chmod(0o755)
        if not folder.exists():
            building.rename(folder)
            sync_folder(out)
    return folder
