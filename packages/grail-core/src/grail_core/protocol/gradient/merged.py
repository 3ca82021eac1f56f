"""Gradient work, section 12: what a manifest's `training` says of the merge that made its weights.

With the weights before, the bytes of the listed files and the spec of the manifest's environment, this is all that the merge
needs: anybody repeats it. Hotkeys are listed beside UIDs, because a UID may be somebody else's by the time a late joiner asks,
and because the order of the files is that of their hotkeys' bytes. Why these files and no others is not said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grail_core.protocol.gradient.spec import MICRO
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.windows import require_window

OUTER: Final = "outer"
"""Profile of a delta whose bytes are the merged files, and whose application is the merge."""
MAX_MERGED: Final = 64
MAX_DROPPED: Final = 256
MAX_UID: Final = 65_535
_MAX_RATE: Final = 1000 * MICRO


@dataclass(frozen=True)
class MergedUpdate:
    """One file of the merge. `size` in bytes; `content_digest` is the SHA-256 of the whole file."""

    uid: int  # at the round's first block
    hotkey: Hotkey
    content_digest: Digest
    size: int


@dataclass(frozen=True)
class DroppedUpdate:
    """A candidate that was left out for its score on the guard sequences, in parts of 2⁻²⁰ nats."""

    uid: int
    score: int


@dataclass(frozen=True)
class Merged:
    """The merge of a round. Raises ValueError, naming the field, for what no merge is.

    `lead_body`: digest of the verdict body that candidates were ordered by; None where no round had any. `outer_rate`: in parts
    of a million.
    """

    round: Window
    lead_body: Digest | None
    merged: tuple[MergedUpdate, ...]  # in order of hotkey bytes
    dropped: tuple[DroppedUpdate, ...]
    outer_rate: int

    def __post_init__(self) -> None:
        require_window(self.round)
        if self.lead_body is not None and len(self.lead_body) != 32:
            raise ValueError("lead_body: 32 bytes are expected")
        if not 0 < len(self.merged) <= MAX_MERGED:
            raise ValueError(f"merged: {len(self.merged)} updates, 1 to {MAX_MERGED} make a merge")
        hotkeys = [update.hotkey for update in self.merged]
        if hotkeys != sorted(set(hotkeys)):
            raise ValueError("merged: files stand in the order of their hotkeys' bytes, each once")
        for update in self.merged:
            if len(update.hotkey) != 32 or len(update.content_digest) != 32 or update.size < 1:
                raise ValueError(f"merged: the file of UID {update.uid} is none")
        if len(self.dropped) > MAX_DROPPED:
            raise ValueError(f"dropped: {len(self.dropped)} updates, at most {MAX_DROPPED} are told")
        uids = [update.uid for update in self.merged] + [update.uid for update in self.dropped]
        if len(set(uids)) != len(uids) or not all(0 <= uid <= MAX_UID for uid in uids):
            raise ValueError("merged, dropped: a UID is out of bounds, or occurs twice")
        if not 0 < self.outer_rate <= _MAX_RATE:
            raise ValueError(f"rates.outer: {self.outer_rate} is outside 1 … {_MAX_RATE}")

    @property
    def size(self) -> int:
        """Bytes of all merged files, one after the other."""
        return sum(update.size for update in self.merged)

    def to_json(self) -> dict[str, Json]:
        """The `training` of the manifest: bytes as lower-case hex."""
        return {
            "round": self.round,
            "lead_body": None if self.lead_body is None else self.lead_body.hex(),
            "merged": [[u.uid, u.hotkey.hex(), u.content_digest.hex(), u.size] for u in self.merged],
            "dropped": [[one.uid, one.score] for one in self.dropped],
            "rates": {"outer": self.outer_rate},
        }

    @classmethod
    def from_json(cls, value: object) -> Merged:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$training")
        m = node.members("round", "lead_body", "merged", "dropped", "rates")
        return node.build(
            lambda: cls(
                round=Window(m["round"].integer()),
                lead_body=m["lead_body"].optional(lambda item: Digest(item.raw(32))),
                merged=tuple(_merged(item) for item in m["merged"].items(MAX_MERGED)),
                dropped=tuple(_dropped(item) for item in m["dropped"].items(MAX_DROPPED)),
                outer_rate=m["rates"].members("outer")["outer"].integer(1, _MAX_RATE),
            )
        )


def _merged(node: Node) -> MergedUpdate:
    uid, hotkey, digest, size = _row(node, 4, "uid, hotkey, content digest and size")
    return MergedUpdate(uid.integer(0, MAX_UID), Hotkey(hotkey.raw(32)), Digest(digest.raw(32)), size.integer(1))


def _dropped(node: Node) -> DroppedUpdate:
    uid, score = _row(node, 2, "uid and score")
    return DroppedUpdate(uid.integer(0, MAX_UID), score.integer(-MAX_JSON_INTEGER))


def _row(node: Node, length: int, what: str) -> list[Node]:
    row = node.items(length)
    if len(row) != length:
        node.refuse(f"{what} are expected")
    return row
