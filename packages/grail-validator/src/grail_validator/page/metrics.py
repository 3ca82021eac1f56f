"""What the page tells Prometheus at `/metrics`: of its source, and of the network as these verdicts show it.

One table of metrics as the roles have theirs, and the text of one moment, made of a snapshot: nothing is counted between two
requests, so that a page that was started anew says the same. Values of labels are from closed lists; a UID is a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from grail_core.protocol import MinerStatus, WindowStatus
from grail_core.telemetry.metrics.metric import UID, Label, Metric, table
from grail_validator.page.board import Board, Snapshot

CHECK: Final = Label(
    "check",
    (
        *("file", "seal", "schema", "unique", "prompt", "termination", "reward", "proof", "logprob", "sampling"),
        *("update", "opening", "chunks", "replay", "similar", "loss"),
    ),
)
STATUS: Final = Label("status", tuple(status.value for status in WindowStatus))
VERDICT: Final = Label("verdict", tuple(status.value for status in MinerStatus))

PAGE: Final = table(
    (
        Metric(
            "grail_validator_page_source_up", "gauge", "whether the page's ledger or bucket could be read last time (1 or 0)"
        ),
        Metric("grail_validator_page_read_timestamp_seconds", "gauge", "when it was last read", unit="seconds"),
        Metric("grail_validator_page_windows", "gauge", "windows and rounds that have a verdict there"),
        Metric(
            "grail_validator_page_windows_unread", "gauge", "of the memory, those that are damaged, or not this validator's"
        ),
        Metric("grail_validator_page_windows_missing", "gauge", "runs of windows of the memory without a verdict"),
    ),
    (
        Metric("grail_network_newest_window", "gauge", "first block of the newest window that has a verdict"),
        Metric("grail_network_newest_age_seconds", "gauge", "since that window's last seal, or since it came", unit="seconds"),
        Metric("grail_network_memory_windows", "gauge", "windows of the memory, by what became of them", labels=(STATUS,)),
        Metric("grail_network_memory_verdicts", "gauge", "miners' verdicts in the memory", labels=(VERDICT,)),
        Metric("grail_network_memory_failures", "gauge", "files that failed in the memory, by check", labels=(CHECK,)),
        Metric("grail_network_weight", "gauge", "weight in the newest scored window, of 65,535", labels=(UID,)),
    ),
)


def exposition(board: Board) -> str:
    """Prometheus' text format, version 0.0.4."""
    values = _values(board)
    lines = []
    for metric in PAGE:
        samples = list(values.get(metric.name, ()))
        if samples:
            lines += [f"# HELP {metric.name} {metric.about}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [f"{metric.name}{labels} {value:.15g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _values(board: Board) -> dict[str, list[tuple[str, float]]]:
    snapshot, age = board.snapshot, board.age_ms()
    found = {
        "grail_validator_page_source_up": [("", float(not snapshot.problem))],
        "grail_validator_page_windows": [("", float(len(snapshot.windows)))],
        "grail_validator_page_windows_unread": [("", float(len(snapshot.unread)))],
        "grail_validator_page_windows_missing": [("", float(len(snapshot.gaps)))],
        **{name: list(_labelled(label, counts)) for name, (label, counts) in _counted(snapshot).items()},
    }
    if snapshot.read_at_ms:
        found["grail_validator_page_read_timestamp_seconds"] = [("", snapshot.read_at_ms / 1000)]
    if snapshot.windows:
        found["grail_network_newest_window"] = [("", float(snapshot.windows[-1]))]
    if age is not None:
        found["grail_network_newest_age_seconds"] = [("", age / 1000)]
    return found


def _counted(snapshot: Snapshot) -> dict[str, tuple[Label, Mapping[str, int]]]:
    miners = [one for record in snapshot.records for one in record.miners]
    failed = [one for one in miners if one.status is MinerStatus.FAILED]
    weights = {} if snapshot.newest is None else {str(uid): weight for uid, weight in snapshot.newest.weights.items()}
    return {
        "grail_network_memory_windows": (STATUS, Counter(record.status.value for record in snapshot.records)),
        "grail_network_memory_verdicts": (VERDICT, Counter(one.status.value for one in miners)),
        "grail_network_memory_failures": (CHECK, Counter((one.rejected_by or ("file",))[0] for one in failed)),
        "grail_network_weight": (UID, weights),
    }


def _labelled(label: Label, counts: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    bounded: Counter[str] = Counter()
    for value, count in counts.items():
        bounded[label.bounded(value)] += count
    for value, count in sorted(bounded.items()):
        yield f'{{{label.name}="{value}"}}', float(count)
