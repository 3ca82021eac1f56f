"""The text that the study's language models learn and are asked about: GSM8K where it is at hand, else the project's sources.

A document is a prompt and its continuation. The last tenth of the documents is never trained on; prompts of the study come
from there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_LINES = 24  # of source code in one document


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
    """GSM8K's training split from GRAIL_DATA_DIR; without it, the Python sources of this project."""
    folder = os.environ.get("GRAIL_DATA_DIR")
    for name in ("gsm8k/train.jsonl.gz", "gsm8k/train.jsonl"):
        if folder and (path := Path(folder) / name).is_file():
            return _split("GSM8K (training split)", _problems(path))
    return _split("the project's own sources", _sources())


def _problems(path: Path) -> list[Document]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    rows = [json.loads(line) for line in text.decode("utf-8").splitlines() if line]
    return [Document(row["question"], row["answer"]) for row in rows]


def _sources() -> list[Document]:
    documents = []
    for path in sorted((_ROOT / "packages").rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for start in range(0, len(lines), _LINES):
            block = lines[start : start + _LINES]
            half = len(block) // 3
            if half:
                documents.append(Document("\n".join(block[:half]), "\n".join(block[half:])))
    # Neighbouring blocks resemble each other: the held-out tenth is drawn by content, not by place.
    return sorted(documents, key=lambda document: hashlib.sha256(document.continuation.encode()).digest())


def _split(name: str, documents: list[Document]) -> Corpus:
    state = hashlib.sha256()
    for document in documents:
        for part in (document.prompt, document.continuation):
            data = part.encode()
            state.update(len(data).to_bytes(8, "big") + data)
    border = len(documents) - len(documents) // 10
    return Corpus(name, tuple(documents[:border]), tuple(documents[border:]), state.hexdigest())
