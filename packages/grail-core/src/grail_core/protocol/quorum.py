"""Which files of a window may be learned from, by stake alone (section 11). Values in, values out; no stake is divided.

A validator weighs what its stake at block T weighs. A file is taken when validators with more than half of the stake behind
*scored* verdicts drew it and accepted it, and at least half of all trusted stake has scored the window. A verdict that is
void or inconclusive, or was ignored, counts on no side: its validator cannot stop the others, and cannot speak for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.types import Digest, Hotkey

Verdicts = Mapping[Hotkey, SignedVerdict]
"""By validator; those that count."""
Stake = Mapping[Hotkey, int]
"""Rao of every trusted validator, whether it has spoken or not."""


def scored_stake(verdicts: Verdicts, stake: Stake) -> int:
    """Behind scored verdicts."""
    return sum(stake.get(validator, 0) for validator, verdict in verdicts.items() if verdict.body.status is WindowStatus.SCORED)


def half_scored(verdicts: Verdicts, stake: Stake) -> bool:
    """Has at least half of all trusted stake scored the window?"""
    scored = scored_stake(verdicts, stake)
    return scored > 0 and 2 * scored >= sum(stake.values())


def accepting_stake(verdicts: Verdicts, stake: Stake) -> dict[tuple[Hotkey, Digest], int]:
    """Behind each file: of the validators that scored the window, drew this miner, and accepted these very bytes."""
    accepted: dict[tuple[Hotkey, Digest], int] = {}
    for validator, verdict in verdicts.items():
        if verdict.body.status is not WindowStatus.SCORED:
            continue
        for miner in verdict.body.miners:
            if miner.status is MinerStatus.ACCEPTED and miner.content_digest is not None:
                file = (miner.hotkey, miner.content_digest)
                accepted[file] = accepted.get(file, 0) + stake.get(validator, 0)
    return accepted


def accepted_digests(verdicts: Verdicts, stake: Stake) -> dict[Hotkey, Digest]:
    """Per miner, the content digest that is taken, in order of hotkey; {} while less than half of the stake has scored.

    Of two files of one miner at most one has more than half.
    """
    if not half_scored(verdicts, stake):
        return {}
    scored = scored_stake(verdicts, stake)
    return {
        hotkey: digest
        for (hotkey, digest), accepted in sorted(accepting_stake(verdicts, stake).items())
        if 2 * accepted > scored
    }


def settled(verdicts: Verdicts, stake: Stake, silent: Collection[Hotkey]) -> bool:
    """Can those who have not spoken change nothing any more, whatever they say?

    So nobody waits for a validator whose stake does not matter, and the decision is the one that waiting would end in.
    """
    scored = scored_stake(verdicts, stake)
    rest = sum(stake.get(validator, 0) for validator in silent)
    total = sum(stake.values())
    if 2 * (scored + rest) < total:
        return True  # half of the stake will never have scored
    if not rest:
        return True
    if not half_scored(verdicts, stake):
        return False
    accepted = accepting_stake(verdicts, stake).values()
    return all(2 * weight > scored + rest or 2 * weight + rest <= scored for weight in (0, *accepted))
