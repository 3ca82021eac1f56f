"""The chain of checkpoints as verdicts name it, and what this machine's cache knows of each.

A verdict says the digest of the checkpoint its window was judged with. Sequence, window and sizes are in the signed manifest,
where the cache has it; it is verified before anything of it is shown.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

from grail_core.checkpoints.cached import cached_checkpoint
from grail_core.pages.parts import Cell, card, number, table
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_validator.page.board import Snapshot
from grail_validator.page.layout import Facts, Query, cell, document, page_of, pager, window_link

_MAX_KEPT: Final = 256
_MISSING: Final = (
    "of them are known by their digest alone: their manifests are not in this machine's cache (GRAIL_CACHE_DIR). "
    "<code>grail checkpoint show</code> reads them from the trainer's bucket."
)


@dataclass
class Manifests:
    """Of this machine's cache, by digest; None as `folder` or `trainer`: there is none to ask. A miss is asked again."""

    folder: Path | None
    trainer: Hotkey | None
    _found: dict[Digest, CheckpointManifest] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, digest: Digest) -> CheckpointManifest | None:
        if self.folder is None or self.trainer is None:
            return None
        with self._lock:
            if digest not in self._found:
                cached = cached_checkpoint(self.folder, digest, self.trainer)
                if cached is None:
                    return None
                while len(self._found) >= _MAX_KEPT:
                    del self._found[next(iter(self._found))]
                self._found[digest] = cached.manifest
            return self._found[digest]


@dataclass(frozen=True)
class _Stretch:
    digest: Digest
    first: Window
    last: Window
    verdicts: int


def checkpoints_page(facts: Facts, snapshot: Snapshot, manifests: Manifests, query: Query) -> str:
    stretches = _stretches(snapshot)[::-1]
    shown = stretches[page_of(query, len(stretches))]
    known = {one.digest: manifests.get(one.digest) for one in shown}
    of_manifests = ("sequence#", "made of window#", "in force from#", "kind", "weights root", "full size#")
    heads = ["digest", "judged in", "verdicts#", *of_manifests]
    body = table(heads, (_row(one, known[one.digest]) for one in shown), caption=f"{len(stretches)} checkpoints, newest first")
    missing = sum(one is None for one in known.values())
    note = f'<p class="said">{missing} {_MISSING}</p>' if missing else ""
    return document(
        facts,
        snapshot,
        at="/checkpoints",
        title="Checkpoints",
        lede="Which weights the windows were judged with, as the verdicts say it.",
        body_html=card("", "", body) + pager(query, "/checkpoints", len(stretches), "checkpoints") + note,
    )


def _stretches(snapshot: Snapshot) -> list[_Stretch]:
    """Runs of verdicts that name one checkpoint, oldest first."""
    found: list[_Stretch] = []
    for record in snapshot.records:
        digest = record.inputs.checkpoint_digest
        if digest is None:
            continue
        if found and found[-1].digest == digest:
            found[-1] = _Stretch(digest, found[-1].first, record.window, found[-1].verdicts + 1)
        else:
            found.append(_Stretch(digest, record.window, record.window, 1))
    return found


def _row(one: _Stretch, manifest: CheckpointManifest | None) -> list[Cell]:
    span = window_link(one.first) if one.first == one.last else f"{window_link(one.first)} … {window_link(one.last)}"
    digest = cell(f'<span class="mono">{one.digest.hex()}</span>')
    if manifest is None:
        return [digest, cell(span, "nw"), number(str(one.verdicts)), *[number("–")] * 3, cell("–"), cell("–"), number("–")]
    return [
        digest,
        cell(span, "nw"),
        number(str(one.verdicts)),
        number(str(manifest.sequence)),
        number(str(manifest.window)),
        number(str(manifest.valid_from)),
        cell(escape(manifest.kind.value.lower()), "nw"),
        cell(f'<span class="mono">{manifest.weights_root.hex()}</span>'),
        number(f"{manifest.full_size / 1e6:,.1f} MB" if manifest.full_size else "–"),
    ]
