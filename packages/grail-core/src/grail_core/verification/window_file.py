"""Check 1, `file`: the bytes are a window file of this miner, window, checkpoint and beacon, and its signature holds.

It runs on the drawn files alone: who is drawn is decided from the seals. Here, once, every row is held to
the record's rules: it obeys them from then on and no later check asks again. The Merkle root is rebuilt from the rows, so after
this check the header speaks for every byte. All rows at once, as array operations over the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grail_core.files.window_file import RolloutColumns, WindowFile, WindowFileError, read_window_file
from grail_core.protocol import RolloutRecord, WindowHeader, count_groups, header_digest, merkle_root
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.context import WindowContext
from grail_core.protocol.rollouts.records import column_digests
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Hotkey
from grail_core.protocol.verdicts import Finding
from grail_core.verification.header import wrong_fields
from grail_core.verification.row_rules import first_malformed
from grail_core.verification.wording import reject

CHECK = "file"


@dataclass(frozen=True)
class Submission:
    """A file that passed check 1: parsed, signed, its rollouts bound to the header by their digests.

    Every row obeys the record's rules, so `rollouts`, views of the file's columns in file order, can be made of them when
    somebody asks; `digests` are theirs.
    """

    hotkey: Hotkey
    content_digest: Digest
    file: WindowFile
    digests: tuple[Digest, ...]

    @property
    def columns(self) -> RolloutColumns:
        """The same rollouts as arrays, for rules that look at all of them at once."""
        return self.file.table

    @cached_property
    def rollouts(self) -> tuple[RolloutRecord, ...]:
        """All of them. Who needs a few takes `rollout_of`."""
        return tuple(self.columns.records())

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Group ids in file order, each once."""
        return tuple(dict.fromkeys(self.columns.group.tolist()))

    def rollouts_of(self, group: int) -> list[RolloutRecord]:
        """The rollouts of a group, in file order."""
        return [self.columns.record(index) for index in self._members.get(group, ())]

    def rollout_of(self, group: int, rollout: int) -> RolloutRecord:
        """Raises KeyError where the file has no such rollout."""
        return self.columns.record(self._places[group, rollout])

    def digest_of(self, group: int, rollout: int) -> Digest:
        return self.digests[self._places[group, rollout]]

    @cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        places: dict[tuple[int, int], int] = {}
        for index, place in enumerate(zip(self.columns.group.tolist(), self.columns.rollout.tolist(), strict=True)):
            places.setdefault(place, index)
        return places

    @cached_property
    def _members(self) -> dict[int, list[int]]:
        members: dict[int, list[int]] = {}
        for (group, _), index in self._places.items():
            members.setdefault(group, []).append(index)
        return members


OpenFile = Callable[[bytes, int | None], WindowFile]
"""Opens a file's bytes, of so many rows where somebody has sealed how many; raises WindowFileError for the file's fault."""


def in_this_process(data: bytes, rows: int | None) -> WindowFile:
    """For bytes of one's own. A role opens a stranger's in a process with limits (`files.confined`)."""
    return read_window_file(data)


def check_file(
    data: bytes,
    content_digest: Digest,
    hotkey: Hotkey,
    window: WindowContext,
    sealed: WindowHeader | None = None,
    open_file: OpenFile = in_this_process,
) -> Submission | list[Finding]:
    """The submission, or the findings that reject the file.

    Args:
        sealed: the header of the miner's seal, which the file's equals; None for who knows only the digest.

    Raises:
        GrailError: a fault of this machine's (`ConfinementError`).
    """
    rows = None if sealed is None else ROLLOUTS_PER_PROBLEM * sealed.groups
    try:
        file = open_file(data, rows)
    except WindowFileError as error:
        return [reject(CHECK, detail=error.what)]
    findings = wrong_fields(CHECK, file.header, hotkey, window)
    if not findings and sealed is not None and file.header != sealed:
        findings.append(reject(CHECK, detail="the file's header is not the one that was sealed"))
    return findings or bind_rows(file, content_digest, window.network_id)


def bind_rows(file: WindowFile, content_digest: Digest, network_id: Digest) -> Submission | list[Finding]:
    """What holds of a file whatever window it is for: the hotkey in its header signed it, and exactly these rollouts."""
    header, table = file.header, file.table
    if not verify(header.hotkey, header_digest(network_id, header), file.signature):
        return [reject(CHECK, detail="the header's signature is not the hotkey's")]
    malformed = first_malformed(table)
    if malformed is not None:
        return [_malformed(table, malformed)]
    digests = tuple(column_digests(network_id, table.raw))
    root = merkle_root(digests)
    if root != header.merkle_root:
        return [reject(CHECK, value=root.hex(), threshold=header.merkle_root.hex(), detail="rows do not give the Merkle root")]
    groups = np.unique(table.group).tolist()
    try:
        counted = count_groups(groups)
    except ValueError as error:
        return [reject("schema", value=len(groups), detail=str(error))]
    for name, found, wanted in (
        ("groups", header.groups, counted.groups),
        ("gaps", header.gaps, counted.gaps),
        ("declared", header.declared, counted.declared),
    ):
        if found != wanted:
            return [reject(CHECK, value=found, threshold=wanted, detail=f"the header's {name} differ from the rows'")]
    return Submission(header.hotkey, content_digest, file, digests)


def _malformed(table: RolloutColumns, index: int) -> Finding:
    try:
        table.record(index)
    except ValueError as error:
        return reject("schema", detail=f"row {index} breaks the record's rules: {error}")
    raise AssertionError(f"row {index} was called malformed, and a record can be made of it")
