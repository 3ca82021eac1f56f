"""Corpora that are built of text: the same bytes from the same text, found by their digest, and nothing altered is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from grail_core.corpus import Corpus
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.manifest import OBJECT_PREFIX
from grail_core.storage.filesystem import FilesystemStore
from grail_envs.cli import main
from grail_envs.corpus.build import TokenizerFolder, build, documents_of
from grail_envs.corpus.bytes_1 import Bytes1
from grail_envs.corpus.folder import open_folder
from grail_envs.corpus.index import DTYPES, INDEX_FILE, CorpusIndex, Shard
from grail_envs.corpus.opening import corpus_of
from tooling.testing.inner_rounds import SPEC
from tooling.testing.models.tiny_qwen2 import END_TOKEN, save_byte_model

LENGTH = 16
DOCUMENTS = [f"The {number}th document counts to {number * 7}." for number in range(40)] + [f"a document that says {END_TOKEN}"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> TokenizerFolder:
    return TokenizerFolder.read(tokenizer_folder)


def made(out: Path, tokenizer: TokenizerFolder, *, shard_bytes: int = 900, published: bool = True) -> tuple[Path, CorpusIndex]:
    return build(
        out, DOCUMENTS, tokenizer, name="text", length=LENGTH, held_out=5, published=published, shard_bytes=shard_bytes
    )


@pytest.fixture
def folder(tmp_path: Path, tokenizer: TokenizerFolder) -> Path:
    """Of several shards, in a data folder."""
    folder, index = made(tmp_path / "data" / "corpus", tokenizer)
    assert len(index.shards) > 2
    return folder


def environment(corpus: Corpus) -> EnvironmentSpec:
    spec = corpus.spec
    numbers = replace(
        SPEC, corpus=spec.name, sequence_length=spec.sequence_length, sequences=spec.sequences, held_out=spec.held_out
    )
    return numbers.environment(spec.digest)


def test_the_corpus_is_the_text_with_an_end_after_every_document(folder: Path, tokenizer: TokenizerFolder) -> None:
    corpus = open_folder(folder)
    assert isinstance(corpus, Corpus)
    count = corpus.spec.sequences + corpus.spec.held_out
    tokens = np.concatenate([corpus.sequence(index) for index in range(count)])
    assert tokens.dtype == np.int32
    documents = np.split(tokens, np.flatnonzero(tokens == tokenizer.end) + 1)
    assert [tokenizer.tokenizer.decode(one[:-1].tolist()) for one in documents[:-1]] == DOCUMENTS[: len(documents) - 1]
    assert (tokens == tokenizer.end).sum() == len(DOCUMENTS) - 1  # the last one says the token's name, which ends nothing
    for outside in (-1, count):
        with pytest.raises(IndexError):
            corpus.sequence(outside)


def test_shards_of_another_size_hold_the_same_sequences(folder: Path, tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    other, index = made(tmp_path / "other", tokenizer, shard_bytes=1 << 20)
    assert len(index.shards) == 1
    one, two = open_folder(folder), open_folder(other)
    for number in range(one.spec.sequences + one.spec.held_out):
        assert np.array_equal(one.sequence(number), two.sequence(number))
    again, _ = made(tmp_path / "again", tokenizer)
    assert again.name == folder.name


def test_roles_find_what_the_manifest_names(folder: Path, tmp_path: Path) -> None:
    corpus = open_folder(folder)
    named = environment(corpus)
    found = corpus_of(named, data_dir=tmp_path / "data", tokenizer_digest=bytes.fromhex(corpus.index.tokenizer_digest))
    assert found.spec == corpus.spec
    with pytest.raises(EnvironmentUnavailableError, match="tokenizer"):
        corpus_of(named, data_dir=tmp_path / "data", tokenizer_digest=bytes(32))
    with pytest.raises(EnvironmentUnavailableError) as error:
        corpus_of(named, data_dir=tmp_path / "empty")
    assert corpus.spec.digest in str(error.value)
    assert "corpus build" in error.value.hint
    assert "bucket" in error.value.hint


def test_numbers_of_another_manifest_do_not_fit(folder: Path, tmp_path: Path) -> None:
    corpus = open_folder(folder)
    fewer = replace(
        SPEC, corpus="text", sequence_length=LENGTH, sequences=corpus.spec.sequences - 1, held_out=corpus.spec.held_out
    )
    with pytest.raises(EnvironmentUnavailableError, match="sequences"):
        corpus_of(fewer.environment(corpus.spec.digest), data_dir=tmp_path / "data")


def test_bytes_1_needs_no_folder_and_no_other_bytes_1_is_taken_for_it(tmp_path: Path) -> None:
    assert corpus_of(environment(Bytes1()), data_dir=tmp_path).spec == Bytes1.spec
    other = replace(SPEC, sequence_length=64, sequences=1 << 20, held_out=4096)
    with pytest.raises(EnvironmentUnavailableError, match="digest"):
        corpus_of(other.environment("ab" * 32), data_dir=tmp_path)


def uploaded(folder: Path, root: Path) -> FilesystemStore:
    store = FilesystemStore(root, "trainer")
    store.put(OBJECT_PREFIX + folder.name, (folder / INDEX_FILE).read_bytes())
    for path in folder.iterdir():
        if path.name != INDEX_FILE:
            store.put(OBJECT_PREFIX + path.name, path.read_bytes())
    return store


def test_a_published_corpus_comes_from_the_bucket_once(folder: Path, tmp_path: Path) -> None:
    named, store = environment(open_folder(folder)), uploaded(folder, tmp_path / "store")
    first = corpus_of(named, data_dir=tmp_path / "new", bucket=store)
    assert np.array_equal(first.sequence(7), open_folder(folder).sequence(7))
    for path in folder.iterdir():
        store.delete(OBJECT_PREFIX + path.name)
    assert corpus_of(named, data_dir=tmp_path / "new", bucket=store).spec == first.spec


def test_a_bucket_gives_neither_what_was_not_published_nor_other_bytes(
    folder: Path, tmp_path: Path, tokenizer: TokenizerFolder
) -> None:
    private, _ = made(tmp_path / "private", tokenizer, published=False)
    with pytest.raises(EnvironmentUnavailableError, match="not here"):
        corpus_of(environment(open_folder(private)), data_dir=tmp_path / "new", bucket=uploaded(private, tmp_path / "one"))
    corpus = open_folder(folder)
    named, store = environment(corpus), uploaded(folder, tmp_path / "two")
    shard = corpus.index.shards[1]
    store.put(OBJECT_PREFIX + shard.sha256, b"\x01" * shard.size)
    with pytest.raises(EnvironmentUnavailableError, match=shard.sha256):
        corpus_of(named, data_dir=tmp_path / "new", bucket=store)
    store.put(OBJECT_PREFIX + shard.sha256, (folder / shard.sha256).read_bytes())
    assert corpus_of(named, data_dir=tmp_path / "new", bucket=store).spec == corpus.spec


def _rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: _rewritten(path, lambda raw: raw[:-2]), "bytes, not"),
        (lambda path: _rewritten(path, lambda raw: raw + b"\x00\x00"), "bytes, not"),
        (lambda path: _rewritten(path, lambda raw: raw[:-2] + b"\x07\x00"), "altered"),
    ],
    ids=["missing", "shorter", "longer", "altered"],
)
def test_a_damaged_shard_is_refused_by_file_and_digest(folder: Path, harm: Callable[[Path], None], said: str) -> None:
    shard = open_folder(folder).index.shards[-1].sha256
    harm(folder / shard)
    with pytest.raises(EnvironmentUnavailableError, match=said) as error:
        open_folder(folder)
    assert shard in error.value.what
    assert error.value.where == str(folder / shard)
    assert CliRunner().invoke(main, ["corpus", "check", str(folder)]).exit_code == 7


def test_a_token_outside_of_the_vocabulary_is_refused(folder: Path) -> None:
    index = open_folder(folder).index
    smaller = replace(index, vocabulary=100)
    (folder / INDEX_FILE).write_bytes(smaller.to_bytes())
    with pytest.raises(EnvironmentUnavailableError, match="vocabulary of 100"):
        open_folder(folder, digest=smaller.digest)


def _json(change: dict[str, object]) -> Callable[[bytes], bytes]:
    return lambda raw: json.dumps({**json.loads(raw), **change}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw.replace(b",", b", "),
        lambda raw: b"[" * 100_000,
        lambda raw: raw.ljust((1 << 20) + 1),
        _json({"version": 2}),
        _json({"sequences": 1 << 60}),
        _json({"sequences": True}),
        _json({"dtype": "f32"}),
        _json({"dtype": "u8"}),
        _json({"sequence_length": 0}),
        _json({"vocabulary": 0}),
        _json({"shards": []}),
        _json({"shards": [[0, "00" * 32]]}),
        _json({"shards": [[600 << 20, "00" * 32]]}),
        _json({"shards": [[31, "../../secret"]]}),
        _json({"tokenizer_digest": "XY" * 32}),
        _json({"more": 1}),
    ],
)
def test_a_hostile_index_is_a_typed_refusal(folder: Path, change: Callable[[bytes], bytes]) -> None:
    _rewritten(folder / INDEX_FILE, change)
    with pytest.raises(EnvironmentUnavailableError):
        open_folder(folder)


def test_the_index_of_another_corpus_is_not_taken(folder: Path) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="another corpus"):
        open_folder(folder, digest="00" * 32)


def test_text_is_read_by_name_and_its_faults_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n\n{"text": "then"}\n')
    (tmp_path / "c.md").write_text("no text")
    assert list(documents_of(tmp_path)) == ["first", "then", "second"]
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n{"txt": 1}\n')
    with pytest.raises(ConfigurationError) as error:
        list(documents_of(tmp_path))
    assert error.value.where == f"{tmp_path / 'a.jsonl'}, line 2"
    with pytest.raises(ConfigurationError, match="no text"):
        list(documents_of(tmp_path / "nowhere"))


def test_too_little_text_leaves_nothing_behind(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    with pytest.raises(ConfigurationError, match="held out"):
        build(tmp_path, ["short"], tokenizer, name="text", length=LENGTH, held_out=5)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="end token"):
        TokenizerFolder.read(tmp_path)


def test_the_command_line_builds_shows_and_checks(tmp_path: Path, tokenizer_folder: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text(" ".join(DOCUMENTS))

    def run(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(main, ["corpus", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        facts: dict[str, object] = json.loads(result.stdout)
        return facts

    options = ["--tokenizer", str(tokenizer_folder), "--length", "16", "--held-out", "4", "--out", str(tmp_path / "out")]
    built = run("build", "--text", str(text), *options)
    shown, checked = (run(command, str(built["folder"])) for command in ("show", "check"))
    assert shown == checked
    assert {**built, **shown} == built
    assert (shown["vocabulary"], shown["dtype"], shown["published"]) == (257, "u16", False)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tokens_of_every_width_are_read_back(tmp_path: Path, dtype: str) -> None:
    rows = np.array([[1, 2, 3], [4, 5, 255]], DTYPES[dtype])
    shards = [Shard(one.nbytes, hashlib.sha256(one.tobytes()).hexdigest()) for one in rows]
    for one, shard in zip(rows, shards, strict=True):
        (tmp_path / shard.sha256).write_bytes(one.tobytes())
    index = CorpusIndex("text", "00" * 32, 256, dtype, 3, 2, 0, False, tuple(shards))
    (tmp_path / INDEX_FILE).write_bytes(index.to_bytes())
    corpus = open_folder(tmp_path, digest=index.digest)
    assert [corpus.sequence(at).tolist() for at in range(2)] == rows.tolist()
