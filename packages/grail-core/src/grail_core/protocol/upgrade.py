"""Section 3: a later version of the protocol, announced by the trainer in its checkpoints' manifests.

`{"version": V, "block": B}`: from window B on protocol version V holds. The newest announcement counts, so that it can be moved
or withdrawn, until it is in force: once a checkpoint rules a window at or after the B that its own manifest names, that
version is in force for good. Who does not know it does not begin those windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grail_core.protocol.constants import PROTOCOL_VERSION, WINDOW_LENGTH
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node
from grail_core.protocol.types import Block, Window

MAX_PROTOCOL_VERSION = 65_535


@dataclass(frozen=True)
class Upgrade:
    """From window `block` on `version` holds. Raises ValueError for a version that is not later, or a block that begins no
    window."""

    version: int
    block: Block

    def __post_init__(self) -> None:
        if not PROTOCOL_VERSION < self.version <= MAX_PROTOCOL_VERSION:
            raise ValueError(f"version {self.version} is not from {PROTOCOL_VERSION + 1} to {MAX_PROTOCOL_VERSION}")
        if not 0 < self.block <= MAX_JSON_INTEGER or self.block % WINDOW_LENGTH:
            raise ValueError(f"block {self.block} begins no window: a positive multiple of {WINDOW_LENGTH} is expected")

    @classmethod
    def from_json(cls, node: Node) -> Upgrade:
        """Exactly the two members. Errors: ValueError with the path."""
        m = node.members("version", "block")
        version, block = m["version"].integer(), m["block"].integer()
        return node.build(lambda: cls(version, Block(block)))

    def to_json(self) -> dict[str, Json]:
        return {"version": self.version, "block": self.block}

    def windows_left(self, window: Window) -> int:
        """Windows from this one on that begin before it is in force; 0: it is."""
        return max(0, (self.block - window) // WINDOW_LENGTH)


def in_force(ruling: Iterable[tuple[Window, Upgrade | None]], window: Window) -> Upgrade | None:
    """The later version that is in force in a window; None: there is none.

    Args:
        ruling: `valid_from` and announcement of every checkpoint that rules windows up to this one (section 3: in time), in
            increasing order. Each rules until the next one does.
    """
    found: Upgrade | None = None
    rows = [*ruling]
    ends = [Window(start - WINDOW_LENGTH) for start, _ in rows[1:]] + [window]
    for (start, upgrade), last in zip(rows, ends, strict=True):
        if start <= window and upgrade is not None and upgrade.block <= last:
            found = upgrade if found is None or upgrade.version > found.version else found
    return found
