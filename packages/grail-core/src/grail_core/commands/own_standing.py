"""How this hotkey stands, in numbers: for a miner's metrics and for `doctor --watch`. What they mean is `grail status`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grail_core.commands.network_view import NetworkView
from grail_core.commands.standing import Heard, Standing
from grail_core.commands.standing_read import standing_of
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.protocol import MinerStatus, WindowStatus
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.scores import WEIGHT_TOTAL

WINDOWS: Final = 1
"""Newest verdicts of each validator that are read; a failure inside whose look-back these are is looked for further back."""


def own_standing(participant: Participant, settings: Settings) -> dict[str, Any]:
    """Of a running role, over its own handles. Raises ChainError."""
    view = NetworkView(settings, participant.params, participant.chain, participant.directory)
    return standing_fields(standing_of(view, participant.signer.hotkey, windows=WINDOWS))


def standing_fields(standing: Standing) -> dict[str, Any]:
    """Fields of `standing_seen`. Shares are of the stake behind the verdicts that were read; checks by validators."""
    told = [one for one in standing.heard if one.said]
    expected = standing.expected
    checks: dict[str, int] = {}
    for one in told:
        for check in one.said[0].rejected_by or (("withheld",) if _is(one, MinerStatus.FAILED) else ()):
            checks[check] = checks.get(check, 0) + 1
    fields: dict[str, Any] = {
        "window": max((one.said[0].window for one in told), default=None),
        "validators": len(told),
        "registered": int(standing.neuron is not None),
        "weight": _share(told, [one.said[0].weight / WEIGHT_TOTAL for one in told]),
        "rejected": _share(told, [float(_is(one, MinerStatus.FAILED)) for one in told]),
        "absent": _share(told, [float(_is(one, MinerStatus.ABSENT)) for one in told]),
        "unpaid_windows": max((_unpaid(standing, one) for one in told), default=0),
        "rejected_by": checks,
    }
    if expected is not None:
        fields |= {"expected": float(expected.incentive), "places_before": expected.before, "hotkeys": expected.registered}
    return fields


def _is(one: Heard, status: MinerStatus) -> bool:
    newest = one.said[0]
    return newest.status == WindowStatus.SCORED.value and newest.miner == status.value


def _unpaid(standing: Standing, one: Heard) -> int:
    failure = one.failure
    if failure is None or failure.paid_again_from is None:
        return 0
    return max(0, (failure.paid_again_from - standing.window) // WINDOW_LENGTH)


def _share(told: Sequence[Heard], values: Sequence[float]) -> float:
    """Their mean by stake."""
    stake = sum(one.stake for one in told)
    return sum(one.stake * value for one, value in zip(told, values, strict=True)) / stake if stake else 0.0
