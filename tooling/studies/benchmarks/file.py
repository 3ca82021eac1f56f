"""`file`: writing, reading and checking window files, beside Arrow's own and beside what nothing could be faster than.

    hatch run bench file          a table
    hatch run bench file --json   one flat object

Speeds are MB of 16 bytes a completion token (512 rollouts × 1,024 tokens) by processor time, one thread, the best of several.
`file.read_mb_s` is our reader in this process. A role opens a stranger's file in a confined child instead: `file.confined_ms`
and `file.confined_read_mb_s` have its cost, start and end of the child included, in wall time.

`file.precheck_s` is what a validator waits for checks 1 to 3 of a file of 5,000 rollouts × 2,500 tokens (5,008: whole groups):
confined opening, rows, digests, Merkle root, signature, schema, identities; wall time, least of several.
`file.precheck_processor_s` is the processor time of both processes, and `file.floor.precheck_s` that of zstd and SHA-256 alone
over the same bytes, in long buffers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pyarrow as pa

from grail_core.files.confined.opening import Confined, Spent
from grail_core.files.window_file import read_window_file, write_window_file
from grail_core.verification.schema import check_schema
from grail_core.verification.uniqueness import distinct_rollouts
from grail_core.verification.window_file import Submission, check_file
from tooling.studies.benchmarks import file_peers as peers
from tooling.studies.benchmarks.file_workloads import Workload, workload

Figures = dict[str, float]
REPEATS = 15
PRECHECKS = 5


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    pa.set_cpu_count(1)
    small = workload(512, 1024)
    figures = _speeds(small)
    with Confined() as confined:
        figures |= _confined(confined, small, workload(1, 8))
    figures |= _prechecks(workload(5000, 2500))
    return figures | {"file.load_average": os.getloadavg()[0]}


def _speeds(work: Workload) -> Figures:
    header = read_window_file(work.data).header
    signature = read_window_file(work.data).signature
    pages = peers.pages_of(work.rollouts)
    frames = peers.compressed(pages)

    def rate(action: Callable[[], object]) -> float:
        return work.megabytes / _least(action, time.process_time, REPEATS)

    figures = {
        "file.write_mb_s": rate(lambda: write_window_file(header, signature, work.rollouts)),
        "file.read_mb_s": rate(lambda: read_window_file(work.data)),
        "file.mb": len(work.data) / 1e6,
        "file.tokens_mb": work.megabytes,
        "file.floor.memcpy_mb_s": rate(lambda: [bytearray(page) for page in pages]),
        "file.floor.zstd_write_mb_s": rate(lambda: peers.compressed(pages)),
        "file.floor.zstd_read_mb_s": rate(lambda: peers.decompressed(frames)),
        "file.floor.sha256_mb_s": rate(lambda: peers.hashed(pages)),
    }
    for peer in peers.arrow_peers(work.rollouts):
        data = peer.write()
        figures[f"file.peer.{peer.name}.write_mb_s"] = rate(peer.write)
        figures[f"file.peer.{peer.name}.read_mb_s"] = rate(lambda p=peer, d=data: p.read(d))  # type: ignore[misc]
        figures[f"file.peer.{peer.name}.mb"] = len(data) / 1e6
    for way in ("write", "read"):
        best = max(value for key, value in figures.items() if key.startswith("file.peer.") and key.endswith(f".{way}_mb_s"))
        figures[f"file.{way}_to_best_peer"] = figures[f"file.{way}_mb_s"] / best
    return figures


def _confined(confined: Confined, work: Workload, smallest: Workload) -> Figures:
    """A child from its start to its end, for the smallest file and for one of ordinary size."""
    return {
        "file.confined_ms": 1e3 * _least(lambda: confined.open_window_file(smallest.data), time.perf_counter, REPEATS),
        "file.confined_read_mb_s": work.megabytes
        / _least(lambda: confined.open_window_file(work.data), time.perf_counter, REPEATS),
    }


def _prechecks(work: Workload) -> Figures:
    walls: list[dict[str, float]] = []
    children: list[Spent] = []
    with Confined(observe=children.append) as confined:
        for _ in range(PRECHECKS):
            walls.append(_precheck(work, confined))
    best = min(walls, key=lambda one: sum(one[key] for key in ("file", "schema", "unique")))
    rows, identities = _hashed_bytes(work)
    pages = peers.pages_of(work.rollouts)
    frames = peers.compressed(pages)
    floor = {
        "zstd": _least(lambda: peers.decompressed(frames), time.process_time, PRECHECKS),
        "sha256": _least(lambda: peers.hashed(rows), time.process_time, PRECHECKS)
        + _least(lambda: peers.hashed(identities), time.process_time, PRECHECKS),
    }
    processor = min(one["processor"] for one in walls) + min(one.processor_seconds for one in children)
    figures = {f"file.precheck_s.{name}": best[name] for name in ("file", "schema", "unique")}
    total = sum(figures.values())
    return {
        "file.precheck_s": total,
        **figures,
        "file.precheck_processor_s": processor,
        "file.precheck_child_s": min(one.processor_seconds for one in children),
        "file.precheck_rows": len(work.rollouts),
        "file.precheck_mb": len(work.data) / 1e6,
        "file.floor.precheck_s": sum(floor.values()),
        **{f"file.floor.precheck_s.{name}": value for name, value in floor.items()},
        "file.precheck_to_floor": processor / sum(floor.values()),
    }


def _precheck(work: Workload, confined: Confined) -> dict[str, float]:
    """Seconds of wall time of each check, and processor seconds of this process."""
    context, began = work.context, time.process_time()
    marks = [time.perf_counter()]
    submission = check_file(work.data, work.digest, context.hotkey, context.window, open_file=confined.open_file)
    if not isinstance(submission, Submission):
        raise TypeError(f"an honest file was refused: {submission}")
    marks.append(time.perf_counter())
    findings = check_schema(submission, context)
    marks.append(time.perf_counter())
    identities = distinct_rollouts(submission, frozenset())
    marks.append(time.perf_counter())
    if findings or len(identities) != len(work.rollouts):
        raise AssertionError(f"an honest file has {findings} and {len(identities)} distinct rollouts")
    spent = {name: marks[i + 1] - marks[i] for i, name in enumerate(("file", "schema", "unique"))}
    return spent | {"processor": time.process_time() - began}


def _hashed_bytes(work: Workload) -> tuple[list[bytes], list[bytes]]:
    """What rollout digests and identities are hashed over, as long buffers: heads and calls left out."""
    tokens = b"".join(record.tokens.tobytes() for record in work.rollouts)
    return peers.pages_of(work.rollouts, 1 << 30), [tokens]


def _least(action: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        started = clock()
        action()
        spent.append(clock() - started)
    return min(spent)
