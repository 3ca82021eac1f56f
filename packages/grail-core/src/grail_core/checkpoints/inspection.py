"""What a sequence looks like to a person: checkpoints, sizes, ratios, roots, and what a late reader would fetch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.manifests import CheckpointSequence, is_in_time
from grail_core.checkpoints.plan import cheapest_route
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block
from grail_core.protocol.upgrade import Upgrade
from grail_core.storage.base import ObjectStore

BEHIND = (1, 2, 5, 10, 20, 37)


@dataclass(frozen=True)
class CheckpointRow:
    sequence: int
    window: int
    valid_from: int
    kind: str
    digest: str
    weights_root: str
    full_bytes: int  # 0 unless an anchor
    delta_bytes: int  # from the checkpoint before it; 0 if there is none
    ratio: float  # full weights over delta; 0 where there is no delta
    skips: tuple[int, ...]  # how far back its deltas reach
    in_time: bool
    missing: tuple[str, ...]  # object keys that are not in the store, or of another size


@dataclass(frozen=True)
class LateReader:
    """What a reader would download to be at the newest checkpoint."""

    behind: int | None  # checkpoints; None: it has nothing
    bytes: int
    objects: int
    steps: int  # deltas applied


@dataclass(frozen=True)
class SequenceReport:
    rows: tuple[CheckpointRow, ...]
    late: tuple[LateReader, ...]
    refused: tuple[tuple[str, str], ...]  # key, why
    weights_bytes: int
    upgrade: Upgrade | None = None  # that the newest manifest announces

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text."""
        head = f"{'seq':>5} {'window':>9} {'from':>9} {'kind':5} {'full':>9} {'delta':>9} {'ratio':>7}  {'skips':12} root"
        out = [head]
        for row in self.rows:
            flags = "" if row.in_time else "  LATE: never used"
            flags += f"  MISSING {len(row.missing)} objects" if row.missing else ""
            ratio = f"{row.ratio:.1f}" if row.ratio else "-"
            out.append(
                f"{row.sequence:5} {row.window:9} {row.valid_from:9} {row.kind:5} {_size(row.full_bytes):>9} "
                f"{_size(row.delta_bytes):>9} {ratio:>7}  {','.join(map(str, row.skips)):12} {row.weights_root[:16]}{flags}"
            )
        for reader in self.late:
            who = "new reader" if reader.behind is None else f"{reader.behind} behind"
            out.append(f"{who:>12}: {_size(reader.bytes)} in {reader.objects} objects, {reader.steps} deltas")
        out += [f"refused: {key}: {why}" for key, why in self.refused]
        if self.upgrade is not None:
            out.append(f"announced: protocol version {self.upgrade.version} from block {self.upgrade.block} on")
        return out


def inspect_sequence(
    bucket: CheckpointBucket,
    params: NetworkParameters,
    block_time_of: Callable[[Block], int],
    *,
    check_objects: bool = False,
) -> SequenceReport:
    """Read and verify every manifest of the trainer's bucket, and work out what readers would fetch.

    Args:
        check_objects: also ask the store for every object's size (one request each).

    Raises:
        CheckpointError: the sequence contradicts itself. StorageError: the store cannot be read.
    """
    view = bucket.refresh()
    weights_bytes = max((item.manifest.full_size for item in view.stored), default=0)
    rows = []
    for item in view.stored:
        manifest = item.manifest
        first = next((d for d in manifest.deltas if d.base_sequence == manifest.sequence - 1), None)
        rows.append(
            CheckpointRow(
                sequence=manifest.sequence,
                window=manifest.window,
                valid_from=manifest.valid_from,
                kind=manifest.kind.value,
                digest=manifest.digest.hex(),
                weights_root=manifest.weights_root.hex(),
                full_bytes=manifest.full_size,
                delta_bytes=first.size if first else 0,
                ratio=round(weights_bytes / first.size, 2) if first else 0.0,
                skips=tuple(manifest.sequence - d.base_sequence for d in manifest.deltas),
                in_time=is_in_time(item, params, block_time_of),
                missing=_missing(bucket.store, manifest) if check_objects else (),
            )
        )
    refused = tuple((entry.key, entry.error.what) for entry in view.refused)
    upgrade = None if view.head is None else view.head.upgrade
    return SequenceReport(tuple(rows), tuple(_late_readers(view)), refused, weights_bytes, upgrade)


def _late_readers(view: CheckpointSequence) -> list[LateReader]:
    head = view.head
    if head is None:
        return []
    readers = []
    for behind in (None, *BEHIND):
        held = view.at_sequence(head.sequence - behind) if behind is not None else None
        if behind is not None and held is None:
            continue
        try:
            route = cheapest_route(head, view.by_digest, [held.digest] if held else [])
        except CheckpointError:
            continue
        readers.append(LateReader(behind, route.bytes, route.objects, len(route.steps)))
    return readers


def _missing(store: ObjectStore, manifest: CheckpointManifest) -> tuple[str, ...]:
    found = {ref.key: store.head(ref.key) for ref in manifest.objects().values()}
    sizes = {ref.key: ref.size for ref in manifest.objects().values()}
    return tuple(key for key, info in found.items() if info is None or info.size != sizes[key])


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
