"""Verdict bodies that say the simplest thing: every miner sealed, was drawn and accepted. For ledgers and their readers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from grail_core.protocol import MinerStatus, MinerVerdict, VerdictBody, Versions, WindowStatus, score_inputs
from grail_core.protocol.types import Digest, Hotkey, Window


def accepted_body(window: int, hotkeys: Sequence[Hotkey], network_id: bytes = bytes(32)) -> VerdictBody:
    """UIDs are places in `hotkeys`; each declared 32 rollouts, of which 30 count."""
    miners = tuple(
        MinerVerdict(
            hotkey,
            uid,
            MinerStatus.ACCEPTED,
            active=True,
            declared=32,
            checked=True,
            unique_valid=30,
            check_probability=Fraction(1),
            coin=0,
        )
        for uid, hotkey in enumerate(hotkeys)
    )
    return VerdictBody(
        network_id=Digest(network_id),
        window=Window(window),
        status=WindowStatus.SCORED,
        versions=Versions("a", "b", "c"),
        miners=miners,
        hotkeys=dict(enumerate(hotkeys)),
        score_inputs={one.uid: score_inputs([one.miner_window(Window(window))], Window(window)) for one in miners},
    )
