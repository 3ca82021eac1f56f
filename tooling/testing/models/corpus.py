"""The text that the study's language models learn and are asked about: GSM8K where it is at hand, else CPython's documentation.

The latter is the language reference that `help()` shows, in `pydoc_data` of every CPython: English text that does not change
with this project. A document is a prompt and its continuation. The last tenth of the documents is never trained on; prompts
of the study come from there first.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

_LINES = 9  # of the language reference in one document
_PROMPT_CHARACTERS = 120  # a shorter prompt has too few tokens for the study; a continuation has at least twice as many


@dataclass(frozen=True)
class Document:
    prompt: str
    continuation: str


@dataclass(frozen=True)
class Corpus:
    """`name` says where the text is from; `digest` covers all of it."""

    name: str
    training: tuple[Document, ...]
    held_out: tuple[Document, ...]
    digest: str


def load_corpus() -> Corpus:
    """GSM8K's training split from GRAIL_DATA_DIR; without it, the Python language reference."""
    folder = os.environ.get("GRAIL_DATA_DIR")
    for name in ("gsm8k/train.jsonl.gz", "gsm8k/train.jsonl"):
        if folder and (path := Path(folder) / name).is_file():
            return _split("GSM8K (training split)", _problems(path))
    return _split("the Python language reference as CPython ships it", _reference())


def _problems(path: Path) -> list[Document]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    rows = [json.loads(line) for line in text.decode("utf-8").splitlines() if line]
    return [Document(row["question"], row["answer"]) for row in rows]


def _reference() -> list[Document]:
    from pydoc_data.topics import topics

    documents = []
    known: set[str] = set()
    for name in sorted(topics):
        # Topics repeat each other's paragraphs; one that was trained on must not be held out as well.
        lines = []
        for paragraph in topics[name].split("\n\n"):
            if paragraph not in known:
                known.add(paragraph)
                lines += [line for line in paragraph.splitlines() if line.strip()]
        for start in range(0, len(lines), _LINES):
            block = lines[start : start + _LINES]
            third = len(block) // 3
            prompt, continuation = "\n".join(block[:third]), "\n".join(block[third:])
            if len(prompt) >= _PROMPT_CHARACTERS and len(continuation) >= 2 * _PROMPT_CHARACTERS:
                documents.append(Document(prompt, continuation))
    # Neighbouring blocks resemble each other: the held-out tenth is drawn by content, not by place.
    return sorted(documents, key=lambda document: hashlib.sha256((document.prompt + document.continuation).encode()).digest())


def _split(name: str, documents: list[Document]) -> Corpus:
    state = hashlib.sha256()
    for document in documents:
        for part in (document.prompt, document.continuation):
            data = part.encode()
            state.update(len(data).to_bytes(8, "big") + data)
    border = len(documents) - len(documents) // 10
    return Corpus(name, tuple(documents[:border]), tuple(documents[border:]), state.hexdigest())
