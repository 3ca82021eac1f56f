"""Check 1, `file`: the bytes are a window file of this miner, window, checkpoint and beacon, and its signature holds.

It runs on every announced file, since the declared counts of all files decide who is checked. Here, once, columns become
rollouts: each obeys the record's own rules from then on and no later check asks again. The Merkle root is rebuilt from them,
so after this check the header speaks for every byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grail_core.files.window_file import RolloutColumns, WindowFile, WindowFileError, read_window_file
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol import RolloutRecord, count_groups, header_digest, merkle_root, rollout_digests
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.context import WindowContext
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Hotkey
from grail_core.protocol.verdicts import Finding
from grail_core.verification.wording import reject

CHECK = "file"


@dataclass(frozen=True)
class Submission:
    """A file that passed check 1: parsed, signed, its rollouts bound to the header by their digests.

    `rollouts` are views of the file's columns, in file order; `digests` are theirs.
    """

    hotkey: Hotkey
    content_digest: Digest
    file: WindowFile
    rollouts: tuple[RolloutRecord, ...]
    digests: tuple[Digest, ...]

    @property
    def columns(self) -> RolloutColumns:
        """The same rollouts as arrays, for rules that look at all of them at once."""
        return self.file.table

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Group ids in file order, each once."""
        return tuple(dict.fromkeys(record.group for record in self.rollouts))

    def rollouts_of(self, group: int) -> list[RolloutRecord]:
        """The rollouts of a group, in file order."""
        return [self.rollouts[index] for (g, _), index in self._places.items() if g == group]

    def rollout_of(self, group: int, rollout: int) -> RolloutRecord:
        """Raises KeyError where the file has no such rollout."""
        return self.rollouts[self._places[group, rollout]]

    def digest_of(self, group: int, rollout: int) -> Digest:
        return self.digests[self._places[group, rollout]]

    @cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        places: dict[tuple[int, int], int] = {}
        for index, record in enumerate(self.rollouts):
            places.setdefault((record.group, record.rollout), index)
        return places


def check_file(
    data: bytes,
    content_digest: Digest,
    hotkey: Hotkey,
    window: WindowContext,
    known_class: str | None = None,
) -> Submission | list[Finding]:
    """The submission, or the findings that reject the file."""
    try:
        file = read_window_file(data)
    except WindowFileError as error:
        return [reject(CHECK, detail=error.what)]
    header = file.header
    expected = {
        "protocol version": (header.protocol_version, PROTOCOL_VERSION),
        "window": (header.window, window.window),
        "block hash": (header.block_hash, window.block_hash),
        "hotkey": (header.hotkey, hotkey),
        "checkpoint digest": (header.checkpoint_digest, window.checkpoint_digest),
        "environment digest": (header.env_digest, window.env_digest),
        "policy digest": (header.policy_digest, window.manifest.policy_digest),
        "beacon round": (header.beacon_round, window.beacon.round if window.beacon else 0),
        "beacon signature": (header.beacon_signature, window.beacon.signature if window.beacon else None),
    }
    findings = [
        reject(CHECK, value=_text(found), threshold=_text(wanted), detail=f"wrong {name}")
        for name, (found, wanted) in expected.items()
        if found != wanted
    ]
    if header.numerics_class not in NUMERICS_CLASSES:
        findings.append(reject(CHECK, value=header.numerics_class, detail="numerics class is not on the protocol's list"))
    elif known_class is not None and header.numerics_class != known_class:
        findings.append(
            reject(CHECK, value=header.numerics_class, threshold=known_class, detail="numerics class changed too soon")
        )
    if findings:
        return findings
    return bind_rows(file, content_digest, window.network_id)


def bind_rows(file: WindowFile, content_digest: Digest, network_id: Digest) -> Submission | list[Finding]:
    """What holds of a file whatever window it is for: the hotkey in its header signed it, and exactly these rollouts."""
    header, table = file.header, file.table
    if not verify(header.hotkey, header_digest(network_id, header), file.signature):
        return [reject(CHECK, detail="the header's signature is not the hotkey's")]
    records: list[RolloutRecord] = []
    for index in range(len(table)):
        try:
            records.append(table.record(index))
        except ValueError as error:
            return [reject("schema", detail=f"row {index} breaks the record's rules: {error}")]
    digests = tuple(rollout_digests(network_id, records))
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
    return Submission(header.hotkey, content_digest, file, tuple(records), digests)


def _text(value: object) -> str | int | None:
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, int) or value is None else str(value)
