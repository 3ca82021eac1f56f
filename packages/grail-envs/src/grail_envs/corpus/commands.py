"""`grail-envs corpus`: build a corpus from text, show what one is, check every byte of one. Parses and prints only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from grail_core.text import printable

_FOLDER = click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.group()
def corpus() -> None:
    """What gradient work trains on: sequences of tokens, the same for everybody who has the corpus."""


@corpus.command()
@click.option("--text", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="*.txt and *.jsonl.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="The network's model folder, or its tokenizer files.",
)
@click.option("--length", type=click.IntRange(2, 1 << 20), required=True, help="Tokens of a sequence.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where a folder named by the digest is made.")
@click.option("--name", default="text", show_default=True, help="What the network calls it.")
@click.option("--held-out", type=click.IntRange(0), default=256, show_default=True, help="Last sequences, never assigned.")
@click.option("--published", is_flag=True, help="Others may fetch it from the trainer's bucket.")
@_JSON
def build(
    text: Path, tokenizer: Path, length: int, out: Path, name: str, held_out: int, published: bool, as_json: bool
) -> None:
    """Make a corpus of a folder of text. GRAIL_DATA_DIR/corpus is where roles look for it."""
    from grail_envs.corpus.build import TokenizerFolder, documents_of
    from grail_envs.corpus.build import build as build_corpus

    folder, index = build_corpus(
        out,
        documents_of(text),
        TokenizerFolder.read(tokenizer),
        name=name,
        length=length,
        held_out=held_out,
        published=published,
    )
    _print({"folder": str(folder), "digest": index.digest, **_facts(index)}, as_json)


@corpus.command()
@_FOLDER
@_JSON
def show(folder: Path, as_json: bool) -> None:
    """What the index says. No shard is read."""
    from grail_envs.corpus.folder import read_index

    index = read_index(folder)
    _print({"digest": index.digest, **_facts(index)}, as_json)


@corpus.command()
@_FOLDER
@click.option("--digest", help="64 hex digits that it must have (default: those of its own index).")
@_JSON
def check(folder: Path, digest: str | None, as_json: bool) -> None:
    """Hash every shard and look at every token. Exit code 7 if anything is not as the index says."""
    from grail_envs.corpus.folder import open_folder

    index = open_folder(folder, digest=digest).index
    _print({"digest": index.digest, **_facts(index)}, as_json)
    if not as_json:
        click.echo("every shard and every token is as the index says")


def _facts(index: Any) -> dict[str, Any]:
    facts = {name: value for name, value in index.to_json().items() if name != "shards"}
    return {**facts, "shards": len(index.shards), "bytes": sum(shard.size for shard in index.shards)}


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(printable(f"{name:<16} {value}"))
