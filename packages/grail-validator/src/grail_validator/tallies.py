"""What became of a window's miners, counted for its event: by status, and of those that failed by check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.verdicts import MinerStatus, MinerVerdict

WITHHELD: Final = "withheld"
"""In the place of a check: the file that was sealed was not to be had."""


def tallies(miners: Iterable[MinerVerdict | GradientMinerVerdict]) -> dict[str, Any]:
    """Fields of an event. `statuses`: how many miners there are of each. `rejected_by`: how many failed by each check."""
    statuses: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for miner in miners:
        statuses[miner.status.value] += 1
        if miner.status is MinerStatus.FAILED:
            rejected.update(_rejecting(miner.findings))
    return {"statuses": dict(statuses), "rejected_by": dict(rejected)}


def _rejecting(findings: Sequence[Finding]) -> list[str]:
    return [*dict.fromkeys(one.check for one in findings if one.outcome is Outcome.REJECT)] or [WITHHELD]
